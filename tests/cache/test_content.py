"""The folder of image bytes: bounds, order of use, restart, kills, damage, strange ids."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from pictofs.cache.content import CHUNK_BYTES, ContentCache

BLOCK_BYTES = 16384
"""Bigger than any usual disk block, so that usage can be compared roughly."""


def put(cache: ContentCache, image_id: str, data: bytes) -> None:
    image = cache.open(image_id, len(data))
    image.write(data, 0)
    image.close()
    cache.make_room()


def get(cache: ContentCache, image_id: str, size_bytes: int) -> bytes | None:
    """The image's bytes if all of them are here."""
    image = cache.open(image_id, size_bytes)
    try:
        whole = image.total_bytes == size_bytes and image.has(0, size_bytes)
        return os.pread(image.fd, size_bytes, 0) if whole else None
    finally:
        image.close()


def test_bytes_survive_a_restart_chunk_by_chunk(tmp_path: Path) -> None:
    data = os.urandom(3 * CHUNK_BYTES + 100)
    image = ContentCache(tmp_path / "c", max_bytes=1 << 20).open("i1", len(data))
    image.write(data[CHUNK_BYTES : 2 * CHUNK_BYTES], CHUNK_BYTES)
    image.write(data[2 * CHUNK_BYTES : 2 * CHUNK_BYTES + 5], 2 * CHUNK_BYTES)  # not a chunk yet
    image.write(data[3 * CHUNK_BYTES :], 3 * CHUNK_BYTES)  # the last one is shorter
    assert image.has(CHUNK_BYTES, 2 * CHUNK_BYTES + 5)
    # No close: this is what a kill leaves.
    again = ContentCache(tmp_path / "c", max_bytes=1 << 20).open("i1", len(data))
    assert again.first_gap(0, len(data)) == (0, CHUNK_BYTES)
    assert again.first_gap(CHUNK_BYTES, len(data)) == (2 * CHUNK_BYTES, 3 * CHUNK_BYTES)
    assert os.pread(again.fd, CHUNK_BYTES, CHUNK_BYTES) == data[CHUNK_BYTES : 2 * CHUNK_BYTES]
    again.close()
    image.close()


def test_a_chunk_whose_bytes_did_not_reach_the_disk_is_not_here(tmp_path: Path) -> None:
    data = os.urandom(3 * CHUNK_BYTES)
    put(ContentCache(tmp_path, max_bytes=1 << 20), "i1", data)
    (file,) = tmp_path.iterdir()
    with file.open("r+b") as damaged:
        damaged.seek(CHUNK_BYTES + 7)
        damaged.write(b"\0\0\0\0")
    cache = ContentCache(tmp_path, max_bytes=1 << 20)
    for _ in range(2):  # and it stays so in a process that has looked through the file
        image = cache.open("i1", len(data))
        assert image.first_gap(0, len(data)) == (CHUNK_BYTES, 2 * CHUNK_BYTES)
        image.close()
    put(cache, "i1", data)
    assert get(cache, "i1", len(data)) == data


def test_a_whole_image_is_looked_through_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = os.urandom(3 * CHUNK_BYTES)
    put(ContentCache(tmp_path, max_bytes=1 << 20), "i1", data)
    cache = ContentCache(tmp_path, max_bytes=1 << 20)
    cache.open("i1", len(data)).close()  # nobody asked for its bytes: they are not checked yet
    reads: list[int] = []

    def pread(fd: int, size: int, offset: int) -> bytes:
        reads.append(offset)
        buffer = bytearray(size)
        return bytes(buffer[: os.preadv(fd, [buffer], offset)])

    monkeypatch.setattr(os, "pread", pread)
    for expected in (5, 0, 0):  # the tail, the slots, three chunks
        image = cache.open("i1", len(data))
        assert image.has(0, len(data))
        image.close()
        assert len(reads) == expected
        reads.clear()


@pytest.mark.parametrize("whose", ["its own", "somebody else's"])
@pytest.mark.parametrize("last", ["old", "new"])
def test_a_file_made_anew_while_the_whole_one_is_open_is_not_taken_for_whole(
    tmp_path: Path, whose: str, last: str
) -> None:
    size = 3 * CHUNK_BYTES
    cache = ContentCache(tmp_path, max_bytes=1 << 20)
    put(cache, "i1", b"x" * size)
    old = cache.open("i1", size)
    if whose == "its own":
        cache.discard("i1")
    else:
        next(tmp_path.iterdir()).unlink()
    new = cache.open("i1", size)
    new.write(b"y" * CHUNK_BYTES, 0)
    assert get(cache, "i1", size) is None
    for image in (new, old) if last == "old" else (old, new):
        image.close()
        assert get(cache, "i1", size) is None
    put(cache, "i1", b"y" * size)
    assert get(cache, "i1", size) == b"y" * size


@pytest.mark.parametrize("length", [0, 5, CHUNK_BYTES, CHUNK_BYTES + 24])
def test_a_file_that_makes_no_sense_is_dropped(tmp_path: Path, length: int) -> None:
    data = os.urandom(CHUNK_BYTES)
    put(ContentCache(tmp_path, max_bytes=1 << 20), "i1", data)
    (file,) = tmp_path.iterdir()
    if length == CHUNK_BYTES + 24:
        file.write_bytes(os.urandom(length))
    else:
        os.truncate(file, length)
    cache = ContentCache(tmp_path, max_bytes=1 << 20)
    assert get(cache, "i1", len(data)) is None
    put(cache, "i1", data)
    assert get(cache, "i1", len(data)) == data


def test_the_least_recently_used_goes_first_also_after_a_restart(tmp_path: Path) -> None:
    cache = ContentCache(tmp_path, max_bytes=3 * BLOCK_BYTES + 3 * 4096)
    for number in range(3):
        put(cache, f"i{number}", b"x" * BLOCK_BYTES)
    assert get(cache, "i0", BLOCK_BYTES) is not None
    cache = ContentCache(tmp_path, max_bytes=cache.max_bytes)
    cache.count()
    put(cache, "i3", b"x" * BLOCK_BYTES)
    assert cache.used_bytes <= cache.max_bytes
    assert cache.count().bytes == cache.used_bytes
    assert [get(cache, f"i{n}", BLOCK_BYTES) is not None for n in (0, 2, 3, 1)] == [True] * 3 + [False]


def test_what_is_open_stays(tmp_path: Path) -> None:
    cache = ContentCache(tmp_path, max_bytes=BLOCK_BYTES)
    image = cache.open("i1", BLOCK_BYTES)
    image.write(b"x" * BLOCK_BYTES, 0)
    put(cache, "i2", b"y" * BLOCK_BYTES)
    assert get(cache, "i2", BLOCK_BYTES) is None
    assert cache.clear().files <= 1  # the file that the look at i2 has made
    assert get(cache, "i1", BLOCK_BYTES) == b"x" * BLOCK_BYTES
    image.close()
    assert cache.clear().files == 1
    assert cache.used_bytes == 0
    assert list(tmp_path.iterdir()) == []


def test_what_a_file_has_come_to_take_is_counted_when_it_is_closed(tmp_path: Path) -> None:
    """A file system may need more for it afterwards, and programs are not the only ones to write."""
    cache = ContentCache(tmp_path, max_bytes=1 << 20)
    size = 8 * CHUNK_BYTES
    image = cache.open("i1", size)
    image.write(b"x" * CHUNK_BYTES, 0)
    image.close()
    image = cache.open("i1", size)
    (file,) = tmp_path.iterdir()
    with file.open("r+b") as more:
        more.seek(4 * CHUNK_BYTES)
        more.write(b"y" * BLOCK_BYTES)
    image.close()
    used_bytes = cache.used_bytes
    assert used_bytes == cache.count().bytes > CHUNK_BYTES + BLOCK_BYTES


def test_no_room_on_the_disk_leaves_nothing_but_what_is_open(tmp_path: Path) -> None:
    cache = ContentCache(tmp_path, max_bytes=1 << 40, min_free_bytes=1 << 60)
    assert cache.capacity_bytes() == 0
    put(cache, "i1", b"x" * BLOCK_BYTES)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("image_id", ["../../etc/passwd", "a\0b", "\ud800", "x" * 5000])
def test_ids_are_data(tmp_path: Path, image_id: str) -> None:
    cache = ContentCache(tmp_path / "c", max_bytes=1 << 20)
    put(cache, image_id, b"bytes")
    assert get(cache, image_id, 5) == b"bytes"
    assert [p.parent for p in tmp_path.rglob("*") if p.is_file()] == [tmp_path / "c"]


def test_an_uploaded_file_is_taken_in_by_link(tmp_path: Path) -> None:
    cache = ContentCache(tmp_path / "c", max_bytes=1 << 20)
    spooled = tmp_path / "spooled"
    spooled.write_bytes(b"mine")
    written_ns = spooled.stat().st_mtime_ns
    cache.adopt("i1", spooled)
    assert get(cache, "i1", 4) == b"mine"
    assert spooled.stat().st_mtime_ns == written_ns  # whoever still has it open shows this time
    spooled.unlink()
    again = ContentCache(tmp_path / "c", max_bytes=1 << 20)
    assert get(again, "i1", 4) == b"mine"
    cache.adopt("i2", tmp_path / "gone")  # nothing to take in is no error: the service has the bytes
    assert get(cache, "i2", 4) is None


def test_the_disk_is_told_of_what_is_here_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = ContentCache(tmp_path / "c", max_bytes=1 << 20)
    put(cache, "i1", b"x" * 5000)
    (tmp_path / "spooled").write_bytes(b"mine")
    cache.adopt("i2", tmp_path / "spooled")
    there = sorted((tmp_path / "c").iterdir())
    told: list[tuple[int, int, int]] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda fd, *advice: told.append(advice))
    for image_id, size_bytes in (("i1", 4000), ("i2", 4), ("i3", 4)):
        cache.expect(image_id, size_bytes)
    assert told == [(0, 4000, os.POSIX_FADV_WILLNEED), (0, 4, os.POSIX_FADV_WILLNEED)]
    assert sorted((tmp_path / "c").iterdir()) == there


def test_the_folder_may_go_at_any_time(tmp_path: Path) -> None:
    cache = ContentCache(tmp_path / "c", max_bytes=1 << 20)
    image = cache.open("i1", BLOCK_BYTES)
    shutil.rmtree(tmp_path / "c")
    image.write(b"x" * BLOCK_BYTES, 0)
    assert image.has(0, BLOCK_BYTES)
    image.close()
    cache.make_room()
    put(cache, "i1", b"y" * BLOCK_BYTES)
    assert get(cache, "i1", BLOCK_BYTES) == b"y" * BLOCK_BYTES


def test_what_an_older_version_left_is_dropped(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "whole").write_bytes(b"x")
    cache = ContentCache(tmp_path / "content-2", max_bytes=1 << 20)
    cache.settle()
    assert [path.name for path in tmp_path.iterdir()] == ["content-2"]
