"""Whose drive it is. A note in the cache folder tells, of what the service said when it was asked last.

One question at each mount shows whether the key is still good. It is the one for the datasets, which the
drive wants anyway: they also tell which organization they are of. The service is asked for the organization
itself, whose quota may have changed, when the note is a day old, or the datasets do not say the same. When
there is no answer, the note stands.

The note is found by a hash of the server's address and the key, which are themselves not kept.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pictofs.api.credentials import Credentials
from pictofs.api.errors import AuthError, ForbiddenError, PictographError
from pictofs.api.models import Dataset, Organization

log = logging.getLogger(__name__)

PATIENCE_S = 0.5
"""How long a mount that has a note waits for the service: a few round trips, so that a key that is no longer
good is refused at the mount, and a dead line does not delay it."""

OLD_S = 24 * 3600.0
"""How long a note is good: a quota changes when somebody changes the plan."""

_VERSION = 2  # 1 had no time, so it counts as old


@dataclasses.dataclass(frozen=True)
class Found:
    """Whose drive it is.

    Attributes:
        datasets: its datasets, if the service was asked for them on the way and has answered in time.
        asked_at: when that was, monotonic seconds.
    """

    organization: Organization
    datasets: Sequence[Dataset] | None = None
    asked_at: float = 0.0


def find(
    credentials: Credentials,
    cache_dir: Path,
    *,
    ask: Callable[[], Organization],
    ask_datasets: Callable[[], Sequence[Dataset]],
    wall_clock: Callable[[], float] = time.time,
) -> Found:
    """Who the key belongs to.

    Args:
        ask, ask_datasets: what the service says. Each is an API request and may raise PictographError.

    Raises:
        PictographError: the service refuses the key; or does not answer, and there is no note.
    """
    note = _Note(_path(credentials, cache_dir), wall_clock)
    known = note.read()
    if known is None:
        told = ask()
        note.write(told)
        return Found(told)
    return _Question(note, known, ask, ask_datasets).answer()


class _Question:
    """The service is asked in a thread of its own, and whoever mounts waits a moment for it."""

    def __init__(
        self,
        note: _Note,
        known: Organization,
        ask: Callable[[], Organization],
        ask_datasets: Callable[[], Sequence[Dataset]],
    ) -> None:
        self._note = note
        self._known = known
        self._ask = ask
        self._ask_datasets = ask_datasets
        self._found = Found(known)
        self._refused: PictographError | None = None
        self._done = threading.Event()
        threading.Thread(target=self._run, name="pictofs-organization", daemon=True).start()

    def answer(self) -> Found:
        """What the service says, or else the note."""
        self._done.wait(PATIENCE_S)
        if self._refused is not None:
            raise self._refused
        return self._found

    def _run(self) -> None:
        try:
            if self._note.is_old or not self._confirmed():
                self._learn(self._ask())
        except (AuthError, ForbiddenError) as error:
            log.error("The server refuses the API key: %s", error)
            self._refused = error
        except PictographError as error:
            log.warning("The server does not answer, what is known of it is shown: %s", error)
        finally:
            self._done.set()

    def _confirmed(self) -> bool:
        """Ask for the datasets; whether they are of the organization of the note."""
        asked_at = time.monotonic()
        datasets = self._ask_datasets()
        self._found = Found(self._known, datasets, asked_at)
        return {dataset.organization_id for dataset in datasets} == {self._known.id}

    def _learn(self, told: Organization) -> None:
        self._note.write(told)
        if told.id != self._known.id:
            log.error("The API key belongs to another organization now, %s: mount again.", told.name)
        self._found = dataclasses.replace(self._found, organization=told)


def _path(credentials: Credentials, cache_dir: Path) -> Path:
    text = f"{credentials.base_url}\0{credentials.api_key.reveal()}"
    return cache_dir / "organizations" / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"


class _Note:
    """What the service said of the organization, and when. A file that cannot be read is none."""

    def __init__(self, path: Path, wall_clock: Callable[[], float]) -> None:
        self._path = path
        self._wall_clock = wall_clock
        self._asked_s = 0.0

    @property
    def is_old(self) -> bool:
        """Whether it is time to ask again; also when the clock was put back since."""
        return not 0 <= self._wall_clock() - self._asked_s < OLD_S

    def read(self) -> Organization | None:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            data = json.loads(self._path.read_text(encoding="utf-8"))
            version, asked_s = data.pop("version"), float(data.pop("asked_s", 0))
            if version in (1, _VERSION):
                organization = Organization(**data)
                self._asked_s = asked_s
                return organization
        return None

    def write(self, organization: Organization) -> None:
        fresh = self._path.with_suffix(".new")
        data = {"version": _VERSION, "asked_s": self._wall_clock(), **dataclasses.asdict(organization)}
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123  (Path.open takes no descriptor)
                file.write(json.dumps(data) + "\n")
            fresh.replace(self._path)
        except OSError as error:
            log.warning("%s cannot be written: %s", self._path, error.strerror)
