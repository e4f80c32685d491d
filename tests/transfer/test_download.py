"""Streaming reads: as soon as the bytes are there, shared, resumed, never short or padded."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from pictofs.api.errors import IncompleteTransferError, NetworkError, PictographError, StorageError
from pictofs.api.models import Image
from pictofs.cache.content import ContentCache
from pictofs.transfer import download
from pictofs.transfer.download import Downloader, Reader

DATA = bytes(range(256)) * 40
CHUNK_BYTES = 1000


class FakeStream:
    def __init__(self, service: FakeService, offset: int) -> None:
        self._service = service
        self.offset_bytes = 0 if service.ignores_range else offset
        self.total_bytes: int | None = service.announced

    def __iter__(self) -> Iterator[bytes]:
        position = self.offset_bytes
        while position < len(self._service.data):
            if self._service.gate is not None and position >= self._service.gate_at:
                assert self._service.gate.wait(10)
            if self._service.breaks_at and position >= self._service.breaks_at[0]:
                self._service.breaks_at.pop(0)
                raise NetworkError("reset")
            yield self._service.data[position : position + CHUNK_BYTES]
            position += CHUNK_BYTES


class FakeService:
    """Serves DATA; breaks, ignores Range, announces nonsense or waits at a gate when told to."""

    def __init__(self) -> None:
        self.data = DATA
        self.announced: int | None = len(DATA)
        self.ignores_range = False
        self.breaks_at: list[int] = []
        self.gate: threading.Event | None = None
        self.gate_at = 0
        self.error: PictographError | None = None
        self.opened: list[int] = []

    @contextmanager
    def open(self, image: Image, offset: int) -> Iterator[FakeStream]:
        self.opened.append(offset)
        if self.error is not None:
            raise self.error
        yield FakeStream(self, offset)


IMAGE = Image("i1", "x.jpg", "d1", "/", len(DATA))


@pytest.fixture(autouse=True)
def _quick_resumes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "RESUME_DELAY_S", 0.001)


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def corrected() -> list[int]:
    return []


@pytest.fixture
def cache(tmp_path: Path) -> ContentCache:
    return ContentCache(tmp_path / "content", max_bytes=1 << 20)


@pytest.fixture
def downloader(cache: ContentCache, service: FakeService, corrected: list[int]) -> Downloader:
    return Downloader(
        cache, service.open, correct_size=lambda _image, size: corrected.append(size), timeout_s=10
    )


def read_all(reader: Reader, size: int = 3000) -> bytes:
    data = b""
    while part := reader.read(size, len(data)):
        data += part
    reader.close()
    return data


def settle() -> None:
    for thread in threading.enumerate():
        if thread.name == "download":
            thread.join(10)


def test_the_whole_file_once_then_from_the_cache(downloader: Downloader, service: FakeService) -> None:
    assert read_all(downloader.open(IMAGE)) == DATA
    settle()
    service.error = NetworkError("offline")
    assert read_all(downloader.open(IMAGE)) == DATA
    assert service.opened == [0]


def test_the_first_bytes_come_before_the_last(downloader: Downloader, service: FakeService) -> None:
    service.gate, service.gate_at = threading.Event(), 5000
    reader = downloader.open(IMAGE)
    assert reader.read(4000, 0) == DATA[:4000]
    service.gate.set()
    assert reader.read(4000, 8000) == DATA[8000:]
    reader.close()
    settle()


def test_readers_share_one_transfer(downloader: Downloader, service: FakeService) -> None:
    service.gate, service.gate_at = threading.Event(), 1000
    readers = [downloader.open(IMAGE) for _ in range(8)]
    assert all(reader.read(10, 0) == DATA[:10] for reader in readers)
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(read_all, reader) for reader in readers]
        service.gate.set()
        assert all(answer.result(10) == DATA for answer in answers)
    assert service.opened == [0]
    settle()


@pytest.mark.parametrize("ignores_range", [False, True])
def test_a_break_is_resumed_where_it_stopped(
    downloader: Downloader, service: FakeService, ignores_range: bool
) -> None:
    service.breaks_at = [3000, 3000, 7000]
    service.ignores_range = ignores_range
    assert read_all(downloader.open(IMAGE)) == DATA
    assert service.opened == [0, 3000, 3000, 7000]
    settle()


def test_breaks_without_progress_end_in_an_error_and_a_later_read_starts_anew(
    downloader: Downloader, service: FakeService
) -> None:
    service.breaks_at = [2000] * (download.MAX_RESUMES + 1)
    reader = downloader.open(IMAGE)
    assert reader.read(1000, 0) == DATA[:1000]
    with pytest.raises(NetworkError):
        reader.read(1000, 5000)
    reader.close()
    settle()
    assert read_all(downloader.open(IMAGE)) == DATA
    settle()


def test_another_size_than_listed_is_an_error_and_is_put_right(
    downloader: Downloader, service: FakeService, corrected: list[int]
) -> None:
    listed = Image("i1", "x.jpg", "d1", "/", len(DATA) - 1)
    reader = downloader.open(listed)
    with pytest.raises(IncompleteTransferError, match="another size"):
        reader.read(10, 0)
    reader.close()
    settle()
    assert corrected == [len(DATA)]
    assert service.opened == [0]


def test_an_end_before_the_announced_one_is_never_short(
    downloader: Downloader, service: FakeService, cache: ContentCache
) -> None:
    service.data = DATA[:5000]
    reader = downloader.open(IMAGE)
    with pytest.raises(IncompleteTransferError, match="5000 of 10240"):
        reader.read(len(DATA), 0)
    reader.close()
    settle()
    assert cache.open("i1") is None


def test_an_early_end_without_an_announced_length_is_never_short(
    downloader: Downloader, service: FakeService, corrected: list[int]
) -> None:
    service.data, service.announced = DATA[:5000], None
    reader = downloader.open(IMAGE)
    with pytest.raises(IncompleteTransferError):
        reader.read(len(DATA), 0)
    reader.close()
    settle()
    assert corrected == []


def test_what_storage_does_not_have_is_not_asked_again(downloader: Downloader, service: FakeService) -> None:
    service.error = StorageError("no such object", status=404)
    reader = downloader.open(IMAGE)
    with pytest.raises(StorageError):
        reader.read(10, 0)
    reader.close()
    settle()
    assert service.opened == [0]


def test_the_transfer_stops_with_its_last_reader(
    downloader: Downloader, service: FakeService, cache: ContentCache
) -> None:
    service.gate, service.gate_at = threading.Event(), 2000
    reader = downloader.open(IMAGE)
    assert reader.read(10, 0) == DATA[:10]
    reader.close()
    service.gate.set()
    settle()
    assert cache.open("i1") is None
    assert read_all(downloader.open(IMAGE)) == DATA
    settle()
