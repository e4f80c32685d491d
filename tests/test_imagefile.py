"""Which files are held, and what size is registered. The official SDK's measure is the witness for sizes."""

from __future__ import annotations

import io
import os
import struct
import threading
import warnings
import zlib
from pathlib import Path

import pillow_heif
import pytest
from pictograph.resources.images import _CONTENT_TYPE_BY_SUFFIX, _IMAGE_EXTS, _safe_image_dimensions
from PIL import Image, PngImagePlugin

from pictofs.imagefile import EXTENSIONS, MAX_FILE_BYTES, Inspection, content_type_for, inspect

FORMATS = {
    ".jpg": {"format": "JPEG"},
    ".jpeg": {"format": "JPEG", "progressive": True},
    ".png": {"format": "PNG"},
    ".webp": {"format": "WEBP"},
    ".bmp": {"format": "BMP"},
    ".tif": {"format": "TIFF"},
    ".tiff": {"format": "TIFF", "compression": "tiff_lzw"},
    ".gif": {"format": "GIF"},
}
ORIENTED = [name for name in FORMATS if name not in (".bmp", ".gif")]


def _picture(width: int = 96, height: int = 64) -> Image.Image:
    """Noise, so that the compressed data are most of the file."""
    return Image.frombytes("RGB", (width, height), os.urandom(width * height * 3))


def _encoded(extension: str, orientation: int | None = None, picture: Image.Image | None = None) -> bytes:
    buffer = io.BytesIO()
    options = dict(FORMATS[extension])
    if orientation is not None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        options["exif"] = exif
    (picture or _picture()).save(buffer, **options)
    return buffer.getvalue()


def _heic() -> bytes:
    buffer = io.BytesIO()
    pillow_heif.from_pillow(_picture()).save(buffer)
    return buffer.getvalue()


@pytest.fixture
def look(tmp_path: Path):
    def look_at(content: bytes, name: str = "a.jpg") -> Inspection:
        path = tmp_path / "spool"
        path.write_bytes(content)
        return inspect(path, name)

    return look_at


# --- good files ----------------------------------------------------------------------------------


def test_the_extensions_and_types_are_the_sdks() -> None:
    assert EXTENSIONS == _IMAGE_EXTS
    for extension in EXTENSIONS:
        assert content_type_for(f"x.{extension[1:].upper()}") == _CONTENT_TYPE_BY_SUFFIX[extension]
    assert MAX_FILE_BYTES == 52_428_800


@pytest.mark.parametrize("name", ["a.txt", "a", ".jpg", "a.jpg.part", "", "a.heif"])
def test_other_extensions_have_no_type(name: str) -> None:
    with pytest.raises(ValueError, match="not an image the service takes"):
        content_type_for(name)


@pytest.mark.parametrize("extension", FORMATS)
def test_every_format_is_fine_and_measured(look, extension: str) -> None:
    assert look(_encoded(extension)) == Inspection(96, 64, None)


@pytest.mark.parametrize(
    ("extension", "orientation"),
    # libtiff, which writes the compressed TIFF, refuses orientations that do not exist.
    [(e, o) for e in ORIENTED for o in range(10) if e != ".tiff" or 1 <= o <= 8],
)
def test_the_size_is_the_one_that_is_shown(tmp_path: Path, extension: str, orientation: int) -> None:
    path = tmp_path / f"a{extension}"
    path.write_bytes(_encoded(extension, orientation))
    found = inspect(path, path.name)
    assert found.problem is None
    assert (found.width, found.height) == _safe_image_dimensions(path)
    assert (found.width, found.height) == ((64, 96) if 5 <= orientation <= 8 else (96, 64))


def test_exif_after_the_pixels_of_a_png_counts(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    data = exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(data)) + b"eXIf" + data + struct.pack(">I", zlib.crc32(b"eXIf" + data))
    plain = _encoded(".png")
    path.write_bytes(plain[:-12] + chunk + plain[-12:])
    assert inspect(path, path.name) == Inspection(64, 96, None)
    assert _safe_image_dimensions(path) == (64, 96)


@pytest.mark.parametrize(
    ("content", "name"),
    [(".png", "a.jpg"), (".jpg", "a.png"), (".gif", "a.heic"), (".tiff", "A.JPG"), (".webp", "x")],
)
def test_a_wrong_extension_is_no_fault(look, content: str, name: str) -> None:
    assert look(_encoded(content), name) == Inspection(96, 64, None)


@pytest.mark.parametrize(
    "trailer",
    [
        b"\0" * 5000,
        b"\xff" * 3,
        b"\n",
        b"SEFT" + os.urandom(3000),
        b"\0\0\0\x18ftypmp42" + os.urandom(2_500_000),
    ],
    ids=["padding", "fill", "newline", "camera", "motion photo"],
)
@pytest.mark.parametrize("extension", [".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif"])
def test_what_follows_a_whole_picture_is_no_fault(look, extension: str, trailer: bytes) -> None:
    assert look(_encoded(extension) + trailer) == Inspection(96, 64, None)


def test_a_second_picture_inside_one_file(look) -> None:
    """As cameras write them (MPF)."""
    buffer = io.BytesIO()
    _picture().save(buffer, format="MPO", save_all=True, append_images=[_picture()])
    assert look(buffer.getvalue()) == Inspection(96, 64, None)


def test_a_very_large_picture_is_only_measured(look) -> None:
    """30,000 x 30,000 pixels are far beyond what Pillow would open without complaint."""
    raw = zlib.compress(b"")
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", raw), (b"IEND", b"")]
    content = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    assert look(content) == Inspection(30_000, 30_000, None)


def test_a_png_with_more_text_than_pillow_likes(look) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("workflow", "x" * 3_000_000, zip=True)
    buffer = io.BytesIO()
    _picture().save(buffer, format="PNG", pnginfo=info)
    assert look(buffer.getvalue()) == Inspection(96, 64, None)


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*" + b"\xff" * 40]
)
def test_broken_exif_data_are_no_fault(look, exif: bytes) -> None:
    buffer = io.BytesIO()
    _picture().save(buffer, format="JPEG", exif=exif)
    assert look(buffer.getvalue()) == Inspection(96, 64, None)


def test_heic_has_no_size_here(look) -> None:
    heic = _heic()
    for name in ("a.heic", "a.jpg"):
        assert look(heic, name) == Inspection(None, None, None)


def test_a_gif_without_its_trailer(look) -> None:
    assert look(_encoded(".gif").removesuffix(b";")) == Inspection(96, 64, None)


def test_an_open_file_through_proc(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    path.write_bytes(_encoded(".jpg"))
    with path.open("r+b") as file:
        path.unlink()
        assert inspect(f"/proc/self/fd/{file.fileno()}", "a.jpg") == Inspection(96, 64, None)


# --- held files ----------------------------------------------------------------------------------


def test_an_empty_file_is_held(look) -> None:
    assert look(b"") == Inspection(None, None, "empty file")


@pytest.mark.parametrize("extension", [*FORMATS, ".heic"])
def test_a_file_cut_anywhere_is_held(look, extension: str) -> None:
    whole = _heic() if extension == ".heic" else _encoded(extension)
    # A BMP may lack the padding of its last row, a GIF its trailer.
    last = len(whole) - (300 if extension in (".bmp", ".gif") else 1)
    for size in {*range(1, 64), *range(64, last, max(1, last // 60)), last}:
        found = look(whole[:size], f"a{extension}")
        assert found.problem, size
        assert found.problem.startswith(("ends early", "not a readable")), size


def test_the_end_marker_of_a_thumbnail_does_not_count(look) -> None:
    thumbnail = _encoded(".jpg", picture=_picture(16, 16))
    whole = _encoded(".jpg")
    segment = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    with_thumbnail = whole[:2] + segment + whole[2:]
    assert look(with_thumbnail) == Inspection(96, 64, None)
    assert look(with_thumbnail[: len(segment) + 800]).problem == "ends early: no JPEG end marker"
    assert look(with_thumbnail[: len(segment) + 2]).problem == "ends early: no JPEG end marker"


@pytest.mark.parametrize(
    "content",
    [
        b"hello",
        b"\0",
        b"<html></html>",
        b"%PDF-1.7",
        b"\xff\xd8\xff",
        b"\xff\xd8\xff\xd9",
        b"\xff\xd8\xff\xe0\0\0\xff\xd9",
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a",
        b"GIF89a\0\0\0\0\0\0\0;",
        b"RIFF\0\0\0\0WEBP",
        b"BM",
        b"BM" + b"\xff" * 100,
        b"II*\0\x08\0\0\0\0\0",
        b"MM\0*" + b"\xff" * 100,
        b"\0\0\0\x1cftypavif",
        b"\0\0\0\0ftyp",
    ],
)
def test_what_is_no_picture_is_held(look, content: bytes) -> None:
    found = look(content)
    assert found.problem
    assert (found.width, found.height) == (None, None)


def test_a_heic_name_is_named_in_the_reason(look) -> None:
    assert look(b"text", "a.HEIC").problem == "not a readable HEIC image"


def test_random_damage_never_raises(look) -> None:
    """Bytes flipped anywhere: any verdict will do, in a tenth of a second or so each."""
    for extension in FORMATS:
        whole = bytearray(_encoded(extension, 6 if extension in ORIENTED else None))
        for seed in range(60):
            damaged = bytearray(whole)
            for at in range(seed % 7 + 1):
                damaged[(seed * 7919 + at * 104_729) % min(len(damaged), 400)] ^= 1 << (seed % 8)
            assert isinstance(look(bytes(damaged)), Inspection)
    heic = _heic()
    for seed in range(60):
        damaged = bytearray(heic)
        damaged[seed] ^= 0xFF
        assert isinstance(look(bytes(damaged)), Inspection)


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        inspect(tmp_path / "none.jpg", "none.jpg")


def test_threads_do_not_disturb_each_other_or_the_warnings(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(_encoded(".jpg", 6))
    before = list(warnings.filters)
    wrong: list[Inspection] = []

    def run() -> None:
        for _ in range(30):
            found = inspect(path, "a.jpg")
            if found != Inspection(64, 96, None):
                wrong.append(found)

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert warnings.filters == before
