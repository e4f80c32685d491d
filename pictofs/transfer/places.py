"""Places on the service: which ones it might make equal, and what lies above a folder. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from pictofs.transfer.records import Key

__all__ = ["ancestors", "loose_key"]


def loose_key(key: Key) -> Key:
    """Equal for places whose names the service might make equal: it may sanitise a name, and stores .heic
    as .png. Two such files must not be in flight together, or one could take the other's bytes or answer."""
    dataset_id, folder, filename = key
    stem, dot, extension = filename.casefold().rpartition(".")
    extension = "png" if extension == "heic" else extension
    plain = "".join(character if character.isalnum() else "_" for character in stem)
    return dataset_id, folder.casefold(), plain + dot + extension


def ancestors(folder: str) -> Iterator[str]:
    """A folder, and those that hold it up to the root: `/a/b`, `/a`, `/`."""
    while folder != "/":
        yield folder
        folder = folder.rpartition("/")[0] or "/"
    yield "/"
