"""After the drive is out of the tree: what is on its way is finished, up to a deadline or the next signal."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from pictofs.mount import notify
from pictofs.mount.status import StatusReport
from pictofs.units import show_duration

log = logging.getLogger(__name__)

SLICE_S = 1.0
"""How often a draining process looks at its signals and tells systemd that it is alive."""

DrainView = Callable[[], AbstractContextManager[Callable[[list[StatusReport]], None]]]
"""Shows a person how it goes: opened when it begins, and handed a report now and then."""


@contextmanager
def nobody_looks() -> Iterator[Callable[[list[StatusReport]], None]]:
    """The view of a process without a terminal."""
    yield lambda _: None


def drain(
    finish: Callable[[float], bool], report: Callable[[], StatusReport], timeout_s: float, view: DrainView
) -> None:
    """Let `finish` work, which is given seconds and says whether nothing is left."""
    deadline = time.monotonic() + timeout_s

    def headline() -> str:
        return report().headline(time.time())

    with _interrupted() as interrupted:
        notify.stopping(headline())
        if finish(0):
            return
        log.info(
            "%s It is waited for, at most %s; a second signal leaves the rest to the next mount.",
            headline(),
            show_duration(timeout_s),
        )
        with view() as show:
            while not interrupted.is_set() and (left_s := deadline - time.monotonic()) > 0:
                notify.stopping(headline())
                show([report()])
                if finish(min(SLICE_S, left_s)):
                    return


@contextmanager
def _interrupted() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set: whoever asked twice does not want to wait."""
    event = threading.Event()
    before = {
        number: signal.signal(number, lambda *_: event.set()) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
