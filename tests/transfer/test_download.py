"""Reading images: as soon as the bytes are there, shared, resumed, never more than needed, never short."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from download_house import LARGE, SMALL, STEP, House, read_all, settle

from pictofs.api.errors import (
    IncompleteTransferError,
    NetworkError,
    PictographError,
    RequestTimeoutError,
    StorageError,
)
from pictofs.api.models import Image
from pictofs.cache.content import CHUNK_BYTES
from pictofs.transfer import download


@pytest.fixture(autouse=True)
def _quick_resumes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "RESUME_DELAY_S", 0.001)


# --- what is asked for ---------------------------------------------------------------------------


def test_a_small_image_is_fetched_whole_and_once(small: House) -> None:
    assert small.open().read(100, 30_000) == SMALL[30_000:30_100]
    settle()
    small.source.error = NetworkError("offline")
    assert small.read_all() == SMALL
    small.restart()
    assert small.read_all() == SMALL
    assert small.source.opened == [(0, len(SMALL))]


def test_looking_at_the_beginning_of_a_large_image_fetches_that(large: House) -> None:
    reader = large.open()
    assert reader.read(STEP, 0) == LARGE[:STEP]
    reader.close()
    settle()
    assert large.source.opened == [(0, STEP)]


def test_reading_on_asks_for_more_each_time(large: House) -> None:
    assert large.read_all() == LARGE
    assert large.source.opened[:2] == [(0, STEP), (STEP, 2 * STEP)]
    assert len(large.source.opened) <= 6
    assert large.source.sent_bytes == len(LARGE)
    settle()
    assert large.read_all() == LARGE
    assert large.source.sent_bytes == len(LARGE)


def test_who_reads_on_does_not_wait_for_the_next_range(large: House) -> None:
    reader = large.open()
    for number in range(10):
        reader.read(STEP, number * STEP)
    settle()
    # What is read here has arrived before, and still the range after it is asked for.
    frontier = max(end for _, end in large.source.opened)
    for start in range(10 * STEP, frontier, STEP):
        reader.read(STEP, start)
    assert max(end for _, end in large.source.opened) > frontier
    reader.close()


def test_the_tail_is_asked_for_by_itself(large: House) -> None:
    large.source.gate, large.source.gate_at = threading.Event(), len(LARGE)
    reader = large.open()
    assert reader.read(10, len(LARGE) - 10) == LARGE[-10:]
    assert reader.read(4096, 10 * 2**20) == LARGE[10 * 2**20 : 10 * 2**20 + 4096]
    reader.close()
    assert large.source.sent_bytes <= 3 * CHUNK_BYTES
    assert len(large.source.opened) == 2


def test_a_read_a_little_ahead_waits_for_what_is_coming(large: House) -> None:
    large.source.goes_on = True
    large.source.gate, large.source.gate_at = threading.Event(), 200_000
    reader = large.open()
    assert reader.read(1000, 0) == LARGE[:1000]
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(reader.read, 1000, 500_000)
        large.source.gate.set()
        assert answer.result(10) == LARGE[500_000:501_000]
    reader.close()
    assert large.source.opened == [(0, CHUNK_BYTES)]


def test_what_is_here_is_not_asked_for_again(large: House) -> None:
    reader = large.open()
    reader.read(4096, 5 * CHUNK_BYTES)
    reader.close()
    settle()
    large.restart()
    reader = large.open()
    assert reader.read(3 * CHUNK_BYTES, 4 * CHUNK_BYTES) == LARGE[4 * CHUNK_BYTES : 7 * CHUNK_BYTES]
    reader.close()
    settle()
    assert large.source.sent_bytes == 3 * CHUNK_BYTES


def test_the_first_bytes_come_before_the_last(large: House) -> None:
    large.source.gate, large.source.gate_at = threading.Event(), CHUNK_BYTES
    large.source.goes_on = True
    reader = large.open()
    assert reader.read(4000, 0) == LARGE[:4000]
    large.source.gate.set()
    assert reader.read(4000, 3 * CHUNK_BYTES) == LARGE[3 * CHUNK_BYTES : 3 * CHUNK_BYTES + 4000]
    reader.close()


def test_readers_share_what_comes(small: House) -> None:
    small.source.gate, small.source.gate_at = threading.Event(), 8192
    readers = [small.open() for _ in range(8)]
    assert all(reader.read(10, 0) == SMALL[:10] for reader in readers)
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(read_all, reader) for reader in readers]
        small.source.gate.set()
        assert all(answer.result(10) == SMALL for answer in answers)
    assert len(small.source.opened) == 1


def test_many_places_at_once_are_read_a_few_at_a_time(large: House) -> None:
    reader = large.open()
    places = random.Random(3).sample(range(0, len(LARGE) - STEP), 40)
    with ThreadPoolExecutor(20) as pool:
        for place, data in zip(places, pool.map(lambda p: reader.read(STEP, p), places), strict=True):
            assert data == LARGE[place : place + STEP]
    reader.close()


# --- leaving ----------------------------------------------------------------------------------------


def test_what_is_on_its_way_for_nobody_is_ended(large: House) -> None:
    large.source.goes_on = True
    large.source.gate, large.source.gate_at = threading.Event(), CHUNK_BYTES
    reader = large.open()
    assert reader.read(10, 0) == LARGE[:10]
    reader.close()
    settle()  # the gate is still shut
    assert large.source.sent_bytes <= CHUNK_BYTES
    large.source.gate.set()
    assert large.read_all() == LARGE
    assert large.source.sent_bytes <= len(LARGE) + CHUNK_BYTES


def test_a_reader_that_comes_while_another_leaves_is_served(large: House) -> None:
    large.source.goes_on = True
    large.source.gate, large.source.gate_at = threading.Event(), CHUNK_BYTES
    first = large.open()
    first.read(10, 0)
    second = large.open()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(second.read, 1000, 2 * CHUNK_BYTES)
        first.close()
        large.source.gate.set()
        assert answer.result(10) == LARGE[2 * CHUNK_BYTES : 2 * CHUNK_BYTES + 1000]
    second.close()


# --- trouble ----------------------------------------------------------------------------------------


def test_a_break_is_resumed_where_it_stopped(small: House) -> None:
    small.source.breaks_at = [8192, 8192, 20480]
    assert small.read_all() == SMALL
    assert [start for start, _ in small.source.opened] == [0, 8192, 8192, 20480]


def test_a_server_that_ignores_range_is_read_once(large: House) -> None:
    large.source.ignores_range = True
    large.source.breaks_at = [3 * 2**20]
    reader = large.open()
    assert reader.read(10, len(LARGE) - 10) == LARGE[-10:]
    assert read_all(reader) == LARGE
    assert len(large.source.opened) == 2


def test_breaks_without_progress_end_in_an_error_and_a_later_read_starts_anew(small: House) -> None:
    small.source.breaks_at = [8192] * (download.MAX_RESUMES + 1)
    reader = small.open()
    assert reader.read(1000, 0) == SMALL[:1000]
    with pytest.raises(NetworkError):
        reader.read(1000, 30_000)
    assert reader.read(1000, 30_000) == SMALL[30_000:31_000]
    reader.close()


def test_who_reads_while_the_service_is_away_hears_of_it_soon(small: House) -> None:
    small.source.error = NetworkError("refused")
    with pytest.raises(NetworkError, match="refused"):
        small.open().read(10, 0)
    assert len(small.source.opened) == 1 + download.MAX_STARTS


def test_silence_ends_a_read(tmp_path: Path) -> None:
    house = House(tmp_path, SMALL, timeout_s=0.2)
    house.source.gate = threading.Event()
    reader = house.open()
    with pytest.raises(RequestTimeoutError):
        reader.read(10, 0)
    house.source.gate.set()
    reader.close()
    settle()


def test_who_waits_can_be_interrupted(small: House) -> None:
    small.source.gate = threading.Event()
    reader = small.open()
    asked: list[None] = []

    def is_interrupted() -> bool:
        asked.append(None)
        return len(asked) > 1

    with pytest.raises(InterruptedError):
        reader.read_into(memoryview(bytearray(10)), 0, is_interrupted)
    small.source.gate.set()
    buffer = bytearray(10)
    assert reader.read_into(memoryview(buffer), 5) == 10
    assert buffer == SMALL[5:15]
    reader.close()


def test_another_size_than_listed_is_an_error_and_is_put_right(small: House) -> None:
    small.image = Image("i1", "x.jpg", "d1", "/", len(SMALL) - 1)
    reader = small.open()
    with pytest.raises(IncompleteTransferError, match="another size"):
        reader.read(10, 0)
    reader.close()
    settle()
    assert small.corrected == [len(SMALL)]
    assert len(small.source.opened) == 1
    small.image = Image("i1", "x.jpg", "d1", "/", len(SMALL))
    assert small.read_all() == SMALL


def test_a_listing_that_is_wrong_later_is_put_right_by_what_is_here(small: House) -> None:
    assert small.read_all() == SMALL
    settle()
    small.image = Image("i1", "x.jpg", "d1", "/", len(SMALL) + 9)
    with pytest.raises(IncompleteTransferError, match="another size"):
        small.read_all()
    assert small.corrected == [len(SMALL)]


def test_a_size_that_no_listing_knows_is_asked_for(small: House) -> None:
    small.image = Image("i1", "x.jpg", "d1", "/", 0)
    assert small.read_all() == SMALL
    assert small.corrected == [len(SMALL)]


@pytest.mark.parametrize("announced", [True, False])
def test_an_early_end_is_never_short(small: House, announced: bool) -> None:
    small.source.data = SMALL[:8192]
    if not announced:
        small.source.announced = None
    reader = small.open()
    with pytest.raises(IncompleteTransferError, match="8192 of 40000"):
        reader.read(len(SMALL), 0)
    reader.close()
    settle()
    assert small.corrected == []


def test_bytes_past_the_end_are_an_error(small: House) -> None:
    small.source.data = SMALL + b"more" * 10_000
    small.source.announced = None
    small.source.goes_on = True
    reader = small.open()
    with pytest.raises(IncompleteTransferError):
        reader.read(len(SMALL), 0)
    reader.close()


def test_what_storage_does_not_have_is_not_asked_again(small: House) -> None:
    small.source.error = StorageError("no such object", status=404)
    reader = small.open()
    with pytest.raises(StorageError):
        reader.read(10, 0)
    reader.close()
    settle()
    assert len(small.source.opened) == 1


# --- fetching ahead ---------------------------------------------------------------------------------


def test_fetching_ahead_brings_as_much_as_asked_and_stops_when_told(large: House) -> None:
    large.downloader.fetch(large.image, STEP)
    assert large.source.opened == [(0, STEP)]
    reader = large.open()
    assert reader.read(STEP, 0) == LARGE[:STEP]
    reader.close()
    assert len(large.source.opened) == 1
    with pytest.raises(NetworkError, match="given up"):
        large.downloader.fetch(large.image, len(LARGE), lambda: large.source.sent_bytes > 2**20)
    assert large.source.sent_bytes < 2**20 + 2 * STEP


def test_a_failed_fetch_leaves_the_reader_its_own_try(small: House) -> None:
    small.source.error = StorageError("not now", status=404)
    with pytest.raises(StorageError):
        small.downloader.fetch(small.image, len(SMALL))
    small.source.error = None
    assert small.read_all() == SMALL


def test_closing_an_image_that_could_not_be_opened(small: House) -> None:
    small.image = Image("i1", "x.jpg", "d1", "/", 0)
    small.source.announced = None
    reader = small.open()
    with pytest.raises(PictographError):
        reader.read(10, 0)
    reader.close()
