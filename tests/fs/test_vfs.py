"""The drive without FUSE and without a network: what each operation leaves in the journal and shows."""

from __future__ import annotations

import errno
import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as PillowImage

from pictofs.api.models import Dataset, Directory, Image, Organization
from pictofs.cache.content import ContentCache
from pictofs.cache.metadata import MetadataCache
from pictofs.fs.overlay import overlay_of
from pictofs.fs.rules import Policy
from pictofs.fs.vfs import Vfs
from pictofs.fs.view import Owner, View
from pictofs.transfer.download import Downloader
from pictofs.transfer.journal import Journal, State, Upload
from pictofs.transfer.lock import StateLock
from pictofs.transfer.readahead import Readahead
from pictofs.transfer.records import Change
from pictofs.transfer.spool import Spool


def jpeg(shade: int = 0) -> bytes:
    out = io.BytesIO()
    PillowImage.new("RGB", (6, 4), (shade, 0, 0)).save(out, "JPEG")
    return out.getvalue()


class Bytes:
    """An image's bytes from an offset on."""

    def __init__(self, data: bytes, offset: int) -> None:
        self.offset_bytes = offset
        self.total_bytes = self.end_bytes = offset + len(data)
        self._data = data

    def cancel(self) -> None:
        self._data = b""

    def __iter__(self) -> Iterator[bytes]:
        return iter([self._data])


class FakeService:
    """Two datasets in memory; `photos` has one image and one folder."""

    def __init__(self) -> None:
        self.rows = [Dataset("d1", "photos"), Dataset("d2", "frozen", storage_class="coldline")]
        self.images = [Image("i1", "old.jpg", "d1", "/", 5)]
        self.folders = [Directory("f1", "d1", "a", "/a")]
        self.bytes = {"i1": b"old 1"}

    def datasets(self) -> Sequence[Dataset]:
        return self.rows

    def contents(self, dataset_id: str) -> tuple[Dataset, Sequence[Image]]:
        images = [i for i in self.images if i.dataset_id == dataset_id]
        return next(d for d in self.rows if d.id == dataset_id), images

    def directories(self, dataset_id: str) -> Sequence[Directory]:
        return [f for f in self.folders if f.dataset_id == dataset_id]

    def image(self, image_id: str) -> Image:
        return next(i for i in self.images if i.id == image_id)

    def create_dataset(self, name: str) -> Dataset:
        self.rows.append(Dataset(f"d-{name}", name))
        return self.rows[-1]

    def rename_dataset(self, dataset_id: str, new_name: str) -> Dataset:
        self.rows = [replace(d, name=new_name) if d.id == dataset_id else d for d in self.rows]
        return self.rows[0]

    def archive_dataset(self, dataset_id: str) -> Dataset:
        gone = next(d for d in self.rows if d.id == dataset_id)
        self.rows.remove(gone)
        return gone

    def rename_directory(self, dataset_id: str, path: str, new_name: str) -> Directory:
        new = f"{path.rpartition('/')[0]}/{new_name}"
        self.renamed = (path, new)
        return Directory("f1", dataset_id, new_name, new)


class FakeChanges:
    """Notes what is to change, in the journal; nothing is ever sent, and nobody waits."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal

    def add(self, changes: Sequence[Change], times_ns: Mapping[str, int] = {}) -> list[int]:
        return [change.id for change in self.journal.changes.add(changes, times_ns)]

    def wait(self, path: str, change_ids: Sequence[int], timeout_s: float) -> None:
        pass

    def settle(self, dataset_id: str, folder: str, timeout_s: float) -> bool:
        return True


class House:
    """A Vfs with real journal, spool and caches on a scratch folder."""

    def __init__(self, folder: Path, policy: Policy) -> None:
        self.service = FakeService()
        self.lock = StateLock(folder)
        self.lock.acquire()
        self.spool = Spool(folder / "spool", min_free_bytes=0)
        self.journal = Journal(folder / "journal.sqlite", self.spool, self.lock)
        overlay = overlay_of(self.journal)
        metadata = self.metadata = MetadataCache(
            self.service, ttl_s=60, hidden=self.journal.hidden, overlay=overlay
        )
        content = ContentCache(folder / "content", max_bytes=1 << 20)
        view = View(metadata, self.journal, Owner(1, 2, 0o022), probe_size=lambda image: None)
        downloader = Downloader(content, self._bytes, correct_size=metadata.correct_size, timeout_s=5)
        self.vfs = Vfs(
            organization=Organization("o1", "Acme", max_storage_bytes=1 << 40, max_images=1000),
            view=view,
            metadata=metadata,
            content=content,
            downloader=downloader,
            readahead=Readahead(
                downloader.fetch, lambda image: False, content.expect, at_once=0, room_bytes=int
            ),
            journal=self.journal,
            spool=self.spool,
            changes=FakeChanges(self.journal),
            remote=self.service,
            policy=policy,
        )

    @contextmanager
    def _bytes(self, image: Image, start: int, end: int) -> Iterator[Bytes]:
        yield Bytes(self.service.bytes[image.id][start:end], start)

    def close(self) -> None:
        self.journal.close()
        self.lock.release()

    def changes(self) -> list[tuple[object, ...]]:
        """What is to change, oldest first."""
        return [
            (c.kind.value, c.image_id or c.folder, *([c.target_folder] if c.target_folder else []))
            for c in self.journal.changes.all()
        ]

    def read(self, handle: int, size: int, offset: int) -> bytes:
        """read(2), as the adapter does it."""
        buffer = bytearray(size)
        count = self.vfs.read_into(handle, memoryview(buffer), offset, lambda: False)
        return bytes(buffer[:count])

    def names(self, path: str = "/photos") -> list[str]:
        return sorted(entry.name for entry in self.vfs.opendir(path).entries)

    def put(self, path: str, data: bytes) -> None:
        """create, write, close."""
        handle = self.vfs.create(path, 0o644, os.O_WRONLY)
        try:
            self.vfs.write(handle, memoryview(data), 0)
            self.vfs.flush(handle)
        finally:
            self.vfs.release(handle)

    def get(self, path: str) -> bytes:
        handle = self.vfs.open(path, os.O_RDONLY)
        try:
            return self.read(handle, 1 << 20, 0)
        finally:
            self.vfs.release(handle)

    def row(self, filename: str, folder: str = "/") -> Upload:
        found = self.journal.find("d1", folder, filename)
        assert found is not None
        return found

    def land(self, filename: str, image: Image) -> None:
        """What the uploader does when an image is registered."""
        (row,) = [r for r in self.journal.claims.claim(1, 1 << 30) if r.filename == filename]
        registration = self.journal.claims.begin_registration([(row.id, _as_sent(row))])
        assert registration is not None
        (done,) = self.journal.claims.settle(landed={row.id: image})
        self.vfs.landed(done, image)
        self.journal.claims.finish([done.id])


def _as_sent(row: Upload):  # type: ignore[no-untyped-def]
    from pictofs.api.models import NewImage

    return NewImage(row.filename, row.folder, "image/jpeg", row.size_bytes, row.width, row.height)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path, Policy())
    yield house
    house.close()


def refused(number: int, call: object, *args: object) -> None:
    with pytest.raises(OSError, match=re.escape(f"[Errno {number}]")):
        call(*args)  # type: ignore[operator]


def test_a_closed_file_is_committed_listed_and_readable(house: House) -> None:
    house.put("/photos/a/x.jpg", jpeg(1))
    assert house.names("/photos/a") == ["x.jpg"]
    assert house.get("/photos/a/x.jpg") == jpeg(1)
    row = house.row("x.jpg", "/a")
    assert (row.state, row.width, row.height, row.size_bytes) == (State.QUEUED, 6, 4, len(jpeg(1)))
    assert house.vfs.getattr("/photos/a/x.jpg").size == len(jpeg(1))
    assert house.vfs.getxattr("/photos/a/x.jpg", "user.pictograph.upload") == b"queued"


def test_what_is_open_is_listed_before_it_is_closed(house: House) -> None:
    handle = house.vfs.create("/photos/x.jpg", 0o644, os.O_WRONLY)
    house.vfs.write(handle, memoryview(b"abc"), 0)
    assert "x.jpg" in house.names()
    assert house.vfs.getattr("/photos/x.jpg").size == 3
    assert house.vfs.getattr(None, handle).size == 3
    house.vfs.release(handle)


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        (".x.jpg.AbCdEf", jpeg(), "working name"),
        ("x.jpg.part", jpeg(), "working name"),
        ("x.jpg", b"", "empty"),
        ("x.jpg", b"no image at all", "image"),
        ("x.jpg", jpeg()[:-40], "early"),
    ],
)
def test_what_is_not_ready_is_held_with_its_reason(house: House, name: str, data: bytes, why: str) -> None:
    house.put(f"/photos/{name}", data)
    row = house.row(name)
    assert row.state is State.HELD
    assert row.reason is not None
    assert why in row.reason
    assert name in house.names()


def test_a_working_name_goes_up_under_its_final_name_once(house: House) -> None:
    house.put("/photos/.x.jpg.AbCdEf", jpeg(3))
    house.vfs.utimens("/photos/.x.jpg.AbCdEf", None, 123_000_000_000)
    house.vfs.rename("/photos/.x.jpg.AbCdEf", "/photos/x.jpg")
    row = house.row("x.jpg")
    assert (row.state, row.width, row.mtime_ns) == (State.QUEUED, 6, 123_000_000_000)
    assert house.names() == ["a", "old.jpg", "x.jpg"]


def test_refusals(house: House) -> None:
    vfs = house.vfs
    refused(errno.EINVAL, house.put, "/photos/x.txt", b"")
    refused(errno.EINVAL, house.put, b"/photos/\xff.jpg".decode("utf-8", "surrogateescape"), b"")
    refused(errno.EPERM, house.put, "/x.jpg", b"")
    refused(errno.EROFS, house.put, "/frozen/x.jpg", b"")
    refused(errno.ENOENT, house.put, "/photos/none/x.jpg", b"")
    refused(errno.ENAMETOOLONG, house.put, "/photos/" + "n" * 300 + ".jpg", b"")
    refused(errno.EEXIST, vfs.create, "/photos/old.jpg", 0, os.O_EXCL | os.O_WRONLY)
    refused(errno.EEXIST, vfs.open, "/photos/old.jpg", os.O_WRONLY)
    refused(errno.EISDIR, vfs.open, "/photos/a", os.O_RDONLY)
    refused(errno.EISDIR, vfs.unlink, "/photos/a")
    refused(errno.EEXIST, vfs.mkdir, "/photos/a")
    refused(errno.EINVAL, vfs.rename, "/photos/old.jpg", "/photos/b.jpg", 2)
    refused(errno.EINVAL, vfs.rename, "/photos/old.jpg", "/photos/b.txt", 0)
    refused(errno.EROFS, vfs.rename, "/photos/old.jpg", "/frozen/old.jpg", 0)
    refused(errno.EINVAL, vfs.rename, "/photos/a", "/photos/a/b", 0)
    refused(errno.EPERM, vfs.rename, "/photos/a", "/a", 0)
    refused(errno.EPERM, vfs.rename, "/photos", "/frozen/photos", 0)
    refused(errno.EISDIR, vfs.rename, "/photos/old.jpg", "/photos/a", 0)
    refused(errno.ENOTDIR, vfs.rename, "/photos/a", "/photos/old.jpg", 0)
    house.put("/photos/.old.jpg.AbCdEf", jpeg())
    refused(errno.EEXIST, vfs.rename, "/photos/.old.jpg.AbCdEf", "/photos/old.jpg", 0)
    refused(errno.EINVAL, vfs.rename, "/photos/.old.jpg.AbCdEf", "/photos/old.txt", 0)
    assert house.journal.find("d1", "/", ".old.jpg.AbCdEf") is not None


def test_nothing_changes_in_a_dataset_in_cold_storage(house: House) -> None:
    house.service.images.append(Image("i9", "ice.jpg", "d2", "/", 5))
    house.service.folders.append(Directory("f9", "d2", "a", "/a"))
    house.put("/photos/x.jpg", jpeg())
    vfs = house.vfs
    refused(errno.EROFS, vfs.unlink, "/frozen/ice.jpg")
    refused(errno.EROFS, vfs.mkdir, "/frozen/b")
    refused(errno.EROFS, vfs.rmdir, "/frozen/a")
    refused(errno.EROFS, vfs.rename, "/frozen/ice.jpg", "/photos/ice.jpg", 0)
    refused(errno.EROFS, vfs.rename, "/frozen/a", "/frozen/b", 0)
    refused(errno.EROFS, vfs.rename, "/frozen", "/thawed", 0)
    refused(errno.EROFS, vfs.rename, "/photos/x.jpg", "/frozen/x.jpg", 0)
    refused(errno.EROFS, vfs.setxattr, "/frozen/ice.jpg", "user.pictograph.status", b"review", 0)
    assert house.names("/frozen") == ["a", "ice.jpg"]
    vfs.chmod("/frozen/ice.jpg", 0o600)
    vfs.utimens("/frozen/ice.jpg", None, 5)


def test_a_rewrite_takes_the_place_of_the_row(house: House) -> None:
    house.put("/photos/x.jpg", jpeg(1))
    handle = house.vfs.open("/photos/x.jpg", os.O_WRONLY | os.O_TRUNC)
    house.vfs.write(handle, memoryview(jpeg(200)), 0)
    assert house.row("x.jpg").size_bytes == len(jpeg(1))
    house.vfs.flush(handle)
    house.vfs.release(handle)
    assert house.get("/photos/x.jpg") == jpeg(200)
    assert len(house.journal.pending()) == 1
    assert len(list(house.spool.names())) == 1


def test_a_file_that_is_closed_while_somebody_looks_at_it_still_has_its_size(house: House) -> None:
    handle = house.vfs.create("/photos/x.jpg", 0o644, os.O_WRONLY)
    house.vfs.write(handle, memoryview(b"abc"), 0)
    file = house.vfs._handle(handle).file
    assert file is not None
    house.vfs.flush(handle)
    house.vfs.release(handle)
    assert file.size_bytes() == 3
    assert file.modified_ns() > 0


def test_flush_without_a_change_commits_nothing_new(house: House) -> None:
    handle = house.vfs.create("/photos/x.jpg", 0o644, os.O_WRONLY)
    house.vfs.write(handle, memoryview(jpeg()), 0)
    house.vfs.flush(handle)
    row = house.row("x.jpg")
    house.vfs.flush(handle)
    assert house.row("x.jpg") == row
    house.vfs.release(handle)


def test_a_reader_sees_what_a_writer_appends(house: House) -> None:
    house.put("/photos/x.jpg", b"one")
    reader = house.vfs.open("/photos/x.jpg", os.O_RDONLY)
    writer = house.vfs.open("/photos/x.jpg", os.O_WRONLY)
    house.vfs.write(writer, memoryview(b"two"), 3)
    assert house.read(reader, 100, 0) == b"onetwo"
    for handle in (reader, writer):
        house.vfs.flush(handle)
        house.vfs.release(handle)
    assert house.get("/photos/x.jpg") == b"onetwo"


def test_a_failed_write_commits_nothing(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = house.vfs.create("/photos/x.bmp", 0o644, os.O_WRONLY)
    house.vfs.write(handle, memoryview(b"BM"), 0)

    def full(wanted_bytes: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(house.spool, "check_room", full)
        refused(errno.ENOSPC, house.vfs.write, handle, memoryview(b"more"), 2)
    refused(errno.ENOSPC, house.vfs.flush, handle)
    house.vfs.release(handle)
    assert house.names() == ["a", "old.jpg"]
    assert list(house.spool.names()) == []


def test_unlink_of_a_pending_file_forgets_it_also_while_it_is_open(house: House) -> None:
    house.put("/photos/x.jpg", jpeg())
    handle = house.vfs.open("/photos/x.jpg", os.O_RDWR)
    house.vfs.unlink("/photos/x.jpg")
    assert house.names() == ["a", "old.jpg"]
    assert house.read(handle, 3, 0) == jpeg()[:3]
    assert house.vfs.getattr(None, handle).nlink == 0
    house.vfs.write(handle, memoryview(b"x"), 0)
    house.vfs.flush(handle)
    house.vfs.release(handle)
    assert house.journal.pending() == []
    assert list(house.spool.names()) == []


def test_unlink_of_an_image_archives_it(house: House) -> None:
    house.vfs.unlink("/photos/old.jpg")
    assert house.names() == ["a"]
    assert house.changes() == [("archive", "i1")]


def test_rename_over_a_pending_file_replaces_it(house: House) -> None:
    house.put("/photos/x.jpg", jpeg(1))
    house.put("/photos/.x.jpg.AbCdEf", jpeg(2))
    refused(errno.EEXIST, house.vfs.rename, "/photos/.x.jpg.AbCdEf", "/photos/x.jpg", 1)
    house.vfs.rename("/photos/.x.jpg.AbCdEf", "/photos/x.jpg", 0)
    assert house.get("/photos/x.jpg") == jpeg(2)
    assert len(house.journal.pending()) == 1


def test_an_image_that_landed_keeps_inode_and_time_and_reads_from_the_cache(house: House) -> None:
    house.put("/photos/x.jpg", jpeg(4))
    house.vfs.utimens("/photos/x.jpg", None, 5_000_000_000)
    before = house.vfs.getattr("/photos/x.jpg")
    house.land("x.jpg", Image("i2", "x.jpg", "d1", "/", len(jpeg(4))))
    assert house.vfs.getattr("/photos/x.jpg") == before
    assert house.get("/photos/x.jpg") == jpeg(4)
    assert house.vfs.getxattr("/photos/x.jpg", "user.pictograph.upload") == b"done"
    refused(errno.EEXIST, house.vfs.open, "/photos/x.jpg", os.O_WRONLY)


def test_a_file_that_lands_between_the_look_and_the_open_is_opened_as_an_image(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.put("/photos/x.jpg", jpeg(4))
    look = house.spool.open

    def landed_meanwhile(name: str) -> object:
        monkeypatch.setattr(house.spool, "open", look)
        house.land("x.jpg", Image("i2", "x.jpg", "d1", "/", len(jpeg(4))))
        return look(name)

    monkeypatch.setattr(house.spool, "open", landed_meanwhile)
    assert house.get("/photos/x.jpg") == jpeg(4)


def test_a_time_set_while_the_file_lands_is_kept(house: House) -> None:
    house.put("/photos/x.jpg", jpeg(4))
    landed = house.vfs.landed

    def landed_then_touched(upload: Upload, image: Image) -> None:
        landed(upload, image)
        house.vfs.utimens("/photos/x.jpg", None, 9_000_000_000)

    house.vfs.landed = landed_then_touched  # type: ignore[method-assign]
    house.land("x.jpg", Image("i2", "x.jpg", "d1", "/", len(jpeg(4))))
    assert house.vfs.getattr("/photos/x.jpg").mtime_ns == 9_000_000_000
    assert house.journal.image_mtimes()["i2"] == 9_000_000_000


def test_another_name_from_the_service_is_the_truth_and_the_old_one_resolves(house: House) -> None:
    house.put("/photos/x.jpg", jpeg(4))
    house.land("x.jpg", Image("i2", "x-1.jpg", "d1", "/", 999))
    assert house.names() == ["a", "old.jpg", "x-1.jpg"]
    assert house.vfs.getattr("/photos/x.jpg").size == 999
    house.vfs.utimens("/photos/x.jpg", None, 7_000_000_000)
    assert house.vfs.getattr("/photos/x-1.jpg").mtime_ns == 7_000_000_000


def test_a_program_that_goes_on_writing_after_its_file_landed_loses_nothing(house: House) -> None:
    handle = house.vfs.create("/photos/x.jpg", 0o644, os.O_RDWR)
    house.vfs.write(handle, memoryview(jpeg(1)), 0)
    house.vfs.flush(handle)
    house.land("x.jpg", Image("i2", "x.jpg", "d1", "/", len(jpeg(1))))
    assert house.read(handle, 1 << 20, 0) == jpeg(1)
    house.vfs.truncate(None, 0, handle)
    house.vfs.write(handle, memoryview(jpeg(2)), 0)
    house.vfs.flush(handle)
    house.vfs.release(handle)
    row = house.row("x.jpg")
    assert (row.state, row.replaces_image_id) == (State.QUEUED, "i2")
    assert house.get("/photos/x.jpg") == jpeg(2)


def test_a_file_that_lands_while_it_is_removed_is_archived(house: House) -> None:
    house.put("/photos/x.jpg", jpeg(1))
    (row,) = house.journal.claims.claim(1, 1 << 30)
    registration = house.journal.claims.begin_registration([(row.id, _as_sent(row))])
    assert registration is not None
    house.vfs.unlink("/photos/x.jpg")
    assert house.names() == ["a", "old.jpg"]
    (done,) = house.journal.claims.settle(landed={row.id: Image("i2", "x.jpg", "d1", "/", 1)})
    house.journal.claims.finish([done.id])
    assert house.changes() == [("archive", "i2")]
    assert house.names() == ["a", "old.jpg"]


def test_overwrite_keeps_the_old_image_until_the_new_one_is_safe(tmp_path: Path) -> None:
    house = House(tmp_path, Policy(overwrite=True))
    handle = house.vfs.open("/photos/old.jpg", os.O_WRONLY | os.O_TRUNC)
    house.vfs.write(handle, memoryview(jpeg(9)), 0)
    house.vfs.flush(handle)
    house.vfs.release(handle)
    assert house.row("old.jpg").replaces_image_id == "i1"
    assert house.get("/photos/old.jpg") == jpeg(9)
    assert house.changes() == []
    house.close()


def test_folders(house: House) -> None:
    house.vfs.mkdir("/photos/b")
    assert house.vfs.getattr("/photos").nlink == 4
    house.put("/photos/b/x.jpg", jpeg())
    refused(errno.ENOTEMPTY, house.vfs.rmdir, "/photos/b")
    house.vfs.unlink("/photos/b/x.jpg")
    house.vfs.rmdir("/photos/b")
    assert house.changes() == []
    house.vfs.mkdir("/new")
    assert "new" in house.names("/")
    house.vfs.rmdir("/new")
    assert "new" not in house.names("/")


# mv


def test_an_image_moves_at_once_and_is_told_later(house: House) -> None:
    house.vfs.rename("/photos/old.jpg", "/photos/a/old.jpg")
    assert house.names() == ["a"]
    assert house.names("/photos/a") == ["old.jpg"]
    assert house.changes() == [("move", "i1", "/a")]
    house.vfs.refresh("/photos")  # a listing from before the service was told
    assert house.names("/photos/a") == ["old.jpg"]
    house.vfs.unlink("/photos/a/old.jpg")
    assert house.changes() == [("move", "i1", "/a"), ("archive", "i1")]
    house.vfs.refresh("/photos")
    assert house.names("/photos/a") == []


def test_to_another_dataset_it_is_shown_there_at_once(house: House) -> None:
    house.vfs.mkdir("/new")
    house.vfs.rename("/photos/old.jpg", "/new/old.jpg")
    assert (house.names(), house.names("/new")) == (["a"], ["old.jpg"])
    assert house.get("/new/old.jpg") == b"old 1"
    for dataset in ("/photos", "/new"):
        house.vfs.refresh(dataset)
    assert (house.names(), house.names("/new")) == (["a"], ["old.jpg"])
    (change,) = house.journal.changes.all()
    before = house.vfs.getattr("/new/old.jpg")
    house.vfs.done(change, Image("i9", "old.jpg", "d-new", "/", 5))
    house.journal.changes.settle([change])
    assert house.names("/new") == ["old.jpg"]
    assert house.vfs.getattr("/new/old.jpg") == before
    assert house.vfs.getxattr("/new/old.jpg", "user.pictograph.id") == b"i9"
    assert house.changes() == [("archive", "i1")]


def test_another_name_goes_up_as_a_copy_and_the_old_one_goes_after_it(house: House) -> None:
    house.vfs.utimens("/photos/old.jpg", None, 7_000_000_000)
    house.vfs.rename("/photos/old.jpg", "/photos/a/new.jpg")
    assert (house.names(), house.names("/photos/a")) == (["a"], ["new.jpg"])
    assert house.get("/photos/a/new.jpg") == b"old 1"
    assert house.vfs.getattr("/photos/a/new.jpg").mtime_ns == 7_000_000_000
    house.vfs.refresh("/photos")
    assert house.names() == ["a"]
    row = house.row("new.jpg", "/a")
    assert row.state is State.QUEUED
    assert house.changes() == []
    house.land("new.jpg", Image("i2", "new.jpg", "d1", "/a", 5))
    assert house.changes() == [("archive", "i1")]


def test_another_name_and_back_is_a_rewrite(house: House) -> None:
    house.vfs.rename("/photos/old.jpg", "/photos/new.jpg")
    house.vfs.rename("/photos/new.jpg", "/photos/old.jpg")
    row = house.row("old.jpg")
    assert (row.replaces_image_id, row.supersedes) == ("i1", None)
    assert house.names() == ["a", "old.jpg"]


def test_a_working_name_stays_here_and_the_image_goes_at_once(house: House) -> None:
    """As editors do: the old file becomes a backup, and its name is written anew."""
    house.vfs.rename("/photos/old.jpg", "/photos/old.jpg~")
    assert house.names() == ["a", "old.jpg~"]
    row = house.row("old.jpg~")
    assert (row.state, row.supersedes) == (State.HELD, None)
    assert house.changes() == [("archive", "i1")]
    house.put("/photos/old.jpg", jpeg(1))
    assert house.get("/photos/old.jpg~") == b"old 1"
    assert house.row("old.jpg").state is State.QUEUED


def test_another_name_then_removed_or_given_up(house: House) -> None:
    house.vfs.rename("/photos/old.jpg", "/photos/new.jpg")
    house.journal.discard([house.row("new.jpg").id])
    assert house.changes() == [("restore", "i1")]
    (change,) = house.journal.changes.all()
    house.vfs.done(change, None)
    house.journal.changes.settle([change])
    assert house.names() == ["a", "old.jpg"]
    house.vfs.rename("/photos/old.jpg", "/photos/new.jpg")
    house.vfs.unlink("/photos/new.jpg")
    assert house.changes() == [("archive", "i1")]
    assert house.names() == ["a"]


@pytest.mark.parametrize("work", [{"annotation_count": 1}, {"tags": ("night",)}, {"split": "test"}], ids=str)
def test_what_people_have_made_of_an_image_is_never_lost_to_another_name(
    house: House, work: dict[str, Any]
) -> None:
    house.names()
    house.metadata.images.get("i1")
    house.service.images = [replace(house.service.images[0], **work)]  # since the listing and images.get
    refused(errno.EPERM, house.vfs.rename, "/photos/old.jpg", "/photos/new.jpg", 0)
    assert house.names() == ["a", "old.jpg"]
    house.vfs.rename("/photos/old.jpg", "/photos/a/old.jpg")


def test_onto_an_existing_name(house: House, tmp_path: Path) -> None:
    house.service.images.append(Image("i2", "old.jpg", "d1", "/a", 5))
    refused(errno.EEXIST, house.vfs.rename, "/photos/old.jpg", "/photos/a/old.jpg", 0)
    house.close()
    second = House(tmp_path, Policy(overwrite=True))
    second.service.images.append(Image("i2", "old.jpg", "d1", "/a", 5))
    second.vfs.rename("/photos/old.jpg", "/photos/a/old.jpg")
    assert second.names("/photos/a") == ["old.jpg"]
    assert second.changes() == [("archive", "i2"), ("move", "i1", "/a")]
    second.close()


def test_a_folder_renamed_in_place_keeps_all_below_it(house: House) -> None:
    house.service.folders.append(Directory("f2", "d1", "b", "/a/b"))
    house.service.images.append(Image("i2", "x.jpg", "d1", "/a/b", 5))
    house.vfs.rename("/photos/a", "/photos/c")
    assert house.service.renamed == ("/a", "/c")
    assert house.names() == ["c", "old.jpg"]
    assert house.names("/photos/c/b") == ["x.jpg"]
    assert house.changes() == []


def test_a_folder_moves_with_what_is_in_it(house: House) -> None:
    house.service.folders += [Directory("f2", "d1", "b", "/a/b"), Directory("f3", "d1", "c", "/c")]
    house.service.images.append(Image("i2", "x.jpg", "d1", "/a/b", 5))
    house.put("/photos/a/pending.jpg", jpeg(1))
    handle = house.vfs.create("/photos/a/b/open.jpg", 0o644, os.O_WRONLY)
    house.vfs.rename("/photos/a", "/photos/c/a")
    assert house.names() == ["c", "old.jpg"]
    assert house.names("/photos/c/a") == ["b", "pending.jpg"]
    assert house.names("/photos/c/a/b") == ["open.jpg", "x.jpg"]
    assert house.changes() == [
        ("mkdir", "/c/a"), ("mkdir", "/c/a/b"), ("move", "i2", "/c/a/b"), ("rmdir", "/a/b"), ("rmdir", "/a"),
    ]  # fmt: skip
    house.vfs.write(handle, memoryview(jpeg(2)), 0)
    house.vfs.flush(handle)
    house.vfs.release(handle)
    assert house.row("open.jpg", "/c/a/b").state is State.QUEUED
    assert house.row("pending.jpg", "/c/a").state is State.QUEUED
    house.vfs.refresh("/photos")
    assert house.names("/photos/c/a/b") == ["open.jpg", "x.jpg"]


def test_a_folder_with_files_on_their_way_is_renamed_too(house: House) -> None:
    house.put("/photos/a/x.jpg", jpeg(1))
    (row,) = house.journal.claims.claim(1, 1 << 30)
    house.vfs.rename("/photos/a", "/photos/c")
    assert house.names() == ["c", "old.jpg"]
    assert house.names("/photos/c") == ["x.jpg"]
    assert house.row("x.jpg", "/c").state is State.QUEUED
    left = house.journal.get(row.id)
    assert left is not None
    assert left.abandoned
    assert house.changes() == [("mkdir", "/c"), ("rmdir", "/a")]


def test_a_refused_change_is_undone(house: House) -> None:
    house.vfs.rename("/photos/old.jpg", "/photos/a/old.jpg")
    (change,) = house.journal.changes.all()
    house.journal.changes.settle([], [change])
    house.vfs.refused(change, "it is locked")
    assert house.names() == ["a", "old.jpg"]


def test_an_answer_does_not_take_back_what_was_wished_since(house: House) -> None:
    house.vfs.rename("/photos/old.jpg", "/photos/a/old.jpg")
    (first,) = house.journal.changes.all()
    house.vfs.rename("/photos/a/old.jpg", "/photos/old.jpg")
    house.vfs.done(first, Image("i1", "old-1.jpg", "d1", "/a", 5))
    house.journal.changes.settle([first])
    assert house.names("/photos/a") == []
    assert house.names() == ["a", "old-1.jpg"]


def test_a_listing_is_the_same_object_until_something_changes(house: House) -> None:
    first = house.vfs.opendir("/photos")
    assert house.vfs.opendir("/photos") is first
    house.put("/photos/x.jpg", jpeg())
    assert house.vfs.opendir("/photos") is not first


def test_statfs_shows_the_quota(house: House) -> None:
    space = house.vfs.statfs()
    assert space.name_max == 255
    assert 0 < space.blocks_available <= space.blocks_free == space.blocks


def test_a_change_makes_only_its_own_entry_anew(house: House) -> None:
    house.service.images += [Image(f"n{number}", f"{number}.jpg", "d1", "/", 7) for number in range(3)]
    before = {entry.name: entry for entry in house.vfs.opendir("/photos").entries}
    house.put("/photos/mine.jpg", jpeg())
    house.put("/photos/other.jpg", jpeg(1))
    pending = {entry.name: entry for entry in house.vfs.opendir("/photos").entries}
    house.vfs.unlink("/photos/1.jpg")
    house.vfs.utimens("/photos/2.jpg", None, 12345)
    house.vfs.unlink("/photos/other.jpg")
    now = {entry.name: entry for entry in house.vfs.opendir("/photos").entries}
    assert now.keys() == {"old.jpg", "a", "0.jpg", "2.jpg", "mine.jpg"}
    assert all(now[name] is before[name] for name in ("old.jpg", "0.jpg"))
    assert now["mine.jpg"] is pending["mine.jpg"]
    assert now["2.jpg"].attributes.mtime_ns == 12345


def test_a_change_elsewhere_leaves_a_folders_listing_as_it_is(house: House) -> None:
    before = house.vfs.opendir("/photos")
    house.put("/photos/a/mine.jpg", jpeg())
    assert house.vfs.opendir("/photos") is before
