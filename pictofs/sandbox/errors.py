"""How the sandbox says no: one exception, rendered by `api` in the service's error shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CODES = {
    400: "bad_request",
    401: "unauthorized",
    402: "payment_required",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    409: "conflict",
    413: "payload_too_large",
    415: "unsupported_media_type",
    422: "validation_error",
    429: "rate_limited",
    500: "internal_error",
    503: "service_unavailable",
}
"""The machine-readable slug of a status, unless the refusal brings a better one."""


class RefusalError(Exception):
    """A request that is answered with an error. Whatever its handler had done is rolled back."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        details: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code or CODES.get(status, "error")
        self.details = dict(details or {})
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """`{"error": {code, message, details}, "detail": …}`, as the service writes it."""
        return {
            "error": {"code": self.code, "message": self.message, "details": self.details},
            "detail": self.message,
        }


def not_found(what: str) -> RefusalError:
    return RefusalError(404, f"{what} not found in your organization.")
