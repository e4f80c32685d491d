"""Random readers against the original bytes, while all goes wrong that can: hypothesis looks for a lie.

Chunks are evicted, files are damaged, the process is restarted; transfers break and are cut off, Range is
ignored, links expire; the disk takes no more, for a moment or for good. A read may fail, but not for the
disk's sake. It must never give other bytes, fewer, or more.
"""

from __future__ import annotations

import random
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from full_disk import FullDisk
from hypothesis import given, settings
from hypothesis import strategies as st
from image_source import ImageSource, Stream

from pictofs.api.errors import IncompleteTransferError, PictographError, StorageError
from pictofs.api.models import DownloadItem, Image
from pictofs.cache.content import ContentCache
from pictofs.cache.links import SignedLinks
from pictofs.transfer import download
from pictofs.transfer.download import Downloader

SIZES = (1, 65_536, 65_537, 300_000, 1_500_000)
DATA = [random.Random(size).randbytes(size) for size in SIZES]
IMAGES = [Image(f"i{n}", f"{n}.jpg", "d1", "/", size) for n, size in enumerate(SIZES)]
MAX_BYTES = 400_000


@pytest.fixture(autouse=True)
def _quick_resumes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "RESUME_DELAY_S", 0.0001)


class Troubled:
    """A service with several images, links that expire, and a die that decides what fails."""

    def __init__(self, seed: int, trouble: float) -> None:
        self._dice = random.Random(seed)
        self._trouble = trouble
        self._lock = threading.Lock()
        self._generation = 0
        self.links = SignedLinks(self._ask)

    def _ask(self, dataset_id: str) -> list[DownloadItem]:
        return [DownloadItem(i.id, i.filename, i.file_size, f"{self._generation}") for i in IMAGES]

    def _bad_luck(self) -> bool:
        with self._lock:
            return self._dice.random() < self._trouble

    @contextmanager
    def open(self, image: Image, start: int, end: int) -> Iterator[Stream]:
        url = self.links.get(image)
        if self._bad_luck():
            self._generation += 1
        if url is not None and url != str(self._generation):
            self.links.expire(image, url)
            if self.links.get(image) != str(self._generation):
                raise StorageError("expired", status=403)
        source = ImageSource(DATA[IMAGES.index(image)])
        if self._bad_luck():
            source.ignores_range = True
        if self._bad_luck():
            source.goes_on = True
        if self._bad_luck():
            source.breaks_at = [self._dice.randrange(len(source.data))]
        if self._bad_luck():
            source.data = source.data[: self._dice.randrange(len(source.data))]
        if self._bad_luck():
            source.announced = None
        yield Stream(source, start, end)


_read = st.tuples(st.integers(0, len(SIZES) - 1), st.floats(0, 1), st.integers(1, 400_000))
_script = st.lists(_read, min_size=1, max_size=30)


@settings(max_examples=100, deadline=None)
@given(
    script=_script,
    seed=st.integers(0, 2**32),
    trouble=st.sampled_from([0.0, 0.1, 0.4]),
    threads=st.sampled_from([1, 4]),
    restarts=st.booleans(),
    damages=st.booleans(),
    refusing=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
)
def test_a_read_gives_the_original_bytes_or_fails(
    script: list[tuple[int, float, int]],
    seed: int,
    trouble: float,
    threads: int,
    restarts: bool,
    damages: bool,
    refusing: float,
) -> None:
    service = Troubled(seed, trouble)
    dice = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        FullDisk(patch, Path(folder)).unlucky = lambda: dice.random() < refusing
        rounds = [script[: len(script) // 2], script[len(script) // 2 :]] if restarts else [script]
        for part in rounds:
            cache = ContentCache(Path(folder), max_bytes=MAX_BYTES)
            cache.settle()
            downloader = Downloader(cache, service.open, correct_size=_no_correction, timeout_s=10)

            def read(step: tuple[int, float, int], downloader: Downloader = downloader) -> None:
                number, where, size = step
                offset = int(where * SIZES[number])
                reader = downloader.open(IMAGES[number])
                try:
                    if size % 3 == 0:
                        with suppress(OSError):  # nothing is fetched ahead into memory
                            downloader.fetch(IMAGES[number], size)
                    assert reader.read(size, offset) == DATA[number][offset : offset + size]
                except PictographError:
                    assert trouble > 0
                finally:
                    reader.close()

            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(read, part))
            _settle()
            cache.make_room()
            assert cache.count().bytes <= MAX_BYTES
            assert cache.memory.used_bytes == 0
            if damages:
                _damage(Path(folder), seed)


def _no_correction(image: Image, size_bytes: int) -> None:
    raise AssertionError("every announced size was right")


def _settle() -> None:
    for thread in threading.enumerate():
        if thread.name == "download":
            thread.join(10)


def _damage(folder: Path, seed: int) -> None:
    """What a power cut may do: blocks of zeros, and files cut short."""
    dice = random.Random(seed)
    for path in sorted(folder.iterdir()):
        with path.open("r+b") as file:
            length = path.stat().st_size
            file.seek(dice.randrange(length))
            file.write(bytes(min(4096, length - file.tell())))
            if dice.random() < 0.2:
                file.truncate(dice.randrange(length))


def test_a_size_that_was_announced_wrongly_is_noticed(tmp_path: Path) -> None:
    """The property above rests on the announced size; a service that announces another is not believed."""
    source = ImageSource(DATA[3])
    source.announced = SIZES[3] + 1
    corrected: list[int] = []
    cache = ContentCache(tmp_path, max_bytes=1 << 20)
    downloader = Downloader(
        cache, source.open, correct_size=lambda _, size: corrected.append(size), timeout_s=10
    )
    reader = downloader.open(IMAGES[3])
    with pytest.raises(IncompleteTransferError):
        reader.read(10, 0)
    reader.close()
    assert corrected == [SIZES[3] + 1]
