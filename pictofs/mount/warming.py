"""`pictofs cache warm`: everything below a path brought into the image cache, in the background.

A job is started by one request of the control socket and looked at by others, until it is over. Images that
have no link (see cache/links) are left out: each would cost an API request, which reading it costs as well.

Lock order: `Warming._lock` only; nothing is called while it is held.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass

from pictofs.api.errors import PictographError
from pictofs.api.models import Image
from pictofs.cache.diskless import is_refusal
from pictofs.cache.provisional import is_provisional
from pictofs.fs.view import FolderNode, ImageNode, RootNode, View
from pictofs.mount.problems import MountError
from pictofs.units import show_size

log = logging.getLogger(__name__)

WORKERS = 16
"""Images fetched at a time: enough for the latency of storage, and no more connections than reading has."""

ALL_BYTES = 1 << 62
"""Of an image, also where the listing does not know how many they are."""

MAX_JOBS = 8
"""Jobs that are remembered; the oldest is forgotten, and ended if it still runs."""


@dataclass
class Job:
    """How far one job is. `left_out`: images without a link; `failed`: those that could not be fetched."""

    files: int = 0
    bytes: int = 0
    done_files: int = 0
    done_bytes: int = 0
    failed: int = 0
    left_out: int = 0
    is_over: bool = False
    is_stopped: bool = False


class Warming:
    """The jobs of one mount.

    Args:
        view: what is below a path.
        fetch: bring the first bytes of an image into the cache; raises when that fails.
        has_link: whether that takes no API request of its own.
        limit_bytes: what the cache can hold.
    """

    def __init__(
        self,
        view: View,
        fetch: Callable[[Image, int, Callable[[], bool]], None],
        has_link: Callable[[Image], bool],
        limit_bytes: int,
    ) -> None:
        self._view = view
        self._fetch = fetch
        self._has_link = has_link
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._jobs: dict[int, Job] = {}

    def start(self, path: str) -> int:
        """Begin to fetch what is below a path (relative to the mount's root); the job's number.

        Raises:
            MountError: it is more than the cache can hold.
            PictographError, OSError: what is there cannot be found out.
        """
        images = deque(self._below(path))
        job = Job(files=len(images), bytes=sum(image.file_size for image in images), is_over=not images)
        if job.bytes > self._limit_bytes:
            raise MountError(
                f"{path or 'the drive'} has {show_size(job.bytes)} of images, and the cache may take "
                f"{show_size(self._limit_bytes)}; warm a part of it, or mount with a larger --cache-size."
            )
        with self._lock:
            number = next(self._numbers)
            self._jobs[number] = job
            forgotten = self._jobs.pop(next(iter(self._jobs))) if len(self._jobs) > MAX_JOBS else None
        if forgotten is not None:
            forgotten.is_stopped = True
        running = [
            threading.Thread(target=self._run, args=(job, images), name="warm", daemon=True)
            for _ in range(min(WORKERS, len(images)))
        ]
        for thread in running:
            thread.start()
        return number

    def progress(self, number: int) -> dict[str, object]:
        """How far a job is, as JSON can carry it. Raises MountError: there is no such job."""
        with self._lock:
            return asdict(self._job(number))

    def stop(self, number: int) -> None:
        """End a job; what is here stays. Raises MountError: there is no such job."""
        self._job(number).is_stopped = True

    def _job(self, number: int) -> Job:
        job = self._jobs.get(number)
        if job is None:
            raise MountError("this warming has ended long ago; start it again.")
        return job

    def _below(self, path: str) -> list[Image]:
        found: list[Image] = []
        waiting = [f"/{path}"]
        while waiting:
            place = waiting.pop()
            node = self._view.resolve(place)
            if isinstance(node, ImageNode):
                found += [] if is_provisional(node.image.id) else [node.image]
            elif isinstance(node, (RootNode, FolderNode)):
                base = place.rstrip("/")
                waiting += [f"{base}/{entry.name}" for entry in reversed(self._view.listing(node).entries)]
        return found

    def _run(self, job: Job, images: deque[Image]) -> None:
        while not job.is_stopped:
            try:
                image = images.popleft()
            except IndexError:
                break
            is_linked, failure = True, None
            try:
                is_linked = self._has_link(image)
                if is_linked:
                    self._fetch(image, ALL_BYTES, lambda: job.is_stopped)
            except (PictographError, OSError) as error:
                failure = error
                level = logging.DEBUG if is_refusal(error) else logging.WARNING  # the former was said
                log.log(level, "%s was not brought into the cache: %s", image.filename, error)
            with self._lock:
                job.left_out += not is_linked
                job.failed += failure is not None
                if is_linked and failure is None:
                    job.done_files += 1
                    job.done_bytes += image.file_size
                job.is_over = job.done_files + job.left_out + job.failed == job.files
