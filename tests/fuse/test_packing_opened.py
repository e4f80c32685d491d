"""The memory layouts, and the book-keeping of what is open; no mount."""

from __future__ import annotations

import ctypes
import logging
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from pictofs.fs.attributes import Attributes, Entry, Listing
from pictofs.fs.kernel import Pages
from pictofs.fs.opened import Opened
from pictofs.fs.packing import PreparedListing, StatPacker

_LONG = ctypes.c_long


class _Timespec(ctypes.Structure):
    _fields_ = [("tv_sec", _LONG), ("tv_nsec", _LONG)]


class _Stat(ctypes.Structure):
    """Ordered unlike any real one: the packer must go by the structure, not by habit."""

    _fields_ = [
        ("st_ctimespec", _Timespec),
        ("st_nlink", ctypes.c_uint16),
        ("st_mode", ctypes.c_uint32),
        ("st_ino", ctypes.c_uint64),
        ("st_unknown", ctypes.c_uint64 * 3),
        ("st_mtimespec", _Timespec),
        ("st_gid", ctypes.c_uint32),
        ("st_uid", ctypes.c_uint32),
        ("st_size", ctypes.c_longlong),
        ("st_atimespec", _Timespec),
        ("st_blocks", _LONG),
        ("st_blksize", ctypes.c_int),
    ]


ATTRIBUTES = Attributes(
    ino=(1 << 64) - 2,
    mode=stat.S_IFREG | 0o666,
    nlink=3,
    size=1025,
    atime_ns=-1,
    mtime_ns=1_700_000_000_123_456_789,
    ctime_ns=5,
    uid=1000,
    gid=1001,
)


def packed(packer: StatPacker, attributes: Attributes) -> _Stat:
    data = packer.pack(attributes)
    assert len(data) <= ctypes.sizeof(_Stat)  # never past the end of libfuse's buffer
    return _Stat.from_buffer_copy(data.ljust(ctypes.sizeof(_Stat), b"\0"))


def test_each_field_is_where_the_structure_has_it() -> None:
    found = packed(StatPacker(_Stat, uid=None, gid=None, umask=0), ATTRIBUTES)
    assert (found.st_ino, found.st_mode, found.st_nlink) == ((1 << 64) - 2, stat.S_IFREG | 0o666, 3)
    assert (found.st_uid, found.st_gid) == (1000, 1001)
    assert (found.st_size, found.st_blocks) == (1025, 3)
    assert (found.st_atimespec.tv_sec, found.st_atimespec.tv_nsec) == (-1, 999_999_999)
    assert (found.st_mtimespec.tv_sec, found.st_mtimespec.tv_nsec) == (1_700_000_000, 123_456_789)
    assert (found.st_ctimespec.tv_sec, found.st_ctimespec.tv_nsec) == (0, 5)
    assert list(found.st_unknown) == [0, 0, 0]


def test_owner_and_umask_replace() -> None:
    found = packed(StatPacker(_Stat, uid=0, gid=7, umask=0o027), ATTRIBUTES)
    assert (found.st_uid, found.st_gid, found.st_mode) == (0, 7, stat.S_IFREG | 0o640)


def test_inode_0_would_hide_the_entry() -> None:
    nameless = Attributes(**{**{k: getattr(ATTRIBUTES, k) for k in Attributes.__slots__}, "ino": 0})
    assert packed(StatPacker(_Stat, uid=None, gid=None, umask=0), nameless).st_ino != 0


def test_a_prepared_listing_leaves_out_what_the_kernel_refuses(caplog: pytest.LogCaptureFixture) -> None:
    names = ["fine.jpg", "a/b", "nul\0", "\ud800", "", "z" * 256, "caf\udce9"]
    listing = Listing(ATTRIBUTES, ATTRIBUTES, [Entry(name, ATTRIBUTES) for name in names])
    packer = StatPacker(_Stat, uid=None, gid=None, umask=0)
    with caplog.at_level(logging.WARNING):
        prepared = PreparedListing(listing, packer)
    assert prepared.names == [b".", b"..", b"fine.jpg", b"caf\xe9"]
    assert "5 names cannot be listed, the first is 'a/b'" in caplog.text
    last = _Stat.from_address(prepared.first_stat + 3 * prepared.stride)
    assert last.st_size == 1025


def test_only_what_changed_is_packed_again() -> None:
    packer = StatPacker(_Stat, uid=None, gid=None, umask=0)
    sizes = dict(zip("abcdef", range(1, 7), strict=True))
    entries = [Entry(name, replace(ATTRIBUTES, size=size)) for name, size in sizes.items()]
    first = PreparedListing(Listing(ATTRIBUTES, ATTRIBUTES, entries), packer)
    packed_again: list[int] = []
    pack = packer.pack
    packer.pack = lambda attributes: packed_again.append(attributes.size) or pack(attributes)  # type: ignore
    now = [entries[4], Entry("g", replace(ATTRIBUTES, size=70)), *entries[1:3]]
    second = PreparedListing(Listing(ATTRIBUTES, ATTRIBUTES, now), packer, first)
    del first
    assert second.names == [b".", b"..", b"e", b"g", b"b", b"c"]
    found = [
        _Stat.from_address(second.first_stat + i * second.stride).st_size for i in range(len(second.names))
    ]
    assert found == [1025, 1025, 5, 70, 2, 3]
    assert packed_again == [1025, 1025, 70]


def names_changed(opened: Opened, number: int) -> set[bytes]:
    return opened.folder(number).changed


def test_changes_are_noted_in_the_folders_that_hold_the_name() -> None:
    opened = Opened()
    root, _ = opened.add_folder(b"/")
    folder, _ = opened.add_folder(b"/a")
    opened.note_change([b"/a/x.jpg", b"/y.jpg", b"/a/b/z.jpg", b"/ab/x.jpg"])
    assert names_changed(opened, root) == {b"y.jpg"}
    assert names_changed(opened, folder) == {b"x.jpg"}


def test_a_file_open_for_writing_counts_as_changed() -> None:
    opened = Opened()
    opened.add_file(1, b"/a/writing.jpg", 1, writes=True)
    opened.add_file(2, b"/a/reading.jpg", 2, writes=False)
    opened.add_file(3, b"/a/written.jpg", 3, writes=True)
    opened.remove_file(3)
    number, _ = opened.add_folder(b"/a")
    assert names_changed(opened, number) == {b"writing.jpg"}


def test_paths_follow_a_rename() -> None:
    opened = Opened()
    opened.add_file(1, b"/a/b/x.jpg", 1, writes=True)
    opened.add_file(2, b"/a/bc.jpg", 2, writes=True)
    number, folder = opened.add_folder(b"/a/b")
    opened.renamed(b"/a/b", b"/c")
    assert opened.path_of(1) == b"/c/x.jpg"
    assert opened.path_of(2) == b"/a/bc.jpg"
    assert folder.path == b"/c"
    opened.note_change([b"/c/new.jpg"])
    assert b"new.jpg" in names_changed(opened, number)


def test_what_is_closed_is_forgotten() -> None:
    opened = Opened()
    opened.add_file(1, b"/x.jpg", 1, writes=True)
    number, _ = opened.add_folder(b"/")
    opened.remove_file(1)
    opened.remove_folder(number)
    assert opened.path_of(1) is None
    with pytest.raises(KeyError):
        opened.folder(number)


def test_only_the_adapter_imports_a_binding() -> None:
    """Lazily, too: `pictofs --help` works where there is no libfuse."""
    package = Path(__file__).parents[2] / "pictofs"
    importers = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        for line in path.read_text().splitlines()
        if line.strip() in ("import fuse", "import mfusepy")
        or line.strip().startswith(("from fuse ", "from mfusepy "))
    }
    assert importers == {"fs/binding.py"}


def test_handles_that_were_opened_as_different_files_do_not_share_pages() -> None:
    opened = Opened()
    assert not opened.add_file(1, b"/a/x.jpg", 7, writes=False)
    assert not opened.add_file(2, b"/a/x.jpg", 7, writes=True)
    assert opened.add_file(3, b"/a/x.jpg", 8, writes=False)
    assert not opened.add_file(4, b"/a/y.jpg", 8, writes=False)
    opened.renamed(b"/a", b"/b")
    opened.remove_file(1)
    opened.remove_file(3)
    assert opened.add_file(5, b"/b/x.jpg", 9, writes=False)  # 2 is open as 7
    opened.remove_file(2)
    opened.remove_file(5)
    assert not opened.add_file(6, b"/b/x.jpg", 10, writes=False)


def test_pages_are_a_files_until_another_is_opened_there() -> None:
    pages = Pages()
    assert not pages.are_of(b"/a/x.jpg", 1)
    assert pages.are_of(b"/a/x.jpg", 1)
    assert not pages.are_of(b"/a/x.jpg", 2)
    assert not pages.are_of(b"/a/x.jpg", 1)
    pages.are_of(b"/b/x.jpg", 3)
    pages.are_of(b"/b/c/x.jpg", 4)
    pages.are_of(b"/bc/x.jpg", 5)
    pages.renamed(b"/b", b"/a")
    assert not pages.are_of(b"/a/x.jpg", 1)
    assert not pages.are_of(b"/b/c/x.jpg", 4)
    assert pages.are_of(b"/bc/x.jpg", 5)
    pages.renamed(b"/bc/x.jpg", b"/a/y.jpg")
    assert not pages.are_of(b"/bc/x.jpg", 5)


def test_pages_are_remembered_for_so_many_paths() -> None:
    pages = Pages(paths=3)
    for path in (b"/a/1", b"/a/2", b"/b/1", b"/c/1"):
        pages.are_of(path, 1)
    assert pages.are_of(b"/b/1", 1)
    assert pages.are_of(b"/c/1", 1)
    assert not pages.are_of(b"/a/1", 1)
