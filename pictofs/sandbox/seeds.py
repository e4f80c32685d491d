"""The example datasets: road-signs, fruit and street-scenes, the same on every machine.

Between them: nested folders, every supported format, the eight EXIF orientations, tags, statuses, splits,
labels, and one archived image.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from pictofs.sandbox import datasets, drawings, images, pictures
from pictofs.sandbox.store import Store, pack

NAMESPACE = uuid.UUID("6f1c2a52-7a0b-4f0e-9d53-1c1f5b0a7e11")
"""All ids are UUIDv5 of names in it."""
FIRST_TAKEN = datetime(2026, 1, 5, 9, 0, tzinfo=timezone.utc)
SPEEDS = ("30", "50", "80")
FRUIT = ("apple", "banana", "orange", "grapes")
FORMATS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".png": "PNG",
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".gif": "GIF",
}
"""As they are stored; a .heic becomes .png when it is registered."""


@dataclass(frozen=True)
class Seed:
    """One image to be planted."""

    directory: str
    filename: str
    data: bytes
    columns: dict[str, Any]
    width: int = drawings.SIZE_PX[0]
    height: int = drawings.SIZE_PX[1]


DATASETS = {
    "road-signs": ("Signs by the road, labelled.", ("stop", "yield", "speed-limit")),
    "fruit": ("Fruit on a table.", FRUIT),
    "street-scenes": ("Streets by day and night, in every format.", ("car",)),
}
"""Name: description, classes."""


def plant(store: Store) -> None:
    """Add the example datasets that are missing."""
    makers = {"road-signs": _road_signs, "fruit": _fruit, "street-scenes": _street_scenes}
    for name, (description, classes) in DATASETS.items():
        if store.row("SELECT 1 FROM datasets WHERE name = ?", pack(name)) is not None:
            continue
        with store.transaction():
            dataset_id = datasets.insert(
                store,
                name,
                id=uuid.uuid5(NAMESPACE, name),
                description=description,
                classes=[{"name": item, "type": "bbox"} for item in classes],
            )
            for number, seed in enumerate(makers[name]()):
                _plant(store, dataset_id, name, number, seed)


def _plant(store: Store, dataset_id: str, dataset: str, number: int, seed: Seed) -> None:
    identity = uuid.uuid5(NAMESPACE, f"{dataset}{seed.directory}/{seed.filename}")
    store.files.add_object(seed.data, identity.hex)
    store.discard_on_rollback(identity.hex)
    suffix = "." + seed.filename.rpartition(".")[2]
    images.insert(
        store,
        dataset_id,
        seed.directory,
        seed.filename,
        identity.hex,
        id=str(identity),
        file_size=len(seed.data),
        width=seed.width,
        height=seed.height,
        content_type=images.CONTENT_TYPES[suffix],
        created_at=(FIRST_TAKEN + timedelta(minutes=number)).isoformat(timespec="microseconds"),
        **seed.columns,
    )


def _road_signs() -> Iterator[Seed]:
    """Two folders, and one whose folders are the speeds; the first of each labelled and complete."""
    places = [("stop", "/stop"), ("yield", "/yield"), *((speed, f"/speed-limit/{speed}") for speed in SPEEDS)]
    for kind, directory in places:
        for number in range(5 if kind in ("stop", "yield") else 4):
            picture, box = drawings.road_sign(kind, number)
            columns: dict[str, Any] = {"split": ("train", "train", "train", "val", "test")[number]}
            columns["status"] = ("complete", "review", "annotate", "new", "new")[number]
            if number < 2:
                name = kind if kind in ("stop", "yield") else "speed-limit"
                columns |= _label(name, box, 1.0 if number == 0 else 0.8)
            data = pictures.encoded(picture, "JPEG", quality=85)
            yield Seed(directory, f"{kind}-{number + 1}.jpg", data, columns)


def _fruit() -> Iterator[Seed]:
    """A folder for each kind; tagged by colour and for half of them 'ripe'."""
    for kind in FRUIT:
        for number in range(4):
            picture, box = drawings.fruit(kind, number)
            suffix = (".jpg", ".png", ".webp", ".jpg")[number]
            tags = [kind, "ripe"] if number % 2 else [kind]
            columns = {"tags": json.dumps(tags), "status": "complete" if number == 0 else "new"}
            if number == 0:
                columns |= _label(kind, box, 1.0)
            data = pictures.encoded(picture, FORMATS[suffix], quality=85)
            yield Seed(f"/{kind}", f"{kind} {number + 1}{suffix}", data, columns)


def _street_scenes() -> Iterator[Seed]:
    """Two in the root, day and night, one of each format, the orientations, one archived."""
    for number, (directory, name, night) in enumerate(
        [("/", f"crossing-{n}", False) for n in (1, 2)]
        + [("/day", f"day-{n}", False) for n in (1, 2, 3, 4)]
        + [("/night", f"night-{n}", True) for n in (1, 2, 3)]
    ):
        picture, box = drawings.street(number, night)
        tags = {"tags": json.dumps(["night" if night else "day"])}
        columns = {**tags, **_label("car", box, 0.9)} if number % 3 == 0 else tags
        yield Seed(directory, f"{name}.jpg", pictures.encoded(picture, "JPEG", quality=85), columns)
    picture, _ = drawings.street(7)
    for suffix, image_format in FORMATS.items():
        data = pictures.encoded(picture, image_format)
        yield Seed("/formats", f"{suffix[1:]}-example{suffix}", data, {})
    yield Seed("/formats", "heic-example.png", pictures.encoded(picture, "PNG"), {})
    for orientation in drawings.UNDO_ORIENTATION:
        yield Seed("/orientation", f"orientation-{orientation}.jpg", drawings.up_arrow(orientation), {})
    blurred, _ = drawings.street(9)
    data = pictures.encoded(blurred.reduce(12).resize(drawings.SIZE_PX), "JPEG")
    yield Seed("/day", "out-of-focus.jpg", data, {"is_archived": True, "tags": json.dumps(["blurred"])})


def _label(name: str, box: drawings.Box, confidence: float) -> dict[str, Any]:
    """The columns of an image with one box on it."""
    left, top, right, bottom = box
    label = {
        "id": str(uuid.uuid5(NAMESPACE, f"{name}{box}")),
        "name": name,
        "type": "bbox",
        "bounding_box": {"x": left, "y": top, "w": right - left, "h": bottom - top},
        "confidence": confidence,
        "attributes": {},
    }
    return {"annotations": json.dumps([label]), "annotation_count": 1, "min_confidence": confidence}
