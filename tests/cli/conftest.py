"""Running commands, in this process or as one of their own, with or without a running mount."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_mount import FakeMount, Ran

from pictofs.cli import main


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[FakeMount]:
    with FakeMount(tmp_path) as running:
        yield running


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """`pictofs …` in this process."""

    def command(*arguments: str | Path) -> Ran:
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return Ran(status, out, err)

    return command


@pytest.fixture
def execute() -> Callable[..., subprocess.CompletedProcess[str]]:
    """`python -m pictofs …` as a process of its own."""

    def command(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pictofs", *map(str, arguments)],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=60,
            check=False,
        )

    return command
