"""Reading without opening on a read-only mount, and whose handles are kept how long."""

from __future__ import annotations

import errno
import itertools
import mmap
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fake_vfs import FakeVfs
from mounts import wait_until
from served_fake import BACKENDS, Drive, MountIt

from pictofs.fs.unopened import LINGER_S, MAX_IDLE, Unopened

LONG = "".join(f"{number:09}\n" for number in range(60_000))  # 600 KB: more than the kernel reads ahead
OTHER = LONG.replace("\n", "!")[:-20]
_numbers = itertools.count()

on_libfuse_3 = pytest.mark.parametrize(
    "backend", [b for b in BACKENDS if b.major == 3], indirect=True, ids=lambda b: f"{b.binding}-libfuse3"
)
"""On 2 the kernel would keep pages that are no longer true; its files are opened."""


@pytest.fixture(scope="module")
def read_only(mount_it: MountIt) -> Iterator[Drive]:
    with mount_it("--options", '{"ro": true, "attr_timeout_s": 0, "entry_timeout_s": 0}') as drive:
        yield drive


@pytest.fixture
def path(read_only: Drive) -> Path:
    """A file of the test's own, with `LONG` in it."""
    name = f"image-{next(_numbers):05}.jpg"
    read_only.ask("replace", path=f"/many/{name}", text=LONG)
    return read_only.root / "many" / name


# --- mounted


@pytest.mark.fuse
@on_libfuse_3
def test_what_the_kernel_has_is_read_without_a_call(mount_it: MountIt) -> None:
    with mount_it("--options", '{"ro": true, "attr_timeout_s": 60, "entry_timeout_s": 60}') as drive:
        texts = {drive.root / "many" / f"image-{n:05}.jpg": f"{n:09}" * 1000 for n in range(20)}
        for path, text in texts.items():
            drive.ask("replace", path=f"/many/{path.name}", text=text)
        assert [path.read_text() for path in texts] == list(texts.values())
        before = drive.ask("state")["calls"]
        assert before["open"] == 20
        assert [path.read_text() for path in texts] == list(texts.values())
        assert drive.ask("state")["calls"] == before
        assert "flush" not in before


@pytest.mark.fuse
@on_libfuse_3
def test_reading_as_programs_do(read_only: Drive, path: Path) -> None:
    with path.open("rb", buffering=0) as file:
        assert os.fstat(file.fileno()).st_size == len(LONG)
        assert os.pread(file.fileno(), 10, 599_990) == LONG[599_990:].encode()
        assert os.pread(file.fileno(), 10, 600_000) == b""
        os.fsync(file.fileno())
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            assert mapped[:] == LONG.encode()
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: path.read_text(), range(16))) == {LONG}


@pytest.mark.fuse
@on_libfuse_3
def test_nothing_can_be_changed(read_only: Drive, path: Path) -> None:
    for change in (
        lambda: os.open(path, os.O_WRONLY),
        lambda: os.open(path, os.O_RDWR | os.O_TRUNC),
        lambda: os.open(path.with_name("new.jpg"), os.O_WRONLY | os.O_CREAT),
        lambda: os.truncate(path, 0),
        lambda: os.utime(path),
        path.unlink,
        lambda: path.rename(path.with_name("moved.jpg")),
        lambda: path.with_name("folder").mkdir(),
    ):
        with pytest.raises(OSError, match=rf"\[Errno {errno.EROFS}\]"):
            change()
    assert path.read_text() == LONG


@pytest.mark.fuse
@on_libfuse_3
def test_a_file_replaced_while_it_is_read_is_stale_not_a_mixture(read_only: Drive, path: Path) -> None:
    with path.open("rb", buffering=0) as file:
        assert file.read(10) == LONG[:10].encode()
        read_only.ask("swap", path=f"/many/{path.name}", text=OTHER)
        with pytest.raises(OSError, match=rf"\[Errno {errno.ESTALE}\]"):
            os.pread(file.fileno(), 10, 500_000)
        assert path.read_text() == OTHER
    assert path.read_text() == OTHER


@pytest.mark.fuse
@on_libfuse_3
def test_a_file_that_vanishes_while_it_is_read(read_only: Drive, path: Path) -> None:
    with path.open("rb", buffering=0) as file:
        assert file.read(10) == LONG[:10].encode()
        read_only.ask("vanish", path=f"/many/{path.name}")
        with pytest.raises(OSError, match=rf"\[Errno ({errno.ENOENT}|{errno.ESTALE})\]"):
            os.pread(file.fileno(), 10, 500_000)
    with pytest.raises(FileNotFoundError):
        path.open()


@pytest.mark.fuse
@on_libfuse_3
def test_after_an_error_the_file_is_opened_anew(read_only: Drive, path: Path) -> None:
    before = read_only.calls("open")
    with path.open("rb", buffering=0) as file:
        with read_only.fault("read", "NetworkError"), pytest.raises(OSError, match=rf"\[Errno {errno.EIO}\]"):
            file.read(10)
        failed = read_only.calls("open")
        assert failed > before
        assert file.read(10) == LONG[:10].encode()
        assert read_only.calls("open") == failed + 1


# --- handles


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Files:
    """A `FakeVfs` whose files are read through `unopened`."""

    def __init__(self) -> None:
        self.vfs = FakeVfs()
        self.clock = Clock()
        self.unopened = Unopened(self.vfs, clock=self.clock)

    def path(self, name: str, text: str = "") -> str:
        self.vfs.release(self.vfs.create(f"/{name}", 0o644, os.O_WRONLY))
        self.vfs.command_replace(f"/{name}", text)
        return f"/{name}"

    def read(self, path: str, offset: int = 0) -> bytes:
        """One byte."""
        with self.unopened.handle(path, offset, 1) as handle:
            buffer = bytearray(1)
            return bytes(buffer[: self.vfs.read_into(handle, memoryview(buffer), offset, lambda: False)])

    @property
    def open_files(self) -> int:
        return int(self.vfs.command_state()["open_files"])


@pytest.fixture
def files() -> Files:
    return Files()


def test_a_handle_stays_while_it_is_used_and_a_little_longer(files: Files) -> None:
    path = files.path("a.jpg", "abc")
    assert files.read(path) == b"a"
    files.clock.now += LINGER_S - 1
    assert files.unopened.tidy()
    assert files.read(path, 1) == b"b"
    assert files.vfs.calls["open"] == 1
    files.clock.now += LINGER_S - 1
    assert files.unopened.tidy()
    with files.unopened.handle(path, 1, 1):
        files.clock.now += 2 * LINGER_S
        assert files.unopened.tidy()
        assert files.open_files == 1
    files.clock.now += LINGER_S
    assert not files.unopened.tidy()
    assert files.open_files == 0


def test_whose_end_was_read_is_released_when_its_last_read_ends(files: Files) -> None:
    path = files.path("a.jpg", "abc")
    with files.unopened.handle(path, 0, 1):
        assert files.read(path, 2) == b"c"
        assert files.open_files == 1
    assert files.open_files == 0
    assert files.read(path) == b"a"
    assert files.vfs.calls["open"] == 2


def test_tidying_begins_by_itself(files: Files) -> None:
    files.read(files.path("a.jpg", "abc"))
    files.clock.now += LINGER_S
    wait_until(lambda: files.open_files == 0, "the handle is released")
    files.read("/a.jpg")
    files.clock.now += LINGER_S
    wait_until(lambda: files.open_files == 0, "it is once more")


def test_of_many_paths_those_read_last_are_kept(files: Files) -> None:
    paths = [files.path(f"{number}.jpg", "abc") for number in range(MAX_IDLE + 10)]
    with files.unopened.handle(paths[0], 0, 1):
        for path in paths:
            files.read(path)
        assert files.open_files == MAX_IDLE
        opens = files.vfs.calls["open"]
        for path in (paths[0], *paths[-MAX_IDLE + 1 :]):
            files.read(path)
        assert files.vfs.calls["open"] == opens
        files.read(paths[1])
        assert files.vfs.calls["open"] == opens + 1


def test_a_file_in_the_place_of_another_waits_for_a_reader_that_begins(files: Files) -> None:
    path = files.path("a.jpg", "old")
    with files.unopened.handle(path, 0, 1) as old:
        files.vfs.command_swap(path, "new text")
        with pytest.raises(OSError, match="not the file any more") as stale:
            files.read(path, 1)
        assert stale.value.errno == errno.ESTALE
        assert files.read(path) == b"n"
        assert files.read(path, 4) == b"t"
        buffer = bytearray(3)
        assert files.vfs.read_into(old, memoryview(buffer), 0, lambda: False) == 3
        assert buffer == b"old"
        assert files.open_files == 2
    assert files.open_files == 1


def test_what_was_read_to_its_end_is_not_gone_on_with_in_another_file(files: Files) -> None:
    """The kernel may have had the beginning, and lost the rest."""
    path = files.path("a.jpg", "old")
    assert [files.read(path, offset) for offset in range(3)] == [b"o", b"l", b"d"]
    files.clock.now += 1000
    files.vfs.command_swap(path, "new")
    for _ in range(3):
        files.clock.now += LINGER_S / 4
        with pytest.raises(OSError, match="not the file any more"):
            files.read(path, 1)
    files.clock.now += LINGER_S / 2
    assert files.read(path, 1) == b"e"  # whoever it is, it has waited long enough
    assert files.read(path, 2) == b"w"
    files.vfs.command_swap(path, "NEW")
    assert files.read(path, 0) == b"N"
    assert files.read(path, 2) == b"W"


def test_reads_that_open_at_the_same_time_share_one_handle(files: Files) -> None:
    path = files.path("slow.jpg", "abc")
    files.vfs.gate.clear()
    both = threading.Barrier(2)

    def read(_: int) -> bytes:
        with files.unopened.handle(path, 0, 1):
            both.wait(30)
            return files.read(path, 1)

    with ThreadPoolExecutor(2) as pool:
        reads = [pool.submit(read, number) for number in range(2)]
        wait_until(lambda: files.vfs.waiting == 2, "both are opening")
        files.vfs.gate.set()
        assert [read.result(30) for read in reads] == [b"b", b"b"]
    assert files.open_files == 1
