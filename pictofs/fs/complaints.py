"""The log's view of failed calls: which operation, on which file, why, and what to do about it.

A refusal (an `OSError` with words of its own) is a line each time: it is the only place where a person finds
the reason. Trouble with the service or this machine is a line at once and then seldom; a bug comes with its
traceback. A plain ENOENT and its like are an everyday answer, and no line.

`Complaints._lock` guards the times; nothing is called while it is held.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time

from pictofs.api.advice import what_to_do
from pictofs.api.errors import PictographError
from pictofs.fs.errnos import errno_of, is_foreseen

__all__ = ["Complaints"]

logger = logging.getLogger(__name__)

# Ten thousand reads may fail of one cause: one line says so, one more each interval says that it lasts.
_INTERVAL_S = 10.0

# What this machine lacks, rather than what a program may not do.
_TROUBLE = frozenset({errno.EIO, errno.ENOSPC, errno.EMFILE, errno.ENFILE, errno.ENOMEM})


class Complaints:
    """What has been logged when, by operation and type of exception."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._logged: dict[tuple[str, type[BaseException]], float] = {}  # time.monotonic()

    def note(self, operation: str, subject: str, exc: BaseException) -> int:
        """Log `exc`, raised by `operation` on `subject`, if it is time to; the errno that stands for it."""
        number = errno_of(exc)
        if isinstance(exc, OSError) and exc.errno == number and number not in _TROUBLE:
            is_refusal = exc.strerror != os.strerror(number)
            level = logging.WARNING if is_refusal else logging.DEBUG
            logger.log(level, "%s %s refused with %s: %s", operation, subject, _name(number), exc.strerror)
            return number
        kind, now_s = (operation, type(exc)), time.monotonic()
        with self._lock:
            last_s = self._logged.get(kind)
            if last_s is not None and now_s - last_s < _INTERVAL_S:
                return number
            self._logged[kind] = now_s
        advice = f"; {what_to_do(exc)}" if isinstance(exc, PictographError) else ""
        logger.warning(
            "%s %s failed with %s: %s: %s%s",
            operation,
            subject,
            _name(number),
            type(exc).__name__,
            exc,
            advice,
            exc_info=None if is_foreseen(exc) or last_s is not None else exc,
        )
        return number


def _name(number: int) -> str:
    return errno.errorcode.get(number, str(number))
