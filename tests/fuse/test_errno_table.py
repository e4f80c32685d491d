"""The table of errnos: complete, and never wrong by a number that is no errno."""

from __future__ import annotations

import errno
import inspect
import os
import socket
import ssl

import pytest

from pictofs.api import errors
from pictofs.fs import errnos
from pictofs.fs.errnos import errno_of, is_foreseen

# The table of the semantics, "Errors from the service, as errnos".
SEMANTICS = {
    "NotFoundError": errno.ENOENT,
    "ConflictError": errno.EEXIST,
    "AuthError": errno.EACCES,
    "ForbiddenError": errno.EACCES,
    "PaymentRequiredError": errno.EDQUOT,
    "ValidationError": errno.EINVAL,
    "RateLimitError": errno.EAGAIN,
    "NetworkError": errno.EIO,
    "RequestTimeoutError": errno.EIO,
    "ServerError": errno.EIO,
}


def all_errors() -> list[type[BaseException]]:
    return [
        cls
        for _, cls in inspect.getmembers(errors, inspect.isclass)
        if issubclass(cls, BaseException) and cls.__module__ == errors.__name__
    ]


@pytest.mark.parametrize("cls", all_errors(), ids=lambda cls: cls.__name__)
def test_every_exception_of_the_service_has_a_row(cls: type[BaseException]) -> None:
    assert cls in errnos._BY_CLASS


@pytest.mark.parametrize(("name", "number"), SEMANTICS.items())
def test_the_semantics_hold(name: str, number: int) -> None:
    exc = getattr(errors, name)(
        "x", **({} if name in ("NetworkError", "RequestTimeoutError") else {"status": 400})
    )
    assert errno_of(exc) == number
    assert is_foreseen(exc)


def test_413_is_too_large() -> None:
    assert errno_of(errors.ApiError("x", status=413)) == errno.EFBIG
    assert errno_of(errors.ApiError("x", status=418)) == errno.EIO


def test_a_subclass_takes_the_row_of_its_nearest_base() -> None:
    class Special(errors.ConflictError):
        pass

    assert errno_of(Special("x", status=409)) == errno.EEXIST


@pytest.mark.parametrize(
    "exc",
    [
        ssl.SSLError(1, "handshake failure"),
        ssl.SSLCertVerificationError(1, "certificate verify failed"),
        socket.gaierror(-2, "Name or service not known"),
        socket.herror(1, "Unknown host"),
        OSError("no number"),
        OSError("a", "b"),
        OSError(-5, "negative"),
        OSError(0, "no error"),
        OSError(99_999, "no errno of this system"),
        TimeoutError(),
        ConnectionError("broken"),
        ValueError("a bug"),
        KeyError("a bug"),
        UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"),
        SystemExit(1),
        KeyboardInterrupt(),
        GeneratorExit(),
    ],
    ids=repr,
)
def test_what_has_no_errno_is_eio(exc: BaseException) -> None:
    assert errno_of(exc) == errno.EIO


def test_an_os_error_keeps_its_errno() -> None:
    for number in (errno.ENOSPC, errno.EROFS, errno.ENODATA, errno.ENOTEMPTY, errno.ETIMEDOUT):
        assert errno_of(OSError(number, os.strerror(number))) == number
        assert is_foreseen(OSError(number, ""))


def test_enosys_does_not_switch_an_operation_off_for_good() -> None:
    assert errno_of(OSError(errno.ENOSYS, "")) == errno.EOPNOTSUPP


def test_out_of_memory_says_so() -> None:
    assert errno_of(MemoryError()) == errno.ENOMEM


def test_a_bug_is_not_foreseen() -> None:
    assert not is_foreseen(ValueError())
    assert not is_foreseen(OSError("no number"))
