"""A downloader over one image, its cache and its source: what the tests of reading look at."""

from __future__ import annotations

import random
import threading
from pathlib import Path

from image_source import ImageSource

from pictofs.api.models import Image
from pictofs.cache.content import ContentCache
from pictofs.transfer.download import Downloader, Reader

SMALL = random.Random(1).randbytes(40_000)
LARGE = random.Random(2).randbytes(20 * 2**20 + 777)
STEP = 128 * 1024
"""What the kernel reads at a time."""


class House:
    """A downloader over one image."""

    def __init__(self, folder: Path, data: bytes, timeout_s: float = 10) -> None:
        self.folder = folder
        self.data = data
        self.source = ImageSource(data)
        self.image = Image("i1", "x.jpg", "d1", "/", len(data))
        self.corrected: list[int] = []
        self.timeout_s = timeout_s
        self.restart()

    def restart(self) -> None:
        self.cache = ContentCache(self.folder, max_bytes=1 << 30)
        self.downloader = Downloader(
            self.cache,
            self.source.open,
            correct_size=lambda _image, size: self.corrected.append(size),
            timeout_s=self.timeout_s,
        )

    def open(self) -> Reader:
        return self.downloader.open(self.image)

    def read_all(self) -> bytes:
        return read_all(self.open())


def read_all(reader: Reader, size: int = STEP) -> bytes:
    data = bytearray()
    while part := reader.read(size, len(data)):
        data += part
    reader.close()
    return bytes(data)


def settle() -> None:
    for thread in threading.enumerate():
        if thread.name == "download":
            thread.join(10)
