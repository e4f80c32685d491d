"""status and wait, and the drain before an unmount: looking at mounts until something is the case.

Everything polls the control socket; a request costs the daemon about a millisecond.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn

from pictofs import settings
from pictofs.cli import find, render
from pictofs.cli.exitcodes import Exit
from pictofs.cli.find import Mounted
from pictofs.cli.terminal import console, put, say
from pictofs.mount.status import NOTHING, StatusReport, Tally
from pictofs.settings import MountSettings
from pictofs.units import show_count, show_duration, show_size

_WATCH_INTERVAL_S = 1.0
_POLL_INTERVAL_S = 0.2
"""As long as a lone file is kept for its batch: waiting ends about when the work does."""

_NOTHING_MOUNTED = "Nothing is mounted and nothing waits: `pictofs mount MOUNTPOINT` mounts the drive."


def status(arguments: argparse.Namespace) -> int:
    chosen = settings.resolve(arguments.given).mount

    def look() -> list[StatusReport]:
        return _reports(chosen, arguments)

    if arguments.watch:
        _watch(look, arguments)
        return Exit.OK
    _print(look(), arguments)
    return Exit.OK


def wait(arguments: argparse.Namespace) -> int:
    chosen = settings.resolve(arguments.given).mount
    mounts = find.chosen(chosen, arguments.mount)
    idle = [] if arguments.mount is not None else _idle(chosen, mounts)
    last = _until(mounts, lambda reports: all(_is_settled(report) for report in reports), arguments.timeout)
    if last is None:
        say("the time is up, and not everything is on the server yet.")
        return Exit.TIMEOUT
    result = Exit.OK
    for report in (*last, *idle):
        if not report.safe:
            say(f"{report.mountpoint or report.account}: {report.headline(time.time())}")
            result = Exit.FAILED
    return result


def drain(mounted: Mounted, timeout_s: float) -> None:
    """Wait until the mount's queue is empty, at most `timeout_s`; what remains is kept. Held and failed
    files are not waited for.

    Raises:
        ControlError: the mount does not answer.
    """
    first = mounted.report()
    if _is_settled(first) or timeout_s <= 0:
        return
    mounted.call("drain")
    if console(sys.stderr) is None:
        files = show_count(first.uploads.under_way.files, "file")
        say(f"sending {files} first, for at most {show_duration(timeout_s)} (Ctrl-C: stay mounted)")
    _until(
        [mounted],
        lambda reports: all(_is_settled(report) for report in reports),
        timeout_s,
    )


def _pause(duration_s: float) -> None:
    """Between two looks."""
    time.sleep(duration_s)


def _is_settled(report: StatusReport) -> bool:
    return not report.uploads.under_way.files and not report.uploads.untold


def _until(
    mounts: Sequence[Mounted],
    met: Callable[[list[StatusReport]], bool],
    timeout_s: float | None,
) -> list[StatusReport] | None:
    """Look at the mounts until `met`, with a bar on a terminal. The last look, or None when time ran out."""
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    with bar() as show:
        while True:
            reports = [mounted.report() for mounted in mounts]
            show(reports)
            if met(reports):
                return reports
            left_s = None if deadline is None else deadline - time.monotonic()
            if left_s is not None and left_s <= 0:
                return None
            _pause(_POLL_INTERVAL_S if left_s is None else min(_POLL_INTERVAL_S, left_s))


@contextlib.contextmanager
def bar() -> Iterator[Callable[[list[StatusReport]], None]]:
    """A progress bar on stderr; without a terminal, nothing."""
    terminal = console(sys.stderr)
    if terminal is None:
        yield lambda _: None
        return
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[detail]}", markup=False),
        console=terminal, transient=True, auto_refresh=False,
    ) as progress:  # fmt: skip
        task = progress.add_task("uploading", total=None, detail="")
        before: Tally | None = None

        def show(reports: list[StatusReport]) -> None:
            nonlocal before
            going = sum((report.uploads.under_way for report in reports), NOTHING)
            landed = sum((report.uploads.landed for report in reports), NOTHING)
            before = landed if before is None else before
            done_bytes = max(0, landed.bytes - before.bytes)
            progress.update(
                task,
                completed=done_bytes,
                total=done_bytes + going.bytes,
                detail=_detail(reports, going),
                refresh=True,
            )

        yield show


def _detail(reports: list[StatusReport], going: Tally) -> str:
    text = f"{show_count(going.files, 'file')}, {show_size(going.bytes)}"
    for report in reports:
        uploads = report.uploads
        if uploads.waiting:
            return f"{text}; {render.waiting_text(uploads, time.time())}"
        if uploads.left_s is not None:
            text += f", {show_duration(uploads.left_s)} left"
    return text


def _reports(chosen: MountSettings, arguments: argparse.Namespace) -> list[StatusReport]:
    mounts = find.chosen(chosen, arguments.mount)
    idle = [] if arguments.mount is not None else _idle(chosen, mounts)
    return [mounted.report() for mounted in mounts] + idle


def _idle(chosen: MountSettings, mounts: list[Mounted]) -> list[StatusReport]:
    """Accounts that are not mounted and still have something that is not on the server."""
    return [report for _, report in find.idle_reports(chosen, mounts) if not report.safe]


def _print(reports: list[StatusReport], arguments: argparse.Namespace) -> None:
    now_s = time.time()
    terminal = console(sys.stdout)
    if arguments.json or terminal is None:
        put(_plain(reports, arguments, now_s))
    else:
        terminal.print(_rich(reports, now_s))


def _watch(look: Callable[[], list[StatusReport]], arguments: argparse.Namespace) -> None:
    """Show it again and again until Ctrl-C: in place on a terminal, else a paragraph at each change."""
    terminal = console(sys.stdout)
    with contextlib.suppress(KeyboardInterrupt):
        if arguments.json or terminal is None:
            shown = None
            while True:
                text = _plain(look(), arguments, time.time())
                if text != shown:
                    put(text if shown is None or arguments.json else f"\n{text}")
                    shown = text
                _pause(_WATCH_INTERVAL_S)
        before: dict[str | None, Tally] = {}
        with Live(console=terminal, auto_refresh=False) as live:
            while True:
                reports = look()
                for report in reports:
                    before.setdefault(report.mountpoint, report.uploads.landed)
                live.update(_rich(reports, time.time(), before), refresh=True)
                _pause(_WATCH_INTERVAL_S)


def _plain(reports: list[StatusReport], arguments: argparse.Namespace, now_s: float) -> str:
    if arguments.json:
        data = _json(reports, alone=arguments.mount is not None, now_s=now_s)
        return json.dumps(data, indent=None if arguments.watch else 2)
    return "\n\n".join(render.status_text(report, now_s) for report in reports) or _NOTHING_MOUNTED


def _rich(
    reports: list[StatusReport], now_s: float, before: Mapping[str | None, Tally] | None = None
) -> RenderableType:
    """`before`: what had landed when it was first looked at, by mount point."""
    known = before or {}
    shown = (render.status_rich(report, now_s, known.get(report.mountpoint, NOTHING)) for report in reports)
    return Group(*shown) if reports else _NOTHING_MOUNTED


def _json(reports: list[StatusReport], *, alone: bool, now_s: float) -> object:
    """One report when one mount was asked for, else all of them in a list."""
    data = [report.to_json(now_s) for report in reports]
    return data[0] if alone else {"version": 1, "reports": data}
