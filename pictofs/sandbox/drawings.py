"""The pictures of the example datasets, drawn: always the same bytes, and a person sees what each one is."""

from __future__ import annotations

import math
from typing import Any

from PIL import Image, ImageDraw

from pictofs.sandbox.pictures import encoded

Box = tuple[float, float, float, float]
"""left, top, right, bottom, in pixels."""

SIZE_PX = (480, 360)
SKY, GRASS, ASPHALT, WHITE, BLACK, RED = "#9fc9eb", "#6aa84f", "#5b5b5b", "#ffffff", "#111111", "#c81e1e"

UNDO_ORIENTATION = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""What turns an upright picture into one that its EXIF orientation makes upright again."""
EXIF_ORIENTATION = 0x0112


def road_sign(kind: str, number: int) -> tuple[Image.Image, Box]:
    """A sign of this kind ('stop', 'yield' or a speed) by a road, and where it stands."""
    picture = _landscape(number)
    draw = ImageDraw.Draw(picture)
    x, y, radius = 150 + 45 * (number % 5), 135 + 12 * (number % 3), 62 + 6 * (number % 4)
    draw.rectangle((x - 5, y, x + 5, 320), fill="#8a8a8a")
    if kind == "stop":
        corners = [math.radians(22.5 + 45 * corner) for corner in range(8)]
        draw.polygon(
            [(x + radius * math.cos(angle), y + radius * math.sin(angle)) for angle in corners],
            fill=RED,
            outline=WHITE,
            width=5,
        )
        _words(draw, (x, y), "STOP", WHITE, 34)
    elif kind == "yield":
        draw.polygon(
            [(x - radius, y - radius * 0.8), (x + radius, y - radius * 0.8), (x, y + radius)],
            fill=WHITE,
            outline=RED,
            width=12,
        )
    else:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=WHITE, outline=RED, width=13)
        _words(draw, (x, y), kind, BLACK, 46)
    return picture, (x - radius, y - radius, x + radius, y + radius)


def fruit(kind: str, number: int) -> tuple[Image.Image, Box]:
    """One 'apple', 'banana', 'orange' or bunch of 'grapes' on a table, and where it lies."""
    picture = Image.new("RGB", SIZE_PX, ("#f3ead7", "#e4eef5", "#efe3ee")[number % 3])
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 250, 480, 360), fill="#b98a5a")
    x, y, radius = 160 + 40 * (number % 5), 215, 70 + 5 * (number % 4)
    box = (x - radius, y - radius, x + radius, y + radius)
    draw.ellipse((x - radius, y + radius - 14, x + radius, y + radius + 14), fill="#8d6843")
    if kind == "apple":
        draw.ellipse(box, fill=("#c62828", "#7cb342")[number % 2])
        draw.line((x, y - radius + 10, x + 12, y - radius - 24), fill="#4e342e", width=8)
        draw.ellipse((x + 12, y - radius - 26, x + 58, y - radius - 4), fill="#558b2f")
    elif kind == "orange":
        draw.ellipse(box, fill="#fb8c00")
        for dot in range(24):
            angle, distance = dot * 2.4, radius * 0.85 * math.sqrt(dot / 24)
            place = (x + distance * math.cos(angle), y + distance * math.sin(angle))
            _disc(draw, place, 2, fill="#ef6c00")
    elif kind == "banana":
        draw.ellipse(box, fill="#fdd835")
        draw.ellipse((box[0] - 8, box[1] - 50, box[2] + 8, box[3] - 45), fill=picture.getpixel((4, 4)))
    else:
        for row in range(5):
            for berry in range(5 - row):
                place = (x + (berry - (4 - row) / 2) * radius * 0.45, y - radius + 20 + row * radius * 0.42)
                _disc(draw, place, radius * 0.25, fill=("#6a1b9a", "#9ccc65")[number % 2], outline="#3e1150")
    return picture, box


def street(number: int, night: bool = False) -> tuple[Image.Image, Box]:
    """Houses, a road and a car, and where the car is."""
    picture = Image.new("RGB", SIZE_PX, "#16213e" if night else SKY)
    draw = ImageDraw.Draw(picture)
    _disc(draw, (410, 55), 26, fill="#f5f3ce" if night else "#ffeb3b")
    for house in range(4):
        left, top = house * 122 - 10 * (number % 4), 90 + (house * 37 + number * 23) % 70
        colour = ("#a1887f", "#90a4ae", "#ce93d8", "#80cbc4")[(house + number) % 4]
        draw.rectangle((left, top, left + 112, 250), fill=colour, outline=BLACK)
        for window in range(6):
            corner = (left + 14 + window % 3 * 32, top + 18 + window // 3 * 44)
            is_lit = night and (window + number) % 2 == 0
            draw.rectangle((*corner, corner[0] + 20, corner[1] + 28), fill="#fff176" if is_lit else "#37474f")
    draw.rectangle((0, 250, 480, 360), fill=ASPHALT)
    for dash in range(6):
        draw.rectangle((dash * 90 - 20, 302, dash * 90 + 25, 308), fill=WHITE)
    x = 60 + 50 * (number % 6)
    colour = ("#d32f2f", "#1976d2", "#fbc02d", "#f5f5f5")[number % 4]
    draw.polygon([(x + 25, 258), (x + 45, 232), (x + 95, 232), (x + 118, 258)], fill="#cfd8dc", outline=BLACK)
    draw.rectangle((x, 256, x + 140, 288), fill=colour, outline=BLACK)
    for wheel in (x + 30, x + 110):
        _disc(draw, (wheel, 288), 15, fill=BLACK)
    return picture, (x, 232, x + 140, 303)


def up_arrow(orientation: int) -> bytes:
    """A JPEG with this EXIF orientation; a viewer that honours it shows the arrow pointing up."""
    picture = Image.new("RGB", SIZE_PX, "#fff8e1")
    draw = ImageDraw.Draw(picture)
    draw.polygon(
        [(240, 30), (340, 150), (280, 150), (280, 260), (200, 260), (200, 150), (140, 150)], fill="#1565c0"
    )
    _words(draw, (240, 310), f"UP  {orientation}", BLACK, 52)
    undo = UNDO_ORIENTATION[orientation]
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    return encoded(picture.transpose(undo) if undo is not None else picture, "JPEG", quality=85, exif=exif)


def _landscape(number: int) -> Image.Image:
    picture = Image.new("RGB", SIZE_PX, (SKY, "#d7dde2", "#f6d6ad")[number % 3])
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 235, 480, 360), fill=GRASS)
    draw.polygon([(250, 235), (290, 235), (460, 360), (180, 360)], fill=ASPHALT)
    draw.polygon([(0, 235), (90, 150 - 8 * (number % 4)), (210, 235)], fill="#7c8f6b")
    return picture


def _disc(draw: ImageDraw.ImageDraw, centre: tuple[float, float], radius: float, **style: Any) -> None:
    x, y = centre
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), **style)


def _words(
    draw: ImageDraw.ImageDraw, centre: tuple[float, float], words: str, fill: str, size_px: int
) -> None:
    draw.text(centre, words, fill=fill, anchor="mm", font_size=size_px)
