"""The one table from exceptions to errnos: what a program on the drive sees when something goes wrong.

Raise `OSError(errno.X, …)` to choose an errno; let anything else fly. Owns nothing, logs nothing.
"""

from __future__ import annotations

import errno
import socket
import ssl

from pictofs.api import errors

__all__ = ["errno_of", "is_foreseen"]

# By class; a subclass without a row of its own takes its nearest base's.
_BY_CLASS: dict[type[BaseException], int] = {
    errors.PictographError: errno.EIO,
    errors.ConfigurationError: errno.EIO,
    errors.ApiError: errno.EIO,
    errors.ValidationError: errno.EINVAL,
    errors.AuthError: errno.EACCES,
    errors.PaymentRequiredError: errno.EDQUOT,
    errors.ForbiddenError: errno.EACCES,
    errors.NotFoundError: errno.ENOENT,
    errors.ConflictError: errno.EEXIST,
    errors.RateLimitError: errno.EAGAIN,
    errors.ServerError: errno.EIO,
    errors.StorageError: errno.EIO,
    errors.IncompleteTransferError: errno.EIO,
    errors.NetworkError: errno.EIO,
    errors.RequestTimeoutError: errno.EIO,
    # OSErrors whose `errno` counts something else: SSLError(1) is no EPERM, gaierror(-2) no errno at all.
    ssl.SSLError: errno.EIO,
    socket.gaierror: errno.EIO,
    socket.herror: errno.EIO,
    MemoryError: errno.ENOMEM,
}

# An ApiError that has no class of its own is told apart by its HTTP status.
_BY_STATUS: dict[int, int] = {413: errno.EFBIG}

# errnos that must not reach the kernel, which would take them for more than a refusal.
_REPLACED: dict[int, int] = {
    errno.ENOSYS: errno.EOPNOTSUPP,  # the kernel would never send that operation again
}


def errno_of(exc: BaseException) -> int:
    """The errno, always positive, that stands for `exc`. Never raises; EIO for whatever is not foreseen."""
    known = _lookup(exc)
    return errno.EIO if known is None else known


def is_foreseen(exc: BaseException) -> bool:
    """Whether `exc` has an errno of its own, as opposed to the EIO that covers a bug."""
    return _lookup(exc) is not None


def _lookup(exc: BaseException) -> int | None:
    if type(exc) is errors.ApiError and exc.status in _BY_STATUS:
        return _BY_STATUS[exc.status]
    for cls in type(exc).__mro__:
        if cls in _BY_CLASS:
            return _BY_CLASS[cls]
    # An OSError may carry no errno (TimeoutError(), requests' exceptions) or no number (OSError("a", "b")).
    number = exc.errno if isinstance(exc, OSError) else None
    if isinstance(number, int) and number in errno.errorcode:
        return _REPLACED.get(number, number)
    return None
