"""What people see: a status report, pending files and settings, as plain text or with rich.

Both forms come from the same facts. The plain text is stable: scripts and tests read it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pictofs.api.budget import REFRESH_SHARE
from pictofs.cli.terminal import printable
from pictofs.mount.status import NOTHING, Budget, StatusReport, Tally, Uploads
from pictofs.mount.uploads import UploadRow
from pictofs.units import show_count, show_duration, show_size

_LABEL_WIDTH = 12
_BAR_WIDTH = 40
_SHOWN_PROBLEMS = 20
"""A screenful; `pictofs uploads` lists all."""

_STYLES = {"failed": "red", "held": "yellow", "waiting": "yellow"}


@dataclass(frozen=True, slots=True)
class _Fact:
    label: str
    text: str


def status_text(report: StatusReport, now_s: float) -> str:
    """The report as plain text, several lines, none longer than its longest name."""
    lines = [_title(report), f"  {report.headline(now_s)}"]
    lines += [f"  {fact.label:<{_LABEL_WIDTH}}{fact.text}" for fact in _facts(report, now_s)]
    lines += [f"  {line}".rstrip() for _, line in _problem_lines(report)]
    return "\n".join(lines)


def status_rich(report: StatusReport, now_s: float, before: Tally = NOTHING) -> RenderableType:
    """The same for a terminal, with a bar while files go up; what had landed `before` is not in it."""
    mood = "green" if report.safe else "bold yellow" if report.uploads.stuck else "cyan"
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column(overflow="fold")
    going = report.uploads.under_way.bytes
    if going:
        done = max(0, report.uploads.landed.bytes - before.bytes)
        grid.add_row("", ProgressBar(total=done + going, completed=done, width=_BAR_WIDTH))
    for fact in _facts(report, now_s):
        grid.add_row(f"  {fact.label}", Text(fact.text, _STYLES.get(fact.label, "")))
    problems = [Text(f"  {line}", _STYLES.get(state, "")) for state, line in _problem_lines(report)]
    return Group(Text(_title(report), "bold"), Text(f"  {report.headline(now_s)}", mood), grid, *problems)


def uploads_text(rows: Sequence[UploadRow], total: int) -> str:
    """Pending files as a table: id, state, size, path, and the reason on a line of its own."""
    if not rows:
        return "Nothing is pending, held or failed."
    width = max(len(str(row.id)) for row in rows)
    lines = []
    for row in rows:
        about = f"{row.id:>{width}}  {row.state:<7}  {show_size(row.size_bytes):>8}  "
        lines.append(about + printable(row.path))
        if row.reason:
            lines.append(" " * len(about) + printable(row.reason))
    if total > len(rows):
        lines.append(f"… and {total - len(rows):,} more")
    return "\n".join(lines)


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Left-aligned columns; the last is as long as it is."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _title(report: StatusReport) -> str:
    if report.mountpoint is None:
        return f"{printable(report.account)} (not mounted)"
    return f"{printable(report.mountpoint)} ({printable(report.account)})"


def _facts(report: StatusReport, now_s: float) -> list[_Fact]:
    uploads = report.uploads
    facts = []
    if uploads.under_way.files:
        facts.append(_Fact("going up", _going_up(uploads)))
    if uploads.being_written:
        facts.append(_Fact("open", f"{show_count(uploads.being_written, 'file')} being written"))
    if uploads.landed.files:
        facts.append(_Fact("landed", f"{_tally(uploads.landed)} since the mount"))
    if uploads.removals:
        facts.append(_Fact("removing", show_count(uploads.removals, "image")))
    if uploads.changes:
        facts.append(_Fact("changing", show_count(uploads.changes, "image or folder", "images or folders")))
    if uploads.waiting:
        facts.append(_Fact("waiting", waiting_text(uploads, now_s)))
    facts += [
        _Fact(label, _tally(tally))
        for label, tally in (("failed", uploads.failed), ("held", uploads.held))
        if tally.files
    ]
    if report.budget:
        first, *others = _budget(report.budget, now_s)
        facts += [_Fact("requests", first), *(_Fact("", line) for line in others)]
    if report.cache:
        facts.append(
            _Fact("cache", f"{show_size(report.cache.used_bytes)} of {show_size(report.cache.limit_bytes)}")
        )
        if report.cache.trouble is not None:
            reason = printable(report.cache.trouble)
            facts.append(_Fact("", f"takes nothing, images are read without it: {reason}"))
    return facts


def waiting_text(uploads: Uploads, now_s: float) -> str:
    """Why nothing is being sent, for how long, and until when; "" when nothing waits."""
    return printable(uploads.waiting.describe(now_s)) if uploads.waiting else ""


def _going_up(uploads: Uploads) -> str:
    text = f"{uploads.sending.files:,} sending, {uploads.queued.files:,} queued"
    text += f"; {show_size(uploads.under_way.bytes)}"
    if uploads.rate_bytes_per_s:
        text += f" at {show_size(uploads.rate_bytes_per_s)}/s"
    if uploads.left_s is not None:
        text += f", about {show_duration(uploads.left_s)} left"
    return text


def _budget(budget: Budget, now_s: float) -> list[str]:
    """Lines about the hour's requests: what is left first, since that decides what works."""
    lines = []
    if budget.remaining is not None and budget.limit is not None:
        left = f"{budget.remaining:,} of {budget.limit:,} left"
        if budget.reset_s is not None and budget.reset_s > now_s:
            left += f", resets in {show_duration(budget.reset_s - now_s)}"
        lines.append(left)
    ordered = sorted(budget.by_reason.items(), key=lambda item: -item[1])
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in ordered)
    lines.append(f"{budget.used:,} sent in the last hour" + (f" ({reasons})" if reasons else ""))
    if budget.pause_s > 0:
        lines.append(f"none until the server allows more, in {show_duration(budget.pause_s)}")
    elif budget.limit and budget.remaining is not None and budget.remaining < REFRESH_SHARE * budget.limit:
        lines.append("few are left: nothing is refreshed in the background")
    return lines


def _problem_lines(report: StatusReport) -> list[tuple[str, str]]:
    """State and text of each line about what needs a person."""
    lines = [*_refusal_lines(report)]
    if not report.problems:
        return lines
    lines.append(("", ""))
    for problem in report.problems[:_SHOWN_PROBLEMS]:
        lines.append((problem.state, f"{problem.state} #{problem.id} {printable(problem.path)}"))
        lines.append(("", f"    {printable(problem.reason)}"))
    more = report.problems_total - min(len(report.problems), _SHOWN_PROBLEMS)
    if more:
        lines.append(("", f"… and {more:,} more: `pictofs uploads list`"))
    lines.append(("", "To resolve: rename the file, or `pictofs uploads retry`, `discard` or `export`."))
    return lines


def _refusal_lines(report: StatusReport) -> list[tuple[str, str]]:
    """What the server refused of late, and why."""
    lines = [("", "")] if report.refused else []
    for refused in report.refused[-_SHOWN_PROBLEMS:]:
        lines.append(("failed", f"refused: {refused.kind} {printable(refused.path)}"))
        lines.append(("", f"    {printable(refused.reason)}"))
    return lines


def _tally(tally: Tally) -> str:
    return f"{show_count(tally.files, 'file')} ({show_size(tally.bytes)})"
