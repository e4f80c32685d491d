"""The drive without FUSE and without a network: what each operation leaves in the journal and shows."""

from __future__ import annotations

import errno
import io
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

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


class FakeService:
    """Two datasets in memory; `photos` has one image and one folder."""

    def __init__(self) -> None:
        self.rows = [Dataset("d1", "photos"), Dataset("d2", "frozen", storage_class="coldline")]
        self.images = [Image("i1", "old.jpg", "d1", "/", 5)]
        self.folders = [Directory("f1", "d1", "a", "/a")]
        self.calls: list[tuple[object, ...]] = []

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
        raise AssertionError("no test renames a folder here")


class FakeChanges:
    """Notes what is to change, in the journal; nothing is ever sent, and nobody waits."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal

    def add(self, changes: Sequence[Change]) -> list[int]:
        return [change.id for change in self.journal.changes.add(changes)]

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
        metadata = MetadataCache(self.service, ttl_s=60, hidden=self.journal.hidden, overlay=overlay)
        content = ContentCache(folder / "content", max_bytes=1 << 20)
        view = View(metadata, self.journal, Owner(1, 2, 0o022), probe_size=lambda image: None)
        downloader = Downloader(content, self._no_bytes, correct_size=metadata.correct_size, timeout_s=5)
        self.vfs = Vfs(
            organization=Organization("o1", "Acme", max_storage_bytes=1 << 40, max_images=1000),
            view=view,
            metadata=metadata,
            content=content,
            downloader=downloader,
            readahead=Readahead(downloader.fetch, lambda image: False, at_once=0, max_bytes=0),
            journal=self.journal,
            spool=self.spool,
            changes=FakeChanges(self.journal),
            remote=self.service,
            policy=policy,
        )

    @staticmethod
    def _no_bytes(image: Image, start: int, end: int) -> object:
        raise AssertionError("nothing is downloaded here")

    def close(self) -> None:
        self.journal.close()
        self.lock.release()

    def changes(self) -> list[tuple[object, ...]]:
        """What is to change, oldest first."""
        return [
            (c.kind.value, c.image_id or c.folder, *([c.target_folder] if c.target_folder else []))
            for c in self.journal.changes.all()
        ]

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
            return self.vfs.read(handle, 1 << 20, 0)
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
    refused(errno.EPERM, vfs.rename, "/photos/old.jpg", "/photos/b.jpg", 0)
    house.put("/photos/.old.jpg.AbCdEf", jpeg())
    refused(errno.EEXIST, vfs.rename, "/photos/.old.jpg.AbCdEf", "/photos/old.jpg", 0)
    refused(errno.EINVAL, vfs.rename, "/photos/.old.jpg.AbCdEf", "/photos/old.txt", 0)
    assert house.journal.find("d1", "/", ".old.jpg.AbCdEf") is not None


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
    assert house.vfs.read(reader, 100, 0) == b"onetwo"
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
    assert house.vfs.read(handle, 3, 0) == jpeg()[:3]
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
    assert house.vfs.read(handle, 1 << 20, 0) == jpeg(1)
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
