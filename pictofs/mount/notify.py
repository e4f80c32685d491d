"""Telling systemd how the service stands (sd_notify(3)). Without systemd, nothing happens."""

from __future__ import annotations

import contextlib
import os
import socket

EXTENSION_S = 30.0
"""How much more time is asked for at once while draining: several slices, so that one slow one is no end."""


def ready() -> None:
    """The drive answers."""
    _send("READY=1")


def stopping(status: str) -> None:
    """The drive is gone and uploads are being finished: more time is needed, and this is why."""
    _send(f"STOPPING=1\nSTATUS={status}\nEXTEND_TIMEOUT_USEC={int(EXTENSION_S * 1e6)}")


def _send(state: str) -> None:
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]  # systemd's notation for an abstract socket
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.sendto(state.encode(), address)
