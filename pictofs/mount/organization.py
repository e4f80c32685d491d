"""Whose drive it is. The service is asked at each mount; a note in the cache folder answers when it does not.

The note is found by a hash of the server's address and the key, which are themselves not kept.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import threading
from pathlib import Path

from pictofs.api.client import Client
from pictofs.api.credentials import Credentials
from pictofs.api.errors import AuthError, ForbiddenError, PictographError
from pictofs.api.models import Organization

log = logging.getLogger(__name__)

PATIENCE_S = 0.5
"""How long a mount that has a note waits for the service: a few round trips, so that a key that is no longer
good is refused at the mount, and a dead line does not delay it."""

_VERSION = 1


def find(client: Client, credentials: Credentials, cache_dir: Path) -> Organization:
    """Who the key belongs to.

    Raises:
        PictographError: the service refuses the key; or does not answer, and there is no note.
    """
    note = _path(credentials, cache_dir)
    known = _read(note)
    if known is None:
        told = client.organization()
        _write(note, told)
        return told
    question = _Question(client, known, note)
    return question.answer()


class _Question:
    """The service is asked in a thread of its own, and whoever mounts waits a moment for it."""

    def __init__(self, client: Client, known: Organization, note: Path) -> None:
        self._client = client
        self._known = known
        self._note = note
        self._told: Organization | None = None
        self._refused: PictographError | None = None
        self._done = threading.Event()
        threading.Thread(target=self._ask, name="pictofs-organization", daemon=True).start()

    def answer(self) -> Organization:
        """What the service says, or else the note."""
        self._done.wait(PATIENCE_S)
        if self._refused is not None:
            raise self._refused
        return self._told or self._known

    def _ask(self) -> None:
        try:
            told = self._client.organization()
            if told != self._known:
                _write(self._note, told)
            if told.id != self._known.id:
                log.error("The API key belongs to another organization now, %s: mount again.", told.name)
            self._told = told
        except (AuthError, ForbiddenError) as error:
            log.error("The server refuses the API key: %s", error)
            self._refused = error
        except PictographError as error:
            log.warning("The server does not answer, what is known of it is shown: %s", error)
        finally:
            self._done.set()


def _path(credentials: Credentials, cache_dir: Path) -> Path:
    text = f"{credentials.base_url}\0{credentials.api_key.reveal()}"
    return cache_dir / "organizations" / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"


def _read(note: Path) -> Organization | None:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        data = json.loads(note.read_text(encoding="utf-8"))
        if data.pop("version") == _VERSION:
            return Organization(**data)
    return None


def _write(note: Path, organization: Organization) -> None:
    fresh = note.with_suffix(".new")
    text = json.dumps({"version": _VERSION, **dataclasses.asdict(organization)})
    try:
        note.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123  (Path.open takes no descriptor)
            file.write(text + "\n")
        fresh.replace(note)
    except OSError as error:
        log.warning("%s cannot be written: %s", note, error.strerror)
