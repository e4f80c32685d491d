"""Any failure as one plain sentence that says what to do. Used for stderr and the log, never for files."""

from __future__ import annotations

import errno
import os

from pictofs.api.errors import (
    ApiError,
    AuthError,
    ForbiddenError,
    NetworkError,
    PaymentRequiredError,
    PictographError,
    RateLimitError,
    RequestTimeoutError,
    ServerError,
)
from pictofs.units import show_duration

CHECK_SERVER = "check the network and the server's address (`pictofs config` shows it)"


class MountError(Exception):
    """Mounting or unmounting cannot go on. The message is the whole sentence for the user."""


def sentence(error: BaseException) -> str:
    """What went wrong and what to do about it, on one line."""
    return " ".join(_words(error).split())


def _words(error: BaseException) -> str:
    if isinstance(error, PictographError):
        return _service_words(error)
    if isinstance(error, OSError) and error.strerror:
        place = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, (str, bytes)) else ""
        hint = "; make room on that disk." if error.errno == errno.ENOSPC else "."
        return f"{place}{error.strerror}{hint}"
    if type(error).__module__.startswith("pictofs."):
        return str(error)  # the rooms' own exceptions say it in a sentence
    detail = f": {error}" if str(error) else ""
    return f"this should not happen ({type(error).__name__}{detail}); --debug shows where it came from."


def _service_words(error: PictographError) -> str:
    if isinstance(error, AuthError):
        return (
            f"the server refuses the API key: {error}; create a new key in Pictograph and store it with "
            "`pictograph login` or in PICTOGRAPH_API_KEY."
        )
    if isinstance(error, ForbiddenError):
        return f"the key's role does not allow this: {error}; ask an admin of the organization."
    if isinstance(error, PaymentRequiredError):
        return f"the organization's plan does not cover this: {error}."
    if isinstance(error, RateLimitError):
        wait = f"in {show_duration(error.retry_after_s)}" if error.retry_after_s else "later"
        return f"this hour's API requests are used up: {error}; try again {wait}."
    if isinstance(error, ServerError):
        return f"the server is in trouble: {error}; try again later."
    if isinstance(error, RequestTimeoutError):
        return f"the server did not answer in time: {error}; {CHECK_SERVER}."
    if isinstance(error, NetworkError):
        return f"the server cannot be reached: {error}; {CHECK_SERVER}."
    if isinstance(error, ApiError):
        return f"the server refused: {error}."
    return f"{error}"
