"""Fixtures of the adapter's tests: a drive with a `FakeVfs`, mounted through each binding in turn."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest
from mounts import mount_process
from served_fake import BACKENDS, Backend, Drive, MountIt

_SERVE = Path(__file__).with_name("serve.py")


@pytest.fixture(scope="session", params=BACKENDS, ids=lambda b: f"{b.binding}-libfuse{b.major}")
def backend(request: pytest.FixtureRequest) -> Backend:
    found: Backend = request.param
    return found


@pytest.fixture(scope="session")
def mount_it(backend: Backend, tmp_path_factory: pytest.TempPathFactory) -> MountIt:
    """`mount_it(*arguments of serve.py, ready=True)`: a context manager with a drive of its own."""

    @contextmanager
    def mounted(*arguments: str, ready: bool = True) -> Iterator[Drive]:
        scratch = tmp_path_factory.mktemp("drive")
        command = [
            sys.executable,
            str(_SERVE),
            str(scratch / "mount"),
            "--binding",
            backend.binding,
            *arguments,
        ]
        env = os.environ | {"FUSE_LIBRARY_PATH": backend.library}
        with mount_process(command, scratch / "mount", scratch / "log", env=env, wait=ready) as served:
            if ready:
                assert served.process.stdout is not None
                assert json.loads(served.process.stdout.readline()) == {"ready": True}
            yield Drive(backend, served)

    return mounted


@pytest.fixture(scope="session")
def shared_drive(mount_it: MountIt) -> Iterator[Drive]:
    with mount_it() as drive:
        yield drive


_numbers = count()


@pytest.fixture
def drive(shared_drive: Drive) -> Drive:
    """A drive that lives through all tests of its backend: leave its levers as they were."""
    assert shared_drive.served.process.poll() is None, shared_drive.served.words()
    return shared_drive


@pytest.fixture
def folder(drive: Drive) -> Path:
    """A new, empty folder on the drive."""
    made = drive.root / f"test-{next(_numbers)}"
    made.mkdir()
    return made


@pytest.fixture
def run() -> Callable[..., str]:
    """Run a program that must succeed; its standard output."""

    def run_program(*command: str | Path) -> str:
        done = subprocess.run(command, capture_output=True, timeout=60)
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        return done.stdout.decode(errors="surrogateescape")

    return run_program
