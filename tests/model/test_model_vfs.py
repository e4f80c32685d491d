"""The vfs against a dictionary: the random lives of `model_machine`, in this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from model_disks import DictDisk
from model_lives import live
from model_worlds import VfsWorld
from sandbox_process import SandboxProcess

TTLS = ["60s", "0.05s"]
"""As people have it; and so short that listings are asked for all the time, beside the changes."""


@pytest.fixture
def sandbox() -> Iterator[SandboxProcess]:
    with SandboxProcess("--rate-limit", "10000000") as sandbox:
        yield sandbox


@pytest.mark.parametrize("ttl", TTLS)
def test_lives(tmp_path: Path, sandbox: SandboxProcess, ttl: str) -> None:
    with VfsWorld(tmp_path, sandbox, f"metadata-ttl={ttl}") as world:
        live(world, DictDisk, lives=3, steps=60, restarts=2)


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("ttl", TTLS)
def test_soak_lives(tmp_path: Path, sandbox: SandboxProcess, ttl: str) -> None:
    with VfsWorld(tmp_path, sandbox, f"metadata-ttl={ttl}") as world:
        live(world, DictDisk, lives=50, steps=100, restarts=2, random=True)
