"""The log's view of failed calls: each kind of trouble at once, a bug with its traceback, and then seldom.

An `OSError` that the vfs raised on purpose is no trouble; it logs itself what is worth a line.
`Complaints._lock` guards the times; nothing is called while it is held.
"""

from __future__ import annotations

import errno
import logging
import threading
import time

from pictofs.fs.errnos import errno_of, is_foreseen

__all__ = ["Complaints"]

logger = logging.getLogger(__name__)

# Ten thousand reads may fail of one cause: one line says so, one more each interval says that it lasts.
_INTERVAL_S = 10.0


class Complaints:
    """What has been logged when, by operation and type of exception."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._logged: dict[tuple[str, type[BaseException]], float] = {}  # time.monotonic()

    def note(self, operation: str, subject: str, exc: BaseException) -> int:
        """Log `exc`, raised by `operation` on `subject`, if it is time to; the errno that stands for it."""
        number = errno_of(exc)
        if isinstance(exc, OSError) and exc.errno == number:
            logger.debug("%s %s: %s", operation, subject, exc)
            return number
        kind, now_s = (operation, type(exc)), time.monotonic()
        with self._lock:
            last_s = self._logged.get(kind)
            if last_s is not None and now_s - last_s < _INTERVAL_S:
                return number
            self._logged[kind] = now_s
        logger.warning(
            "%s %s failed with %s: %s: %s",
            operation,
            subject,
            errno.errorcode[number],
            type(exc).__name__,
            exc,
            exc_info=None if is_foreseen(exc) or last_s is not None else exc,
        )
        return number
