"""What the log says of failed calls: the operation, the file, the reason, the request, and what to do."""

from __future__ import annotations

import errno
import inspect
import logging
import os

import pytest

from pictofs.api import advice, errors
from pictofs.fs.complaints import Complaints
from pictofs.fs.rules import refusal

FILE = "'/birds/a.jpg'"


def lines(caplog: pytest.LogCaptureFixture, *excs: BaseException, operation: str = "open") -> list[str]:
    caplog.clear()
    complaints = Complaints()
    with caplog.at_level(logging.WARNING, "pictofs.fs"):
        for exc in excs:
            complaints.note(operation, FILE, exc)
    return caplog.messages


def test_a_refusal_is_a_line_with_its_reason_each_time(caplog: pytest.LogCaptureFixture) -> None:
    exc = refusal(errno.EEXIST, "/birds/a.jpg", "a file of this name is there (see -o overwrite)")
    words = f"open {FILE} refused with EEXIST: a file of this name is there (see -o overwrite)"
    assert lines(caplog, exc, exc) == [words, words]


def test_everyday_answers_are_no_lines(caplog: pytest.LogCaptureFixture) -> None:
    for number in (errno.ENOENT, errno.ENODATA, errno.ENOTEMPTY, errno.EEXIST):
        assert lines(caplog, OSError(number, os.strerror(number), "/birds/a.jpg")) == []


def test_trouble_of_the_machine_is_a_line_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert lines(caplog, full, full, operation="write") == [
        f"write {FILE} failed with ENOSPC: OSError: [Errno 28] No space left on device"
    ]


def test_trouble_of_the_service_names_the_request_and_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    refused = errors.ForbiddenError("viewers may not", status=403, request_id="req_7")
    assert lines(caplog, refused, refused) == [
        f"open {FILE} failed with EACCES: ForbiddenError: viewers may not (HTTP 403, request req_7); "
        "ask an admin of the organization"
    ]
    (line,) = lines(caplog, errors.RateLimitError("used up", status=429, retry_after_s=90))
    assert line.endswith("; try again in 2 min")
    (line,) = lines(caplog, errors.ApiError("too large", status=413))
    assert line.endswith("EFBIG: ApiError: too large (HTTP 413); make the file smaller")


@pytest.mark.parametrize(
    "cls",
    [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if cls.__module__ == errors.__name__],
    ids=lambda cls: cls.__name__,
)
def test_there_is_advice_for_every_exception_of_the_service(cls: type[errors.PictographError]) -> None:
    assert cls in advice._BY_CLASS
