"""Streaming reads: a read returns as soon as its own bytes are there, and readers share one transfer.

A `Transfer` brings one image's bytes, from the start to the end, into a file of the content cache. A break
is resumed where it stopped. What ends with another number of bytes than announced is an error, never a
short or padded file. When the last reader leaves before the end, the transfer stops.

Lock order: `Downloader._lock`, then `Transfer._grown`. Neither is held while bytes or answers are awaited.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
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
from pictofs.cache.content import ContentCache

log = logging.getLogger(__name__)

MAX_RESUMES = 4
"""Breaks in a row, without a byte in between, after which a transfer gives up and its readers get EIO."""

RESUME_DELAY_S = 0.25
"""Wait before the first resume, doubled with each: short enough that a reader does not notice a reset."""


class ByteStream(Protocol):
    """Bytes on their way. `offset_bytes` is where they really start: 0 when Range was ignored."""

    @property
    def total_bytes(self) -> int | None: ...
    @property
    def offset_bytes(self) -> int: ...
    def __iter__(self) -> Iterator[bytes]: ...


OpenStream = Callable[[Image, int], AbstractContextManager[ByteStream]]


class Transfer:
    """One image on its way into a file. `received` only grows; `error` and `finished` are final."""

    def __init__(self, image: Image, fd: int) -> None:
        self.image = image
        self.fd = fd
        self.received = 0
        self.finished = False
        self.error: BaseException | None = None
        self.readers = 0
        self.cancelled = threading.Event()
        self._grown = threading.Condition()

    def wait_for(self, end: int, timeout_s: float) -> None:
        """Wait until `end` bytes are here, or all there are.

        Raises:
            PictographError: what ended the transfer.
            RequestTimeoutError: not in time.
        """
        with self._grown:
            arrived = self._grown.wait_for(
                lambda: self.received >= end or self.finished or self.error is not None, timeout_s
            )
            if self.error is not None and self.received < end:
                raise self.error
        if not arrived:
            raise RequestTimeoutError(
                f"{self.image.filename}: no more bytes arrived within {timeout_s:.0f} s"
            )

    def grow(self, data: bytes) -> None:
        """Store bytes that follow those received."""
        os.pwrite(self.fd, data, self.received)
        with self._grown:
            self.received += len(data)
            self._grown.notify_all()

    def end(self, error: BaseException | None = None) -> None:
        """Nothing more will come: all is here, or `error` says why not."""
        with self._grown:
            self.error = error
            self.finished = error is None
            self._grown.notify_all()


class Reader:
    """One open image. Not shared between handles; its reads may come from several threads."""

    def __init__(self, downloader: Downloader, image: Image) -> None:
        self._downloader = downloader
        self._image = image
        self._lock = threading.Lock()
        self._fd: int | None = None
        self._transfer: Transfer | None = None

    def read(self, size: int, offset: int) -> bytes:
        """Up to `size` bytes from `offset`; fewer only at the end of the image.

        Raises:
            PictographError, OSError: the bytes cannot be had.
        """
        with self._lock:
            if self._fd is None:
                self._fd, self._transfer = self._downloader.attach(self._image)
            fd, transfer = self._fd, self._transfer
        if transfer is not None and not transfer.finished:
            transfer.wait_for(offset + size, self._downloader.timeout_s)
        return os.pread(fd, size, offset)

    def close(self) -> None:
        """Let go of the bytes; stops the transfer if nobody else reads."""
        with self._lock:
            fd, transfer = self._fd, self._transfer
            self._fd = self._transfer = None
        if fd is not None:
            os.close(fd)
        if transfer is not None:
            self._downloader.detach(transfer)


class Downloader:
    """Opens images for reading, from the cache or the service.

    Args:
        cache: where complete files stay.
        open_stream: the image's bytes from an offset on.
        correct_size: told the true size when the bytes show that the listing was wrong.
        timeout_s: how long a read waits for its bytes.
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
        self._open_stream = open_stream
        self._correct_size = correct_size
        self.timeout_s = timeout_s
        self._lock = threading.Lock()
        self._transfers: dict[str, Transfer] = {}

    def open(self, image: Image) -> Reader:
        """A reader of the image's bytes. Asks for nothing until it is read."""
        return Reader(self, image)

    def attach(self, image: Image) -> tuple[int, Transfer | None]:
        """A descriptor of the bytes, and the transfer that still fills them (None when they are complete)."""
        with self._lock:
            transfer = self._transfers.get(image.id)
            if transfer is None or transfer.cancelled.is_set():
                fd = self._cache.open(image.id)
                if fd is not None:
                    return fd, None
                transfer = self._start(image)
            transfer.readers += 1
            return os.dup(transfer.fd), transfer

    def detach(self, transfer: Transfer) -> None:
        """One reader less."""
        with self._lock:
            transfer.readers -= 1
            if transfer.readers == 0:
                transfer.cancelled.set()

    def _start(self, image: Image) -> Transfer:
        partial = self._cache.partial(image.id)
        transfer = Transfer(
            image, os.open(partial, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        )
        self._transfers[image.id] = transfer

        def run() -> None:
            try:
                self._bring(transfer)
                self._cache.commit(image.id, partial)
                transfer.end()
            except _CancelledError:
                partial.unlink(missing_ok=True)
                transfer.end(NetworkError(f"{image.filename}: reading was given up"))
            except BaseException as error:  # noqa: BLE001 - the readers are told, whatever it was.
                log.warning("%s could not be read: %s", image.filename, error)
                partial.unlink(missing_ok=True)
                transfer.end(error)
            finally:
                with self._lock:
                    if self._transfers.get(image.id) is transfer:
                        del self._transfers[image.id]
                os.close(transfer.fd)

        threading.Thread(target=run, name="download", daemon=True).start()
        return transfer

    def _bring(self, transfer: Transfer) -> None:
        image = transfer.image
        breaks = 0
        while True:
            before = transfer.received
            try:
                self._bring_from(transfer, before)
            except (NetworkError, ServerError, StorageError, IncompleteTransferError) as error:
                if transfer.received > before:
                    breaks = 0
                breaks += 1
                if breaks > MAX_RESUMES or _is_final(error):
                    raise
                log.info("%s: going on from byte %d after: %s", image.filename, transfer.received, error)
                if transfer.cancelled.wait(RESUME_DELAY_S * 2**breaks):
                    raise _CancelledError from error
                continue
            return

    def _bring_from(self, transfer: Transfer, offset: int) -> None:
        """Bring the bytes from `offset` to the end."""
        with self._open_stream(transfer.image, offset) as stream:
            if stream.total_bytes is not None:
                self._check_size(transfer.image, stream.total_bytes)
            skip = offset - stream.offset_bytes  # all that is known already, when Range was ignored
            for data in stream:
                if transfer.cancelled.is_set():
                    raise _CancelledError
                if skip >= len(data):
                    skip -= len(data)
                    continue
                transfer.grow(data[skip:] if skip else data)
                skip = 0
            # Without an announced length only the listing can tell the end from a break.
            total_bytes = stream.total_bytes or transfer.image.file_size
        if total_bytes and transfer.received != total_bytes:
            raise IncompleteTransferError(
                f"{transfer.image.filename} ended early", expected=total_bytes, received=transfer.received
            )

    def _check_size(self, image: Image, total_bytes: int) -> None:
        """Tell the truth and stop if programs were shown another size: this is not the file they expect."""
        if image.file_size and total_bytes != image.file_size:
            self._correct_size(image, total_bytes)
            raise _WrongSizeError(
                f"{image.filename} has another size than listed (put right now; open it again)",
                expected=image.file_size,
                received=total_bytes,
            )


class _CancelledError(Exception):
    """Nobody reads any more."""


class _WrongSizeError(IncompleteTransferError):
    """The listing was wrong, so asking for more bytes is pointless."""


def _is_final(error: PictographError) -> bool:
    """Whether asking again is pointless: another size, or storage has no such object."""
    return isinstance(error, _WrongSizeError) or (
        isinstance(error, StorageError) and error.status in (404, 410)
    )
