"""Speaking to a person: sentences on stderr, questions, and text that cannot play tricks on a terminal."""

from __future__ import annotations

import re
import sys
from typing import TextIO

from rich.console import Console

_KEY = re.compile(r"pk_[a-z]+_[A-Za-z0-9_\-]+")


class UsageError(Exception):
    """The command line makes no sense. The message says what would."""


def say(text: str) -> None:
    """One sentence on stderr, as `pictofs: …`."""
    print(f"pictofs: {_safe(text)}", file=sys.stderr, flush=True)


def put(text: str) -> None:
    """A result on stdout."""
    print(text, flush=True)


def printable(text: str) -> str:
    """Names come from the server and may hold terminal escapes: what does not print is shown as `\\x1b`."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def ask(question: str) -> bool:
    """Whether the person at the terminal says yes.

    Raises:
        UsageError: nobody is there to be asked.
    """
    if not sys.stdin.isatty():
        raise UsageError("this asks first, and nobody is at a terminal; give --yes to go ahead.")
    print(f"{printable(question)} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def console(stream: TextIO) -> Console | None:
    """A console for live output, or None when `stream` is no terminal that can show it."""
    if not stream.isatty():
        return None
    found = Console(file=stream, highlight=False, soft_wrap=True)
    return None if found.is_dumb_terminal else found


def _safe(text: str) -> str:
    """One line, printable, and without a key that somebody put where none belongs."""
    return printable(_KEY.sub("pk_…", " ".join(text.split())))
