"""Real mounts of a sandbox's datasets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from drives import Drive
from sandbox_process import SandboxProcess

DATASET = "photos"


@pytest.fixture
def sandbox() -> Iterator[SandboxProcess]:
    """An empty sandbox with one dataset, `photos`."""
    with SandboxProcess() as sandbox:
        sandbox.populate(dataset=DATASET, folders=0, images=0)
        sandbox.reset_stats()
        yield sandbox


@pytest.fixture
def drive(tmp_path: Path, sandbox: SandboxProcess) -> Iterator[Drive]:
    """The drive, mounted with the defaults."""
    with Drive(tmp_path, sandbox) as drive:
        yield drive
