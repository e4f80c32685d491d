"""The machine: random lives of a drive beside a disk that is what the drive should look like.

Each step asks both for the same and compares: result or errno, then all names and sizes. `model_differences`
says where they may differ. The official SDK changes the same datasets meanwhile; what it changed is compared
again once the drive had to look (`catch_up`). `settle` is `pictofs wait`, and then the witness is asked: each
closed image is there once, byte-identical, nothing else is, and no image that ever was is gone for good.

What a step draws never depends on what happened, since whether a file is uploaded by now is timing.
"""

from __future__ import annotations

import errno
import itertools
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mounts
import pictograph
from drives import picture
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from model_differences import Thing, verdict
from model_disks import Disk, contents, tree
from model_worlds import World

from pictofs.namespace import is_working_name

FOLDERS = ("", "", "", "/x", "/x", "/x", "/y", "/x/z")
NAMES = (*("1.jpg",) * 5, *("2.jpg",) * 4, *("w.part",) * 2, "note.txt")
TIMES_NS = (1_000_000_000_123_456_789, 1_500_000_000_000_000_000)
SLOTS = 2
NOTHING = frozenset({Thing.NOTHING})
FOLDER = frozenset({Thing.FOLDER})
LOCAL_ONLY = frozenset({Thing.LOCAL})
IMAGE_ONLY = frozenset({Thing.IMAGE})
EITHER = frozenset({Thing.LOCAL, Thing.IMAGE})

_numbers = itertools.count(1)  # pictures and examples: one drive serves many examples

folders = st.tuples(st.sampled_from((0, 0, 0, 1)), st.sampled_from(FOLDERS))
files = st.tuples(folders, st.sampled_from(NAMES)).map(lambda p: (p[0][0], f"{p[0][1]}/{p[1]}"))
anything = files | folders
whats = st.sampled_from(("picture", "picture", "picture", "empty", "broken", "cut"))
slots = st.integers(0, SLOTS - 1)


@dataclass(eq=False)
class Inode:
    """What is known of a file beside its bytes.

    Attributes:
        things: what it may be on the drive by now.
        committed: its bytes at the last close, None before the first: what survives a kill.
        versions: all that it was at a close: while the last cannot be uploaded, an earlier one may be there.
        mtime_ns: the time a program set, None when the clock did.
        settled: not moved since the last settle, so another client finds it where the model has it.
    """

    things: frozenset[Thing] = LOCAL_ONLY
    committed: bytes | None = None
    versions: set[bytes] = field(default_factory=set)
    mtime_ns: int | None = None
    settled: bool = False

    def commit(self, data: bytes) -> None:
        """It was closed with these bytes."""
        self.committed = data
        self.versions.add(data)


@dataclass(eq=False)
class Slot:
    """A file held open on both disks."""

    handles: tuple[Any, Any]
    inode: Inode
    writable: bool


@dataclass(frozen=True)
class Outcome:
    """What a call gave: a result, or an errno."""

    result: Any = None
    errno: int = 0

    def __str__(self) -> str:
        return errno.errorcode[self.errno] if self.errno else "ok"


def _attempt(run: Callable[[Disk], Any], disk: Disk) -> Outcome:
    try:
        return Outcome(run(disk))
    except OSError as error:
        return Outcome(errno=error.errno or errno.EIO)


class Machine(RuleBasedStateMachine):
    """One life, in two datasets of its own. `restarts` is how often the drive may be ended."""

    def __init__(self, world: World, oracle: Disk, *, restarts: int) -> None:
        super().__init__()
        self.world = world
        self.oracle = oracle
        self.restarts = restarts
        tag = f"m{next(_numbers)}"
        self.tag = f"/{tag}"
        self.datasets = [f"/{tag}a", f"/{tag}b"]
        self.inodes: dict[str, Inode] = {}
        self.slots: list[Slot | None] = [None] * SLOTS
        self.stale: set[str] = set()
        self.pictures: set[bytes] = set()
        self.broken: set[bytes] = {b""}
        self.copied: set[bytes] = set()  # what may be there more than once
        self.ever: dict[str, bytes] = {}  # image id → its bytes
        self.is_quiet = True  # nothing was begun since the last settle
        self.story: list[str] = []

    # The two disks, side by side

    def both(
        self, name: str, path: str, run: Callable[[Disk], Any], new: str = "", *, note: str = ""
    ) -> tuple[Any, Any] | None:
        """Do something on both; their results, or None when it was refused, as it should be."""
        if self.is_stale(path) or (new and self.is_stale(new)):
            self.catch_up()
        allowed = verdict(
            name,
            path,
            self.things(path),
            new,
            self.things(new) if new else (Thing.NOTHING,),
            is_busy=not self.is_quiet or any(self.slots) or self.has_local_below(path),
        )
        got = _attempt(run, self.world.disk)
        self.tell(f"{name} {path} {new} {note}: {got}")
        if got.errno and got.errno in allowed.errnos:
            return None
        want = _attempt(run, self.oracle)
        assert got.errno == want.errno, self.words(f"{got}, but a local disk says {want}")
        assert got.errno or not allowed.certain, self.words(f"{got}, but the table says {allowed.errnos}")
        return None if got.errno else (got.result, want.result)

    def things(self, path: str) -> frozenset[Thing]:
        if path in self.inodes:
            return self.inodes[path].things
        try:
            self.oracle.stat(path)
        except OSError:
            return NOTHING
        return FOLDER

    def has_local_below(self, path: str) -> bool:
        return any(
            Thing.LOCAL in inode.things for below, inode in self.inodes.items() if below.startswith(path)
        )

    def is_stale(self, path: str) -> bool:
        return any(stale == path or stale.startswith(f"{path}/") for stale in self.stale)

    def trees(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Names, kinds, sizes and set times on both, less what another client changed."""
        mine, theirs = (
            {
                path: (about.is_folder, about.size_bytes, self.set_time(path) and about.mtime_ns)
                for path, about in tree(disk, self.datasets).items()
                if path not in self.stale
            }
            for disk in (self.world.disk, self.oracle)
        )
        return mine, theirs

    def set_time(self, path: str) -> int | None:
        return self.inodes[path].mtime_ns if path in self.inodes else None

    def catch_up(self) -> None:
        """See what the other client did: refresh; the kernel may remember a name for a second more."""
        touched = set(self.stale)
        self.stale.clear()
        self.world.refresh()

        def is_same() -> bool:
            mine, theirs = self.trees()
            return mine == theirs and all(
                _attempt(stat, self.world.disk).errno == _attempt(stat, self.oracle).errno for stat in stats
            )

        stats = [lambda disk, path=path: disk.stat(path) for path in touched]

        try:
            mounts.wait_until(is_same, "the drive shows what is there", 5.0)
        except AssertionError:
            mine, theirs = self.trees()
            assert mine == theirs, self.words("after a refresh")

    def path(self, place: tuple[int, str]) -> str:
        return self.datasets[place[0]] + place[1]

    def bytes_of(self, what: str) -> bytes:
        """Bytes like no others, but for the empty ones."""
        number = next(_numbers)
        data = picture(number)
        data = {"picture": data, "empty": b"", "broken": b"no picture %d" % number, "cut": data[:-10]}[what]
        (self.pictures if what == "picture" else self.broken).add(data)
        return data

    def tell(self, line: str) -> None:
        self.story.append(line)

    def words(self, what: str) -> str:
        return "\n".join([*self.story, f"→ {what}", self.world.log()[-4000:]])

    # What becomes of a file

    def changed(self, path: str, inode: Inode, *, closed: bool) -> None:
        """Its bytes have changed, and were handed over if it was `closed`."""
        self.is_quiet = False
        data = contents(self.oracle, path)
        inode.mtime_ns = None
        inode.things = EITHER if self.may_go_up(path, data) else LOCAL_ONLY
        if closed:
            inode.commit(data)

    def may_go_up(self, path: str, data: bytes) -> bool:
        """Whether it is uploaded; of bytes that were put together from others the drive may think either."""
        return not is_working_name(path.rpartition("/")[2]) and data not in self.broken

    # Files

    @initialize()
    def begin(self) -> None:
        for folder in (*self.datasets, f"{self.datasets[0]}/x", f"{self.datasets[1]}/x"):
            self.both("mkdir", folder, lambda disk, folder=folder: disk.mkdir(folder))
        for place in ((0, "/1.jpg"), (0, "/2.jpg"), (0, "/x/1.jpg"), (1, "/1.jpg")):
            self.write(place, "picture", os.O_EXCL)

    @rule(place=files, what=whats, flags=st.sampled_from((os.O_TRUNC, os.O_TRUNC, os.O_EXCL)))
    def write(self, place: tuple[int, str], what: str, flags: int) -> None:
        path, data = self.path(place), self.bytes_of(what)

        def run(disk: Disk) -> None:
            handle = disk.open(path, os.O_WRONLY | os.O_CREAT | flags)
            try:
                disk.write(handle, data, 0)
            finally:
                disk.close(handle)

        if self.both("write", path, run, note=what):
            self.changed(path, self.inodes.setdefault(path, Inode()), closed=True)

    @rule(place=files, what=whats)
    def append(self, place: tuple[int, str], what: str) -> None:
        path, data = self.path(place), self.bytes_of(what)

        def run(disk: Disk) -> None:
            handle = disk.open(path, os.O_WRONLY)
            try:
                disk.write(handle, data, disk.stat(path).size_bytes)
            finally:
                disk.close(handle)

        if self.both("write", path, run, note=f"append {what}") and data:
            self.changed(path, self.inodes[path], closed=True)

    @rule(place=files, length=st.sampled_from((0, 10, 1500)))
    def truncate(self, place: tuple[int, str], length: int) -> None:
        path = self.path(place)
        if self.both("truncate", path, lambda disk: disk.truncate(path, length), note=str(length)):
            self.changed(path, self.inodes[path], closed=True)

    @rule(place=files, folder=st.sampled_from(FOLDERS))
    def copy_within_dataset(self, place: tuple[int, str], folder: str) -> None:
        old = self.path(place)
        new = f"{self.datasets[place[0]]}{folder}/{old.rpartition('/')[2]}"
        if self.is_stale(old):
            self.catch_up()
        if old == new or (old in self.inodes and self.has_writer(self.inodes[old])):
            return

        def run(disk: Disk) -> None:
            source = disk.open(old, os.O_RDONLY)
            try:
                target = disk.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
                try:
                    disk.copy(source, target)
                finally:
                    disk.close(target)
            finally:
                disk.close(source)

        if self.both("write", new, run, note=f"as a copy of {old}"):
            self.copied.add(contents(self.oracle, new))
            self.changed(new, self.inodes.setdefault(new, Inode()), closed=True)

    @rule(place=files)
    def read(self, place: tuple[int, str]) -> None:
        path = self.path(place)
        found = self.both("read", path, lambda disk: contents(disk, path))
        assert found is None or found[0] == found[1], self.words("other bytes")

    @rule(place=anything)
    def unlink(self, place: tuple[int, str]) -> None:
        path = self.path(place)
        if self.both("unlink", path, lambda disk: disk.unlink(path)):
            self.is_quiet = False
            del self.inodes[path]

    @rule(place=files, when_ns=st.sampled_from(TIMES_NS))
    def utimens(self, place: tuple[int, str], when_ns: int) -> None:
        path = self.path(place)
        if self.both("utimens", path, lambda disk: disk.utimens(path, when_ns)):
            self.inodes[path].mtime_ns = when_ns

    @rule(old=files, new=files)
    def rename(self, old: tuple[int, str], new: tuple[int, str]) -> None:
        self.move(self.path(old), self.path(new))

    @rule(place=files, folder=st.sampled_from(FOLDERS))
    def rename_within_dataset(self, place: tuple[int, str], folder: str) -> None:
        old = self.path(place)
        self.move(old, f"{self.datasets[place[0]]}{folder}/{old.rpartition('/')[2]}")

    def move(self, old: str, new: str) -> None:
        if old == new and self.things(old) == NOTHING:
            return  # libfuse waits for ever where the kernel remembers what another client removed
        if not self.both("rename", old, lambda disk: disk.rename(old, new), new) or old == new:
            return
        self.is_quiet = False
        is_file = old in self.inodes
        moved = {
            path: inode for path, inode in self.inodes.items() if path == old or path.startswith(f"{old}/")
        }
        for path in moved:
            del self.inodes[path]
        for path, inode in moved.items():
            at = new + path.removeprefix(old)
            self.inodes[at] = inode
            inode.settled = False
            if is_file and not self.may_go_up(at, contents(self.oracle, at)):
                inode.things = LOCAL_ONLY
            elif is_file and (Thing.LOCAL in inode.things or old.rpartition("/")[2] != at.rpartition("/")[2]):
                inode.things = EITHER

    # Folders

    @rule(place=folders)
    def mkdir(self, place: tuple[int, str]) -> None:
        path = self.path(place)
        self.both("mkdir", path, lambda disk: disk.mkdir(path))

    @rule(place=anything)
    def rmdir(self, place: tuple[int, str]) -> None:
        path = self.path(place)
        if path not in self.datasets:  # its name is taken for good: a dataset is archived, not deleted
            self.both("rmdir", path, lambda disk: disk.rmdir(path))

    @rule(old=folders, new=folders)
    def rename_folder(self, old: tuple[int, str], new: tuple[int, str]) -> None:
        if old[1] and new[1]:
            self.move(self.path(old), self.path(new))

    @rule(index=st.sampled_from((0, 1)), dice=st.integers(0, 3))
    def rename_dataset(self, index: int, dice: int) -> None:
        if dice:
            return  # seldom
        old, new = self.datasets[index], f"{self.tag}d{next(_numbers)}"
        if self.stale:
            self.catch_up()
        self.datasets[index] = new
        self.move(old, new)
        if self.things(new) == NOTHING:
            self.datasets[index] = old  # refused

    # Files held open

    @rule(slot=slots, place=files, flags=st.sampled_from((os.O_RDONLY, os.O_RDWR, os.O_RDWR | os.O_CREAT)))
    def open(self, slot: int, place: tuple[int, str], flags: int) -> None:
        self.close(slot)
        path = self.path(place)
        name = "write" if flags & os.O_RDWR else "read"
        found = self.both(name, path, lambda disk: disk.open(path, flags), note=f"open {slot}")
        if found:
            if path not in self.inodes:
                self.inodes[path] = Inode()
                self.is_quiet = False
            self.slots[slot] = Slot(found, self.inodes[path], bool(flags & os.O_RDWR))

    @rule(slot=slots, what=whats, at_end=st.booleans())
    def write_open(self, slot: int, what: str, at_end: bool) -> None:
        held = self.slots[slot]
        data = self.bytes_of(what)
        if held is None or not held.writable:
            return
        size = len(self.oracle.read(held.handles[1]))
        offset = size if at_end else 0
        self.mine(
            f"write to {slot} {what} at {offset}", lambda disk: disk.write(held.handles[0], data, offset)
        )
        self.oracle.write(held.handles[1], data, offset)
        path = self.path_of(held.inode)
        if path is not None and data:
            self.changed(path, held.inode, closed=False)

    @rule(slot=slots)
    def read_open(self, slot: int) -> None:
        held = self.slots[slot]
        if held is None:
            return
        mine = self.mine(f"read from {slot}", lambda disk: disk.read(held.handles[0]))
        if not self.has_writer(held.inode) or held.writable:
            assert mine == self.oracle.read(held.handles[1]), self.words("other bytes")

    @rule(slot=slots)
    def close(self, slot: int) -> None:
        held, self.slots[slot] = self.slots[slot], None
        if held is None:
            return
        self.mine(f"close {slot}", lambda disk: disk.close(held.handles[0]))
        self.oracle.close(held.handles[1])
        path = self.path_of(held.inode)
        if path is not None and held.writable:
            held.inode.commit(contents(self.oracle, path))

    def mine(self, step: str, run: Callable[[Disk], Any]) -> Any:
        """What is never refused: an open file can be read, written and closed."""
        got = _attempt(run, self.world.disk)
        self.tell(f"{step}: {got}")
        assert not got.errno, self.words(f"{got}, but it is open")
        return got.result

    def path_of(self, inode: Inode) -> str | None:
        return next((path for path, known in self.inodes.items() if known is inode), None)

    def has_writer(self, inode: Inode) -> bool:
        return any(held is not None and held.inode is inode and held.writable for held in self.slots)

    # The other client

    @rule(place=files)
    def sdk_upload(self, place: tuple[int, str]) -> None:
        path = self.path(place)
        if self.things(path) != NOTHING or not path.endswith(".jpg"):
            return
        parent, _, name = path.rpartition("/")
        if self.things(parent) != FOLDER:
            return
        data = self.bytes_of("picture")
        dataset, folder = self.split(parent)
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / name
            file.write_bytes(data)
            try:
                image = self.world.sdk.images.upload(dataset, file, directory_path=folder)
            except pictograph.ConflictError:
                self.tell(f"SDK upload {path}: taken by what is on its way out")
                return
        self.tell(f"SDK upload {path}")
        self.ever[image.id] = data
        handle = self.oracle.open(path, os.O_WRONLY | os.O_CREAT)
        self.oracle.write(handle, data, 0)
        self.oracle.close(handle)
        self.inodes[path] = Inode(IMAGE_ONLY, data, settled=True)
        self.stale.add(path)

    @rule(place=files)
    def sdk_archive(self, place: tuple[int, str]) -> None:
        path = self.path(place)
        if self.is_anybodys(path):
            dataset, relative = self.split(path)
            self.world.sdk.images.delete(dataset, relative.lstrip("/"))
            self.tell(f"SDK archive {path}")
            self.oracle.unlink(path)
            del self.inodes[path]
            self.stale.add(path)

    @rule(place=files, folder=st.sampled_from(FOLDERS))
    def sdk_move(self, place: tuple[int, str], folder: str) -> None:
        old = self.path(place)
        target = self.datasets[place[0]] + folder
        new = f"{target}/{old.rpartition('/')[2]}"
        if not self.is_anybodys(old) or self.things(target) != FOLDER:
            return
        if self.things(new) != NOTHING:
            return
        dataset, relative = self.split(old)
        image = self.on_server(dataset)[relative]
        moved = self.world.sdk.batch.move(dataset, [image.id], target_directory_path=folder or "/")
        self.tell(f"SDK move {old} {new}")
        if moved.renamed:  # what is on its way out had the name still
            places = {image.id: path for path, image in self.on_server(dataset).items()}
            new = f"/{dataset}{places[image.id]}"
        self.oracle.rename(old, new)
        self.inodes[new] = self.inodes.pop(old)
        self.stale |= {old, new}

    def is_anybodys(self, path: str) -> bool:
        """Whether an image is on the service for certain, and nobody writes it."""
        inode = self.inodes.get(path)
        return (
            inode is not None
            and inode.settled
            and inode.things == IMAGE_ONLY
            and not any(held is not None and held.inode is inode for held in self.slots)
        )

    def split(self, path: str) -> tuple[str, str]:
        """The dataset's name and the path in it."""
        dataset, _, relative = path.lstrip("/").partition("/")
        return dataset, f"/{relative}"

    # Time, ends, and the witness

    @rule()
    def refresh(self) -> None:
        self.world.refresh()
        self.tell("refresh")

    @rule(hard=st.booleans())
    def restart(self, hard: bool) -> None:
        if self.restarts == 0:
            return
        self.restarts -= 1
        if not hard:
            for slot in range(SLOTS):
                self.close(slot)
        self.tell(f"restart {'hard' if hard else 'in order'}")
        lost = [held for held in self.slots if held is not None]
        self.slots = [None] * SLOTS
        self.world_ends(lost, hard=hard)
        for held in lost:
            self.oracle.close(held.handles[1])
            path = self.path_of(held.inode)
            if path is not None and held.writable:
                self.revert(path, held.inode)
        self.stale.clear()
        self.catch_up()

    def world_ends(self, lost: list[Slot], *, hard: bool) -> None:
        disk = self.world.disk
        self.world.restart(hard=hard)
        for held in lost:
            with suppress(OSError):
                disk.close(held.handles[0])

    def revert(self, path: str, inode: Inode) -> None:
        """A kill takes what was written since the last close."""
        if inode.committed is None:
            self.oracle.unlink(path)
            del self.inodes[path]
        elif inode.committed != contents(self.oracle, path):
            handle = self.oracle.open(path, os.O_WRONLY | os.O_TRUNC)
            self.oracle.write(handle, inode.committed, 0)
            self.oracle.close(handle)
            self.changed(path, inode, closed=True)

    @invariant()
    def the_tree_is_the_same(self) -> None:
        mine, theirs = self.trees()
        assert mine == theirs, self.words(f"it lists {_apart(mine, theirs)}")

    @rule()
    def settle(self) -> None:
        if self.stale:
            self.catch_up()
        self.tell("wait")
        stuck = {path: why for path, why in self.world.settle().items() if path.startswith(self.tag)}
        live = {
            dataset + path: image
            for dataset in self.datasets
            for path, image in self.on_server(dataset.lstrip("/")).items()
        }
        bytes_of = [self.download(path, image) for path, image in live.items()]
        bytes_of = [data for data in bytes_of if data not in self.copied]
        assert len(bytes_of) == len(set(bytes_of)), self.words(f"one of {sorted(live)} is there twice")
        for path, inode in self.inodes.items():
            if self.has_writer(inode):
                live.pop(path, None)
                stuck.pop(path, None)
                continue
            data = contents(self.oracle, path)
            assert contents(self.world.disk, path) == data, self.words(f"{path} reads otherwise")
            why = stuck.pop(path, None)
            if why is None:
                image = live.pop(path, None)
                assert image is not None, self.words(f"{path} is not on the server")
                assert self.may_go_up(path, data), self.words(f"{path} was uploaded")
                assert self.download(path, image) == data, self.words(f"{path} has other bytes there")
            else:
                held = is_working_name(path.rpartition("/")[2]) or data not in self.pictures
                assert held, self.words(f"{path} is {why}")
                assert why.startswith("held"), self.words(f"{path} is {why}")
            inode.things = IMAGE_ONLY if why is None else LOCAL_ONLY
            inode.settled = True
        # What a held file was before stays until that can be uploaded, and may have its name there still.
        held_back = [inode.versions for inode in self.inodes.values() if Thing.LOCAL in inode.things]
        kept = set[bytes]().union(*held_back)
        live = {path: image for path, image in live.items() if self.download(path, image) not in kept}
        assert not stuck, self.words(f"too many in the queue: {stuck}")
        assert not live, self.words(f"too many on the server: {sorted(live)}")
        self.is_quiet = not any(self.slots)
        self.check_nothing_is_gone()
        self.catch_up()

    def on_server(self, dataset: str) -> dict[str, Any]:
        """What the SDK sees: path in the dataset → image. No path twice."""
        found: dict[str, Any] = {}
        for image in self.world.sdk.images.iter(dataset, page_size=1000):
            path = f"{(image.directory_path or '/').rstrip('/')}/{image.filename}"
            assert path not in found, self.words(f"{dataset}{path} is there twice")
            found[path] = image
        return found

    def download(self, path: str, image: Any) -> bytes:
        """Its bytes; those of an id never change, so they are asked for once."""
        if image.id not in self.ever:
            dataset, relative = self.split(path)
            with tempfile.TemporaryDirectory() as scratch:
                file = self.world.sdk.images.download(dataset, relative.lstrip("/"), Path(scratch) / "image")
                data = file.read_bytes()
            # Under another name or in another dataset it has another id; then its source is archived.
            twins = {image_id for image_id, known in self.ever.items() if known == data}
            roots = [root.lstrip("/") for root in self.datasets]
            live = {image.id for root in roots for image in self.on_server(root).values()}
            assert data in self.copied or not live & twins, self.words(f"{path} was uploaded twice")
            self.ever[image.id] = data
        return self.ever[image.id]

    def check_nothing_is_gone(self) -> None:
        """What ever was on the server is there, or in the archive; folders are as they should be."""
        there: set[str] = set()
        for root in self.datasets:
            dataset = root.lstrip("/")
            there |= {
                i.id for i in self.world.sdk.images.iter(dataset, include_archived=True, page_size=1000)
            }
            made = {f"{root}{d.full_path}" for d in self.world.sdk.directories.list(dataset)}
            want = {p for p, about in tree(self.oracle, [root]).items() if about.is_folder and p != root}
            assert made == want, self.words(
                f"folders on the server: {_apart(dict.fromkeys(made), dict.fromkeys(want))}"
            )
        gone = self.ever.keys() - there
        assert not gone, self.words(f"gone for good: {gone}")

    def teardown(self) -> None:
        if sys.exc_info()[0] is not None:
            for held in self.slots:
                if held is not None:
                    with suppress(OSError):
                        self.world.disk.close(held.handles[0])
                    with suppress(OSError):
                        self.oracle.close(held.handles[1])
            return
        for slot in range(SLOTS):
            self.close(slot)
        self.settle()
        self.the_tree_is_the_same()


def _apart(mine: dict[str, Any], theirs: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Where two dictionaries differ: the drive's value first."""
    return {
        key: (mine.get(key, "missing"), theirs.get(key, "missing"))
        for key in sorted(mine.keys() | theirs.keys())
        if mine.get(key, "missing") != theirs.get(key, "missing")
    }
