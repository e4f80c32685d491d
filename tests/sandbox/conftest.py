"""One sandbox for the folder, an own dataset and no faults for each test, and the two ways to ask it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pictograph
import pytest
from PIL import Image
from sandbox_http import Http
from sandbox_process import SandboxProcess


@pytest.fixture(scope="session")
def shared_sandbox() -> Iterator[SandboxProcess]:
    with SandboxProcess() as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(shared_sandbox: SandboxProcess) -> Iterator[SandboxProcess]:
    shared_sandbox.clear_faults()
    shared_sandbox.reset_stats()
    yield shared_sandbox
    shared_sandbox.clear_faults()


@pytest.fixture
def http(sandbox: SandboxProcess) -> Iterator[Http]:
    client = Http(sandbox)
    with client.session:
        yield client


@pytest.fixture
def sdk(sandbox: SandboxProcess) -> Iterator[pictograph.Client]:
    with pictograph.Client(api_key=sandbox.api_key, base_url=sandbox.base_url, max_retries=0) as client:
        yield client


@pytest.fixture
def dataset(sandbox: SandboxProcess, request: pytest.FixtureRequest) -> str:
    """The name of an empty dataset."""
    name: str = request.node.nodeid.rpartition("::")[2].replace("/", "_")
    sandbox.populate(dataset=name)
    return name


@pytest.fixture
def picture(tmp_path: Path) -> Callable[..., Path]:
    """`picture("a.jpg", colour=…)` writes an image file and returns its path."""

    def write(name: str, colour: str = "green", size: tuple[int, int] = (40, 30)) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.new("RGB", size, colour)
        if path.suffix == ".heic":
            import pillow_heif

            pillow_heif.from_pillow(image).save(path)
        else:
            image.save(path)
        return path

    return write
