"""Random lives of the queue against a model: nothing lost, nothing doubled, whatever comes in between.

A seed is one life: a user writes, renames, removes, moves, and makes folders; the queue's steps run in any
order; the service fails before and after the effect; the process dies at any step, also in the middle of a
request; another client takes names. In the end all trouble ceases, and the service must hold what the user
last saw, each content once.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transfer_fakes import DATASET, FakeClock, FakeService, Room, live_names

from pictofs.api.errors import NetworkError, RateLimitError, ServerError, StorageError
from pictofs.api.models import Image
from pictofs.transfer.changes import Became
from pictofs.transfer.journal import State, Upload
from pictofs.transfer.outcomes import Unknown
from pictofs.transfer.records import Change, ChangeKind, copying, server_path

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
        self.listen()
        self.seen: dict[str, bytes] = {}  # what the user sees, by path
        self.given_up: set[bytes] = set()  # contents that may end in the archive
        self.foreign: set[bytes] = set()
        self.transferred: list[bytes] = []  # what he moved to the other dataset
        self.copying: dict[str, bytes] = {}  # paths of copies that the service has not made yet
        self.has_folder = False
        self.contents = 0
        self.service.before = lambda operation, arguments: self.trouble(operation, before=True)
        self.service.after = lambda operation, arguments: self.trouble(operation, before=False)

    # The user, as the drive serves him: pending rows first, then the service less what is on its way out

    def row(self, name: str) -> Upload | None:
        return self.room.journal.find(DATASET, "/", name)

    def shown(self) -> dict[str, str]:
        """path → id of the images of the usual dataset as they will be."""
        rows = self.service._db.execute(
            "SELECT id, folder, filename FROM images WHERE archived = 0 AND dataset = ?", (DATASET,)
        )
        places = {str(row[0]): (row[1], row[2]) for row in rows}
        for change in self.room.journal.changes.all():
            if change.kind is ChangeKind.MOVE and change.image_id in places and change.target_folder:
                places[change.image_id] = (change.target_folder, places[change.image_id][1])
        hidden = self.room.journal.hidden()
        return {server_path(*place): i for i, place in places.items() if i not in hidden}

    def image_id(self, name: str, folder: str = "/") -> str | None:
        if name in self.room.journal.abandoned_names(DATASET, folder):
            return None
        if name == "h.png" and folder == "/" and self.row("h.heic") is not None:
            return None  # what that one is becoming
        return self.shown().get(server_path(folder, name))

    def content(self, image_id: str) -> bytes:
        row = self.service._db.execute("SELECT bytes FROM images WHERE id = ?", (image_id,)).fetchone()
        data: bytes = row[0]
        return data

    def write(self) -> None:
        name = self.random.choice(NAMES)
        self.contents += 1
        data = b"%03d" % self.contents + b"." * self.random.choice((0, 0, 5))
        row = self.row(name)
        if "/" + name in self.copying:
            return  # the drive waits for it
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
        if target == row.filename or "/" + target in self.copying:
            return
        other = self.row(target)
        old = None if other is not None else self.image_id(target)
        data = self.seen.pop("/" + row.filename)
        self.room.rename(row.id, target, replaces_image_id=old)
        self.given_up.add(data)  # in flight, it is sent twice, and the first image ends in the archive
        self.see(target, data)

    def remove(self) -> None:
        name = self.random.choice((*NAMES, "h.png"))
        folder = self.random.choice(("/", "/", "/b"))
        path = server_path(folder, name)
        if path in self.copying:
            return
        row = self.row(name) if folder == "/" else None
        if row is not None:
            self.room.journal.remove(row.id)
        elif (image_id := self.image_id(name, folder)) is not None:
            live = self.content(image_id)
            self.given_up.add(live)
            self.foreign.discard(live)
            self.room.archive(image_id, path)
        else:
            return
        if path in self.seen:
            self.given_up.add(self.seen.pop(path))

    def move(self) -> None:
        """To the other folder, or to the other dataset."""
        name = self.random.choice((*NAMES, "h.png"))
        folder, target = self.random.choice((("/", "/b"), ("/b", "/")))
        image_id = self.image_id(name, folder)
        if image_id is None or (folder == "/" and self.row(name) is not None):
            return
        if {server_path(folder, name), server_path(target, name)} & self.copying.keys():
            return
        old, new = server_path(folder, name), server_path(target, name)
        if self.random.random() < 0.3:
            image = self.service._image(
                self.service._db.execute("SELECT * FROM images WHERE id = ?", (image_id,)).fetchone()
            )
            where = {"target_dataset_id": "d2", "target_folder": "/", "image": image}
            change = self.room.change(ChangeKind.TRANSFER, old, image_id, **where)
            data = self.content(image_id)
            self.transferred.append(data)
            self.given_up.add(data)  # its source
            self.foreign.discard(data)
            self.seen.pop(old, None)
            self.room.changes.add([change])
        elif self.image_id(name, target) is None and (target == "/b" or self.row(name) is None):
            if name == "h.png" and self.row("h.heic") is not None:
                return
            if old in self.seen:
                self.seen[new] = self.seen.pop(old)
            self.room.move(image_id, old, target)

    def copy(self) -> None:
        """Into the other folder."""
        name = self.random.choice(NAMES[:3])
        folder, target = self.random.choice((("/", "/b"), ("/b", "/")))
        image_id, new = self.image_id(name, folder), server_path(target, name)
        if image_id is None or self.row(name) is not None or self.image_id(name, target) is not None:
            return
        if {server_path(folder, name), new} & self.copying.keys():
            return
        row = self.service._db.execute("SELECT * FROM images WHERE id = ?", (image_id,)).fetchone()
        image = replace(self.service._image(row), directory_path=folder)  # it may be about to be moved there
        self.room.changes.add([copying(image, image.file_size, target, new)])
        data = self.seen[server_path(folder, name)] = self.content(image_id)
        self.seen[new] = self.copying[new] = data

    def folder(self) -> None:
        kind = ChangeKind.RMDIR if self.has_folder else ChangeKind.MKDIR
        self.has_folder = not self.has_folder
        self.room.changes.add([self.room.change(kind, "/e")])

    def see(self, name: str, data: bytes) -> None:
        image_id = self.shown().get("/" + name)
        if image_id is not None:
            self.given_up.add(self.content(image_id))
        self.given_up.add(self.seen.get("/" + name, b""))
        self.seen["/" + name] = data

    def refused(self, change: Change, reason: str) -> None:
        if change.kind is ChangeKind.COPY and change.target_folder is not None:
            path = server_path(change.target_folder, change.filename)
            assert live_names(self.service)[path] in self.foreign, reason
            assert self.seen.pop(path) == self.copying.pop(path)

    def done(self, change: Change, became: Became) -> None:
        if change.kind is ChangeKind.COPY and change.target_folder is not None:
            self.copying.pop(server_path(change.target_folder, change.filename), None)
        if change.kind is not ChangeKind.MOVE or change.image_id is None or change.target_folder is None:
            return
        if became is Unknown.UNKNOWN:  # the drive lists the folder again
            rows = self.service._db.execute("SELECT * FROM images WHERE id = ?", (change.image_id,))
            became = self.service._image(rows.fetchone())
        here = server_path(change.target_folder, change.filename)
        if not isinstance(became, Image) or became.filename == change.filename:
            return
        if self.seen.get(here) == self.content(became.id):  # another client had the name
            self.seen[server_path(became.directory_path, became.filename)] = self.seen.pop(here)

    def landed(self, row: Upload, image: Image) -> None:
        if image.filename != row.filename:  # stored as .png
            self.given_up.add(self.seen.pop("/h.png", b""))
            self.seen["/" + image.filename] = b"png of " + self.seen.pop("/" + row.filename)

    # Everybody else

    def take_name(self) -> None:
        name = self.random.choice(NAMES[:3])
        folder = self.random.choice(("/", "/", "/b"))
        if server_path(folder, name) not in live_names(self.service) and self.random.random() < 0.3:
            self.contents += 1
            data = b"theirs %d" % self.contents
            self.service.add_image(name, data, folder=folder)
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
            self.service._db.execute("DELETE FROM answers WHERE body LIKE '[\"d1\"%'")  # only its own kind

    def restart(self) -> None:
        self.room.restart()
        self.listen()

    def listen(self) -> None:
        self.room.uploader.registrar._on_landed = self.landed
        self.room.changes._on_done = self.done
        self.room.changes._on_refused = self.refused

    def live(self) -> None:
        doings: list[Any] = [self.write, self.write, self.rename, self.remove, self.take_name]
        doings += [self.move, self.move, self.move, self.copy, self.copy, self.folder]
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
        shown = Counter(self.seen.values())
        for data, count in Counter(live.values()).items():
            assert count <= max(1, shown[data] + (data in self.foreign)), "doubled"
        archived = self.service._db.execute("SELECT bytes FROM images WHERE archived = 1").fetchall()
        assert {row[0].removeprefix(b"png of ") for row in archived} <= {
            data.removeprefix(b"png of ") for data in self.given_up
        }
        assert sorted(self.room.spool.names()) == sorted(row.spool_name for row in rows.values())
        assert self.room.journal.changes.all() == []
        copied = [data for (dataset_id, _), data in self.service.live().items() if dataset_id == "d2"]
        assert sorted(copied) == sorted(self.transferred)
        assert ("/e" in self.service.folders()) == self.has_folder


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
