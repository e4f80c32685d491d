"""The accounts whose state is on this machine: one folder each, `<state folder>/<host>-<organization id>/`.

A running mount leaves a note there (`account.json`, 0600) with what people call the account and its
datasets, so that `pictofs status` and `pictofs uploads` can speak of them when nothing is mounted and no
server is asked. The note is only ever a help for reading: without it, ids stand in for names.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pictofs import namespace
from pictofs.transfer.records import Upload

JOURNAL_NAME = "journal.sqlite"
SPOOL_NAME = "spool"
_NOTE_NAME = "account.json"


@dataclass(frozen=True, slots=True)
class AccountNote:
    """What an account is called.

    Attributes:
        label: for people: organization and host.
        datasets: dataset id → its name on the drive.
    """

    label: str
    datasets: Mapping[str, str] = field(default_factory=dict)


def account_folders(state_dir: Path) -> list[Path]:
    """The folders of accounts that have a journal, by name."""
    return sorted(path.parent for path in state_dir.glob(f"*/{JOURNAL_NAME}"))


def write_note(folder: Path, note: AccountNote) -> None:
    """Leave the account's note, unless it says so already.

    Raises:
        OSError: the folder cannot be written.
    """
    if read_note(folder) == note:
        return
    fresh = folder / f"{_NOTE_NAME}.new"
    text = json.dumps({"version": 1, "label": note.label, "datasets": dict(note.datasets)}, indent=1)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123  (Path.open takes no descriptor)
        file.write(text + "\n")
    fresh.replace(folder / _NOTE_NAME)


def read_note(folder: Path) -> AccountNote:
    """The account's note; without a readable one, the folder's name serves."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        data = json.loads((folder / _NOTE_NAME).read_text(encoding="utf-8"))
        names = {str(key): str(name) for key, name in data["datasets"].items()}
        return AccountNote(str(data["label"]), names)
    return AccountNote(folder.name)


def path_of(note: AccountNote) -> Callable[[Upload], str]:
    """Where an upload is found on the drive, as far as the note knows: `dataset/folder/name`."""

    def path(upload: Upload) -> str:
        dataset = note.datasets.get(upload.dataset_id) or namespace.to_local(upload.dataset_id)
        names = [*namespace.components(upload.folder), upload.filename]
        return "/".join([dataset, *map(namespace.to_local, names)])

    return path
