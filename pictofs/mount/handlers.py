"""What a running mount answers on its control socket: commands in, JSON out.

| command      | arguments                        | result |
|--------------|----------------------------------|--------|
| status       |                                  | the report of mount/status |
| uploads      |                                  | {"rows": [UploadRow…], "total"} |
| stuck        | ids, paths, all                  | {"rows"}: the held and failed ones meant |
| retry        | ids, paths, all, force           | {"rows"}: those queued again |
| discard      | ids, paths, all                  | {"rows"}: those forgotten |
| refresh      | path                             | null |
| rm_permanent | path                             | null: deleted for good |
| archived     | path                             | {"rows": [ArchivedRow…]}: at the path and below |
| restore      | paths                            | {"restored": [path…], "refused": [{"path", "reason"}…]} |
| traits       |                                  | what a plan must know; see mount/plan.Traits |
| drain        |                                  | null: what waits is sent now, not after its pause |
| cache_info   |                                  | {"files", "bytes", "limit_bytes"} |
| cache_clear  |                                  | {"files", "bytes"}: what went |
| warm         | path                             | {"job"}: what is below is being fetched |
| warm_progress | job                             | how far it is: the fields of mount/warming.Job |
| warm_stop    | job                              | null |
| unmount      | drain_timeout_s                  | null: taken out of the tree; the process ends soon after |

Paths are relative to the mount's root. Handlers run in the control server's threads. What concerns uploads
answers at once: who waits for something polls `status`. The others ask the service before they answer.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from pictofs.api.budget import Reason, because
from pictofs.cache.content import Usage
from pictofs.mount.archive import ArchivedRow, Outcome
from pictofs.mount.control import BusyError, ControlError, Handler, MountRecord
from pictofs.mount.plan import Traits
from pictofs.mount.problems import sentence
from pictofs.mount.status import (
    NOTHING,
    Budget,
    Cache,
    JournalView,
    Refused,
    StatusReport,
    Tally,
    Waiting,
    collect,
)
from pictofs.mount.uploads import Selection, UploadDesk
from pictofs.transfer.records import Upload

T = TypeVar("T")


class UploaderView(Protocol):
    """The part of the uploader that is needed here."""

    def kick(self) -> None: ...


class BudgetView(Protocol):
    """The client's count of API requests."""

    @property
    def used(self) -> int: ...
    @property
    def limit(self) -> int | None: ...
    @property
    def remaining(self) -> int | None: ...
    @property
    def reset_at(self) -> float | None: ...
    @property
    def by_route(self) -> Mapping[str, int]: ...
    @property
    def by_reason(self) -> Mapping[Reason, int]: ...
    @property
    def pause_s(self) -> float: ...


class ArchiveView(Protocol):
    """What is archived; see mount/archive."""

    def rows(self, path: str) -> Sequence[ArchivedRow]: ...
    def restore(self, paths: Sequence[str]) -> Outcome: ...
    def remove_permanently(self, path: str) -> None: ...


class TroubleView(Protocol):
    """Why the disk of the image cache takes nothing; None when it does."""

    @property
    def error(self) -> OSError | None: ...


class CacheView(Protocol):
    """The image cache's size, in bytes, and its disk."""

    @property
    def used_bytes(self) -> int: ...
    @property
    def max_bytes(self) -> int: ...
    @property
    def trouble(self) -> TroubleView: ...
    def count(self) -> Usage: ...
    def clear(self) -> Usage: ...


class WarmingView(Protocol):
    """Jobs that fill the image cache. See mount/warming."""

    def start(self, path: str) -> int: ...
    def progress(self, number: int) -> dict[str, object]: ...
    def stop(self, number: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Progress:
    """What the uploader says of itself."""

    landed: Tally = NOTHING
    rate_bytes_per_s: float | None = None
    waiting: Waiting | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the handlers speak for; lifecycle binds it.

    Attributes:
        path_of: where an upload is found, relative to the mount's root.
        progress: the uploader's state.
        being_written: files open for writing.
        removals: images still to be archived on the server.
        changes: other changes that the server has still to be told of.
        refused: those that it refused of late.
        refresh: drop what is known below a path, so that the next look asks the server.
        archive: what is archived, and deleting for good.
        traits: what a plan must know.
        unmount: take the mount out of the tree and let the process end, draining at most so many seconds
            more. Raises OSError: EBUSY when it is in use.
    """

    record: MountRecord
    journal: JournalView
    desk: UploadDesk
    uploader: UploaderView
    progress: Callable[[], Progress]
    budget: Callable[[], BudgetView | None]
    cache: CacheView | None
    warming: WarmingView | None
    path_of: Callable[[Upload], str]
    being_written: Callable[[], int]
    removals: Callable[[], int]
    changes: Callable[[], int]
    refused: Callable[[], Sequence[Refused]]
    refresh: Callable[[str], None]
    archive: ArchiveView
    traits: Callable[[], Traits]
    unmount: Callable[[float], None]


def report(parts: Parts) -> StatusReport:
    """The mount's state now."""
    progress = parts.progress()
    budget = parts.budget()
    return collect(
        parts.journal,
        account=parts.record.account,
        path_of=parts.path_of,
        removals=parts.removals(),
        changes=parts.changes(),
        refused=parts.refused(),
        being_written=parts.being_written(),
        landed=progress.landed,
        rate_bytes_per_s=progress.rate_bytes_per_s,
        waiting=progress.waiting,
        budget=None
        if budget is None
        else Budget(
            budget.used,
            budget.limit,
            budget.remaining,
            budget.reset_at,
            dict(budget.by_route),
            {reason.value: count for reason, count in budget.by_reason.items()},
            budget.pause_s,
        ),
        cache=None if parts.cache is None else _cache(parts.cache),
        mountpoint=parts.record.mountpoint,
        pid=parts.record.pid,
        started_s=parts.record.started_s,
    )


def build_handlers(parts: Parts) -> Mapping[str, Handler]:
    """The commands of a mount, for `ControlServer`."""

    def status(_: Mapping[str, Any]) -> object:
        return report(parts).to_json(time.time())

    def uploads(_: Mapping[str, Any]) -> object:
        return {"rows": [row.to_json() for row in parts.desk.rows()], "total": parts.desk.total()}

    def stuck(arguments: Mapping[str, Any]) -> object:
        return {"rows": [row.to_json() for row in parts.desk.stuck(Selection.from_json(arguments))]}

    def retry(arguments: Mapping[str, Any]) -> object:
        rows = parts.desk.retry(Selection.from_json(arguments), force=bool(arguments.get("force")))
        parts.uploader.kick()
        return {"rows": [row.to_json() for row in rows]}

    def discard(arguments: Mapping[str, Any]) -> object:
        return {"rows": [row.to_json() for row in parts.desk.discard(Selection.from_json(arguments))]}

    def refresh(arguments: Mapping[str, Any]) -> object:
        parts.refresh(_path(arguments))
        return None

    def rm_permanent(arguments: Mapping[str, Any]) -> object:
        with because(Reason.CONTROL):
            parts.archive.remove_permanently(_path(arguments))
        return None

    def archived(arguments: Mapping[str, Any]) -> object:
        with because(Reason.CONTROL):
            return {"rows": [row.to_json() for row in parts.archive.rows(_path(arguments))]}

    def restore(arguments: Mapping[str, Any]) -> object:
        with because(Reason.CONTROL):
            return parts.archive.restore(_paths(arguments)).to_json()

    def traits(_: Mapping[str, Any]) -> object:
        return parts.traits().to_json()

    def drain(_: Mapping[str, Any]) -> object:
        parts.uploader.kick()
        return None

    def cache_info(_: Mapping[str, Any]) -> object:
        cache = _kept(parts.cache)
        return {**cache.count()._asdict(), "limit_bytes": cache.max_bytes}

    def cache_clear(_: Mapping[str, Any]) -> object:
        return _kept(parts.cache).clear()._asdict()

    def warm(arguments: Mapping[str, Any]) -> object:
        return {"job": _kept(parts.warming).start(_path(arguments))}

    def warm_progress(arguments: Mapping[str, Any]) -> object:
        return _kept(parts.warming).progress(_number(arguments, "job"))

    def warm_stop(arguments: Mapping[str, Any]) -> object:
        _kept(parts.warming).stop(_number(arguments, "job"))
        return None

    def unmount(arguments: Mapping[str, Any]) -> object:
        try:
            parts.unmount(_seconds(arguments, "drain_timeout_s"))
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise BusyError("the mount point is in use") from None
            raise
        return None

    return {
        "status": status,
        "uploads": uploads,
        "stuck": stuck,
        "retry": retry,
        "discard": discard,
        "refresh": refresh,
        "rm_permanent": rm_permanent,
        "archived": archived,
        "restore": restore,
        "traits": traits,
        "drain": drain,
        "cache_info": cache_info,
        "cache_clear": cache_clear,
        "warm": warm,
        "warm_progress": warm_progress,
        "warm_stop": warm_stop,
        "unmount": unmount,
    }


def _cache(cache: CacheView) -> Cache:
    error = cache.trouble.error
    return Cache(cache.used_bytes, cache.max_bytes, None if error is None else sentence(error))


def _kept(part: T | None) -> T:
    if part is None:
        raise ControlError("this mount keeps no images")
    return part


def _path(arguments: Mapping[str, Any]) -> str:
    path = arguments.get("path")
    if not isinstance(path, str):
        raise ControlError("path must be a text")
    return path.strip("/")


def _paths(arguments: Mapping[str, Any]) -> list[str]:
    paths = arguments.get("paths")
    if not isinstance(paths, list) or not paths or not all(isinstance(path, str) for path in paths):
        raise ControlError("paths must be a list of texts")
    return [path.strip("/") for path in paths]


def _number(arguments: Mapping[str, Any], name: str) -> int:
    value = arguments.get(name)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ControlError(f"{name} must be a whole number")
    return value


def _seconds(arguments: Mapping[str, Any], name: str) -> float:
    value = arguments.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
        raise ControlError(f"{name} must be a number of seconds")
    return float(value)
