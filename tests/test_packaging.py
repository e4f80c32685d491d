"""What is installed is what is meant: commands, wheel, type information, the systemd unit."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

import pictofs

ROOT = Path(__file__).resolve().parent.parent
UNIT = ROOT / "systemd" / "pictofs@.service"


def _run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    "command",
    [
        pytest.param([str(Path(sys.executable).with_name("pictofs"))], id="console-script"),
        pytest.param([sys.executable, "-m", "pictofs"], id="python-m"),
    ],
)
def test_both_ways_to_start_it_say_the_version(command: list[str]) -> None:
    answer = _run(*command, "--version")
    assert (answer.returncode, answer.stdout) == (0, f"pictofs {pictofs.__version__}\n"), answer.stderr


def test_the_installed_version_is_that_of_the_code() -> None:
    assert metadata.version("pictofs") == pictofs.__version__


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    (found,) = folder.glob("*.whl")
    return found


def test_the_wheel_holds_the_package_and_nothing_of_the_workshop(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "pictofs").rglob("*.py")}
    assert modules <= names
    assert "pictofs/py.typed" in names
    info = f"pictofs-{pictofs.__version__}"
    tops = {name.split("/")[0] for name in names}
    assert tops == {"pictofs", f"{info}.dist-info", f"{info}.data"}
    assert f"{info}.data/data/share/pictofs/systemd/pictofs@.service" in names
    assert f"{info}.dist-info/licenses/LICENSE" in names


def test_what_a_user_of_the_package_reads_is_true(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        described = archive.read(name).decode()
    assert f"Version: {pictofs.__version__}\n" in described
    assert "Requires-Dist: fusepy" in described
    assert "Requires-Dist: starlette" in described
    assert "Provides-Extra: sandbox\n" in described


def test_systemd_accepts_the_unit(program: Callable[[str], str], tmp_path: Path) -> None:
    # Verified as an instance as well: only then are the specifiers put in.
    instance = tmp_path / "pictofs@Pictures-work.service"
    shutil.copy(UNIT, instance)
    for unit in (UNIT, instance):
        answer = _run(program("systemd-analyze"), "--user", "verify", "--man=no", unit)
        assert (answer.returncode, answer.stderr) == (0, ""), unit


def test_the_shell_scripts_are_clean(program: Callable[[str], str]) -> None:
    answer = _run(program("shellcheck"), "--shell=sh", *ROOT.glob("scripts/*.sh"), ROOT / ".ci" / "run")
    assert answer.returncode == 0, answer.stdout


def test_scripts_can_be_run() -> None:
    for script in (*ROOT.glob("scripts/*.sh"), ROOT / ".ci" / "run"):
        assert os.access(script, os.X_OK), script


def test_the_changelog_knows_this_version() -> None:
    assert f"\n## {pictofs.__version__}" in (ROOT / "CHANGELOG.md").read_text()
