"""archive list, archive restore, restore: what was removed and can come back. The mount does the work."""

from __future__ import annotations

import argparse
import json
from datetime import datetime
from pathlib import Path
from typing import Any

from pictofs import settings
from pictofs.cli import find
from pictofs.cli.exitcodes import Exit
from pictofs.cli.find import Mounted
from pictofs.cli.terminal import printable, put, say
from pictofs.mount.control import NotMountedError
from pictofs.settings import MountSettings
from pictofs.units import show_count, show_size

_TIMEOUT_S = 600.0
"""What is on its way to the service goes first, and a large dataset takes a request per 1,000 images."""


def run(arguments: argparse.Namespace) -> int:
    """`pictofs archive …` and `pictofs restore …`; returns the exit status."""
    chosen = settings.resolve(arguments.given).mount
    if arguments.command == "archive" and arguments.action != "restore":
        return _list(chosen, arguments.path, as_json=arguments.json)
    return _restore(chosen, arguments.paths)


def _list(chosen: MountSettings, path: Path | None, *, as_json: bool) -> int:
    mounts = find.chosen(chosen, path)
    if not mounts:
        raise NotMountedError("nothing is mounted; `pictofs mount MOUNTPOINT` mounts the drive.")
    rows: list[dict[str, Any]] = []
    for mounted in mounts:
        below = mounted.relative(path) if path is not None else ""
        answer = mounted.call("archived", {"path": below}, timeout_s=_TIMEOUT_S)
        rows += [{**row, "path": str(Path(mounted.record.mountpoint, row["path"]))} for row in answer["rows"]]
    if as_json:
        put(json.dumps({"version": 1, "rows": rows}, indent=2))
    else:
        put(_text(rows))
    return Exit.OK


def _text(rows: list[dict[str, Any]]) -> str:
    """What is archived, one line each: when it came to the service, size, path (a dataset's ends in a /)."""
    if not rows:
        return "Nothing is archived there."
    lines = []
    for row in rows:
        created = "-" if row["created_s"] is None else f"{datetime.fromtimestamp(row['created_s']):%Y-%m-%d}"
        slash = "/" if row["kind"] == "dataset" else ""
        lines.append(f"{created:<10}  {show_size(row['size_bytes']):>8}  {printable(row['path'])}{slash}")
    return "\n".join([*lines, f"{show_count(len(rows), 'item')}; `pictofs restore PATH` brings back."])


def _restore(chosen: MountSettings, paths: list[Path]) -> int:
    by_mount: dict[str, tuple[Mounted, list[str]]] = {}
    for path in paths:
        mounted = find.mount_of(chosen, path)
        below = mounted.relative(path)
        assert below is not None  # The mount is the one around it.
        by_mount.setdefault(mounted.record.mountpoint, (mounted, []))[1].append(below)
    restored = 0
    refused = []
    for mounted, below_paths in by_mount.values():
        outcome = mounted.call("restore", {"paths": below_paths}, timeout_s=_TIMEOUT_S)
        restored += len(outcome["restored"])
        refused += [
            (Path(mounted.record.mountpoint, item["path"]), item["reason"]) for item in outcome["refused"]
        ]
    for place, reason in refused:
        say(f"{place} was not restored: {reason}.")
    if restored or not refused:
        say(f"{show_count(restored, 'item')} restored.")
    return Exit.FAILED if refused else Exit.OK
