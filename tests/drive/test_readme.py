"""The first screen of the README is what really happens."""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from drives import Drive, picture
from sandbox_process import SandboxProcess

README = Path(__file__).resolve().parents[2] / "README.md"

_TIMEOUT_S = 60.0
# What differs from run to run: where it is, how many bytes this Pillow writes, what time it is.
_VARIES = [
    (re.compile(r"\S*/mnt\b|127\.0\.0\.1_\d+"), "PLACE"),
    (re.compile(r"\b(root|you)\b"), "USER"),
    (re.compile(r"\b(Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) +\d+ +[\d:]+"), "DATE"),
    (re.compile(r"\d[\d,.]*( ?(B|KiB|MiB|GiB|s|min|h)\b)*"), "NUMBER"),
]


def _screen() -> list[tuple[str, str]]:
    """The commands of the transcript, each with the output that the README shows."""
    block = re.search(r"```console\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert block is not None
    steps = re.split(r"^\$ ", block[1], flags=re.MULTILINE)[1:]
    return [(command, output) for command, _, output in (step.partition("\n") for step in steps)]


def _steady(output: str) -> list[str]:
    for pattern, word in _VARIES:
        output = pattern.sub(word, output)
    return output.split()


@pytest.mark.fuse
def test_the_first_screen(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(picture(size=(640, 480)))
    with SandboxProcess(seed=True) as sandbox, ExitStack() as stack:
        drive = Drive(tmp_path, sandbox)
        stack.push(drive)  # whatever happens, it is unmounted at the end
        commands = Path(sys.executable).parent
        env = {**drive.env, "PATH": f"{commands}:{drive.env['PATH']}", "LC_ALL": "C.UTF-8"}
        for command, shown in _screen():
            done = subprocess.run(
                ["bash", "-c", command],
                cwd=tmp_path,
                env=env,
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_S,
                check=False,
            )
            assert done.returncode == 0, f"{command}: {done.stderr}{drive.log()}"
            assert _steady(done.stdout + done.stderr) == _steady(shown), command
