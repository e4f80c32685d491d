"""The folder of image bytes: bounds, order of use, restart, strange ids."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pictofs.cache.content import ContentCache


def put(cache: ContentCache, image_id: str, data: bytes) -> None:
    partial = cache.partial(image_id)
    partial.write_bytes(data)
    cache.commit(image_id, partial)


def get(cache: ContentCache, image_id: str) -> bytes | None:
    fd = cache.open(image_id)
    if fd is None:
        return None
    try:
        return os.pread(fd, 1 << 20, 0)
    finally:
        os.close(fd)


def test_bytes_survive_a_restart_and_broken_transfers_do_not(tmp_path: Path) -> None:
    cache = ContentCache(tmp_path / "c", max_bytes=1000)
    put(cache, "i1", b"one")
    cache.partial("i2").write_bytes(b"half")
    again = ContentCache(tmp_path / "c", max_bytes=1000)
    assert get(again, "i1") == b"one"
    assert get(again, "i2") is None
    assert again.used_bytes == 3
    assert len(list((tmp_path / "c").iterdir())) == 1


def test_the_least_recently_opened_goes_first_also_after_a_restart(tmp_path: Path) -> None:
    cache = ContentCache(tmp_path, max_bytes=30)
    for number in range(3):
        put(cache, f"i{number}", b"x" * 10)
    assert get(cache, "i0") is not None
    cache = ContentCache(tmp_path, max_bytes=30)
    put(cache, "i3", b"x" * 10)
    assert get(cache, "i1") is None
    assert [get(cache, f"i{n}") is not None for n in (0, 2, 3)] == [True] * 3
    assert cache.used_bytes == 30


def test_an_open_file_stays_readable_when_it_is_evicted(tmp_path: Path) -> None:
    cache = ContentCache(tmp_path, max_bytes=10)
    put(cache, "i1", b"x" * 10)
    fd = cache.open("i1")
    assert fd is not None
    put(cache, "i2", b"y" * 10)
    assert get(cache, "i1") is None
    assert os.pread(fd, 10, 0) == b"x" * 10
    os.close(fd)


@pytest.mark.parametrize("image_id", ["../../etc/passwd", "a\0b", "\ud800", "x" * 5000])
def test_ids_are_data(tmp_path: Path, image_id: str) -> None:
    cache = ContentCache(tmp_path / "c", max_bytes=1000)
    put(cache, image_id, b"bytes")
    assert get(cache, image_id) == b"bytes"
    assert [p.parent for p in tmp_path.rglob("*") if p.is_file()] == [tmp_path / "c"]


def test_an_uploaded_file_is_taken_in_by_link(tmp_path: Path) -> None:
    cache = ContentCache(tmp_path / "c", max_bytes=1000)
    spooled = tmp_path / "spooled"
    spooled.write_bytes(b"mine")
    cache.adopt("i1", spooled)
    spooled.unlink()
    assert get(cache, "i1") == b"mine"
    cache.adopt("i2", tmp_path / "gone")  # nothing to take in is no error: the service has the bytes
    assert get(cache, "i2") is None


def test_an_image_bigger_than_the_bound_is_not_kept(tmp_path: Path) -> None:
    cache = ContentCache(tmp_path, max_bytes=5)
    put(cache, "i1", b"x" * 10)
    assert get(cache, "i1") is None
    assert cache.used_bytes == 0
