"""Image files whose disk takes nothing any more: what moves into memory, and what is believed afterwards."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from full_disk import FullDisk

from pictofs.cache.content import CHUNK_BYTES, ContentCache

DATA = bytes(range(256)) * (3 * CHUNK_BYTES // 256)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FullDisk:
    return FullDisk(monkeypatch, tmp_path)


def test_a_file_goes_on_in_memory_and_its_part_on_the_disk_stays_a_part(
    tmp_path: Path, disk: FullDisk
) -> None:
    cache = ContentCache(tmp_path, max_bytes=1 << 20)
    image = cache.open("i1", len(DATA))
    image.write(DATA[: CHUNK_BYTES + 10], 0)
    fd = image.fd
    disk.refuses = errno.ENOSPC
    with pytest.raises(OSError, match="No space"):
        image.write(DATA[CHUNK_BYTES + 10 :], CHUNK_BYTES + 10)
    image.go_into_memory()
    assert os.pread(fd, CHUNK_BYTES + 10, 0) == DATA[: CHUNK_BYTES + 10]
    assert not os.get_inheritable(fd)
    image.write(DATA[CHUNK_BYTES + 10 :], CHUNK_BYTES + 10)
    assert image.is_whole()
    assert os.pread(fd, len(DATA), 0) == DATA
    assert cache.memory.used_bytes >= len(DATA)
    image.close()
    assert cache.memory.used_bytes == 0
    assert cache.used_bytes == cache.count().bytes
    again = cache.open("i1", len(DATA))
    assert again.first_gap(0, len(DATA)) == (CHUNK_BYTES, len(DATA))
    again.close()


def test_bytes_written_while_a_file_moves_are_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = ContentCache(tmp_path, max_bytes=1 << 20).open("i1", len(DATA))
    written = os.pwrite

    def moved_at_once(fd: int, data: bytes, offset: int) -> int:
        monkeypatch.setattr(os, "pwrite", written)
        done = written(fd, data, offset)
        image.go_into_memory()  # by another thread: these bytes are in the file that is left
        return done

    monkeypatch.setattr(os, "pwrite", moved_at_once)
    image.write(DATA[:CHUNK_BYTES], 0)
    assert image.is_in_memory
    assert os.pread(image.fd, CHUNK_BYTES, 0) == DATA[:CHUNK_BYTES]
    image.close()


@pytest.mark.parametrize("is_refused", [True, False])
def test_a_damaged_chunk_is_never_believed_where_the_disk_refuses_to_note_it(
    tmp_path: Path, disk: FullDisk, is_refused: bool
) -> None:
    image = ContentCache(tmp_path, max_bytes=1 << 20).open("i1", len(DATA))
    image.write(DATA, 0)
    image.close()
    (file,) = tmp_path.iterdir()
    with file.open("r+b") as damaged:
        damaged.seek(CHUNK_BYTES)
        damaged.write(b"damage")
    disk.refuses = errno.EROFS if is_refused else None
    cache = ContentCache(tmp_path, max_bytes=1 << 20)
    for _ in range(3):
        image = cache.open("i1", len(DATA))
        assert image.first_gap(0, len(DATA)) == (CHUNK_BYTES, 2 * CHUNK_BYTES)
        image.close()


def test_a_file_that_has_nothing_on_the_disk_leaves_none(tmp_path: Path, disk: FullDisk) -> None:
    cache = ContentCache(tmp_path, max_bytes=1 << 20)
    image = cache.open("i1", len(DATA))
    disk.refuses = errno.ENOSPC
    image.go_into_memory()
    image.close()
    assert (list(tmp_path.iterdir()), cache.used_bytes) == ([], 0)


def test_a_folder_that_cannot_be_made_is_no_reason_not_to_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(Path, "mkdir", refuse)
    cache = ContentCache(tmp_path / "c", max_bytes=1 << 20, min_free_bytes=1)
    cache.settle()
    assert cache.capacity_bytes() == 0
    with pytest.raises(OSError, match="full"):
        cache.open("i1", len(DATA))
    image = cache.open_in_memory("i1", len(DATA))
    image.write(DATA, 0)
    assert os.pread(image.fd, len(DATA), 0) == DATA
    image.close()
