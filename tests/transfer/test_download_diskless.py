"""Reading while the disk of the image cache takes nothing: always the bytes, and no memory for nobody."""

from __future__ import annotations

import errno
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from download_house import LARGE, SMALL, STEP, House, read_all, settle
from full_disk import FullDisk
from image_source import ImageSource

from pictofs.api.models import Image
from pictofs.cache import diskless
from pictofs.cache.content import CHUNK_BYTES
from pictofs.cache.diskless import Memory
from pictofs.transfer.download import Flight, Transfer

REFUSALS = pytest.mark.parametrize(
    "refusal", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO], ids=errno.errorcode.get
)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FullDisk:
    return FullDisk(monkeypatch, tmp_path)


@REFUSALS
def test_a_disk_that_takes_nothing_keeps_nobody_from_reading(
    small: House, disk: FullDisk, refusal: int, caplog: pytest.LogCaptureFixture
) -> None:
    disk.refuses = refusal
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            assert small.read_all() == SMALL
            settle()
        assert small.cache.trouble.error is not None
        assert small.cache.trouble.error.errno == refusal
        assert (small.cache.capacity_bytes(), small.cache.memory.used_bytes) == (0, 0)
        disk.refuses = None
        assert small.read_all() == SMALL
        settle()
        assert small.cache.trouble.error is None
        assert small.cache.capacity_bytes() > 0
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert len(small.source.opened) == 4
    assert small.read_all() == SMALL
    assert len(small.source.opened) == 4


@REFUSALS
def test_a_disk_that_fills_up_in_the_middle_of_a_transfer(large: House, disk: FullDisk, refusal: int) -> None:
    large.source.goes_on = True
    large.source.gate, large.source.gate_at = threading.Event(), 40 * CHUNK_BYTES
    readers = [large.open() for _ in range(4)]
    assert all(reader.read(STEP, 0) == LARGE[:STEP] for reader in readers)
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(read_all, reader) for reader in readers]
        disk.refuses = refusal
        large.source.gate.set()
        assert all(answer.result(30) == LARGE for answer in answers)
    settle()
    assert large.cache.memory.used_bytes == 0
    assert large.cache.count().bytes == large.cache.used_bytes
    # What had reached the disk before is there still, and is not taken for more than it is.
    before = large.source.sent_bytes
    disk.refuses = None
    assert large.open().read(STEP, 0) == LARGE[:STEP]
    assert large.source.sent_bytes == before
    assert large.read_all() == LARGE


def test_what_is_here_is_read_from_a_read_only_disk(large: House, disk: FullDisk) -> None:
    reader = large.open()
    reader.read(STEP, 0)
    reader.close()
    settle()
    disk.refuses = errno.EROFS
    large.restart()
    reader = large.open()
    assert reader.read(STEP, 0) == LARGE[:STEP]
    assert large.source.sent_bytes == STEP
    assert large.cache.memory.used_bytes == 0
    assert read_all(reader) == LARGE


def test_what_is_not_open_makes_room(small: House, disk: FullDisk) -> None:
    disk.max_bytes = 3 * 45_056  # each takes ten blocks of 4 KiB, and one is the tail's
    for number in range(6):
        small.image = Image(f"i{number}", "x.jpg", "d1", "/", len(SMALL))
        assert small.read_all() == SMALL
        settle()
    assert disk.refused > 0
    assert small.cache.trouble.error is None
    assert small.cache.memory.used_bytes == 0
    assert len(small.source.opened) == 6
    assert small.read_all() == SMALL
    assert len(small.source.opened) == 6


def test_nothing_is_fetched_ahead_into_memory(small: House, disk: FullDisk, tmp_path: Path) -> None:
    disk.refuses = errno.ENOSPC
    with pytest.raises(OSError, match="No space"):
        small.downloader.fetch(small.image, len(SMALL))
    assert small.source.opened == []
    disk.refuses = None
    disk.unlucky = lambda: small.source.sent_bytes > 8192
    with pytest.raises(OSError, match="No space"):
        small.downloader.fetch(small.image, len(SMALL))
    assert small.source.sent_bytes < len(SMALL)
    reader = small.open()
    assert reader.read(len(SMALL), 0) == SMALL
    assert small.cache.memory.used_bytes > 0
    with pytest.raises(OSError, match="No space"):
        small.downloader.fetch(small.image, len(SMALL))
    reader.close()
    settle()
    assert small.cache.memory.used_bytes == 0


def test_who_reads_what_is_being_fetched_ahead_has_it_when_the_disk_is_full(
    large: House, disk: FullDisk
) -> None:
    large.source.gate, large.source.gate_at = threading.Event(), 10 * CHUNK_BYTES
    with ThreadPoolExecutor(2) as pool:
        ahead = pool.submit(large.downloader.fetch, large.image, 20 * CHUNK_BYTES)
        reader = large.open()
        assert reader.read(STEP, 0) == LARGE[:STEP]
        answer = pool.submit(reader.read, STEP, 12 * CHUNK_BYTES)
        disk.refuses = errno.ENOSPC
        large.source.gate.set()
        assert answer.result(10) == LARGE[12 * CHUNK_BYTES : 12 * CHUNK_BYTES + STEP]
        with pytest.raises(OSError, match="No space"):
            ahead.result(10)
    reader.close()


def test_who_comes_when_fetching_ahead_has_just_failed_tries_again(
    tmp_path: Path, disk: FullDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = House(tmp_path, LARGE, timeout_s=1)
    store = Transfer._store

    def comes_now(transfer: Transfer, flight: Flight, data: bytes, position: int) -> None:
        try:
            store(transfer, flight, data, position)
        except OSError:
            monkeypatch.setattr(Transfer, "_store", store)
            reader = house.open()
            assert reader.read(STEP, 0) == LARGE[:STEP]
            reader.close()
            raise

    disk.unlucky = lambda: house.source.sent_bytes > 0
    monkeypatch.setattr(Transfer, "_store", comes_now)
    with pytest.raises(OSError, match="No space"):
        house.downloader.fetch(house.image, STEP)
    assert len(house.source.opened) == 2


def test_memory_has_a_bound_and_is_free_after_the_last_close(large: House, disk: FullDisk) -> None:
    disk.refuses = errno.ENOSPC
    large.cache.memory = Memory(len(LARGE) // 2)
    reader = large.open()
    assert reader.read(STEP, 0) == LARGE[:STEP]
    with pytest.raises(OSError, match="without the disk") as caught:
        reader.read(len(LARGE), 0)
    assert caught.value.errno == errno.ENOSPC
    settle()
    assert 0 < large.cache.memory.used_bytes <= len(LARGE) // 2 + CHUNK_BYTES
    assert reader.read(STEP, 0) == LARGE[:STEP]
    reader.close()
    settle()
    assert large.cache.memory.used_bytes == 0
    large.source = ImageSource(LARGE)
    assert large.open().read(STEP, 0) == LARGE[:STEP]


def test_small_images_that_fit_and_large_ones_that_do_not_are_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    now = [0.0]
    trouble = diskless.DiskTrouble(tmp_path, clock=lambda: now[0])

    def refuse() -> None:
        raise OSError(errno.ENOSPC, "full")

    with caplog.at_level(logging.INFO):
        for now[0] in (0.0, 1.0, 2.0, diskless.TELL_EVERY_S):
            with pytest.raises(OSError, match="full"):
                trouble.watch(refuse)
            assert trouble.error is not None
            trouble.over()
            assert trouble.error is None
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"] * 2
