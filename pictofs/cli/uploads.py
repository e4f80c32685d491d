"""uploads list, retry, discard, export: through the running mount, or on the journal when none runs.

`_Counter` is what the commands talk to; one asks the daemon, the other holds the account's lock and works on
the journal itself. Copying bytes out happens here either way: spool files are never changed in place, and one
that is open stays readable when it is removed meanwhile.
"""

from __future__ import annotations

import argparse
import contextlib
import filecmp
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from rich.progress import Progress

from pictofs import namespace, settings
from pictofs.cli import find, render
from pictofs.cli.exitcodes import Exit
from pictofs.cli.find import Mounted
from pictofs.cli.terminal import UsageError, ask, console, put, say
from pictofs.mount import offline
from pictofs.mount.uploads import Selection, UploadDesk, UploadRow
from pictofs.settings import MountSettings
from pictofs.units import show_count, show_size

_MAX_COPIES = 10_000
"""How many differing files of one name an export keeps side by side before it gives up."""


class _Counter(Protocol):
    """Where pending files are looked after."""

    def rows(self) -> tuple[list[UploadRow], int]: ...
    def stuck(self, selection: Selection) -> list[UploadRow]: ...
    def retry(self, selection: Selection, *, force: bool) -> list[UploadRow]: ...
    def discard(self, selection: Selection) -> list[UploadRow]: ...


class _AtMount:
    def __init__(self, mounted: Mounted) -> None:
        self._mounted = mounted

    def rows(self) -> tuple[list[UploadRow], int]:
        answer = self._mounted.call("uploads")
        return [UploadRow.from_json(row) for row in answer["rows"]], answer["total"]

    def stuck(self, selection: Selection) -> list[UploadRow]:
        return self._ask("stuck", selection.to_json())

    def retry(self, selection: Selection, *, force: bool) -> list[UploadRow]:
        return self._ask("retry", {**selection.to_json(), "force": force})

    def discard(self, selection: Selection) -> list[UploadRow]:
        return self._ask("discard", selection.to_json())

    def _ask(self, command: str, request: dict[str, object]) -> list[UploadRow]:
        return [UploadRow.from_json(row) for row in self._mounted.call(command, request)["rows"]]


class _AtJournal:
    def __init__(self, desk: UploadDesk) -> None:
        self._desk = desk
        self.stuck = desk.stuck
        self.retry = desk.retry
        self.discard = desk.discard

    def rows(self) -> tuple[list[UploadRow], int]:
        return self._desk.rows(), self._desk.total()


def run(arguments: argparse.Namespace) -> int:
    """Carry out `pictofs uploads …`."""
    chosen = settings.resolve(arguments.given).mount
    action = arguments.action or "list"
    if action == "list":
        return _list(chosen, arguments)
    if not (arguments.all or arguments.what):
        if action != "export":
            raise UsageError(f"say which: pictofs uploads {action} ID, PATH or --all.")
        arguments.all = True
    with _counter(chosen, arguments) as (counter, mounted):
        selection = _selection(arguments, mounted)
        if action == "retry":
            return _retry(counter, selection, mounted, force=arguments.force)
        if action == "discard":
            return _discard(counter, selection, asked=not arguments.yes)
        return _export(counter.stuck(selection), arguments.to)


def _list(chosen: MountSettings, arguments: argparse.Namespace) -> int:
    """All accounts, mounted or not, unless one was named: looking needs no lock."""
    mounts = find.chosen(chosen, arguments.mount)
    rows: list[UploadRow] = []
    total = 0
    for mounted in mounts:
        some, count = _AtMount(mounted).rows()
        rows += some
        total += count
    if not arguments.mount:
        for folder, report in find.idle_reports(chosen, mounts):
            rows += offline.read_rows(folder)
            total += report.uploads.under_way.files + report.uploads.stuck
    if arguments.json:
        put(json.dumps({"version": 1, "total": total, "rows": [row.to_json() for row in rows]}, indent=2))
    else:
        put(render.uploads_text(rows, total))
    return Exit.OK


@contextlib.contextmanager
def _counter(
    chosen: MountSettings, arguments: argparse.Namespace
) -> Iterator[tuple[_Counter, Mounted | None]]:
    """The one mount, or the one account, that is meant.

    Raises:
        UsageError: there are several, and none was named.
        NotMountedError, OfflineError: the one that was named is not there, or nothing is.
    """
    mounts = find.chosen(chosen, arguments.mount)
    around = [m for m in mounts if any(m.relative(Path(what)) for what in arguments.what if _is_path(what))]
    if len(around or mounts) == 1:
        mounted = (around or mounts)[0]
        yield _AtMount(mounted), mounted
        return
    if mounts:
        places = ", ".join(mounted.record.mountpoint for mounted in mounts)
        raise UsageError(f"several drives are mounted ({places}); name one with --mount.")
    waiting = {folder: report for folder, report in find.idle_reports(chosen, mounts) if report.uploads.stuck}
    if len(waiting) > 1:
        names = ", ".join(report.account for report in waiting.values())
        raise UsageError(f"several accounts have files waiting here ({names}); mount the one you mean.")
    if not waiting:
        raise offline.OfflineError("nothing is held or failed on this machine.")
    with offline.open_desk(next(iter(waiting))) as desk:
        yield _AtJournal(desk), None


def _selection(arguments: argparse.Namespace, mounted: Mounted | None) -> Selection:
    """Ids, and paths counted from the mount's root, from what was typed."""
    if arguments.all:
        return Selection(all=True)
    ids = tuple(int(what.lstrip("#")) for what in arguments.what if not _is_path(what))
    paths = []
    for what in filter(_is_path, arguments.what):
        below = mounted.relative(Path(what)) if mounted else None
        paths.append(below if below is not None else os.path.normpath(what).strip("/"))
    return Selection(ids, tuple("" if path == "." else path for path in paths))


def _is_path(what: str) -> bool:
    return not what.lstrip("#").isdecimal()


def _retry(counter: _Counter, selection: Selection, mounted: Mounted | None, *, force: bool) -> int:
    queued = counter.retry(selection, force=force)
    after = "" if mounted else ", to go up at the next mount"
    say(f"{show_count(len(queued), 'file')} queued again{after}." if queued else "nothing has failed.")
    return Exit.OK


def _discard(counter: _Counter, selection: Selection, *, asked: bool) -> int:
    rows = counter.stuck(selection)
    if not rows:
        say("nothing is held or failed.")
        return Exit.OK
    files = f"{show_count(len(rows), 'file')} ({show_size(sum(row.size_bytes for row in rows))})"
    names = ", ".join(row.path for row in rows[:5]) + (f" and {len(rows) - 5} more" if len(rows) > 5 else "")
    if asked and not ask(f"Forget {files}, which are nowhere but on this disk: {names}?"):
        say("nothing was discarded.")
        return Exit.FAILED
    # Exactly what was asked about, not what has become stuck since.
    gone = counter.discard(Selection(ids=tuple(row.id for row in rows)))
    say(f"{show_count(len(gone), 'file')} discarded.")
    return Exit.OK


def _export(rows: list[UploadRow], target: Path) -> int:
    """Copy the files' bytes below `target`, as dataset/folder/name."""
    if not rows:
        say("nothing is held or failed.")
        return Exit.OK
    target.mkdir(parents=True, exist_ok=True)
    terminal = console(sys.stderr)
    copied, failed = 0, 0
    with contextlib.ExitStack() as stack:
        bar = stack.enter_context(Progress(console=terminal, transient=True)) if terminal else None
        task = bar.add_task("copying", total=len(rows)) if bar else None
        for row in rows:
            try:
                copied += export_file(row, target)
            except OSError as error:
                failed += 1
                say(f"{row.path} (#{row.id}) was not copied: {error.strerror or error}.")
            if bar is not None and task is not None:
                bar.advance(task)
    present = len(rows) - copied - failed
    already = f", {present:,} were there already" if present else ""
    say(f"{show_count(copied, 'file')} copied to {target}{already}.")
    return Exit.FAILED if failed else Exit.OK


def export_file(row: UploadRow, target: Path) -> bool:
    """Copy one file below `target`; nothing there is overwritten or followed out of it.

    Another file of that name is left alone and ours becomes `name (2).jpg`. Returns False when the same bytes
    are there already.

    Raises:
        OSError: it cannot be read or written; nothing half-copied stays.
    """
    *folders, name = [namespace.to_local(part) for part in row.path.split("/") if part]
    folder = target
    for part in folders:
        folder = folder / part
        folder.mkdir(exist_ok=True)
        if folder.is_symlink():
            raise NotADirectoryError(None, f"{folder} is a symbolic link")
    source = Path(row.spool_path)
    for number in range(1, _MAX_COPIES):
        place = folder / (name if number == 1 else _numbered(name, number))
        if place.is_file() and not place.is_symlink() and filecmp.cmp(source, place, shallow=False):
            return False
        with contextlib.suppress(FileExistsError), open(place, "xb") as copy:  # noqa: PTH123
            _fill(copy, source, row.mtime_ns)
            return True
    raise FileExistsError(None, f"too many files are called {name} there")


def _numbered(name: str, number: int) -> str:
    stem, suffix = os.path.splitext(name)  # noqa: PTH122
    return f"{stem} ({number}){suffix}"


def _fill(copy: BinaryIO, source: Path, mtime_ns: int) -> None:
    try:
        with source.open("rb") as original:
            shutil.copyfileobj(original, copy)
        copy.flush()
        os.utime(copy.fileno(), ns=(mtime_ns, mtime_ns))
    except BaseException:
        Path(copy.name).unlink()
        raise
