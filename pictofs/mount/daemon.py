"""Going to the background: `pictofs mount` returns when the drive answers, or with the reason why not."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import NoReturn

from pictofs.mount.problems import MountError, sentence

Serve = Callable[[Callable[[], None]], None]
"""Serves the drive until it is unmounted; calls its argument once, when the drive answers."""

_READY = b"ready\n"


def serve_in_background(serve: Serve) -> int:
    """Run `serve` in a process of its own; returns its pid once the drive answers.

    Raises:
        MountError: it could not start; the sentence is the one the process ended with.
    """
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _live(serve, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        told = pipe.read()
    if told == _READY:
        return pid
    os.waitpid(pid, 0)
    raise MountError(
        told.decode("utf-8", "replace")
        or "the mount's process ended before the drive answered; try --foreground."
    )


def _live(serve: Serve, pipe: int) -> NoReturn:
    """The life of the process in the background; never returns into its parent's code."""
    status = 1
    answered = False

    def ready() -> None:
        nonlocal answered
        answered = True
        _leave_the_terminal()
        os.write(pipe, _READY)
        os.close(pipe)

    try:
        os.setsid()
        os.chdir("/")  # so that no other file system is kept busy
        serve(ready)
        status = 0
    except BaseException as error:  # noqa: BLE001 - whatever it was, the one who waits is told.
        if not answered:
            os.write(pipe, sentence(error).encode("utf-8", "backslashreplace"))
    finally:
        os._exit(status)


def _leave_the_terminal() -> None:
    """From here on words go to the log file: nobody reads a daemon's output."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)
