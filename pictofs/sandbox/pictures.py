"""The only part of the sandbox that decodes pictures: HEIC to PNG, thumbnails, small generated JPEGs."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import pillow_heif
from PIL import Image, ImageOps

pillow_heif.register_heif_opener()

THUMBNAIL_PX = 200
"""Longest side of a thumbnail, as on the service."""
COMMENT_BYTES = 65533
"""Most that one JPEG comment segment can carry."""
UNREADABLE = (OSError, ValueError, SyntaxError, RuntimeError, EOFError, Image.DecompressionBombError)
"""What Pillow and libheif raise for bytes that are no picture."""


def heic_to_png(source: Path, target: Path) -> tuple[int, int]:
    """Write the upright picture as PNG; returns its width and height. Raises one of UNREADABLE."""
    with Image.open(source) as picture:
        upright = ImageOps.exif_transpose(picture)
        # Level 1 is four times faster than the default and a tenth larger; this waits inside a request.
        upright.save(target, "PNG", compress_level=1)
        return upright.size


def thumbnail(source: Path) -> bytes:
    """A small upright JPEG. Raises one of UNREADABLE."""
    with Image.open(source) as picture:
        picture.draft("RGB", (THUMBNAIL_PX, THUMBNAIL_PX))
        small = ImageOps.exif_transpose(picture).convert("RGB")
    small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    return encoded(small, "JPEG")


def encoded(picture: Image.Image, image_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, image_format, **options)
    return buffer.getvalue()


def tile(number: int) -> bytes:
    """A 48 x 32 JPEG whose colour follows from `number`."""
    colour = (number * 97 % 256, number * 57 % 256, number * 23 % 256)
    return encoded(Image.new("RGB", (48, 32), colour), "JPEG")


TILE_SIZE_PX = (48, 32)


def padded(jpeg: bytes, size_bytes: int, salt: int) -> bytes:
    """The same picture with comment segments, so that it has exactly this size and bytes of its own.

    Raises ValueError when `size_bytes` leaves no room for one segment with the salt.
    """
    missing = size_bytes - len(jpeg)
    if missing < 12:
        raise ValueError(f"size_bytes must be at least {len(jpeg) + 12}")
    segments = []
    while missing:
        # No segment may leave a rest too small for another one's header.
        length = missing - 4 if missing <= COMMENT_BYTES + 4 else min(COMMENT_BYTES, missing - 16)
        body = struct.pack(">Q", salt)[:length].ljust(min(length, 8), b"\0")
        body += bytes([salt % 251 + 1]) * (length - len(body))
        segments.append(b"\xff\xfe" + struct.pack(">H", length + 2) + body)
        missing -= length + 4
    return jpeg[:2] + b"".join(segments) + jpeg[2:]
