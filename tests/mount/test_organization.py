"""Whose drive it is: one question at a mount, which also shows whether the key is still good."""

from __future__ import annotations

import dataclasses
import json
import logging
import threading
from pathlib import Path

import pytest

from pictofs.api.credentials import Credentials, Secret
from pictofs.api.errors import AuthError, ForbiddenError, NetworkError, PictographError
from pictofs.api.models import Dataset, Organization
from pictofs.mount.organization import OLD_S, Found, find

OURS = Organization("o1", "Animals Inc", max_images=10)
THEIRS = Organization("o2", "Plants Inc")
CREDENTIALS = Credentials(Secret("pk_live_0123456789"), "https://api.test", "a test", "a test")


class Service:
    """Answers, fails or hangs, and notes what it was asked."""

    def __init__(self, cache_dir: Path) -> None:
        self._cache_dir = cache_dir
        self.organization = OURS
        self.datasets = [Dataset("d1", "animals", "o1"), Dataset("d2", "more animals", "o1")]
        self.asked: list[str] = []
        self.error: PictographError | None = None
        self.gate: threading.Event | None = None
        self.now_s = 1e9

    def _asked(self, what: str) -> None:
        self.asked.append(what)
        if self.gate is not None:
            assert self.gate.wait(10)
        if self.error is not None:
            raise self.error

    def ask(self) -> Organization:
        self._asked("organization")
        return self.organization

    def ask_datasets(self) -> list[Dataset]:
        self._asked("datasets")
        return self.datasets

    def mount(self) -> Found:
        self.asked.clear()
        return find(
            CREDENTIALS,
            self._cache_dir,
            ask=self.ask,
            ask_datasets=self.ask_datasets,
            wall_clock=lambda: self.now_s,
        )

    @property
    def note(self) -> Path:
        (note,) = self._cache_dir.rglob("*.json")
        return note


@pytest.fixture
def service(tmp_path: Path) -> Service:
    return Service(tmp_path)


@pytest.fixture
def known(service: Service) -> Service:
    """A service that was asked a minute ago."""
    assert service.mount().organization == OURS
    assert service.asked == ["organization"]
    service.now_s += 60
    return service


def test_at_the_next_mount_the_datasets_show_that_the_key_is_good(known: Service) -> None:
    found = known.mount()
    assert (found.organization, found.datasets) == (OURS, known.datasets)
    assert known.asked == ["datasets"]


@pytest.mark.parametrize("later_s", [OLD_S, -120], ids=["a day", "the clock was put back"])
def test_after_a_day_the_quota_is_asked_for_again(known: Service, later_s: float) -> None:
    known.now_s += later_s
    known.organization = dataclasses.replace(OURS, max_images=20)
    assert known.mount() == Found(known.organization)
    assert known.asked == ["organization"]
    known.mount()
    assert known.asked == ["datasets"]


def test_a_note_of_version_1_is_good_but_old(known: Service) -> None:
    known.note.write_text(json.dumps({"version": 1, **dataclasses.asdict(OURS)}))
    known.error = NetworkError("gone")
    assert known.mount() == Found(OURS)
    known.error = None
    assert known.mount() == Found(OURS)
    assert known.asked == ["organization"]
    known.mount()
    assert known.asked == ["datasets"]


@pytest.mark.parametrize("text", ["", "[]", '{"version": 3}', '{"version": 2, "id": "o1"}'])
def test_a_note_that_cannot_be_read_is_none(known: Service, text: str) -> None:
    known.note.write_text(text)
    assert known.mount() == Found(OURS)
    assert known.asked == ["organization"]


@pytest.mark.parametrize("is_old", [False, True])
@pytest.mark.parametrize("error", [AuthError("bad key", status=401), ForbiddenError("no", status=403)])
def test_a_key_that_is_refused_is_refused_at_the_mount(
    known: Service, error: PictographError, is_old: bool
) -> None:
    known.now_s += OLD_S * is_old
    known.error = error
    with pytest.raises(type(error)):
        known.mount()
    assert len(known.asked) == 1


@pytest.mark.parametrize("is_old", [False, True])
def test_a_server_that_hangs_is_not_waited_for(
    known: Service, is_old: bool, caplog: pytest.LogCaptureFixture
) -> None:
    known.now_s += OLD_S * is_old
    known.gate = threading.Event()
    known.error = AuthError("bad key", status=401)
    assert known.mount() == Found(OURS)
    with caplog.at_level(logging.ERROR):
        known.gate.set()
        _join()
    assert "refuses the API key" in caplog.text


def test_without_a_connection_the_note_is_shown_and_without_a_note_nothing(service: Service) -> None:
    service.error = NetworkError("gone")
    with pytest.raises(NetworkError):
        service.mount()
    service.error = None
    service.mount()
    service.error = NetworkError("gone")
    assert service.mount() == Found(OURS)


@pytest.mark.parametrize(
    "datasets",
    [[], [Dataset("d1", "animals")], [Dataset("d1", "a", "o1"), Dataset("d3", "plants", "o2")]],
    ids=["none", "of nobody", "of others as well"],
)
def test_datasets_that_do_not_tell_whose_they_are_leave_the_question_open(
    known: Service, datasets: list[Dataset]
) -> None:
    known.datasets = datasets
    known.organization = THEIRS
    found = known.mount()
    assert (found.organization, found.datasets) == (THEIRS, datasets)
    assert known.asked == ["datasets", "organization"]
    known.datasets = [Dataset("d3", "plants", "o2")]
    assert known.mount().organization == THEIRS
    assert known.asked == ["datasets"]


def _join() -> None:
    for thread in threading.enumerate():
        if thread.name == "pictofs-organization":
            thread.join(10)
