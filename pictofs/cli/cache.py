"""cache info, clear, warm: the images kept on this disk, of running mounts and of accounts not mounted."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from pictofs import settings
from pictofs.cache.content import FOLDER_NAME, ContentCache
from pictofs.cli import find
from pictofs.cli.exitcodes import Exit
from pictofs.cli.find import Mounted
from pictofs.cli.terminal import console, printable, put, say
from pictofs.mount import accounts
from pictofs.mount.control import ControlError
from pictofs.settings import MountSettings
from pictofs.units import show_count, show_size

_POLL_INTERVAL_S = 0.2
_COUNT_TIMEOUT_S = 300.0
"""A slow disk may take minutes to look at, or to empty of, hundreds of thousands of files."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """One account's image cache. `mounted` is None when nobody works on it."""

    label: str
    folder: Path
    mounted: Mounted | None


def run(arguments: argparse.Namespace) -> int:
    chosen = settings.resolve(arguments.given).mount
    if arguments.action == "warm":
        return _warm(chosen, arguments.path)
    if arguments.action == "clear":
        return _clear(chosen)
    return _info(chosen, as_json=arguments.json)


def _kept(chosen: MountSettings) -> list[_Kept]:
    """Every account that has a cache here."""
    mounted = {Path(m.record.account_dir).name: m for m in find.running(chosen)}
    folders = {folder.parent.name: folder for folder in sorted(chosen.cache_dir.glob(f"*/{FOLDER_NAME}"))}
    return [
        _Kept(accounts.read_note(chosen.state_dir / name).label, folder, mounted.get(name))
        for name, folder in folders.items()
    ]


def _info(chosen: MountSettings, *, as_json: bool) -> int:
    rows = [(kept, _usage(kept)) for kept in _kept(chosen)]
    if as_json:
        caches = [{"account": kept.label, "folder": str(kept.folder), **usage} for kept, usage in rows]
        put(json.dumps({"version": 1, "caches": caches}, indent=2))
        return Exit.OK
    for kept, usage in rows:
        files = show_count(usage["files"], "image")
        limit = f" of {show_size(usage['limit_bytes'])}" if usage["limit_bytes"] is not None else ""
        put(f"{printable(kept.label)}: {files}, {show_size(usage['bytes'])}{limit}, in {kept.folder}")
    if not rows:
        put("No images are kept on this disk.")
    return Exit.OK


def _usage(kept: _Kept) -> dict[str, Any]:
    if kept.mounted is not None:
        answer: dict[str, Any] = kept.mounted.call("cache_info", timeout_s=_COUNT_TIMEOUT_S)
        return answer
    return {**ContentCache(kept.folder, max_bytes=0).count()._asdict(), "limit_bytes": None}


def _clear(chosen: MountSettings) -> int:
    files = freed = 0
    for kept in _kept(chosen):
        if kept.mounted is not None:
            gone = kept.mounted.call("cache_clear", timeout_s=_COUNT_TIMEOUT_S)
        else:
            gone = ContentCache(kept.folder, max_bytes=0).clear()._asdict()
        files, freed = files + gone["files"], freed + gone["bytes"]
    put(f"{show_count(files, 'image')} removed from this disk, {show_size(freed)}.")
    return Exit.OK


def _warm(chosen: MountSettings, path: Path) -> int:
    mounted = find.mount_of(chosen, path)
    job = mounted.call("warm", {"path": mounted.relative(path)}, timeout_s=_COUNT_TIMEOUT_S)["job"]
    with _bar() as show:
        try:
            while True:
                now: dict[str, Any] = mounted.call("warm_progress", {"job": job})
                show(now)
                if now["is_over"] or now["is_stopped"]:
                    break
                time.sleep(_POLL_INTERVAL_S)
        except KeyboardInterrupt:
            with contextlib.suppress(ControlError):
                mounted.call("warm_stop", {"job": job})
            raise
    put(f"{show_count(now['done_files'], 'image')} on this disk, {show_size(now['done_bytes'])}.")
    if now["left_out"]:
        say(
            f"{show_count(now['left_out'], 'image')} left out: each would cost an API request; "
            "they are fetched when they are read."
        )
    if now["failed"]:
        say(f"{show_count(now['failed'], 'image')} could not be fetched; the mount's log says why.")
    return Exit.FAILED if now["failed"] or now["left_out"] or now["is_stopped"] else Exit.OK


@contextlib.contextmanager
def _bar() -> Iterator[Callable[[dict[str, Any]], None]]:
    """A progress bar on stderr; without a terminal, nothing."""
    terminal = console(sys.stderr)
    if terminal is None:
        yield lambda _: None
        return
    with Progress(
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True),
        TextColumn("{task.fields[files]}"), TimeRemainingColumn(),
        console=terminal, transient=True,
    ) as progress:  # fmt: skip
        task = progress.add_task("fetching", total=None, files="")

        def show(now: dict[str, Any]) -> None:
            files = f"{now['done_files']:,} of {show_count(now['files'], 'image')}"
            progress.update(task, completed=now["done_bytes"], total=now["bytes"], files=files)

        yield show
