"""Random lives of the queue against a model: nothing lost, nothing doubled, whatever comes in between.

A seed is one life: a user writes, renames and removes; the queue's steps run in any order; the service fails
before and after the effect; the process dies at any step, also in the middle of a request; another client
takes names. In the end all trouble ceases, and the service must hold what the user last saw, each content
once.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from transfer_fakes import DATASET, FakeClock, FakeService, Room, live_names

from pictofs.api.errors import NetworkError, RateLimitError, ServerError, StorageError
from pictofs.api.models import Image
from pictofs.transfer.journal import State, Upload

NAMES = ("a.jpg", "b.jpg", "c d.jpg", "c_d.jpg", "h.heic")
STEPS = 120


class Died(BaseException):
    """The process ended here."""


class Life:
    """One seed."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.clock = FakeClock()
        self.service = FakeService(folder / "service.sqlite", clock=self.clock, seed=seed)
        self.room = Room(folder / "state", self.service, self.clock, seed=seed)
        self.room.uploader.registrar._on_landed = self.landed
        self.seen: dict[str, bytes] = {}  # what the user sees, by path
        self.given_up: set[bytes] = set()  # contents that may end in the archive
        self.foreign: set[bytes] = set()
        self.contents = 0
        self.service.before = lambda operation, arguments: self.trouble(operation, before=True)
        self.service.after = lambda operation, arguments: self.trouble(operation, before=False)

    # The user, as the drive serves him: pending rows first, then the service less what is on its way out

    def row(self, name: str) -> Upload | None:
        return self.room.journal.find(DATASET, "/", name)

    def image_id(self, name: str) -> str | None:
        if name in self.room.journal.abandoned_names(DATASET, "/"):
            return None
        if name == "h.png" and self.row("h.heic") is not None:
            return None  # what that one is becoming
        row = self.service._db.execute(
            "SELECT id FROM images WHERE archived = 0 AND filename = ?", (name,)
        ).fetchone()
        if row is None or str(row[0]) in self.room.journal.hidden():
            return None
        return str(row[0])

    def write(self) -> None:
        name = self.random.choice(NAMES)
        self.contents += 1
        data = b"%03d" % self.contents + b"." * self.random.choice((0, 0, 5))
        row = self.row(name)
        old = None if row is not None else self.image_id(name)
        new = self.room.new(name, data, replaces_image_id=old)
        if row is not None:
            self.room.journal.replace(row.id, new)
        else:
            self.room.journal.add(new)
        self.see(name, data)

    def rename(self) -> None:
        row = self.row(self.random.choice(NAMES))
        if row is None:
            return
        target = self.random.choice([n for n in NAMES if (n == "h.heic") == (row.filename == "h.heic")])
        if target == row.filename:
            return
        other = self.row(target)
        old = None if other is not None else self.image_id(target)
        data = self.seen.pop("/" + row.filename)
        self.room.rename(row.id, target, replaces_image_id=old)
        self.given_up.add(data)  # in flight, it is sent twice, and the first image ends in the archive
        self.see(target, data)

    def remove(self) -> None:
        name = self.random.choice((*NAMES, "h.png"))
        row = self.row(name)
        if row is not None:
            self.room.journal.remove(row.id)
        elif (image_id := self.image_id(name)) is not None:
            self.room.archive(image_id, f"/{name}")
        else:
            return
        if "/" + name in self.seen:
            self.given_up.add(self.seen.pop("/" + name))
        live = live_names(self.service).get("/" + name)
        if live is not None and row is None:
            self.given_up.add(live)
            self.foreign.discard(live)

    def see(self, name: str, data: bytes) -> None:
        live = live_names(self.service).get("/" + name)
        if live is not None:
            self.given_up.add(live)
        self.given_up.add(self.seen.get("/" + name, b""))
        self.seen["/" + name] = data

    def landed(self, row: Upload, image: Image) -> None:
        if image.filename != row.filename:  # stored as .png
            self.given_up.add(self.seen.pop("/h.png", b""))
            self.seen["/" + image.filename] = b"png of " + self.seen.pop("/" + row.filename)

    # Everybody else

    def take_name(self) -> None:
        name = self.random.choice(NAMES[:3])
        if "/" + name not in live_names(self.service) and self.random.random() < 0.3:
            self.contents += 1
            data = b"theirs %d" % self.contents
            self.service.add_image(name, data)
            self.foreign.add(data)

    def trouble(self, operation: str, *, before: bool) -> None:
        dice = self.random.random()
        if dice < 0.03:
            raise Died
        if dice < 0.10:
            raise NetworkError("the connection broke")
        if dice < 0.14 and before:
            raise ServerError("busy", status=503)
        if dice < 0.15 and before and operation != "put":
            raise RateLimitError("slow down", status=429, retry_after_s=30)
        if dice < 0.20 and before and operation == "put":
            raise StorageError("expired", status=403)
        if dice < 0.24 and operation == "register":
            self.service.forget_keys()

    def restart(self) -> None:
        self.room.restart()
        self.room.uploader.registrar._on_landed = self.landed

    def live(self) -> None:
        doings: list[Any] = [self.write, self.write, self.rename, self.remove, self.take_name]
        steps: list[Any] = [self.room.dispatch, self.room.put, self.room.register, self.room.remove]
        for _ in range(STEPS):
            dice = self.random.random()
            try:
                if dice < 0.25:
                    self.random.choice(doings)()
                elif dice < 0.27:
                    self.restart()
                elif dice < 0.40:
                    self.room.wait()
                else:
                    self.random.choice(steps)()
            except Died:
                self.restart()

    def end(self) -> None:
        quiet = lambda operation, arguments: None  # noqa: E731
        self.service.before = self.service.after = quiet
        self.room.pump()
        self.room.journal.retry(None)
        self.room.pump()

    def check(self) -> None:
        live = live_names(self.service)
        rows = {row.path: row for row in self.room.journal.pending()}
        for path, row in rows.items():
            assert row.state is State.FAILED, (path, row)
            # Its name is another client's, or that of its own forerunner, which the service stores as .png.
            assert live.get(path) in self.foreign or (path == "/h.heic" and "/h.png" in live), (path, row)
            with self.room.spool.open(row.spool_name) as file:
                assert file.pread(100, 0) == self.seen[path]
        for path, data in self.seen.items():
            assert path in rows or live.get(path) == data, (path, data, live.get(path))
        for path, data in live.items():
            assert self.seen.get(path) == data or data in self.foreign, f"{path} was removed"
        assert len(set(live.values())) == len(live), "doubled"
        archived = self.service._db.execute("SELECT bytes FROM images WHERE archived = 1").fetchall()
        assert {row[0].removeprefix(b"png of ") for row in archived} <= {
            data.removeprefix(b"png of ") for data in self.given_up
        }
        assert sorted(self.room.spool.names()) == sorted(row.spool_name for row in rows.values())
        assert self.room.journal.changes.all() == []


@pytest.mark.parametrize("seed", range(60))
def test_a_life(folder: Path, seed: int) -> None:
    life = Life(folder, seed)
    try:
        life.live()
        life.end()
        life.check()
    finally:
        life.room.close()
        life.service.close()
