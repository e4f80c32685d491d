"""An uploaded image's bytes as a new spool file: from the cache, or downloaded now."""

from __future__ import annotations

from pictofs.api.models import Image
from pictofs.transfer.download import Downloader
from pictofs.transfer.spool import Spool, SpoolFile

__all__ = ["to_spool"]

_COPY_BYTES = 1 << 20
"""How much is copied at a time."""


def to_spool(image: Image, downloader: Downloader, spool: Spool) -> SpoolFile:
    """All of an image's bytes, not yet durable.

    Raises:
        OSError: no room on the disk.
        PictographError: they did not all arrive; nothing is left of the file.
    """
    spool_file = spool.create()
    reader = downloader.open(image)
    try:
        offset = 0
        while data := reader.read(_COPY_BYTES, offset):
            offset += spool_file.pwrite(data, offset)
    except BaseException:
        spool_file.close()
        spool.remove(spool_file.name)
        raise
    finally:
        reader.close()
    return spool_file
