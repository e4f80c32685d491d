"""A real mount against a plain local folder: the random lives of `model_machine`, with kill -9 in between."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from model_disks import OsDisk
from model_lives import live
from model_worlds import MountWorld
from sandbox_process import SandboxProcess

pytestmark = pytest.mark.fuse


@pytest.fixture
def sandbox() -> Iterator[SandboxProcess]:
    with SandboxProcess("--rate-limit", "10000000") as sandbox:
        yield sandbox


def test_lives(tmp_path: Path, sandbox: SandboxProcess) -> None:
    local = tmp_path / "local"
    local.mkdir()
    with MountWorld(tmp_path, sandbox) as world:
        live(world, lambda: OsDisk(local), lives=3, steps=60, restarts=1)


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("ttl", ["60s", "0.05s"])
def test_soak_lives(tmp_path: Path, sandbox: SandboxProcess, ttl: str) -> None:
    local = tmp_path / "local"
    local.mkdir()
    with MountWorld(tmp_path, sandbox, "-o", f"metadata-ttl={ttl}") as world:
        live(world, lambda: OsDisk(local), lives=50, steps=100, restarts=3, random=True)
