"""The exit statuses of every command. Scripts rely on them; docs/CONFIGURATION.md states them."""

from __future__ import annotations

import enum


class Exit(enum.IntEnum):
    """What a finished command tells its caller."""

    OK = 0
    """Done. For `wait`: everything is on the server."""

    FAILED = 1
    """It could not be done. For `wait`: an upload failed or is held, or nothing is mounted to send on."""

    USAGE = 2
    """The command line or a setting makes no sense; nothing was done."""

    TIMEOUT = 2
    """`wait --timeout` ran out. The same number as USAGE: issue and scripts know 2 for it."""

    INTERRUPTED = 130
    """Ctrl-C, as shells have it (128 + SIGINT)."""
