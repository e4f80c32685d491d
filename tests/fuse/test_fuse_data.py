# ruff: noqa: PTH104, PTH123 - the kernel's calls, by their own names
"""Reading and writing on a real mount, through each binding."""

from __future__ import annotations

import errno
import fcntl
import filecmp
import mmap
import os
import random
import shutil
import subprocess
import tarfile
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_vfs import MAX_FILE_BYTES
from mounts import wait_until
from served_fake import Drive, MountIt

pytestmark = pytest.mark.fuse

# Not a multiple of anything, and more than one write on either libfuse.
_SIZE_BYTES = 3 * 1024 * 1024 + 12_345


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sample") / "sample.bin"
    path.write_bytes(random.Random(1).randbytes(_SIZE_BYTES))
    return path


def raises(number: int) -> pytest.RaisesExc[OSError]:
    return pytest.raises(OSError, match=rf"\[Errno {number}\]")


# --- programs


def test_cp_in_and_out_is_byte_identical(
    folder: Path, sample: Path, tmp_path: Path, run: Callable[..., str]
) -> None:
    run("cp", "-p", sample, folder / "in.jpg")
    run("cp", folder / "in.jpg", folder / "within.jpg")
    run("cp", folder / "within.jpg", tmp_path / "out.jpg")
    assert filecmp.cmp(sample, tmp_path / "out.jpg", shallow=False)
    assert (folder / "in.jpg").stat().st_mtime_ns == sample.stat().st_mtime_ns


def test_copy_file_range_is_asked_for_and_else_the_kernel_reads_and_writes(
    drive: Drive, folder: Path, sample: Path
) -> None:
    shutil.copy(sample, folder / "in.jpg")
    writes, copies = drive.calls("write"), drive.calls("copy_range")
    with (folder / "in.jpg").open("rb") as source, (folder / "whole.jpg").open("xb") as target:
        copied = 0
        while part := os.copy_file_range(source.fileno(), target.fileno(), 1 << 62):
            copied += part
        assert copied == os.fstat(target.fileno()).st_size == _SIZE_BYTES
    assert filecmp.cmp(sample, folder / "whole.jpg", shallow=False)
    is_asked = drive.backend.major == 3
    assert (drive.calls("copy_range") > copies) == (drive.calls("write") == writes) == is_asked
    for _ in range(2):  # refused once, it is asked again
        before = drive.calls("copy_range")
        with (folder / "in.jpg").open("rb") as source, (folder / "part.jpg").open("wb") as target:
            assert os.copy_file_range(source.fileno(), target.fileno(), 5000, 100) == 5000
        assert (folder / "part.jpg").read_bytes() == sample.read_bytes()[100:5100]
        assert (drive.calls("copy_range") > before) == is_asked


def test_dd_conv_fsync(drive: Drive, folder: Path, sample: Path, run: Callable[..., str]) -> None:
    before = drive.calls("fsync")
    run("dd", f"if={sample}", f"of={folder / 'a.jpg'}", "bs=64k", "conv=fsync", "status=none")
    assert filecmp.cmp(sample, folder / "a.jpg", shallow=False)
    assert drive.calls("fsync") == before + 1


def test_shutil_copy2(folder: Path, sample: Path) -> None:
    os.setxattr(sample, "user.note", b"kept")
    shutil.copy2(sample, folder / "a.jpg")
    assert filecmp.cmp(sample, folder / "a.jpg", shallow=False)
    assert (folder / "a.jpg").stat().st_mtime_ns == sample.stat().st_mtime_ns
    assert os.getxattr(folder / "a.jpg", "user.note") == b"kept"


def test_tar_in_and_out(folder: Path, sample: Path, tmp_path: Path, run: Callable[..., str]) -> None:
    with tarfile.open(tmp_path / "in.tar", "w") as archive:
        for name in ("a.jpg", "deep/er/b.jpg"):
            archive.add(sample, name)
    run("tar", "xf", tmp_path / "in.tar", "-C", folder)
    assert filecmp.cmp(sample, folder / "deep/er/b.jpg", shallow=False)
    run("tar", "cf", tmp_path / "out.tar", "-C", folder, ".")
    with tarfile.open(tmp_path / "out.tar") as archive:
        member = archive.extractfile("./deep/er/b.jpg")
        assert member is not None
        assert member.read() == sample.read_bytes()


def test_cp_reports_what_close_says(drive: Drive, folder: Path, sample: Path) -> None:
    with drive.fault("flush", "PaymentRequiredError"):
        done = subprocess.run(["cp", sample, folder / "a.jpg"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert os.strerror(errno.EDQUOT) in done.stderr


# --- system calls


def test_rewriting_with_o_trunc_leaves_no_old_bytes(drive: Drive, folder: Path) -> None:
    path = folder / "a.jpg"
    path.write_bytes(b"long old content")
    path.write_bytes(b"new")  # the name is known: open, not create
    assert path.read_bytes() == b"new"
    with open(path, "r+b") as file:
        assert not drive.ask("state")["last_flags"] & os.O_TRUNC
        file.write(b"N")
    assert path.read_bytes() == b"New"
    os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))
    assert path.stat().st_size == 0
    assert drive.ask("state")["last_flags"] & os.O_TRUNC


def test_o_excl(drive: Drive, folder: Path) -> None:
    path = folder / "a.jpg"
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
    assert drive.ask("state")["last_flags"] & os.O_EXCL
    with raises(errno.EEXIST):
        os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)


def test_appending(folder: Path) -> None:
    path = folder / "a.jpg"
    for part in (b"one", b"two", b"three"):
        with open(path, "ab") as file:
            file.write(part)
    assert path.read_bytes() == b"onetwothree"


def test_writing_in_the_middle_and_past_the_end(folder: Path) -> None:
    path = folder / "a.jpg"
    path.write_bytes(b"0123456789")
    fd = os.open(path, os.O_RDWR)
    try:
        os.pwrite(fd, b"ab", 3)
        os.pwrite(fd, b"z", 300_000)
        assert os.pread(fd, 10, 0) == b"012ab56789"
        assert os.pread(fd, 1 << 20, 299_990) == bytes(10) + b"z"
    finally:
        os.close(fd)


def test_ftruncate_carries_the_handle(drive: Drive, folder: Path) -> None:
    before = drive.calls("ftruncate")
    with open(folder / "a.jpg", "w+b") as file:
        file.write(b"0123456789")
        file.flush()
        os.ftruncate(file.fileno(), 4)
        assert os.fstat(file.fileno()).st_size == 4
        os.ftruncate(file.fileno(), 6)
    assert drive.calls("ftruncate") == before + 2
    assert (folder / "a.jpg").read_bytes() == b"0123\0\0"
    os.truncate(folder / "a.jpg", 2)
    assert (folder / "a.jpg").read_bytes() == b"01"


def test_too_large_is_efbig_at_the_call_that_passes_the_limit(folder: Path) -> None:
    with open(folder / "a.jpg", "wb", buffering=0) as file:
        os.ftruncate(file.fileno(), MAX_FILE_BYTES)
        with raises(errno.EFBIG):
            os.pwrite(file.fileno(), b"x", MAX_FILE_BYTES)
        with raises(errno.EFBIG):
            os.ftruncate(file.fileno(), MAX_FILE_BYTES + 1)


def test_mmap(folder: Path, sample: Path) -> None:
    shutil.copyfile(sample, folder / "a.jpg")
    with (
        open(folder / "a.jpg", "rb") as file,
        mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped,
    ):
        assert mapped[:] == sample.read_bytes()


def test_what_the_kernel_answers_itself(folder: Path) -> None:
    """No callbacks for these, on purpose."""
    with open(folder / "a.jpg", "w+b") as file:
        with raises(errno.ENOTTY):
            fcntl.ioctl(file, termios.TIOCGWINSZ, b"\0" * 8)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.posix_fallocate(file.fileno(), 0, 10_000)  # glibc writes the bytes instead
        assert os.lseek(file.fileno(), 0, os.SEEK_HOLE) == 10_000
        assert os.access(folder / "a.jpg", os.R_OK | os.W_OK)
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def test_one_write_is_one_call(drive: Drive, folder: Path) -> None:
    """128 KiB at least, also from a Python file object, which asks stat for the size of its buffer."""
    before = drive.calls("write")
    with open(folder / "a.jpg", "wb") as file:
        for _ in range(64):
            file.write(b"x" * 16_384)
    assert drive.calls("write") - before <= 1024 * 1024 // (128 * 1024) + 1


# --- removed and replaced while open


def test_unlink_while_open(drive: Drive, folder: Path) -> None:
    path = folder / "a.jpg"
    path.write_bytes(b"0123456789")
    with open(path, "r+b", buffering=0) as file:
        path.unlink()
        assert os.listdir(folder) == []  # nor a .fuse_hidden…
        assert os.pread(file.fileno(), 4, 0) == b"0123"
        assert os.pwrite(file.fileno(), b"ab", 0) == 2
        assert os.pread(file.fileno(), 4, 0) == b"ab23"
        os.fsync(file.fileno())
        path.write_bytes(b"another")  # of the same name
        assert os.pread(file.fileno(), 4, 0) == b"ab23"
    assert path.read_bytes() == b"another"


def test_rename_over_an_open_file(folder: Path) -> None:
    (folder / "a.jpg").write_bytes(b"old")
    (folder / "b.jpg").write_bytes(b"new")
    with open(folder / "a.jpg", "rb", buffering=0) as file:
        os.rename(folder / "b.jpg", folder / "a.jpg")
        assert (folder / "a.jpg").read_bytes() == b"new"
        assert os.pread(file.fileno(), 3, 0) == b"old"
    assert os.listdir(folder) == ["a.jpg"]


def test_renamed_while_open(folder: Path) -> None:
    with open(folder / "a.jpg", "w+b", buffering=0) as file:
        file.write(b"one")
        os.rename(folder / "a.jpg", folder / "b.jpg")
        file.write(b"two")
        os.ftruncate(file.fileno(), 5)
        assert os.fstat(file.fileno()).st_size == 5
    assert (folder / "b.jpg").read_bytes() == b"onetw"


def test_a_removed_file_once_its_attributes_have_expired(mount_it: MountIt) -> None:
    """What `hard_remove` costs, see `fs/fuse`: the kernel asks for attributes, by a path that is gone."""
    with mount_it("--options", '{"attr_timeout_s": 0}') as drive:
        path = drive.root / "a.jpg"
        path.write_bytes(b"0123456789")
        fd = os.open(path, os.O_RDWR)
        try:
            path.unlink()
            assert os.pread(fd, 4, 2) == b"2345"
            assert os.pwrite(fd, b"ab", 0) == 2
            with pytest.raises(OSError, match=rf"\[Errno ({errno.ENOENT}|{errno.ESTALE})\]"):
                os.fstat(fd)
            assert os.pread(fd, 100, 0) == b"ab23456789"
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            assert os.pread(fd, 100, 0) == b"ab23456789"
            os.ftruncate(fd, 3)
            assert os.pread(fd, 100, 0) == b"ab2"
        finally:
            os.close(fd)


# --- the kernel's caches


@pytest.mark.parametrize("still_open", [False, True])
def test_a_listing_older_than_a_write_does_not_undo_its_size(folder: Path, still_open: bool) -> None:
    """READDIRPLUS carries attributes from when the folder was opened."""
    path = folder / "a.jpg"
    path.write_bytes(b"")
    with (
        os.scandir(folder) as entries,
        path.open("ab", buffering=0) as file,
    ):  # opens the folder, reads nothing
        file.write(b"0123456789")
        if not still_open:
            file.close()
        assert [entry.name for entry in entries] == ["a.jpg"]
        assert path.stat().st_size == 10
        assert path.read_bytes() == b"0123456789"
        if still_open:
            file.write(b"more")
            assert path.read_bytes() == b"0123456789more"


def test_a_listing_older_than_a_change_of_names_brings_nothing_back(folder: Path) -> None:
    for name in ("removed.jpg", "renamed.jpg", "cut.jpg"):
        (folder / name).write_bytes(b"0123456789")
    with os.scandir(folder) as entries:
        (folder / "removed.jpg").unlink()
        (folder / "renamed.jpg").rename(folder / "new.jpg")
        os.truncate(folder / "cut.jpg", 3)
        assert len(list(entries)) == 3
    assert not (folder / "removed.jpg").exists()
    assert not (folder / "renamed.jpg").exists()
    assert (folder / "cut.jpg").read_bytes() == b"012"


def test_what_one_descriptor_appends_another_reads(folder: Path) -> None:
    path = folder / "a.jpg"
    with open(path, "wb", buffering=0) as writer, open(path, "rb", buffering=0) as reader:
        writer.write(b"x" * 1000)
        assert reader.read() == b"x" * 1000
        writer.write(b"y" * 5000)
        assert reader.read() == b"y" * 5000
        assert path.stat().st_size == 6000


def test_a_file_read_again_comes_from_the_page_cache(drive: Drive, folder: Path, sample: Path) -> None:
    path = folder / "a.jpg"
    shutil.copyfile(sample, path)
    path.read_bytes()  # with the attributes from before it was written, libfuse forgets the pages once more
    path.read_bytes()
    before = drive.calls("read")
    path.read_bytes()
    assert drive.calls("read") - before <= 1  # one may ask for the bytes after the last


def test_a_change_behind_the_kernel_shows_when_the_attributes_expire(drive: Drive, folder: Path) -> None:
    """Longer, shorter, or of the same length: never a mixture, never the old length."""
    path = folder / "a.jpg"
    path.write_text("first")
    assert path.read_text() == "first"
    for text in ("a longer text than that", "short", "other"):
        drive.ask("replace", path=f"/{folder.name}/a.jpg", text=text)
        wait_until(lambda wanted=text: path.read_text() == wanted, f"{text!r} is read", 10)
        assert path.stat().st_size == len(text)


def test_a_name_that_is_another_file_now_never_reads_as_the_old_one(drive: Drive, folder: Path) -> None:
    """Of the same length and time, opened within the second in which the kernel asks for no attributes."""
    path = folder / "a.jpg"
    path.write_text("first")
    for text in ("other", "third", "forth"):
        path.read_text()
        drive.ask("swap", path=f"/{folder.name}/a.jpg", text=text)
        assert path.read_text() == text


def test_a_change_behind_a_read_only_mount(mount_it: MountIt) -> None:
    with mount_it("--options", '{"ro": true, "attr_timeout_s": 0}') as drive:
        path = drive.root / "many" / "image-00000.jpg"
        for text in ("first", "a longer text than that", "short", "other"):
            drive.ask("replace", path="/many/image-00000.jpg", text=text)
            assert [path.read_text() for _ in range(3)] == [text] * 3


def test_a_name_that_was_moved_away_and_used_again_reads_as_what_it_is(drive: Drive, folder: Path) -> None:
    for place in ("a", "b"):
        (folder / place).mkdir()
        (folder / place / "x.jpg").write_text(place * 5)
        assert (folder / place / "x.jpg").read_text() == place * 5
    (folder / "a").rename(folder / "c")
    (folder / "b").rename(folder / "a")
    assert (folder / "a" / "x.jpg").read_text() == "b" * 5
    assert (folder / "c" / "x.jpg").read_text() == "a" * 5
    (folder / "c" / "x.jpg").rename(folder / "a" / "x.jpg")
    assert (folder / "a" / "x.jpg").read_text() == "a" * 5


@pytest.fixture(scope="module")
def trusting_drive(mount_it: MountIt) -> Iterator[Drive]:
    """A drive whose kernel believes what it knows for an hour."""
    with mount_it("--options", '{"attr_timeout_s": 3600, "entry_timeout_s": 3600}') as drive:
        yield drive


def test_the_kernel_forgets_at_once_what_it_is_told_to(trusting_drive: Drive) -> None:
    drive = trusting_drive
    folder = drive.root / "folder"
    folder.mkdir()
    for name in ("longer.jpg", "gone.jpg", "open.jpg", "caf\udce9.jpg"):
        (folder / name).write_text("first")
        assert (folder / name).read_text() == "first"
        (folder / name).stat()  # a read makes the kernel ask for the access time
    with (folder / "open.jpg").open() as reader:
        assert reader.read() == "first"
        drive.ask("swap", path="/folder/longer.jpg", text="a longer text")
        drive.ask("vanish", path="/folder/gone.jpg")
        drive.ask("swap", path="/folder/open.jpg", text="a longer text")
        assert (folder / "longer.jpg").stat().st_size == 5  # believed
        assert (folder / "gone.jpg").exists()
        paths = [
            "folder/longer.jpg",
            "folder/gone.jpg",
            "folder/open.jpg",
            "folder/caf\udce9.jpg",
            "no/where",
        ]
        assert drive.ask("forget", paths=paths) is True
        if drive.backend.major == 2:
            return  # libfuse 2 cannot: there it takes as long as attributes are believed
        assert (folder / "longer.jpg").stat().st_size == len("a longer text")
        assert (folder / "longer.jpg").read_text() == "a longer text"
        assert not (folder / "gone.jpg").exists()
        assert (folder / "open.jpg").read_text() == "a longer text"
        reader.seek(0)
        assert reader.read() == "first"  # its own file, which others see no longer
