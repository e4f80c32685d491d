"""A service that has one image's bytes, in memory, with every trouble that a real one may have."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pictofs.api.errors import IncompleteTransferError, NetworkError, PictographError
from pictofs.api.models import Image

PIECE_BYTES = 4096
"""What a stream hands out at a time."""


class Stream:
    def __init__(self, source: ImageSource, start: int, end: int) -> None:
        self._source = source
        self.offset_bytes = 0 if source.ignores_range else start
        self.total_bytes: int | None = source.announced
        stop = len(source.data) if source.ignores_range or source.goes_on else end
        self.end_bytes: int | None = stop if source.announced is not None else None
        self._end = min(stop, len(source.data))
        self._cancelled = threading.Event()

    def __iter__(self) -> Iterator[bytes]:
        source, position = self._source, self.offset_bytes
        while position < self._end:
            if source.gate is not None and position >= source.gate_at:
                while not source.gate.wait(0.01):
                    if self._cancelled.is_set():
                        raise NetworkError("cancelled")
            if source.breaks_at and position >= source.breaks_at[0]:
                source.breaks_at.pop(0)
                raise NetworkError("reset")
            piece = source.data[position : min(position + PIECE_BYTES, self._end)]
            source.sent_bytes += len(piece)
            yield piece
            position += len(piece)
        if self.end_bytes is not None and position != self.end_bytes:
            raise IncompleteTransferError("cut off", expected=self.end_bytes, received=position)

    def cancel(self) -> None:
        self._cancelled.set()


class ImageSource:
    """Serves `data`; breaks, ignores Range, announces nonsense or waits at a gate when told to.

    Attributes:
        opened: the range of each request.
        goes_on: what is asked for is sent, and all that follows.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.announced: int | None = len(data)
        self.ignores_range = False
        self.goes_on = False
        self.breaks_at: list[int] = []
        self.gate: threading.Event | None = None
        self.gate_at = 0
        self.error: PictographError | None = None
        self.opened: list[tuple[int, int]] = []
        self.sent_bytes = 0

    @contextmanager
    def open(self, image: Image, start: int, end: int) -> Iterator[Stream]:
        self.opened.append((start, end))
        if self.error is not None:
            raise self.error
        yield Stream(self, start, end)
