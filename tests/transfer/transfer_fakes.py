"""A service in a file, a clock that jumps, and the transfer room built on both and driven step by step.

The fake service keeps its effects on disk, so it outlives a killed process as the real one does. It is as
strict
as the service may be: names unique, idempotency keys honoured (and a reused key with another body is a
failure of the test), stored bytes staged by place, so that two uploads to one place overwrite each other.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import random
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path, PurePosixPath
from typing import Any

from pictofs.api.errors import ConflictError, NetworkError, NotFoundError, StorageError, ValidationError
from pictofs.api.models import (
    BatchFailure,
    BatchResult,
    Directory,
    Image,
    NewImage,
    RegisterResult,
    UploadFailure,
)
from pictofs.fs.errnos import errno_of
from pictofs.imagefile import content_type_for
from pictofs.transfer.changes import Became, ChangeQueue
from pictofs.transfer.journal import Journal, NewUpload, State, Upload
from pictofs.transfer.lock import StateLock
from pictofs.transfer.pacing import Backoff, Clock
from pictofs.transfer.records import Batch, Change, ChangeKind, copying, server_path
from pictofs.transfer.spool import Spool
from pictofs.transfer.upload import Uploader

DATASET = "d1"
WALL_START_NS = 1_700_000_000 * 10**9


class FakeClock:
    """Time that moves when told to."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.clock = Clock(lambda: self.now_s, lambda: WALL_START_NS + int(self.now_s * 1e9))

    def advance(self, seconds: float) -> None:
        self.now_s += seconds


Trouble = Callable[[str, Any], None]


class FakeService:
    """The remote of uploader and change queue.

    Attributes:
        before: called with (operation, its arguments) before it has an effect; raise to refuse.
        after: called the same way after the effect; raise to lose the answer.
        requests: API requests by operation, of this object.
        sanitise: what the service makes of a file name.
        skips_silently: an image that is not copied, since its name is taken, is not said to have failed.
    """

    def __init__(self, path: Path, *, clock: FakeClock | None = None, seed: int = 0) -> None:
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.executescript(
            """
            PRAGMA journal_mode = MEMORY; PRAGMA synchronous = OFF;
            CREATE TABLE IF NOT EXISTS images (id INTEGER PRIMARY KEY, dataset, folder, filename, bytes BLOB,
                archived INTEGER DEFAULT 0, created REAL);
            CREATE UNIQUE INDEX IF NOT EXISTS live ON images (dataset, folder, filename) WHERE archived = 0;
            CREATE TABLE IF NOT EXISTS staged (url PRIMARY KEY, bytes BLOB);
            CREATE TABLE IF NOT EXISTS answers (key PRIMARY KEY, body, answer);
            CREATE TABLE IF NOT EXISTS folders (dataset, path, PRIMARY KEY (dataset, path));
            """
        )
        self._lock = threading.RLock()
        self._clock = clock or FakeClock()
        self._random = random.Random(seed)
        self.before: Trouble = lambda operation, arguments: None
        self.after: Trouble = lambda operation, arguments: None
        self.requests: Counter[str] = Counter()
        self.sanitise: Callable[[str], str] = lambda filename: filename
        self.gone_datasets: set[str] = set()
        self.skips_silently = False
        self.names: dict[str, str] = {}
        self._known_names: dict[str, str] = {}

    def close(self) -> None:
        self._db.close()

    # The protocol

    def upload_urls(self, dataset_id: str, images: Sequence[NewImage]) -> list[str]:
        with self._api("upload_urls", (dataset_id, images)):
            self._check_dataset(dataset_id)
            assert len(images) <= 500
            return [self._url(dataset_id, image) for image in images]

    def put(self, url: str, path: Path, content_type: str, timeout_s: float) -> None:
        assert content_type.startswith("image/")
        assert timeout_s >= 60
        self.before("put", (url, path))
        data = path.read_bytes()
        with self._lock:
            self._db.execute("INSERT OR REPLACE INTO staged VALUES (?, ?)", (url, data))
        self.after("put", (url, path))

    def register(self, dataset_id: str, images: Sequence[NewImage], idempotency_key: str) -> RegisterResult:
        body = json.dumps([dataset_id, *map(dataclasses.asdict, images)])
        with self._api("register", (dataset_id, images)):
            known = self._db.execute(
                "SELECT body, answer FROM answers WHERE key = ?", (idempotency_key,)
            ).fetchone()
            if known is not None:
                assert known[0] == body, "an idempotency key with another body"
                return _read_answer(known[1])
            self._check_dataset(dataset_id)
            assert 0 < len(images) <= 500
            self._db.execute("BEGIN")
            succeeded: list[Image] = []
            failed: list[UploadFailure] = []
            for image in images:
                try:
                    succeeded.append(self._register(dataset_id, image))
                except ValidationError as error:
                    failed.append(UploadFailure(image.filename, image.directory_path, error.message))
            self._random.shuffle(succeeded)
            answer = json.dumps(
                [[_image_json(i) for i in succeeded], [dataclasses.asdict(f) for f in failed]]
            )
            self._db.execute("INSERT INTO answers VALUES (?, ?, ?)", (idempotency_key, body, answer))
            self._db.execute("COMMIT")
            return _read_answer(answer)

    def find(self, dataset_id: str, folder: str, filename: str | None) -> list[Image]:
        with self._api("find", (dataset_id, folder, filename)):
            self._check_dataset(dataset_id)
            rows = self._db.execute(
                "SELECT * FROM images WHERE archived = 0 AND dataset = ? AND folder = ? "
                "AND (? IS NULL OR filename = ?)",
                (dataset_id, folder, filename, filename),
            )
            return [self._image(row) for row in rows.fetchall()]

    def read(self, image: Image) -> Iterator[bytes]:
        self.before("read", image)
        row = self._db.execute("SELECT bytes FROM images WHERE id = ?", (int(image.id),)).fetchone()
        data: bytes = row[0]
        for start in range(0, len(data), 7):
            yield data[start : start + 7]

    def archive(self, dataset_id: str, image_ids: Sequence[str]) -> BatchResult:
        with self._api("archive", (dataset_id, image_ids)):
            self._check_dataset(dataset_id)
            failed = []
            for image_id in image_ids:
                changed = self._db.execute(
                    "UPDATE images SET archived = 1 WHERE id = ? AND dataset = ?", (image_id, dataset_id)
                )
                if not changed.rowcount:
                    failed.append(BatchFailure(image_id, "Image not found in the dataset."))
            if len(failed) == len(image_ids):
                raise NotFoundError("None of the images is in the dataset.", status=404)
            return BatchResult(True, len(image_ids) - len(failed), tuple(failed))

    def dataset_name(self, dataset_id: str, *, anew: bool = False) -> str:
        """A dataset is called as its id says, but for `names`."""
        if anew:
            with self._api("name", dataset_id):
                self._check_dataset(dataset_id)
                self._known_names[dataset_id] = self.names.get(dataset_id, dataset_id)
        return self._known_names.setdefault(dataset_id, self.names.get(dataset_id, dataset_id))

    def change_images(self, batch: Batch) -> BatchResult:
        ids = batch.image_ids
        body = json.dumps(
            [batch.kind.value, batch.dataset_name, batch.target_dataset_name, batch.folder, ids]
        )
        with self._api(batch.kind.value, (batch.dataset_id, ids)):
            known = self._db.execute(
                "SELECT body, answer FROM answers WHERE key = ?", (batch.key,)
            ).fetchone()
            if known is not None:
                assert known[0] == body, "an idempotency key with another body"
                return BatchResult.from_json(json.loads(known[1]))
            assert 0 < len(ids) <= 10_000
            for dataset_id, name in (
                (batch.dataset_id, batch.dataset_name),
                (batch.target_dataset_id, batch.target_dataset_name),
            ):
                if dataset_id is not None and name:
                    self._check_dataset(dataset_id)
                    if self.names.get(dataset_id, dataset_id) != name:
                        raise NotFoundError("Dataset not found.", status=404)
            self._db.execute("BEGIN")
            failed: list[BatchFailure] = []
            renamed = 0
            for image_id in ids:
                row = self._db.execute(
                    "SELECT * FROM images WHERE id = ? AND dataset = ?", (image_id, batch.dataset_id)
                ).fetchone()
                if row is None:
                    failed.append(BatchFailure(image_id, "Image not found in the dataset."))
                    continue
                try:
                    renamed += self._change(batch, row)
                except sqlite3.IntegrityError:
                    if batch.kind is ChangeKind.COPY and self.skips_silently:
                        continue
                    failed.append(BatchFailure(image_id, "An image of this name already exists."))
            if [failure.id for failure in failed if "not found" in failure.reason] == list(ids):
                raise NotFoundError("None of the images is in the dataset.", status=404)
            answer = {
                "success": True,
                "processed": len(ids) - len(failed),
                "failed": [dataclasses.asdict(failure) for failure in failed],
                "renamed": renamed,
            }
            self._db.execute("INSERT INTO answers VALUES (?, ?, ?)", (batch.key, body, json.dumps(answer)))
            self._db.execute("COMMIT")
            return BatchResult.from_json(answer)

    def _change(self, batch: Batch, row: Sequence[Any]) -> int:
        """Whether an image had to take another name."""
        number, dataset_id, folder, filename, data = row[:5]
        if batch.kind in (ChangeKind.ARCHIVE, ChangeKind.RESTORE):
            archived = batch.kind is ChangeKind.ARCHIVE
            self._db.execute("UPDATE images SET archived = ? WHERE id = ?", (archived, number))
            return 0
        target = (batch.target_dataset_id, batch.folder)
        if batch.kind is ChangeKind.MOVE and target == (dataset_id, folder):
            return 0
        name, count = filename, 0
        taken = "SELECT 1 FROM images WHERE archived = 0 AND dataset = ? AND folder = ? AND filename = ?"
        while self._db.execute(taken, (*target, name)).fetchone():
            if batch.kind is ChangeKind.COPY:
                raise sqlite3.IntegrityError
            count += 1
            path = PurePosixPath(filename)
            name = f"{path.stem}-{count}{path.suffix}"
        if batch.kind is ChangeKind.MOVE:
            self._db.execute(
                "UPDATE images SET folder = ?, filename = ? WHERE id = ?", (batch.folder, name, number)
            )
        else:
            self._db.execute(
                "INSERT INTO images (dataset, folder, filename, bytes, created) VALUES (?, ?, ?, ?, ?)",
                (*target, name, data, self._clock.now_s),
            )
        self._ensure(*target)
        return int(name != filename)

    def create_directory(self, dataset_id: str, path: str) -> Directory:
        with self._api("mkdir", (dataset_id, path)):
            self._check_dataset(dataset_id)
            self._ensure(dataset_id, path)
            return Directory(f"{dataset_id}{path}", dataset_id, path.rpartition("/")[2], path)

    def delete_directory(self, dataset_id: str, path: str) -> None:
        with self._api("rmdir", (dataset_id, path)):
            self._check_dataset(dataset_id)
            if path not in self.folders(dataset_id):
                raise NotFoundError("Directory not found.", status=404)
            inside = [p for p in self.folders(dataset_id) if p.startswith(path + "/")]
            inside += [p for d, p in self.live() if d == dataset_id and p.startswith(path + "/")]
            if inside:
                raise ValidationError(f"Directory {path!r} is not empty.", status=400)
            self._db.execute("DELETE FROM folders WHERE dataset = ? AND path = ?", (dataset_id, path))

    def _ensure(self, dataset_id: str, path: str) -> None:
        while path != "/":
            self._db.execute("INSERT OR IGNORE INTO folders VALUES (?, ?)", (dataset_id, path))
            path = path.rpartition("/")[0] or "/"

    # What another client does or sees

    def add_image(self, filename: str, data: bytes, *, folder: str = "/", dataset_id: str = DATASET) -> str:
        """Raises sqlite3.IntegrityError when the name is taken."""
        with self._lock:
            self._ensure(dataset_id, folder)
            number = self._db.execute(
                "INSERT INTO images (dataset, folder, filename, bytes, created) VALUES (?, ?, ?, ?, ?)",
                (dataset_id, folder, filename, data, self._clock.now_s),
            ).lastrowid
        return str(number)

    def live(self) -> dict[tuple[str, str], bytes]:
        """(dataset, path) → bytes of every image that is not archived; names are unique by the index."""
        rows = self._db.execute("SELECT dataset, folder, filename, bytes FROM images WHERE archived = 0")
        return {(row[0], server_path(row[1], row[2])): row[3] for row in rows}

    def folders(self, dataset_id: str = DATASET) -> set[str]:
        """The paths of a dataset's folders."""
        rows = self._db.execute("SELECT path FROM folders WHERE dataset = ?", (dataset_id,))
        return {row[0] for row in rows}

    def archived(self) -> list[str]:
        """File names of archived images."""
        return [row[0] for row in self._db.execute("SELECT filename FROM images WHERE archived = 1")]

    def total(self) -> int:
        """Images ever registered."""
        return int(self._db.execute("SELECT count(*) FROM images").fetchone()[0])

    def forget_keys(self) -> None:
        """24 hours pass for the idempotency keys."""
        self._db.execute("DELETE FROM answers")

    # Inside

    @contextlib.contextmanager
    def _api(self, operation: str, arguments: Any) -> Iterator[None]:
        with self._lock:
            self.requests[operation] += 1
        self.before(operation, arguments)
        with self._lock:
            try:
                yield
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
        self.after(operation, arguments)

    def _check_dataset(self, dataset_id: str) -> None:
        if dataset_id in self.gone_datasets:
            raise NotFoundError("Dataset not found.", status=404)

    def _url(self, dataset_id: str, image: NewImage) -> str:
        return json.dumps([dataset_id, image.directory_path, self.sanitise(image.filename)])

    def _register(self, dataset_id: str, new: NewImage) -> Image:
        filename = self.sanitise(new.filename)
        final = str(PurePosixPath(filename).with_suffix(".png")) if filename.endswith(".heic") else filename
        place = (dataset_id, new.directory_path, final)
        taken = "SELECT 1 FROM images WHERE archived = 0 AND dataset = ? AND folder = ? AND filename = ?"
        if self._db.execute(taken, place).fetchone():
            raise ValidationError(f"An image named {final!r} already exists.", status=409)
        url = self._url(dataset_id, new)
        staged = self._db.execute("SELECT bytes FROM staged WHERE url = ?", (url,)).fetchone()
        if staged is None:
            raise ValidationError(f"No uploaded file found for {filename!r}: PUT it first.", status=400)
        data = staged[0]
        if len(data) != new.file_size:
            raise ValidationError(
                f"file_size of {filename!r} is {new.file_size}, not {len(data)}.", status=400
            )
        self._db.execute("DELETE FROM staged WHERE url = ?", (url,))
        if filename.endswith(".heic"):
            data = b"png of " + data
        self._ensure(dataset_id, new.directory_path)
        number = self._db.execute(
            "INSERT INTO images (dataset, folder, filename, bytes, created) VALUES (?, ?, ?, ?, ?)",
            (*place, data, self._clock.now_s),
        ).lastrowid
        row = self._db.execute("SELECT * FROM images WHERE id = ?", (number,)).fetchone()
        return self._image(row)

    def _image(self, row: Sequence[Any]) -> Image:
        start = datetime.fromtimestamp(WALL_START_NS / 1e9, tz=timezone.utc)
        return Image(
            id=str(row[0]),
            dataset_id=row[1],
            directory_path=row[2],
            filename=row[3],
            file_size=len(row[4]),
            is_archived=bool(row[5]),
            created_at=start + timedelta(seconds=row[6]),
        )


def _image_json(image: Image) -> dict[str, Any]:
    return {**dataclasses.asdict(image), "created_at": image.created_at and image.created_at.isoformat()}


def _read_answer(text: str) -> RegisterResult:
    succeeded, failed = json.loads(text)
    return RegisterResult.from_json({"succeeded": succeeded, "failed": failed})


class Room:
    """Spool, journal, uploader and change queue over one state folder and one service, driven without
    threads."""

    def __init__(self, folder: Path, service: FakeService, clock: FakeClock, *, seed: int = 0) -> None:
        self.folder = folder
        self.service = service
        self.clock = clock
        self.seed = seed
        self.told: list[tuple[str, Any]] = []
        self.open()

    def open(self) -> None:
        """Start, as after a restart."""
        self.lock = StateLock(self.folder, mount_point="/mnt")
        self.lock.acquire()
        self.spool = Spool(self.folder / "spool", min_free_bytes=0)
        self.journal = Journal(self.folder / "journal.sqlite", self.spool, self.lock, clock=self.clock.clock)
        self.uploader = Uploader(
            self.journal,
            self.spool,
            self.service,
            on_landed=self._landed,
            on_archived=lambda dataset_id, image_id: self.told.append(("archived", image_id)),
            content_type_of=content_type_for,
            errno_of=errno_of,
            clock=self.clock.clock,
            backoff=Backoff(uniform=random.Random(self.seed).uniform),
        )
        self.changes = ChangeQueue(
            self.journal,
            self.service,
            api=self.uploader.api,
            errno_of=errno_of,
            on_done=self._done,
            on_refused=lambda change, reason: self.told.append(("refused", change.path)),
            clock=self.clock.clock,
            backoff=Backoff(uniform=random.Random(self.seed).uniform),
        )

    def _done(self, change: Change, became: Became) -> None:
        assert self.journal.changes.all() != [], "told after the change was gone"
        self.told.append((change.kind.value, change.image_id or change.folder))

    def close(self) -> None:
        """End at once, between any two steps."""
        self.journal.close()
        self.lock.release()

    def restart(self) -> None:
        self.close()
        self.open()

    def _landed(self, upload: Upload, image: Image) -> None:
        assert self.spool.size_bytes(upload.spool_name) == upload.size_bytes, "told after the bytes were gone"
        assert self.journal.get(upload.id) is not None, "told after the row was gone"
        self.told.append(("landed", upload.path))

    # Files

    def new(self, filename: str, data: bytes, *, folder: str = "/", **fields: Any) -> NewUpload:
        """Bytes in the spool, durable, not committed."""
        with self.spool.create() as file:
            file.pwrite(data, 0)
            file.fsync()
        fields = {"dataset_id": DATASET, "mtime_ns": 5, **fields}
        return NewUpload(
            folder=folder, filename=filename, spool_name=file.name, size_bytes=len(data), **fields
        )

    def add(self, filename: str, data: bytes, **fields: Any) -> Upload:
        return self.journal.add(self.new(filename, data, **fields))

    def archive(self, image_id: str, path: str, dataset_id: str = DATASET) -> list[int]:
        return self.changes.add([self.change(ChangeKind.ARCHIVE, path, image_id, dataset_id)])

    def change(
        self,
        kind: ChangeKind,
        path: str,
        image_id: str | None = None,
        dataset_id: str = DATASET,
        **fields: Any,
    ) -> Change:
        """A change of an image, or of a folder when there is no id."""
        folder, _, filename = path.rpartition("/")
        place = (folder or "/", filename) if image_id is not None else (path, "")
        return Change(0, kind, dataset_id, *place, f"/DS{path}", image_id, **fields)

    def move(self, image_id: str, path: str, target: str) -> list[int]:
        """Within the usual dataset."""
        where = {"target_dataset_id": DATASET, "target_folder": target}
        return self.changes.add([self.change(ChangeKind.MOVE, path, image_id, **where)])

    def transfer(self, image_id: str, path: str, dataset_id: str, target: str = "/") -> list[int]:
        """From the usual dataset to another."""
        (image,) = self.service.find(DATASET, path.rpartition("/")[0] or "/", path.rpartition("/")[2])
        where = {"target_dataset_id": dataset_id, "target_folder": target, "image": image}
        return self.changes.add([self.change(ChangeKind.TRANSFER, path, image_id, **where)])

    def copy(self, path: str, target: str) -> list[int]:
        """Within the usual dataset."""
        (image,) = self.service.find(DATASET, path.rpartition("/")[0] or "/", path.rpartition("/")[2])
        data_path = f"/DS{server_path(target, image.filename)}"
        return self.changes.add([copying(image, image.file_size, target, data_path)])

    def rename(self, upload_id: int, filename: str, **fields: Any) -> Upload:
        fields = {
            "dataset_id": DATASET,
            "folder": "/",
            "state": State.QUEUED,
            "reason": None,
            "width": None,
            "height": None,
            "replaces_image_id": None,
            **fields,
        }
        return self.journal.rename(upload_id, filename=filename, **fields)

    # Steps

    def dispatch(self) -> bool:
        if self.uploader.sender.delay_s() != 0:
            return False
        self.uploader.sender.dispatch()
        return True

    def put(self) -> bool:
        job = self.uploader.sender.take()
        if job is None:
            return False
        self.uploader.sender.put(job)
        return True

    def register(self) -> bool:
        if self.uploader.registrar.delay_s() != 0:
            return False
        self.uploader.registrar.step()
        return True

    def remove(self) -> bool:
        if self.changes.delay_s() != 0:
            return False
        self.changes.step()
        return True

    def wait(self) -> bool:
        """Let time pass until something is due. False when nothing will be."""
        sender, registrar = self.uploader.sender, self.uploader.registrar
        delays = [
            d
            for d in (sender.delay_s(), sender.take_delay_s(), registrar.delay_s(), self.changes.delay_s())
            if d is not None
        ]
        if not delays:
            return False
        self.clock.advance(min(delays) + 1e-6)
        return True

    def pump(self, *, limit: int = 5_000) -> None:
        """Work until nothing is left to do."""
        for _ in range(limit):
            if self.dispatch() or self.put() or self.register() or self.remove():
                continue
            if not self.wait():
                return
        raise AssertionError(f"never idle: {self.journal.pending()}, {self.uploader.status()}")

    def states(self) -> dict[str, str]:
        """path → state of what is shown."""
        return {row.path: row.state.value for row in self.journal.pending()}


def live_names(service: FakeService) -> dict[str, bytes]:
    """path → bytes in the usual dataset."""
    return {path: data for (dataset_id, path), data in service.live().items() if dataset_id == DATASET}


def lose_answer(operation: str, *, times: int = 1) -> Trouble:
    """Trouble that has the effect but loses the answer, so many times."""
    left = [times]

    def trouble(happening: str, arguments: Any) -> None:
        if happening == operation and left[0] > 0:
            left[0] -= 1
            raise NetworkError("the connection broke")

    return trouble


def fail(operation: str, error: Exception, *, times: int = 1) -> Trouble:
    """Trouble without an effect."""
    left = [times]

    def trouble(happening: str, arguments: Any) -> None:
        if happening == operation and left[0] > 0:
            left[0] -= 1
            raise error

    return trouble


__all__ = [
    "DATASET",
    "ConflictError",
    "FakeClock",
    "FakeService",
    "Room",
    "StorageError",
    "fail",
    "live_names",
    "lose_answer",
]
