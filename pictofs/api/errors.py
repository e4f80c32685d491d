"""What can go wrong between us and the service: one tree of exceptions.

    PictographError
    ├── ConfigurationError          no key, a bad key, an unreadable profile
    ├── ApiError                    the API answered with an error status
    │   ├── ValidationError         400, 415, 422
    │   ├── AuthError               401
    │   ├── PaymentRequiredError    402
    │   ├── ForbiddenError          403
    │   ├── NotFoundError           404
    │   ├── ConflictError           409
    │   ├── RateLimitError          429
    │   └── ServerError             5xx, and a success whose body is not JSON
    ├── StorageError                a signed storage URL answered with an error status
    ├── IncompleteTransferError     fewer or more bytes arrived than were announced
    └── NetworkError                no answer
        └── RequestTimeoutError     no answer in time

A file over the size limit (413) is a plain `ApiError` with `status == 413`. A 400 whose words say that a
name already exists is a `ConflictError` too: the service answers so on some routes. A 408 is a `ServerError`:
it is transient. Statuses are those of the wire contract (the service's documentation and the official SDK,
1.69.146). No message ever holds the key.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "ApiError",
    "AuthError",
    "ConfigurationError",
    "ConflictError",
    "ForbiddenError",
    "IncompleteTransferError",
    "NetworkError",
    "NotFoundError",
    "PaymentRequiredError",
    "PictographError",
    "RateLimitError",
    "RequestTimeoutError",
    "ServerError",
    "StorageError",
    "ValidationError",
]


class PictographError(Exception):
    """Base of everything this package raises about the service."""


class ConfigurationError(PictographError):
    """A setting is missing or unusable; nothing was sent."""


class ApiError(PictographError):
    """The API answered with an error.

    Attributes:
        status: HTTP status code; 0 when no answer of its own stands behind it: refused here before anything
            was sent, or one file of a bulk request.
        message: the service's words.
        code: the service's machine-readable code, or None on older answers.
        details: whatever the service added, or None.
        request_id: `X-Request-Id` of the answer, or None; quoted in `str()`.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str | None = None,
        details: Any = None,
        request_id: str | None = None,
    ) -> None:
        self.message = message
        self.status = status
        self.code = code
        self.details = details
        self.request_id = request_id
        origin = [f"HTTP {status}"] if status else []
        if request_id:
            origin.append(f"request {request_id}")
        super().__init__(f"{message} ({', '.join(origin)})" if origin else message)


class ValidationError(ApiError):
    """400, 415 (unsupported file extension) or 422."""


class AuthError(ApiError):
    """401: the key is missing, wrong or revoked."""


class PaymentRequiredError(ApiError):
    """402: a limit of the plan, or no credits left."""


class ForbiddenError(ApiError):
    """403: the key's role does not allow it."""


class NotFoundError(ApiError):
    """404: unknown id or name, or another organization's."""


class ConflictError(ApiError):
    """409: the name is taken, or the dataset is frozen."""


class RateLimitError(ApiError):
    """429: the hour's requests are spent.

    Attributes:
        retry_after_s: seconds to wait, from `Retry-After`; None when the answer did not say.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None, **fields: Any) -> None:
        super().__init__(message, **fields)
        self.retry_after_s = retry_after_s

    @property
    def retry_after(self) -> float | None:
        """`retry_after_s` under the name the brief and the official SDK use."""
        return self.retry_after_s


class ServerError(ApiError):
    """5xx or 408, or a success whose body is not what was promised."""


class StorageError(PictographError):
    """A signed storage URL answered with an error status; 403 means that the URL has expired."""

    def __init__(self, message: str, *, status: int) -> None:
        self.status = status
        super().__init__(f"{message} (HTTP {status} from storage)")


class IncompleteTransferError(PictographError):
    """A transfer ended with another number of bytes than announced.

    Attributes:
        expected: bytes announced.
        received: bytes that arrived.
    """

    def __init__(self, message: str, *, expected: int, received: int) -> None:
        self.expected = expected
        self.received = received
        super().__init__(f"{message}: {received} of {expected} bytes")


class NetworkError(PictographError):
    """No answer: the host cannot be reached or the connection broke."""


class RequestTimeoutError(NetworkError):
    """No answer within the timeout."""
