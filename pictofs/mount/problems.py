"""Any failure as one plain sentence that says what to do. Used for stderr and the log, never for files."""

from __future__ import annotations

import errno
import os

from pictofs.api.advice import what_to_do
from pictofs.api.errors import (
    ApiError,
    AuthError,
    ConfigurationError,
    ForbiddenError,
    NetworkError,
    PaymentRequiredError,
    PictographError,
    RateLimitError,
    RequestTimeoutError,
    ServerError,
)


class MountError(Exception):
    """Mounting or unmounting cannot go on. The message is the whole sentence for the user."""


def sentence(error: BaseException) -> str:
    """What went wrong and what to do about it, on one line."""
    return " ".join(_words(error).split())


def _words(error: BaseException) -> str:
    if isinstance(error, ConfigurationError):
        return str(error)  # says itself what to do
    if isinstance(error, PictographError):
        return _service_words(error)
    if isinstance(error, OSError) and error.strerror:
        place = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, (str, bytes)) else ""
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = "; make room on that disk." if is_full else "."
        return f"{place}{error.strerror}{hint}"
    if type(error).__module__.startswith("pictofs."):
        return str(error)  # the rooms' own exceptions say it in a sentence
    detail = f": {error}" if str(error) else ""
    return f"this should not happen ({type(error).__name__}{detail}); --debug shows where it came from."


def _service_words(error: PictographError) -> str:
    return f"{_complaint(error)}: {error}; {what_to_do(error)}."


def _complaint(error: PictographError) -> str:
    if isinstance(error, AuthError):
        return "the server refuses the API key"
    if isinstance(error, ForbiddenError):
        return "the key's role does not allow this"
    if isinstance(error, PaymentRequiredError):
        return "the organization's plan does not cover this"
    if isinstance(error, RateLimitError):
        return "this hour's API requests are used up"
    if isinstance(error, ServerError):
        return "the server is in trouble"
    if isinstance(error, RequestTimeoutError):
        return "the server did not answer in time"
    if isinstance(error, NetworkError):
        return "the server cannot be reached"
    if isinstance(error, ApiError):
        return "the server refused"
    return "this failed"
