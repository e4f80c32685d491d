"""What a person can do about a failure of the service: the end of an error message. Pure."""

from __future__ import annotations

from pictofs.api import errors
from pictofs.units import show_duration

_CHECK_SERVER = "check the network and the server's address (`pictofs config` shows it)"

_BY_CLASS: dict[type[BaseException], str] = {
    errors.ConfigurationError: "`pictofs config` shows what is set",
    errors.ValidationError: "mend what it says",
    errors.AuthError: (
        "create a new key in Pictograph and store it with `pictograph login` or in PICTOGRAPH_API_KEY"
    ),
    errors.PaymentRequiredError: "make room in the plan, or ask for a larger one",
    errors.ForbiddenError: "ask an admin of the organization",
    errors.NotFoundError: "`pictofs refresh` shows what is there now",
    errors.ConflictError: "choose another name, or rename what has it",
    errors.RateLimitError: "try again later",
    errors.ServerError: "try again later",
    errors.ApiError: "try again later, and quote the request when it lasts",
    errors.StorageError: "try again later",
    errors.IncompleteTransferError: "try again",
    errors.RequestTimeoutError: _CHECK_SERVER,
    errors.NetworkError: _CHECK_SERVER,
    errors.PictographError: "try again later",
}


def what_to_do(error: errors.PictographError) -> str:
    """Words without a full stop, as `check the network`."""
    if isinstance(error, errors.RateLimitError) and error.retry_after_s:
        return f"try again in {show_duration(error.retry_after_s)}"
    if isinstance(error, errors.ApiError) and error.status == 413:
        return "make the file smaller"
    return next(_BY_CLASS[cls] for cls in type(error).__mro__ if cls in _BY_CLASS)
