"""The state of a mount, or of an account's journal when nothing is mounted, as one report.

`collect` builds it, in the daemon or offline; `to_json` is what the control socket carries and
`pictofs status --json` prints; `from_json` reads it back. Shape (docs/CONFIGURATION.md has it for users):

    version         1; an addition keeps it, a change of meaning raises it
    headline        the state in one sentence
    safe            true when everything that was closed is on the server
    mounted, mountpoint, account, pid, started_s
    uploads         being_written (files open for writing), held, queued, sending, failed, landed (since the
                    mount), removals (images still to be archived), changes (moves, folders and restored
                    images still to be told to the server): {"files", "bytes"} or a number;
                    rate_bytes_per_s, left_s; waiting: {"reason", "since_s", "until_s"} or null
    problems        what is held or failed: [{"id", "path", "state", "reason", "size_bytes"}], the first
                    MAX_PROBLEMS of problems_total
    refused         changes that the server refused since the mount, the latest: [{"path", "kind", "reason"}]
    budget          {"used", "limit", "remaining", "reset_s", "by_route", "by_reason", "pause_s"} or null
    cache           {"used_bytes", "limit_bytes", "trouble"} or null; trouble: why its disk takes no image
                    now, as a sentence, or null

Times ending in `_s` are Unix seconds, but `left_s` and `pause_s` are durations. Null means not known.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pictofs.transfer.records import State, Upload
from pictofs.units import show_count, show_duration, show_size

VERSION = 1

MAX_PROBLEMS = 100
"""More reasons than that nobody reads in one report; `pictofs uploads list` has them all."""


class ReportError(Exception):
    """The report is of another version of pictofs."""


@dataclass(frozen=True, slots=True)
class Tally:
    """So many files, and their bytes together."""

    files: int = 0
    bytes: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.files + other.files, self.bytes + other.bytes)


NOTHING = Tally()


@dataclass(frozen=True, slots=True)
class Waiting:
    """Why nothing is being sent although something should be."""

    reason: str
    since_s: float | None = None
    until_s: float | None = None

    def describe(self, now_s: float) -> str:
        """`server unreachable, for 3 min now`, `rate limit reached, goes on in 12 min`."""
        words = self.reason
        if self.since_s is not None:
            words += f", for {show_duration(now_s - self.since_s)} now"
        if self.until_s is not None and self.until_s > now_s:
            words += f", goes on in {show_duration(self.until_s - now_s)}"
        return words


@dataclass(frozen=True, slots=True)
class Problem:
    """A file that does not go up by itself; `state` is "held" or "failed"."""

    id: int
    path: str
    state: str
    reason: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Refused:
    """A change that the server refused; what it was about is shown as it is there. `kind`: ChangeKind."""

    path: str
    kind: str
    reason: str


@dataclass(frozen=True, slots=True)
class Uploads:
    being_written: int = 0
    held: Tally = NOTHING
    queued: Tally = NOTHING
    sending: Tally = NOTHING
    failed: Tally = NOTHING
    landed: Tally = NOTHING
    removals: int = 0
    changes: int = 0
    rate_bytes_per_s: float | None = None
    left_s: float | None = None
    waiting: Waiting | None = None

    @property
    def under_way(self) -> Tally:
        """What goes up by itself."""
        return self.queued + self.sending

    @property
    def untold(self) -> int:
        """Changes of what is on the server that it has still to be told of."""
        return self.removals + self.changes

    @property
    def stuck(self) -> int:
        """Files that need a person."""
        return self.held.files + self.failed.files


@dataclass(frozen=True, slots=True)
class Budget:
    """API requests of this hour: sent by this mount (and for what), allowed, left, when the window resets,
    and for how long the server has asked to be left alone."""

    used: int
    limit: int | None = None
    remaining: int | None = None
    reset_s: float | None = None
    by_route: Mapping[str, int] = field(default_factory=dict)
    by_reason: Mapping[str, int] = field(default_factory=dict)
    pause_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Cache:
    used_bytes: int
    limit_bytes: int
    trouble: str | None = None


@dataclass(frozen=True, slots=True)
class StatusReport:
    mounted: bool
    account: str
    mountpoint: str | None = None
    pid: int | None = None
    started_s: float | None = None
    uploads: Uploads = Uploads()
    problems: tuple[Problem, ...] = ()
    problems_total: int = 0
    refused: tuple[Refused, ...] = ()
    budget: Budget | None = None
    cache: Cache | None = None

    @property
    def safe(self) -> bool:
        """Whether everything that was closed is on the server."""
        return not self.uploads.under_way.files and not self.uploads.stuck and not self.uploads.untold

    def headline(self, now_s: float) -> str:
        """The state in one sentence; what a person must do comes first."""
        uploads = self.uploads
        going = uploads.under_way
        if uploads.stuck:
            kinds = ", ".join(
                f"{tally.files:,} {word}"
                for tally, word in ((uploads.failed, "failed"), (uploads.held, "held"))
                if tally.files
            )
            where = "on the way" if self.mounted else "for the next mount to send"
            also = f" {show_count(going.files, 'more file')} {where}." if going.files else ""
            verb = "needs" if uploads.stuck == 1 else "need"
            return f"{show_count(uploads.stuck, 'file')} {verb} your attention ({kinds}).{also}"
        if going.files:
            what = f"{show_count(going.files, 'file')} ({show_size(going.bytes)})"
            verb = "waits" if going.files == 1 else "wait"
            if not self.mounted:
                return f"{what} {verb} safely on this disk; mount the drive to send on."
            if uploads.waiting:
                return f"{what} {verb} safely on this disk: {uploads.waiting.describe(now_s)}."
            return f"{what} going up, safe on this disk until then."
        if uploads.untold:
            word = "change" if uploads.changes else "removal"
            return f"{show_count(uploads.untold, word)} still to be told to the server."
        if uploads.being_written:
            files = show_count(uploads.being_written, "file")
            return f"Everything closed is on the server; {files} being written."
        return "Everything is on the server."

    def to_json(self, now_s: float) -> dict[str, Any]:
        data = dataclasses.asdict(self)
        return {"version": VERSION, "headline": self.headline(now_s), "safe": self.safe, **data}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> StatusReport:
        """Read a report back; unknown keys are ignored.

        Raises:
            ReportError: it is of another version, or no report.
        """
        if data.get("version") != VERSION:
            raise ReportError(
                "the mount runs another version of pictofs; unmount and mount again to bring them together"
            )
        try:
            uploads = dict(data["uploads"])
            for name in ("held", "queued", "sending", "failed", "landed"):
                uploads[name] = _read(Tally, uploads[name])
            uploads["waiting"] = _read_optional(Waiting, uploads.get("waiting"))
            report: StatusReport = _read(
                cls,
                {
                    **data,
                    "uploads": _read(Uploads, uploads),
                    "problems": tuple(_read(Problem, item) for item in data["problems"]),
                    "refused": tuple(_read(Refused, item) for item in data.get("refused", ())),
                    "budget": _read_optional(Budget, data.get("budget")),
                    "cache": _read_optional(Cache, data.get("cache")),
                },
            )
            return report
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ReportError(f"the mount's report cannot be read ({error})") from None


class Counted(Protocol):
    """A number of files and of their bytes, as the journal counts them."""

    @property
    def files(self) -> int: ...
    @property
    def bytes(self) -> int: ...


class JournalView(Protocol):
    """The part of the journal that is needed here: the rows that are shown, and how many there are."""

    def counts(self) -> Mapping[State, Counted]: ...
    def pending(self) -> Sequence[Upload]: ...


def collect(
    journal: JournalView,
    *,
    account: str,
    path_of: Callable[[Upload], str],
    removals: int = 0,
    changes: int = 0,
    refused: Sequence[Refused] = (),
    being_written: int = 0,
    landed: Tally = NOTHING,
    rate_bytes_per_s: float | None = None,
    waiting: Waiting | None = None,
    budget: Budget | None = None,
    cache: Cache | None = None,
    mountpoint: str | None = None,
    pid: int | None = None,
    started_s: float | None = None,
) -> StatusReport:
    """The report from the journal's rows and what else is known.

    `path_of` says where an upload is found, relative to the mount's root.
    """
    counts = journal.counts()
    tally = {state: Tally(counts[state].files, counts[state].bytes) for state in State}
    going = tally[State.QUEUED] + tally[State.SENDING]
    moving = rate_bytes_per_s if going.files and waiting is None else None
    stuck: list[Upload] = []
    if tally[State.HELD].files or tally[State.FAILED].files:
        stuck = [upload for upload in journal.pending() if upload.state in (State.HELD, State.FAILED)]
    # What failed stands before what is held: it was meant to go up.
    stuck.sort(key=lambda upload: (upload.state is State.HELD, upload.id))
    return StatusReport(
        mounted=mountpoint is not None,
        account=account,
        mountpoint=mountpoint,
        pid=pid,
        started_s=started_s,
        uploads=Uploads(
            being_written=being_written,
            held=tally[State.HELD],
            queued=tally[State.QUEUED],
            sending=tally[State.SENDING],
            failed=tally[State.FAILED],
            landed=landed,
            removals=removals,
            changes=changes,
            rate_bytes_per_s=moving,
            left_s=going.bytes / moving if moving else None,
            waiting=waiting if going.files or removals or changes else None,
        ),
        problems=tuple(
            Problem(
                id=upload.id,
                path=path_of(upload),
                state=upload.state.value,
                reason=upload.reason or "no reason was given",
                size_bytes=upload.size_bytes,
            )
            for upload in stuck[:MAX_PROBLEMS]
        ),
        problems_total=len(stuck),
        refused=tuple(refused),
        budget=budget,
        cache=cache,
    )


def _read(kind: Any, data: Mapping[str, Any]) -> Any:
    """A dataclass from a mapping, without the keys it does not know."""
    return kind(**{name: data[name] for name in kind.__dataclass_fields__ if name in data})


def _read_optional(kind: Any, data: Mapping[str, Any] | None) -> Any:
    return None if data is None else _read(kind, data)
