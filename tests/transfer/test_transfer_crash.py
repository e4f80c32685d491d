"""kill -9 at every transition of the queue; then a new process, and each file is there exactly once."""

from __future__ import annotations

import collections
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from crash_story import OLD, prepare, trees_after
from transfer_fakes import FakeClock, FakeService, Room, live_names

from pictofs.transfer.crashpoints import CrashPoint

_HERE = Path(__file__).parent
_REPOSITORY = _HERE.parents[1]


def tell(folder: Path, crash_at: str) -> int:
    """Run the story in a process of its own; its exit status."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(_REPOSITORY), str(_HERE)]),
        "PICTOFS_CRASH_AT": crash_at,
    }
    return subprocess.run(
        [sys.executable, _HERE / "crash_story.py", folder], env=environment, check=False
    ).returncode


def resume(folder: Path) -> None:
    """A new process's work, in this one, and what must be true in the end."""
    clock = FakeClock()
    clock.advance(5)
    service = FakeService(folder / "service.sqlite", clock=clock)
    room = Room(folder / "state", service, clock)
    try:
        room.pump()
        live = live_names(service)
        deeds = (folder / "deeds").read_text().splitlines()
        assert live in trees_after(deeds)
        copied = {path: data for (dataset_id, path), data in service.live().items() if dataset_id == "d2"}
        assert copied == ({} if "/in/z.jpg" in live else {"/new/z.jpg": OLD["/in/z.jpg"]})
        for deed, path in (("make out", "/out"), ("make empty", "/empty")):
            assert path in service.folders() or f"end {deed}" not in deeds
        assert "/in" not in service.folders() or "end remove in" not in deeds
        assert [row for row in room.journal.pending() if row.filename != ".t.jpg.x"] == []
        held = {row.spool_name for row in room.journal.pending()}
        assert set(room.spool.names()) == held
        assert room.journal.changes.all() == []
        contents = collections.Counter(service.live().values())
        copied_within = {"/v.jpg", "/out/v.jpg"} <= set(live)
        assert contents.pop(OLD["/v.jpg"]) == 1 + copied_within
        assert set(contents.values()) == {1}
    finally:
        room.close()
        service.close()


@pytest.fixture(scope="module")
def reached(tmp_path_factory: pytest.TempPathFactory) -> collections.Counter[str]:
    """How often the story passes each point when nothing stops it."""
    folder = tmp_path_factory.mktemp("story")
    prepare(folder)
    assert tell(folder, "") == 0
    resume(folder)
    return collections.Counter((folder / "reached").read_text().split())


def test_the_story_passes_every_point(reached: collections.Counter[str]) -> None:
    assert set(reached) == {point.value for point in CrashPoint}


@pytest.mark.parametrize("point", CrashPoint, ids=lambda point: point.value)
def test_killed_at(folder: Path, reached: collections.Counter[str], point: CrashPoint) -> None:
    """The first and the last time that the story passes it."""
    for count in {1, reached[point.value]}:
        place = folder / str(count)
        place.mkdir()
        prepare(place)
        assert tell(place, f"{point.value}:{count}") == -signal.SIGKILL
        resume(place)


def test_an_unknown_point_is_said_so(folder: Path) -> None:
    prepare(folder)
    assert tell(folder, "no-such-point") == 1
