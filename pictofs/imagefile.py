"""Is this file a whole image, and how large is it? The only importer of Pillow in the drive.

Reads headers, chunk lists and tails, never decodes pixels, and never raises for bad content. What counts as
broken is narrow on purpose, since a broken file is held back from upload: Pillow cannot identify it, or it
ends early. Data after an image's end (camera trailers, motion photos, padding) is no fault, nor is an
extension that does not match the content.

Lock order: `_pillow_lock` only. It guards the interpreter-wide warning filters while Pillow reads a header.
"""

from __future__ import annotations

import os
import struct
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from PIL import Image

_CONTENT_TYPES = {
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
    ".bmp": "image/bmp",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".gif": "image/gif",
    ".heic": "image/heic",
}
EXTENSIONS: frozenset[str] = frozenset(_CONTENT_TYPES)
"""Lower-case extensions that the service takes (415 for others)."""
MAX_FILE_BYTES = 50 * 1024 * 1024
"""The service answers 413 beyond."""

# Brands of ISO 23008-12 (HEIF) files that hold HEVC pictures; `mif1` and `msf1` are the codec-neutral ones
# that some phones write as the major brand.
_HEIC_BRANDS = frozenset(b"heic heix heim heis hevc hevx hevm hevs mif1 msf1".split())
# Offsets and lengths of the strips, and of the tiles.
_TIFF_DATA_TAGS = ((273, 279), (324, 325))
_ORIENTATION_TAG = 0x0112
# Orientations that turn the picture by a quarter, so that width and height change places.
_QUARTER_TURNS = frozenset({5, 6, 7, 8})
# Enough for every signature in `_format_of`.
_MAGIC_BYTES = 16
_SCAN_BYTES = 1 << 20

_pillow_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Inspection:
    """What `inspect` found.

    Attributes:
        width, height: pixels as shown, after EXIF orientation; None when they could not be read.
        problem: why the file should not be uploaded as it is, in a few words; None when it is fine.
    """

    width: int | None
    height: int | None
    problem: str | None


def content_type_for(filename: str) -> str:
    """The MIME type to announce for `filename`.

    Raises:
        ValueError: an extension that the service does not take.
    """
    suffix = PurePath(filename).suffix.lower()
    try:
        return _CONTENT_TYPES[suffix]
    except KeyError:
        raise ValueError(
            f"{suffix or 'no extension'}: not an image the service takes ({' '.join(sorted(EXTENSIONS))})"
        ) from None


def inspect(path_or_fd_path: str | os.PathLike[str], filename: str) -> Inspection:
    """Look at a file that is to be uploaded as `filename`. The content decides the format; of the name only a
    `.heic` matters, which is said in the words for content that is no image.

    A HEIC has no size here: Pillow cannot open it, and the service measures its own conversion.

    Raises:
        OSError: the file cannot be opened or read.
    """
    with open(path_or_fd_path, "rb") as file:  # noqa: PTH123 - /proc/self/fd paths are taken as they are
        size_bytes = os.fstat(file.fileno()).st_size
        head = file.read(_MAGIC_BYTES)
        if not head:
            return Inspection(None, None, "empty file")
        found = _format_of(head)
        if found is None:
            wanted = "HEIC image" if filename.lower().endswith(".heic") else "image"
            return Inspection(None, None, f"not a readable {wanted}")
        if found == "HEIC":
            return Inspection(None, None, _heic_problem(file, size_bytes))
        late_exif = None
        if found == "PNG":
            problem, late_exif = _walk_png(file, size_bytes)
        else:
            problem = _END_CHECKS[found](file, size_bytes)
        header = _read_header(file, found, late_exif)
        if header is None and found == "PNG":
            header = _png_header(file)
        if header is None:
            return Inspection(None, None, problem or "not a readable image")
        if header.needed_bytes > size_bytes:
            problem = problem or "ends early: its pixel data go on beyond the end of the file"
        return Inspection(header.width, header.height, problem)


def _format_of(head: bytes) -> str | None:
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WEBP"
    if head.startswith(b"BM"):
        return "BMP"
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "TIFF"
    if head[4:8] == b"ftyp" and head[8:12] in _HEIC_BRANDS:
        return "HEIC"
    return None


# --- size, through Pillow ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Header:
    """What Pillow read: the size as shown, and how many bytes of file the pixel data need at least."""

    width: int
    height: int
    needed_bytes: int


def _read_header(file: BinaryIO, found: str, late_exif: bytes | None) -> _Header | None:
    """None when Pillow cannot identify the file. `late_exif`: EXIF data that Pillow may meet only later.

    The plugin is asked directly, not through `Image.open`: that would try formats the service does not take,
    and refuse the very large pictures that we only want to measure.
    """
    # Loaded at the first image, not at start: it takes longer than all of the rest.
    from PIL import (
        BmpImagePlugin,
        GifImagePlugin,
        JpegImagePlugin,
        PngImagePlugin,
        TiffImagePlugin,
        WebPImagePlugin,
    )

    plugins: dict[str, Callable[[BinaryIO], Image.Image]] = {
        "JPEG": JpegImagePlugin.JpegImageFile,
        "PNG": PngImagePlugin.PngImageFile,
        "GIF": GifImagePlugin.GifImageFile,
        "WEBP": WebPImagePlugin.WebPImageFile,
        "BMP": BmpImagePlugin.BmpImageFile,
        "TIFF": TiffImagePlugin.TiffImageFile,
    }
    file.seek(0)
    with _pillow_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = plugins[found](file)
            width, height = image.size
        except Exception:  # noqa: BLE001 - whatever a plugin stumbles over in garbage
            return None
        needed_bytes = _needed_bytes(image)
        if late_exif:
            image.info.setdefault("exif", late_exif)
        # TIFF sizes come oriented already.
        if found != "TIFF" and _orientation(image) in _QUARTER_TURNS:
            width, height = height, width
    return _Header(width, height, needed_bytes)


def _needed_bytes(image: Image.Image) -> int:
    """The least size of a file whose header says what `image`'s says; 0 when the header does not tell."""
    try:
        return _end_of_pixels(image)
    except Exception:  # noqa: BLE001 - odd tags in a file that Pillow did identify
        return 0


def _end_of_pixels(image: Image.Image) -> int:
    if image.format == "BMP":
        decoder, _, offset, arguments = image.tile[0]  # type: ignore[attr-defined]
        if decoder != "raw":
            return 0
        # Writers leave out the padding of the last row.
        return int(offset) + int(arguments[1]) * (image.height - 1) + 1
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        for offsets, lengths in _TIFF_DATA_TAGS:
            ends = map(sum, zip(tags.get(offsets, ()), tags.get(lengths, ()), strict=False))
            if needed_bytes := max(ends, default=0):
                return int(needed_bytes)
    return 0


def _orientation(image: Image.Image) -> int:
    from PIL.Image import Image as BaseImage

    try:
        # The base class's: the PNG plugin's own decodes the whole picture in search of EXIF data.
        return int(BaseImage.getexif(image).get(_ORIENTATION_TAG, 1))
    except Exception:  # noqa: BLE001 - broken EXIF data in an otherwise good picture: shown as it is stored
        return 1


# --- where does it end -------------------------------------------------------------------------


def _jpeg_problem(file: BinaryIO, size_bytes: int) -> str | None:
    """Looks for the end marker after the first scan begins, so neither the end marker of a thumbnail in the
    metadata counts, nor does anything that follows the picture disturb."""
    early = "ends early: no JPEG end marker"
    position = 2
    while True:
        file.seek(position)
        marker = file.read(4)
        if len(marker) < 4:
            # Nothing but an end marker can be that short.
            return None if marker[:2] == b"\xff\xd9" else early
        if marker[0] != 0xFF:
            break  # not a segment: Pillow decides whether that is an image, we only look for its end
        if marker[1] == 0xFF:
            position += 1
        elif marker[1] == 0x01 or 0xD0 <= marker[1] <= 0xD8:
            position += 2  # markers that stand alone
        elif marker[1] == 0xD9:
            return None
        else:
            position += 2 + int.from_bytes(marker[2:], "big")
            if marker[1] == 0xDA:
                break
    file.seek(-2, os.SEEK_END)
    if file.tell() >= position and file.read(2) == b"\xff\xd9":
        return None
    # Inside a scan a 0xFF is always followed by 0x00 or a restart marker, so the first match is the end.
    file.seek(min(position, size_bytes))
    before = b""
    while block := file.read(_SCAN_BYTES):
        if b"\xff\xd9" in before + block:
            return None
        before = block[-1:]
    return early


def _walk_png(file: BinaryIO, size_bytes: int) -> tuple[str | None, bytes | None]:
    """(problem, EXIF data wherever in the file they stand)."""
    position = 8
    exif = None
    while position + 12 <= size_bytes:
        file.seek(position)
        length, kind = struct.unpack(">I4s", file.read(8))
        if kind == b"IEND":
            return None, exif
        if kind == b"eXIf" and length <= _SCAN_BYTES:
            exif = file.read(length)
        position += 12 + length
    return "ends early: no PNG end chunk (IEND)", exif


def _png_header(file: BinaryIO) -> _Header | None:
    """The size alone: Pillow gives up on pictures whose text chunks are larger than it likes."""
    file.seek(8)
    chunk = file.read(17)
    if len(chunk) < 17 or chunk[4:8] != b"IHDR":
        return None
    width, height = struct.unpack(">II", chunk[8:16])
    return _Header(width, height, 0) if width and height else None


def _gif_problem(file: BinaryIO, _size_bytes: int) -> str | None:
    """A missing trailer is common and harmless; a block that is cut is not."""
    early = "ends early: a GIF block is cut"
    file.seek(10)
    flags = file.read(3)[:1]
    if not flags:
        return early
    file.seek(13 + _gif_table_bytes(flags[0]))
    while True:
        kind = file.read(1)
        if kind == b"!":
            file.read(1)
        elif kind == b",":
            descriptor = file.read(9)
            if len(descriptor) < 9:
                return early
            file.seek(_gif_table_bytes(descriptor[8]) + 1, os.SEEK_CUR)
        else:
            return None  # the trailer, the end of the file, or what somebody put after the picture
        while (length := file.read(1)) != b"\0":
            if not length:
                return early
            file.seek(length[0], os.SEEK_CUR)


def _gif_table_bytes(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _webp_problem(file: BinaryIO, size_bytes: int) -> str | None:
    file.seek(4)
    size_field = file.read(4)
    # A last chunk of odd length may lack its padding byte.
    if len(size_field) < 4 or int.from_bytes(size_field, "little") + 8 > size_bytes + 1:
        return "ends early: shorter than its WebP header says"
    return None


def _heic_problem(file: BinaryIO, size_bytes: int) -> str | None:
    """Walks the outermost boxes: the description (`meta`, in sequences `moov`) and the data must be there."""
    position = 0
    kinds = set()
    while position + 8 <= size_bytes:
        file.seek(position)
        length, kind, large = struct.unpack(">I4sQ", file.read(16).ljust(16, b"\0"))
        kinds.add(kind)
        if length == 0:
            break  # this box reaches to the end of the file
        if length == 1:
            length = large
        if length < 8:
            break  # what follows the boxes is not ours to judge
        position += length
    if position > size_bytes or b"mdat" not in kinds or kinds.isdisjoint({b"meta", b"moov"}):
        return "ends early: a HEIC box is cut or missing"
    return None


def _unchecked(_file: BinaryIO, _size_bytes: int) -> str | None:
    """BMP and TIFF: their headers tell, see `_needed_bytes`."""
    return None


_END_CHECKS: dict[str, Callable[[BinaryIO, int], str | None]] = {
    "JPEG": _jpeg_problem,
    "GIF": _gif_problem,
    "WEBP": _webp_problem,
    "BMP": _unchecked,
    "TIFF": _unchecked,
}
