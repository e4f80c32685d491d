"""Reading images: each read waits for its own bytes only, and all readers of an image share what comes in.

A `Transfer` is one image that is being read: its file in the content cache, and the `Flight`s that fill it.
A flight is one request for a range of bytes. A read whose bytes are not here waits for the flight that will
bring them soon, or starts one. At first no more is asked for than was read, so that looking at the beginning
of many files costs little; who reads on gets ranges that grow, each asked for before it is needed.

A flight that breaks goes on where it stopped. One whose Range was ignored brings the image from its first
byte, and the image's other readers wait for it. What ends with another number of bytes than announced is an
error, never a short or padded file. Bytes that the disk does not take are in memory for as long as somebody
reads the image. When the last reader leaves, flights that have far to go are ended.

Lock order: `Downloader._lock`, then `Transfer._grown`, then the locks of cache/content. None is held while
bytes or answers are awaited.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Protocol

from pictofs.api.errors import (
    IncompleteTransferError,
    NetworkError,
    PictographError,
    RequestTimeoutError,
    ServerError,
    StorageError,
)
from pictofs.api.models import Image
from pictofs.cache.content import CHUNK_BYTES, CachedImage, ContentCache
from pictofs.cache.diskless import is_refusal

log = logging.getLogger(__name__)

MAX_RESUMES = 4
"""Breaks in a row, without a byte in between, after which a flight gives up and its readers get EIO."""

MAX_STARTS = 2
"""The same before the first byte: then the service is away rather than the line bad, and somebody waits."""

RESUME_DELAY_S = 0.25
"""Wait before the first resume, doubled with each: short enough that a reader does not notice a reset."""

WHOLE_BYTES = 256 * 1024
"""An image of up to this size is fetched whole: a second round trip would take longer than its rest."""

NEAR_BYTES = 1 << 20
"""How far behind a flight still is when waiting for it beats a request of one's own: what a line of
100 Mbit/s brings in the time of a round trip or two. Also what a flight may still bring for nobody."""

GROWTH = 4
"""By how much each range is longer than the one before, for who reads on: 50 MB in seven requests."""

STEP_BYTES = 512 * 1024
"""Two reads this close are one program reading on: the kernel sends its reads ahead in any order."""

MAX_FLIGHTS = 8
"""Of one image at a time; further readers at other places wait. Beyond it requests only share the line."""

MAX_WAIT_S = 600.0
"""The longest that a read may take while bytes keep coming: 50 MB, read at its end, from a server without
Range, on a line of 700 kbit/s."""

INTERRUPT_S = 0.2
"""How soon a read that waits notices that its program was interrupted."""


class ByteStream(Protocol):
    """Bytes on their way. `offset_bytes` is where they really start: 0 when Range was ignored.

    `end_bytes` is where they end, None when that was not announced; `cancel` ends the iteration in another
    thread with an error.
    """

    @property
    def total_bytes(self) -> int | None: ...
    @property
    def offset_bytes(self) -> int: ...
    @property
    def end_bytes(self) -> int | None: ...
    def __iter__(self) -> Iterator[bytes]: ...
    def cancel(self) -> None: ...


class OpenStream(Protocol):
    def __call__(self, image: Image, start: int, end: int) -> AbstractContextManager[ByteStream]:
        """The image's bytes `[start, end)`, or more: a source that is dear to ask may go on to the end."""


class Watcher(Protocol):
    """Is told what becomes of one open image. See transfer/readahead."""

    def began(self, *, was_here: bool) -> None:
        """The first read; `was_here`: its bytes were in the cache."""

    def reached(self, end: int) -> None:
        """A read up to `end`."""


class Flight:
    """One request for `[start, end)` of an image. `position` only grows; `error` and `ended` are final.

    Guarded by the transfer's condition, but for `cancelled`.
    """

    def __init__(self, start: int, end: int) -> None:
        self.start = start
        self.position = start
        self.end = end
        self.ended = False
        self.error: BaseException | None = None
        self.cancelled = threading.Event()
        self.stream: ByteStream | None = None


class Transfer:
    """One image that is being read. Made, shared and ended by the `Downloader`."""

    def __init__(self, downloader: Downloader, image: Image, file: CachedImage) -> None:
        self.image = image
        self.file = file
        self.readers = 0  # guarded by the downloader, as are the next two
        self.ahead = 0  # how many of them only fetch ahead
        self.is_closed = False
        self._downloader = downloader
        self._grown = threading.Condition()
        self._flights: list[Flight] = []
        self._ignores_range = False
        self._window_bytes = 0  # length of the latest range
        self._frontier = 0  # where it ends, and so who reads on goes on
        self._last_end = 0  # of the latest read
        self._steps = -1  # reads in a row that went on from each other; 0 is the first one

    # Reading

    def ensure(self, start: int, end: int, is_interrupted: Callable[[], bool]) -> None:
        """Wait until the bytes `[start, end)` are here.

        Raises:
            PictographError, OSError: what ended the flight that was to bring them.
            RequestTimeoutError: nothing came for the downloader's timeout.
            InterruptedError: `is_interrupted` said so.
        """
        with self._grown:
            self._note_read(start, end)
            self._look_ahead(end)
            deadline = time.monotonic() + MAX_WAIT_S
            while (gap := self.file.first_gap(start, end)) is not None:
                flight = self._flight_to(gap[0])
                if flight is None and len(self._flights) >= MAX_FLIGHTS:
                    self._wait_for(lambda: len(self._flights) < MAX_FLIGHTS, is_interrupted)
                    continue
                flight = flight or self._start(*gap)
                position = min(gap[1], flight.end)
                while flight.position < position and not flight.ended:
                    before = flight.position
                    # The bytes may come slowly, but they must come.
                    self._wait_for(
                        lambda: flight.ended or flight.position != before,  # noqa: B023 - it is called here
                        is_interrupted,
                    )
                    if time.monotonic() > deadline:
                        raise RequestTimeoutError(f"{self.image.filename}: its bytes arrive too slowly")
                error = None if flight.cancelled.is_set() else flight.error
                if error is not None and not self.file.has(gap[0], gap[0] + 1):
                    raise error

    def _wait_for(self, condition: Callable[[], bool], is_interrupted: Callable[[], bool]) -> None:
        timeout_s = self._downloader.timeout_s
        deadline = time.monotonic() + timeout_s
        while not self._grown.wait_for(condition, min(INTERRUPT_S, timeout_s)):
            if is_interrupted():
                raise InterruptedError(errno.EINTR, os.strerror(errno.EINTR), self.image.filename)
            if time.monotonic() > deadline:
                raise RequestTimeoutError(
                    f"{self.image.filename}: no more bytes arrived within {timeout_s:g} s"
                )

    def _note_read(self, start: int, end: int) -> None:
        goes_on = abs(start - self._last_end) <= STEP_BYTES
        self._steps = self._steps + 1 if goes_on else 0
        self._last_end = end

    def _look_ahead(self, end: int) -> None:
        """Start the next range for who reads on, before it is needed."""
        frontier = self._frontier
        if self._steps < 2 or not frontier or not end <= frontier < self.file.total_bytes:
            return
        if frontier - end > self._window_bytes // 2 or self._flight_to(frontier):
            return
        gap = self.file.first_gap(frontier, self.file.total_bytes)
        if gap is not None and gap[0] == frontier and len(self._flights) < MAX_FLIGHTS:
            self._start(frontier, frontier + 1)

    # Flights

    def _flight_to(self, start: int) -> Flight | None:
        """The flight to wait for the byte at `start`; None: a request of one's own brings it sooner."""
        for flight in self._flying():
            is_coming = flight.position <= start < flight.end
            if is_coming and (self._ignores_range or start - flight.position <= NEAR_BYTES):
                return flight
        return None

    def _flying(self) -> list[Flight]:
        return [flight for flight in self._flights if not flight.cancelled.is_set()]

    def _start(self, start: int, end: int) -> Flight:
        """Ask for `[start, end)` and what may follow, in a thread of its own."""
        flight = self._planned(start, end)
        try:
            threading.Thread(target=self._fly, args=(flight,), name="download", daemon=True).start()
        except RuntimeError as error:
            self._flights.remove(flight)
            raise OSError(errno.EAGAIN, f"no thread to fetch it ({error})", self.image.filename) from None
        return flight

    def _planned(self, start: int, end: int) -> Flight:
        total_bytes = self.file.total_bytes
        begin = start - start % CHUNK_BYTES
        stop = -(-end // CHUNK_BYTES) * CHUNK_BYTES
        if total_bytes <= WHOLE_BYTES:
            begin, stop = 0, total_bytes
        elif begin == self._frontier and self._steps >= 2:  # the kernel alone asks for a second one
            self._window_bytes = max(stop - begin, GROWTH * self._window_bytes)
            stop = begin + self._window_bytes
        else:
            self._window_bytes = stop - begin
        # Not what is here already, and not what another flight is about to bring.
        gap = self.file.first_gap(begin, min(stop, total_bytes))
        if gap is not None:
            begin, stop = gap if gap[0] <= start else (start, gap[1])
        stop = min([stop, *(f.position for f in self._flying() if f.position > start)])
        self._frontier = stop
        flight = Flight(begin, stop)
        self._flights.append(flight)
        return flight

    def fetch(self, size_bytes: int, stop: Callable[[], bool]) -> None:
        """Bring the image's first `size_bytes`, in this thread, or wait for those who do. `stop` is asked now
        and then whether that is no longer wanted.

        Raises:
            PictographError, OSError: they could not be had, or not be kept on the disk; InterruptedError when
                they are not wanted.
        """
        self._check_kept()
        end = min(size_bytes, self.file.total_bytes)
        if self.file.total_bytes <= WHOLE_BYTES:
            end = self.file.total_bytes
        with self._grown:
            gap = self.file.first_gap(0, end)
            if gap is None:
                return
            flight = None
            if not self._flights:
                flight = Flight(gap[0] - gap[0] % CHUNK_BYTES, end)
                self._frontier, self._window_bytes = end, end - flight.start
                self._flights.append(flight)
        if flight is None:
            self.ensure(0, end, stop)
        else:
            self._fly(flight, lambda: self.readers == 1 and stop())
            if flight.error is not None:
                raise flight.error
        self._check_kept()

    def _check_kept(self) -> None:
        """Raises OSError: the disk does not take this image, so that fetching it ahead is in vain."""
        if self.file.is_in_memory:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.image.filename)

    def _fly(self, flight: Flight, stop: Callable[[], bool] = lambda: False) -> None:
        error: BaseException | None = None
        try:
            self._bring(flight, stop)
        except _CancelledError:
            flight.cancelled.set()
            error = NetworkError(f"{self.image.filename}: reading was given up")
        except BaseException as caught:  # noqa: BLE001 - the readers are told, whatever it was.
            error = caught
        with self._grown:
            flight.error, flight.ended = error, True
            self._flights.remove(flight)
            self._grown.notify_all()
        self._downloader.landed(self)

    def _bring(self, flight: Flight, stop: Callable[[], bool]) -> None:
        breaks = 0
        while flight.position < flight.end:
            before = flight.position
            try:
                self._bring_from(flight, stop)
            except (NetworkError, ServerError, StorageError, IncompleteTransferError) as error:
                if flight.cancelled.is_set():
                    raise _CancelledError from error
                if flight.position > before:
                    breaks = 0
                breaks += 1
                allowed = MAX_RESUMES if flight.position > flight.start else MAX_STARTS
                if breaks > allowed or _is_final(error):
                    raise
                log.info("%s: going on from byte %d after: %s", self.image.filename, flight.position, error)
                if flight.cancelled.wait(RESUME_DELAY_S * 2**breaks):
                    raise _CancelledError from error

    def _bring_from(self, flight: Flight, stop: Callable[[], bool]) -> None:
        """Bring what one request gives, from the flight's position on."""
        image, total_bytes = self.image, self.file.total_bytes
        asked = flight.position
        with self._downloader.open_stream(image, asked, flight.end) as stream, self._known(flight, stream):
            position = stream.offset_bytes
            if stream.total_bytes is not None and stream.total_bytes != total_bytes:
                self._downloader.put_right(image, stream.total_bytes)
                raise _WrongSizeError(image.filename, listed=total_bytes, true=stream.total_bytes)
            if position > asked:
                raise NetworkError(f"{image.filename}: byte {position} came where {asked} was asked for")
            with self._grown:
                self._ignores_range |= position < asked
                flight.position = position
                # A source may go on to the end; what is known to come is worth waiting for.
                flight.end = max(flight.end, min(stream.end_bytes or 0, total_bytes))
            for data in stream:
                if flight.cancelled.is_set() or stop():
                    raise _CancelledError
                if position + len(data) > total_bytes:
                    raise IncompleteTransferError(
                        f"{image.filename} goes on past its end",
                        expected=total_bytes,
                        received=position + len(data),
                    )
                self._store(flight, data, position)
                position += len(data)
                with self._grown:
                    flight.position = position
                    self._grown.notify_all()
        if position < flight.end:
            raise IncompleteTransferError(
                f"{image.filename} ended early", expected=flight.end, received=position
            )

    def _store(self, flight: Flight, data: bytes, position: int) -> None:
        """Put bytes into the image's file: one in memory, when the disk does not take them and somebody reads
        them. Raises OSError."""
        try:
            self.file.write(data, position)
        except OSError as error:
            if not is_refusal(error):
                raise
            if self.readers <= self.ahead:
                flight.cancelled.set()  # who comes now tries again
                raise
            self.file.go_into_memory()
            self.file.write(data, position)

    @contextmanager
    def _known(self, flight: Flight, stream: ByteStream) -> Iterator[None]:
        """While it lasts, `abandon` can cancel the stream: its connection may serve others afterwards."""
        with self._grown:
            flight.stream = stream
        try:
            yield
        finally:
            with self._grown:
                flight.stream = None

    def abandon(self) -> bool:
        """Nobody reads any more: end what has far to go. Whether nothing is under way."""
        with self._grown:
            for flight in self._flights:
                if flight.end - flight.position > NEAR_BYTES or self.file.is_in_memory:
                    flight.cancelled.set()
                    if flight.stream is not None:
                        flight.stream.cancel()
            return not self._flights


class Reader:
    """One open image. Not shared between handles; its reads may come from several threads."""

    def __init__(self, downloader: Downloader, image: Image, watcher: Watcher | None = None) -> None:
        self._downloader = downloader
        self._image = image
        self._watcher = watcher
        self._lock = threading.Lock()
        self._transfer: Transfer | None = None

    def read(self, size: int, offset: int) -> bytes:
        """Up to `size` bytes from `offset`; fewer only at the end of the image.

        Raises:
            PictographError, OSError: the bytes cannot be had.
        """
        transfer, size = self._ready(size, offset, lambda: False)
        return os.pread(transfer.file.fd, size, offset)

    def read_into(
        self, buffer: memoryview, offset: int, is_interrupted: Callable[[], bool] = lambda: False
    ) -> int:
        """As `read`, into a buffer; how many bytes. InterruptedError when told to give up."""
        transfer, size = self._ready(len(buffer), offset, is_interrupted)
        return os.preadv(transfer.file.fd, [buffer[:size]], offset) if size else 0

    def _ready(self, size: int, offset: int, is_interrupted: Callable[[], bool]) -> tuple[Transfer, int]:
        """Wait for the bytes; where they are, and how many of them there are."""
        with self._lock:
            transfer = self._transfer
            is_first = transfer is None
            if transfer is None:
                transfer = self._transfer = self._downloader.attach(self._image)
        end = min(offset + size, transfer.file.total_bytes)
        if end <= offset:
            return transfer, 0
        was_here = transfer.file.has(offset, end)
        if self._watcher is not None:
            self._watcher.reached(end)
            if is_first:
                self._watcher.began(was_here=was_here)
        if not transfer.file.is_whole():
            transfer.ensure(offset, end, is_interrupted)
        return transfer, end - offset

    def close(self) -> None:
        """Let go of the image; what is on its way for nobody is ended."""
        with self._lock:
            transfer, self._transfer = self._transfer, None
        if transfer is not None:
            self._downloader.detach(transfer)


class Downloader:
    """Opens images for reading, from the cache or the service.

    Args:
        cache: where bytes stay.
        open_stream: part of an image's bytes.
        correct_size: told the true size when the bytes show that the listing was wrong.
        timeout_s: how long a read waits while no bytes come.
    """

    def __init__(
        self,
        cache: ContentCache,
        open_stream: OpenStream,
        *,
        correct_size: Callable[[Image, int], None],
        timeout_s: float,
    ) -> None:
        self._cache = cache
        self.open_stream = open_stream
        self._correct_size = correct_size
        self.timeout_s = timeout_s
        self._lock = threading.Lock()
        self._transfers: dict[str, Transfer] = {}

    def open(self, image: Image, watcher: Watcher | None = None) -> Reader:
        """A reader of the image's bytes. Asks for nothing until it is read."""
        return Reader(self, image, watcher)

    def fetch(self, image: Image, size_bytes: int, stop: Callable[[], bool] = lambda: False) -> None:
        """Bring the first bytes of an image into the cache, in this thread; see `Transfer.fetch`."""
        transfer = self.attach(image, ahead=True)
        try:
            transfer.fetch(size_bytes, stop)
        finally:
            self.detach(transfer, ahead=True)

    def attach(self, image: Image, *, ahead: bool = False) -> Transfer:
        """One reader more of an image; `ahead`: one that only wants it to be on the disk.

        Raises:
            IncompleteTransferError: the listing was wrong about its size, which is put right.
            PictographError, OSError: it cannot be opened.
        """
        size_bytes = image.file_size or self._ask_size(image)
        with self._lock:
            transfer = self._transfers.get(image.id)
            if transfer is None:
                file = self._file(image, size_bytes, ahead=ahead)
                transfer = self._transfers[image.id] = Transfer(self, image, file)
            transfer.readers += 1
            transfer.ahead += ahead
            known_bytes = transfer.file.total_bytes
        if known_bytes == size_bytes:
            return transfer
        # Programs were shown another size than that of the bytes which are here.
        self.put_right(image, known_bytes)
        self.detach(transfer, ahead=ahead)
        raise _WrongSizeError(image.filename, listed=size_bytes, true=known_bytes)

    def detach(self, transfer: Transfer, *, ahead: bool = False) -> None:
        """One reader less."""
        with self._lock:
            transfer.readers -= 1
            transfer.ahead -= ahead
            is_over = transfer.readers == 0 and transfer.abandon() and self._forget(transfer)
        if is_over:
            self._close(transfer)

    def landed(self, transfer: Transfer) -> None:
        """One of its flights has ended."""
        with self._lock:
            is_over = transfer.readers == 0 and transfer.abandon() and self._forget(transfer)
        if is_over:
            self._close(transfer)
        else:
            self._cache.make_room()

    def put_right(self, image: Image, true_bytes: int) -> None:
        """The listing was wrong about an image's size. What was collected under it cannot be used."""
        self._correct_size(image, true_bytes)
        with self._lock:
            transfer = self._transfers.get(image.id)
            if transfer is not None and transfer.file.total_bytes != true_bytes:
                del self._transfers[image.id]
                with suppress(OSError):  # of a disk that is read-only
                    self._cache.discard(image.id)

    def _file(self, image: Image, size_bytes: int, *, ahead: bool) -> CachedImage:
        try:
            return self._file_on_disk(image, size_bytes)
        except OSError as error:
            if ahead or not is_refusal(error):
                raise
            return self._cache.open_in_memory(image.id, size_bytes)

    def _file_on_disk(self, image: Image, size_bytes: int) -> CachedImage:
        file = self._cache.open(image.id, size_bytes)
        if file.total_bytes != size_bytes and file.is_empty():  # made for a size that no byte has confirmed
            file.close()
            self._cache.discard(image.id)
            file = self._cache.open(image.id, size_bytes)
        return file

    def _forget(self, transfer: Transfer) -> bool:
        """Take a transfer out of the table; whether it is to be closed, which is once."""
        if self._transfers.get(transfer.image.id) is transfer:
            del self._transfers[transfer.image.id]
        was_closed, transfer.is_closed = transfer.is_closed, True
        return not was_closed

    def _close(self, transfer: Transfer) -> None:
        transfer.file.close()
        self._cache.make_room()

    def _ask_size(self, image: Image) -> int:
        """The size of an image that neither the listing nor a HEAD knew."""
        with self.open_stream(image, 0, 1) as stream:
            if stream.total_bytes is None:
                raise NetworkError(f"nothing tells how large {image.filename} is")
            self._correct_size(image, stream.total_bytes)
            return stream.total_bytes


class _CancelledError(Exception):
    """Nobody reads any more."""


class _WrongSizeError(IncompleteTransferError):
    """Programs were shown another size, so this is not the file that they expect."""

    def __init__(self, filename: str, *, listed: int, true: int) -> None:
        super().__init__(
            f"{filename} has another size than listed (put right now; open it again)",
            expected=listed,
            received=true,
        )


def _is_final(error: PictographError) -> bool:
    """Whether asking again is pointless: another size, or storage has no such object."""
    return isinstance(error, _WrongSizeError) or (
        isinstance(error, StorageError) and error.status in (404, 410)
    )
