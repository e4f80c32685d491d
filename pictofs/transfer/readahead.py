"""Prefetch of siblings: who reads the files of a folder in order finds the next ones here already.

Of each folder whose images are read, three orders are known: by name, as shells, rsync and data loaders have
it; that of the listing, as tar and find go; and by inode, as cp -r goes. A `_Run` is a walk in one of them:
it goes on when a file is read that lies a little ahead of (or behind) the furthest one, so several processes
may share a walk between them, or have one each. Once a run has gone on, the next files are fetched: two, then
twice as many with each step, up to `at_once`; as much of each as was read of the ones before, so that a
program which looks at headers causes no more.

Where the files are in the cache already, the disk is told of the next few instead, so that it reads them
while this one is looked at. That is for one program alone: several keep disk and processors busy by
themselves, and would only wait for the interpreter.

A read that continues no run breaks the pattern: what is not fetched yet is dropped, and every run has to show
again that it goes on.

Nothing here costs an API request per image: `may_fetch` says whether there is a link to the image's bytes.

Lock order: `Readahead._lock`, and nothing is called while it is held but `room_bytes`. Workers are started
when they are first needed, as threads do not survive the mount's fork.
"""

from __future__ import annotations

import logging
import threading
import time
from array import array
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pictofs.api.errors import PictographError
from pictofs.api.models import Image

log = logging.getLogger(__name__)

REACH = 12
"""How far from the furthest file of a run a read still belongs to it: a few processes that take turns, each
with a few files at a time."""

MAX_RUNS = 8
"""Walks in one folder that are told apart: a data loader's workers, and a person."""

MAX_IMAGES = 200_000
"""How many images the folders may have whose orders are remembered: about 30 MB."""

MAX_ORDER_AGE_S = 60.0
"""An order is made anew after this time, if an image is not in it."""

PATIENCE_S = 60.0
"""How long what was fetched ahead counts as still to be read."""

DISK_AHEAD = 8
"""How many files ahead the disk is told of at most."""

DISK_BATCH = 4
"""So many at a time: each time wakes a thread."""

ALONE = 4
"""So many reads in a row that continue the same run are those of one program."""

RECENT = 8
"""From how many files it is learned how much of each is read."""


class Sibling(NamedTuple):
    """An image as programs see it in its folder."""

    name: str
    inode: int
    image: Image


class Follower:
    """What one open image tells of itself. See transfer/download.Watcher."""

    __slots__ = ("_began", "furthest", "image")

    def __init__(self, image: Image, began: Callable[[Follower, bool], None]) -> None:
        self.image = image
        self.furthest = 0
        self._began = began

    def began(self, *, was_here: bool) -> None:
        self._began(self, was_here)

    def reached(self, end: int) -> None:
        self.furthest = max(self.furthest, end)


class _Run:
    """A walk through one order. Positions are indexes into it."""

    def __init__(self, position: int) -> None:
        self.furthest = position
        self.steps = 0  # how often it has gone on
        self.generation = 0  # counts how often the pattern broke: jobs of an earlier one are void
        self._start = position
        self._told = position  # up to here the disk knows
        self._stride = 1
        self._is_shared = False  # several processes take turns, and read behind the furthest file as well
        self._done = {position}  # read or asked for; those far behind are forgotten

    def takes(self, position: int) -> bool:
        """Whether a read there continues the walk; if so it has."""
        step = position - self.furthest
        if abs(step) > REACH:
            return False
        if step > 0:
            self._stride = step if self.steps == 0 or step == self._stride else 1
            self.furthest = position
            self.steps += 1
            self._done = {done for done in self._done if done >= position - REACH}
        elif position not in self._done:
            self._is_shared = True
        self._done.add(position)
        return True

    def broke(self) -> None:
        self.generation += 1
        self.steps = 0
        self._done = {done for done in self._done if done <= self.furthest}

    def next(self, at_once: int, length: int) -> Iterator[int]:
        """The positions to fetch now. What is taken counts as asked for."""
        ahead = min(at_once, 1 << min(self.steps, 10))
        if self._is_shared:
            wanted = range(max(self._start, self.furthest - REACH), min(self.furthest + ahead + 1, length))
        else:
            end = self.furthest + ahead * self._stride + 1
            wanted = range(self.furthest + self._stride, min(end, length), self._stride)
        for position in wanted:
            if position not in self._done:
                yield position
                self._done.add(position)

    def next_on_disk(self, length: int) -> range:
        """The positions that the disk is to be told of now; each is given once, and several together."""
        first = max(self.furthest, self._told) + self._stride
        wanted = range(first, min(self.furthest + DISK_AHEAD * self._stride + 1, length), self._stride)
        is_last = bool(wanted) and wanted[-1] + self._stride >= length
        if self._is_shared or (len(wanted) < DISK_BATCH and not is_last):
            return range(0)
        self._told = wanted[-1]
        return wanted


class _Order:
    """One order of a folder's images, and the walks through it. Images are known by number.

    Attributes:
        numbers: position in this order → image.
    """

    def __init__(self, numbers: Iterable[int]) -> None:
        self.numbers = array("I", numbers)
        self._positions = array("I", self.numbers)
        for position, number in enumerate(self.numbers):
            self._positions[number] = position
        self._runs: deque[_Run] = deque(maxlen=MAX_RUNS)

    def run_of(self, number: int) -> _Run | None:
        """The run that a read of the image continues."""
        position = self._positions[number]
        return next((run for run in self._runs if run.takes(position)), None)

    def begin(self, number: int) -> None:
        """A read that may be the first of a run."""
        self._runs.appendleft(_Run(self._positions[number]))

    def broke(self) -> None:
        """A read has continued no run."""
        for run in self._runs:
            run.broke()


class _Folder:
    """The images of a folder, numbered as they were listed, in three orders."""

    def __init__(self, listed: Sequence[Sibling], made_at: float) -> None:
        self.made_at = made_at
        self.images = [sibling.image for sibling in listed]
        self.numbers = {image.id: number for number, image in enumerate(self.images)}
        everyone = range(len(listed))
        self.orders = (
            _Order(sorted(everyone, key=lambda number: listed[number].name)),
            _Order(everyone),
            _Order(sorted(everyone, key=lambda number: listed[number].inode)),
        )
        self.recent: deque[Follower] = deque(maxlen=RECENT)

    def depth_bytes(self, image: Image) -> int:
        """How much of an image will be read, going by the latest ones."""
        most = max((f.furthest for f in self.recent), default=0)
        is_whole = all(f.furthest >= f.image.file_size for f in self.recent)
        # Small files are read to their end by those too who only look at headers.
        return image.file_size if is_whole and image.file_size <= 4 * most else min(most, image.file_size)


@dataclass(frozen=True)
class _Job:
    """Bring so much of an image nearer, as long as its run goes on: from the service to disk, or from the
    disk into RAM."""

    image: Image
    size_bytes: int
    run: _Run
    generation: int
    from_disk: bool = False

    @property
    def is_void(self) -> bool:
        return self.run.generation != self.generation


class Readahead:
    """Watches who reads what, and fetches what comes next.

    Args:
        fetch: bring the first bytes of an image into the cache; asks its last argument whether to stop.
        may_fetch: whether that takes no API request of its own.
        expect: have the disk begin with the first bytes of an image, by its id, if it is in the cache.
        at_once: how many files are fetched at a time; 0 for none.
        room_bytes: how much may be here, or on its way, that nobody has read yet.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        fetch: Callable[[Image, int, Callable[[], bool]], None],
        may_fetch: Callable[[Image], bool],
        expect: Callable[[str, int], None],
        *,
        at_once: int,
        room_bytes: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fetch = fetch
        self._may_fetch = may_fetch
        self._expect = expect
        self._at_once = at_once
        self._room_bytes = room_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._folders: OrderedDict[object, _Folder] = OrderedDict()
        self._ahead: dict[str, tuple[int, float]] = {}  # image id → bytes, and until when they count
        self._ahead_bytes = 0
        self._jobs: deque[_Job] = deque()
        self._work = threading.Condition(self._lock)
        self._continued: deque[_Run] = deque(maxlen=ALONE)  # the runs of the latest reads
        self._workers = 0
        self._idle = 0

    def follow(
        self, folder: object, image: Image, siblings: Callable[[], Sequence[Sibling]]
    ) -> Follower | None:
        """Watch one open image. `siblings` gives its folder's images in the order of the listing; where it
        raises PictographError nothing is fetched ahead."""
        if not self._at_once:
            return None
        return Follower(image, lambda follower, was_here: self._began(folder, follower, was_here, siblings))

    def _began(
        self,
        key: object,
        follower: Follower,
        was_here: bool,
        siblings: Callable[[], Sequence[Sibling]],
    ) -> None:
        image = follower.image
        folder = self._folder(key, image, siblings)
        with self._lock:
            was_ahead = self._used(image.id)
            number = folder.numbers.get(image.id)
            if number is None:
                return
            runs = [(order, run) for order in folder.orders if (run := order.run_of(number)) is not None]
            if runs:
                order, run = max(runs, key=lambda pair: pair[1].steps)
                self._continued.append(run)
                if run.steps and was_here and not was_ahead:
                    self._tell_disk(folder, order, run)
                elif run.steps:
                    self._issue(folder, order, run)
            else:
                self._break(folder)
                self._continued.clear()
                for order in folder.orders:
                    order.begin(number)
            folder.recent.append(follower)

    def _folder(self, key: object, image: Image, siblings: Callable[[], Sequence[Sibling]]) -> _Folder:
        with self._lock:
            folder = self._folders.get(key)
            if folder is not None:
                self._folders.move_to_end(key)
                is_old = self._clock() - folder.made_at > MAX_ORDER_AGE_S
                if image.id in folder.numbers or not is_old:
                    return folder
        try:
            listed = siblings()
        except PictographError as error:
            log.debug("nothing is fetched ahead of %s: %s", image.filename, error)
            listed = []
        folder = _Folder(listed, self._clock())
        with self._lock:
            self._folders[key] = folder
            while len(self._folders) > 1 and sum(len(f.images) for f in self._folders.values()) > MAX_IMAGES:
                self._folders.popitem(last=False)
        return folder

    # With the lock held

    def _issue(self, folder: _Folder, order: _Order, run: _Run) -> None:
        """Put the files that come next into the queue."""
        now = self._clock()
        for image_id in [i for i, (_, until) in self._ahead.items() if until < now]:
            self._used(image_id)
        room_bytes = self._room_bytes()
        for position in run.next(self._at_once, len(order.numbers)):
            image = folder.images[order.numbers[position]]
            size_bytes = folder.depth_bytes(image)
            if self._ahead_bytes + size_bytes > room_bytes:
                return
            if not size_bytes or image.id in self._ahead:
                continue
            self._ahead[image.id] = size_bytes, now + PATIENCE_S
            self._ahead_bytes += size_bytes
            self._add(_Job(image, size_bytes, run, run.generation))

    def _tell_disk(self, folder: _Folder, order: _Order, run: _Run) -> None:
        """The same for files that are here."""
        if list(self._continued) != [run] * ALONE:
            return
        positions = run.next_on_disk(len(order.numbers))
        images = [folder.images[order.numbers[position]] for position in positions]
        sizes = [(image, folder.depth_bytes(image)) for image in images]
        jobs = [_Job(image, size, run, run.generation, from_disk=True) for image, size in sizes if size]
        if jobs:
            self._add(*jobs)

    def _add(self, *jobs: _Job) -> None:
        """Into the queue, with one worker woken for all of them."""
        self._jobs.extend(jobs)
        if self._idle:
            self._idle -= 1
            self._work.notify()
        elif self._workers < self._at_once:
            self._workers += 1
            threading.Thread(target=self._run, name="prefetch", daemon=True).start()

    def _break(self, folder: _Folder) -> None:
        for order in folder.orders:
            order.broke()
        void = [job for job in self._jobs if job.is_void]
        if void:
            self._jobs = deque(job for job in self._jobs if not job.is_void)
            for job in void:
                if not job.from_disk:
                    self._used(job.image.id)

    def _used(self, image_id: str) -> bool:
        """An image that was fetched ahead is wanted, or not any more. Whether it was one."""
        size_bytes, until = self._ahead.pop(image_id, (0, 0.0))
        self._ahead_bytes -= size_bytes
        return until > 0

    # The workers

    def _run(self) -> None:
        while True:
            with self._lock:
                while not self._jobs:
                    self._idle += 1
                    self._work.wait()  # who notifies counts one idle worker less
                job = self._jobs.popleft()
            if job.is_void:
                continue
            if job.from_disk:
                self._expect(job.image.id, job.size_bytes)
                continue
            try:
                if self._may_fetch(job.image):
                    self._fetch(job.image, job.size_bytes, lambda: job.is_void)  # noqa: B023 - called within
            except (PictographError, OSError) as error:
                log.debug("%s was not fetched ahead: %s", job.image.filename, error)
