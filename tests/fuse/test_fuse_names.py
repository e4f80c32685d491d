# ruff: noqa: PTH101, PTH104, PTH118, PTH120, PTH123, PTH108, PTH211 - the kernel's calls, by their own names
"""Listings, look-ups and names on a real mount, through each binding."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_vfs import HOSTILE_NAMES, MANY, STATFS
from served_fake import Drive

pytestmark = pytest.mark.fuse

_AT_FDCWD = -100
_RENAME_NOREPLACE, _RENAME_EXCHANGE, _RENAME_WHITEOUT = 1, 2, 4

_libc = ctypes.CDLL(None, use_errno=True)


def renameat2(old: Path, new: Path, flags: int) -> None:
    if _libc.renameat2(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def raises(number: int) -> pytest.RaisesExc[OSError]:
    return pytest.raises(OSError, match=rf"\[Errno {number}\]")


# --- listings


def test_a_folder_of_10_000_lists_whole_with_sizes_and_inodes(drive: Drive) -> None:
    with os.scandir(drive.root / "many") as entries:
        found = {entry.name: (entry.inode(), entry.is_file(), entry.stat()) for entry in entries}
    assert len(found) == MANY
    for index in range(MANY):
        ino, is_file, status = found[f"image-{index:05}.jpg"]
        assert ino == status.st_ino == (index * 0x9E3779B97F4A7C15 + 1) % (1 << 64)
        assert is_file
        assert status.st_size == index % 7
        assert status.st_mtime_ns == 1_500_000_000_000_000_000 + index
        assert (status.st_mode, status.st_nlink) == (stat.S_IFREG | 0o644, 1)


def test_listing_on_libfuse_3_brings_the_attributes_along(drive: Drive) -> None:
    """READDIRPLUS for every part of the listing: no look-up per name."""
    before = drive.calls("getattr")
    with os.scandir(drive.root / "many") as entries:
        sizes = [entry.stat().st_size for entry in entries]
    assert len(sizes) == MANY
    asked = drive.calls("getattr") - before
    if drive.backend.major == 3:
        assert asked < MANY / 10  # some expire on a slow machine


def test_find_and_ls_agree_with_listdir(drive: Drive, run: Callable[..., str]) -> None:
    found = run("find", drive.root / "many", "-type", "f", "-size", "-2", "-name", "image-*")
    assert found.count("\n") == MANY
    long = run("ls", "-la", drive.root / "many").splitlines()
    assert long[0].startswith("total ")
    assert len(long) == MANY + 3  # total, . and ..


def test_one_listing_is_read_in_two_ways_and_from_the_middle(drive: Drive) -> None:
    """seekdir and rewinddir are offsets into the snapshot that opendir took."""
    fd = os.open(drive.root / "many", os.O_RDONLY | os.O_DIRECTORY)
    try:
        first = os.listdir(fd)
        assert os.listdir(fd) == first  # listdir rewinds
    finally:
        os.close(fd)
    assert len(first) == MANY


def test_dot_and_dotdot_are_listed_with_their_inodes(folder: Path, run: Callable[..., str]) -> None:
    lines = run("ls", "-ia1", folder).split("\n")
    inos = dict(reversed(line.split()) for line in lines if line)
    assert int(inos["."]) == folder.stat().st_ino
    assert int(inos[".."]) == folder.parent.stat().st_ino


def test_folders_count_their_subfolders(folder: Path) -> None:
    (folder / "a").mkdir()
    (folder / "b").mkdir()
    (folder / "c.jpg").touch()
    status = os.stat(folder / ".")
    assert stat.S_ISDIR(status.st_mode)
    fd = os.open(folder, os.O_RDONLY)
    try:
        assert os.fstat(fd).st_nlink in (2, 4)  # 2 as cached from before the two mkdirs
    finally:
        os.close(fd)


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_hostile_name_is_listed_looked_up_and_made(drive: Drive, folder: Path, name: bytes) -> None:
    listed = os.path.join(os.fsencode(drive.root), b"hostile", name)
    assert name in os.listdir(os.path.dirname(listed))
    assert stat.S_ISREG(os.stat(listed).st_mode)
    made = os.path.join(os.fsencode(folder), name)
    with open(made, "wb") as file:
        file.write(name)
    assert os.listdir(os.fsencode(folder)) == [name]
    with open(made, "rb") as file:
        assert file.read() == name
    os.rename(made, made[:-1] + b"_")
    os.unlink(made[:-1] + b"_")
    assert os.listdir(folder) == []


def test_names_that_cannot_be_listed_leave_the_others_alone(drive: Drive) -> None:
    assert sorted(os.listdir(os.fsencode(drive.root / "hostile"))) == sorted(HOSTILE_NAMES)
    assert "5 names cannot be listed" in drive.served.words()


def test_a_missing_name_is_enoent_and_appears_at_once_when_made(folder: Path) -> None:
    path = folder / "later.jpg"
    assert not path.exists()
    path.write_bytes(b"1")
    assert path.exists()


# --- changes of names


def test_rename_replaces(folder: Path) -> None:
    (folder / "a.jpg").write_bytes(b"a")
    (folder / "b.jpg").write_bytes(b"b")
    os.rename(folder / "a.jpg", folder / "b.jpg")
    assert os.listdir(folder) == ["b.jpg"]
    assert (folder / "b.jpg").read_bytes() == b"a"


def test_rename_noreplace_keeps_the_target(drive: Drive, folder: Path) -> None:
    (folder / "a.jpg").write_bytes(b"a")
    (folder / "b.jpg").write_bytes(b"b")
    with raises(errno.EEXIST):
        renameat2(folder / "a.jpg", folder / "b.jpg", _RENAME_NOREPLACE)
    assert (folder / "b.jpg").read_bytes() == b"b"
    if drive.backend.major == 3:
        renameat2(folder / "a.jpg", folder / "c.jpg", _RENAME_NOREPLACE)
        assert (folder / "c.jpg").read_bytes() == b"a"
    else:
        with raises(errno.EINVAL):  # the kernel's own answer for a libfuse that knows no flags
            renameat2(folder / "a.jpg", folder / "c.jpg", _RENAME_NOREPLACE)


@pytest.mark.parametrize("flags", [_RENAME_EXCHANGE, _RENAME_WHITEOUT])
def test_other_rename_flags_are_refused_and_touch_nothing(folder: Path, flags: int) -> None:
    (folder / "a.jpg").write_bytes(b"a")
    (folder / "b.jpg").write_bytes(b"b")
    with raises(errno.EINVAL):
        renameat2(folder / "a.jpg", folder / "b.jpg", flags)
    assert (folder / "a.jpg").read_bytes() == b"a"
    assert (folder / "b.jpg").read_bytes() == b"b"


def test_a_refused_rename_onto_an_open_file_leaves_it_there(folder: Path) -> None:
    """libfuse's default would first move the target away to .fuse_hidden…, and then ask."""
    (folder / "a.jpg").write_bytes(b"a")
    (folder / "precious.jpg").write_bytes(b"p")
    with open(folder / "precious.jpg", "rb") as file:
        with raises(errno.EEXIST):
            os.rename(folder / "a.jpg", folder / "precious.jpg")
        assert file.read() == b"p"
    assert sorted(os.listdir(folder)) == ["a.jpg", "precious.jpg"]


def test_rm_r_of_files_that_were_just_read(folder: Path, run: Callable[..., str]) -> None:
    """RELEASE comes after close has returned; nothing must be left of an "open" file that keeps rmdir out."""
    inner = folder / "inner"
    inner.mkdir()
    for index in range(50):
        (inner / f"{index}.jpg").write_bytes(b"x")
        (inner / f"{index}.jpg").read_bytes()
    run("rm", "-r", inner)
    assert os.listdir(folder) == []


def test_mkdir_rmdir_and_their_errors(folder: Path) -> None:
    (folder / "a").mkdir()
    with raises(errno.EEXIST):
        (folder / "a").mkdir()
    (folder / "a/b.jpg").touch()
    with raises(errno.ENOTEMPTY):
        (folder / "a").rmdir()
    (folder / "a/b.jpg").unlink()
    (folder / "a").rmdir()
    with raises(errno.ENOENT):
        os.listdir(folder / "a")


def test_links_and_devices_are_eperm(folder: Path) -> None:
    (folder / "a.jpg").touch()
    with raises(errno.EPERM):
        os.symlink("a.jpg", folder / "b.jpg")
    with raises(errno.EPERM):
        os.link(folder / "a.jpg", folder / "b.jpg")
    with raises(errno.EPERM):
        os.mkfifo(folder / "b.jpg")
    assert os.listdir(folder) == ["a.jpg"]


# --- attributes


def test_utimens_sets_both_times_to_the_nanosecond(folder: Path) -> None:
    path = folder / "a.jpg"
    path.touch()
    for times in [(1, 2), (-1_500_000_001, -1), (1_700_000_000_123_456_789, 4_000_000_000_999_999_999)]:
        os.utime(path, ns=times)
        status = path.stat()
        assert (status.st_atime_ns, status.st_mtime_ns) == times


def test_touch_sets_one_time_and_leaves_the_other(folder: Path, run: Callable[..., str]) -> None:
    """UTIME_NOW and UTIME_OMIT, which libfuse passes on as numbers."""
    path = folder / "a.jpg"
    path.touch()
    os.utime(path, ns=(1_000_000_000, 2_000_000_000))
    run("touch", "-m", path)
    after_m = path.stat()
    assert after_m.st_atime_ns == 1_000_000_000
    assert after_m.st_mtime_ns > 1_700_000_000_000_000_000
    run("touch", "-a", path)
    after_a = path.stat()
    assert after_a.st_mtime_ns == after_m.st_mtime_ns
    assert after_a.st_atime_ns > 1_700_000_000_000_000_000
    run("touch", "-m", "-d", "@5", path)
    assert path.stat().st_mtime_ns == 5_000_000_000
    assert path.stat().st_atime_ns == after_a.st_atime_ns


def test_chmod_and_chown_are_accepted(drive: Drive, folder: Path) -> None:
    path = folder / "a.jpg"
    path.touch()
    before = drive.calls("chmod"), drive.calls("chown")
    os.chmod(path, 0o600)
    os.chown(path, -1, os.getgid())
    with open(path, "rb") as file:
        os.fchmod(file.fileno(), 0o640)
        os.fchown(file.fileno(), os.getuid(), -1)
    assert (drive.calls("chmod"), drive.calls("chown")) == (before[0] + 2, before[1] + 2)


def test_statfs_passes_the_numbers_on(drive: Drive) -> None:
    found = os.statvfs(drive.root)
    assert (found.f_bsize, found.f_frsize) == (STATFS.block_size, STATFS.block_size)
    assert (found.f_blocks, found.f_bfree, found.f_bavail) == (1_000_000, 250_000, 200_000)
    assert (found.f_files, found.f_ffree) == (777, 555)
    assert found.f_namemax == 255


def test_xattrs(folder: Path) -> None:
    path = folder / "a.jpg"
    path.touch()
    assert os.listxattr(path) == []
    os.setxattr(path, "user.status", b"new")
    os.setxattr(path, "user.empty", b"")
    os.setxattr(path, "user.long", b"\0\xff" * 1000)
    assert sorted(os.listxattr(path)) == ["user.empty", "user.long", "user.status"]
    assert os.getxattr(path, "user.status") == b"new"
    assert os.getxattr(path, "user.empty") == b""
    assert os.getxattr(path, "user.long") == b"\0\xff" * 1000
    with raises(errno.EEXIST):
        os.setxattr(path, "user.status", b"x", os.XATTR_CREATE)
    with raises(errno.ENODATA):
        os.setxattr(path, "user.other", b"x", os.XATTR_REPLACE)
    os.removexattr(path, "user.status")
    with raises(errno.ENODATA):
        os.getxattr(path, "user.status")
    with raises(errno.ENODATA):
        os.removexattr(path, "user.status")
    with raises(errno.ENOTSUP):
        os.getxattr(path, "security.capability")


def test_ls_asks_for_no_attributes_of_each_file(drive: Drive, folder: Path, run: Callable[..., str]) -> None:
    for number in range(50):
        (folder / f"{number}.jpg").touch()
    before = drive.calls("getxattr")
    assert len(run("ls", "-l", folder).splitlines()) == 51
    assert drive.calls("getxattr") == before


def test_an_xattr_that_does_not_fit_is_erange(folder: Path) -> None:
    path = folder / "a.jpg"
    path.touch()
    os.setxattr(path, "user.long", b"x" * 100)
    room = ctypes.create_string_buffer(99)
    for call in (
        lambda size: _libc.getxattr(os.fsencode(path), b"user.long", room, size),
        lambda size: _libc.listxattr(os.fsencode(path), room, size),
    ):
        assert call(0) in (100, len("user.long") + 1)
        assert call(5) == -1
        assert ctypes.get_errno() == errno.ERANGE
