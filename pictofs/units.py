"""Durations and sizes as people write and read them. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_DURATION_S = 366 * 86400.0
"""Longer waits than a year are a slip of the keyboard, and the platform's timers have a limit."""

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|sec|m|min|h|d)?", re.IGNORECASE)
_DURATION_UNITS_S = {"ms": 0.001, "s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([KMGT])(iB|B)?|B)?", re.IGNORECASE)
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s*%")
_SIZE_POWERS = {"K": 1, "M": 2, "G": 3, "T": 4}


def parse_duration(text: str) -> float:
    """Seconds. A bare number is seconds; ms, s, m, h or d may follow it.

    Raises:
        ValueError: not such a duration, or more than a year.
    """
    match = _DURATION.fullmatch(text.strip())
    if not match:
        raise ValueError("is not a duration")
    seconds = float(match[1]) * _DURATION_UNITS_S[(match[2] or "s").lower()]
    if seconds > MAX_DURATION_S:
        raise ValueError("is longer than a year")
    return seconds


def parse_size(text: str) -> int:
    """Bytes. K, M, G, T and KiB … are powers of 1024, KB … of 1000 (as GNU tools read them).

    Raises:
        ValueError: not such a size.
    """
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise ValueError("is not a size")
    base = 1000 if (match[3] or "").upper() == "B" else 1024
    return int(float(match[1]) * base ** _SIZE_POWERS.get((match[2] or "").upper(), 0))


@dataclass(frozen=True, slots=True)
class Share:
    """Part of a disk: so many bytes, or so many hundredths of it."""

    size_bytes: int = 0
    percent: float = 0.0

    def of(self, disk_bytes: int) -> int:
        """In bytes, on a disk of that size."""
        return self.size_bytes + int(disk_bytes * self.percent / 100)

    def __str__(self) -> str:
        return f"{self.percent:g} %" if self.percent else show_size(self.size_bytes)


def parse_share(text: str) -> Share:
    """A size, or a percentage such as `5%`.

    Raises:
        ValueError: neither, or more than the whole.
    """
    match = _PERCENT.fullmatch(text.strip())
    if match and float(match[1]) > 100:
        raise ValueError("is more than 100 %")
    if match:
        return Share(percent=float(match[1]))
    try:
        return Share(parse_size(text))
    except ValueError:
        raise ValueError("is neither a size nor a percentage") from None


def show_seconds(seconds: float) -> str:
    """As a setting is shown: `60 s`."""
    return f"{seconds:g} s"


def show_duration(seconds: float) -> str:
    """As a person says it: `45 s`, `4 min`, `2 h 5 min`, `3 d 4 h`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes = round(whole / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def show_size(size_bytes: float) -> str:
    """`10 GiB`, `1.5 MiB`, `512 B`."""
    value = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1023.5:
            return f"{value:.3g} {unit}" if value < 100 else f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.3g} TiB" if value < 100 else f"{value:.0f} TiB"


def show_count(number: int, one: str, many: str | None = None) -> str:
    """`1 file`, `10,000 files`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
