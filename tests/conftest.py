"""What every test stands on: no settings of the developer's, FUSE or a loud failure, nothing left behind.

Each test runs with a home and XDG folders of its own, and without PICTOGRAPH_* and PICTOFS_* variables.
At the end of the session a FUSE mount below our scratch folders, a live thread or a process fails the run.
`PICTOFS_NO_FUSE=1` skips the tests marked `fuse` where there is no /dev/fuse; without it they fail.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

NO_FUSE = os.environ.pop("PICTOFS_NO_FUSE", "") == "1"
REQUIRE_PROGRAMS = os.environ.pop("PICTOFS_REQUIRE_PROGRAMS", "") == "1"

# Long enough for a daemon that was told to stop to finish its exit, short enough not to be noticed.
_LEFTOVER_GRACE_S = 10.0
# Every process started from here inherits it, also one that daemonises, so the end of the session finds them.
_SESSION_MARK = "PYTEST_PICTOFS_SESSION"


def _fuse_problem() -> str | None:
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"/dev/fuse: {error.strerror}"
    if not (shutil.which("fusermount3") or shutil.which("fusermount")):
        return "neither fusermount3 nor fusermount is installed"
    return None


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("fuse") is None:
        return
    if NO_FUSE:
        pytest.skip("PICTOFS_NO_FUSE=1")
    problem = _fuse_problem()
    if problem is not None:
        pytest.fail(
            f"a real mount is not possible here ({problem}); PICTOFS_NO_FUSE=1 skips these tests",
            pytrace=False,
        )


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A run in which every test was skipped proves nothing, so it does not pass."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if exitstatus == pytest.ExitCode.OK and reporter is not None and not session.config.option.collectonly:
        ran = sum(len(reporter.stats.get(outcome, ())) for outcome in ("passed", "failed", "xfailed"))
        if ran == 0:
            session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED


@pytest.fixture
def program() -> Callable[[str], str]:
    """`program("rsync")` is its path. Where it is missing the test is skipped, in CI it fails."""
    return _find_program


def _find_program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        message = f"{name} is not installed (scripts/setup.sh programs)"
        if REQUIRE_PROGRAMS:
            pytest.fail(message, pytrace=False)
        pytest.skip(message)
    return path


# --- settings --------------------------------------------------------------------------------


def _settle_environment(patch: pytest.MonkeyPatch, home: Path, runtime: Path) -> None:
    for name in list(os.environ):
        if name.startswith(("PICTOGRAPH_", "PICTOFS_")):
            patch.delenv(name)
    patch.setenv("HOME", str(home))
    for variable, folder in (
        ("XDG_CONFIG_HOME", home / ".config"),
        ("XDG_CACHE_HOME", home / ".cache"),
        ("XDG_DATA_HOME", home / ".local/share"),
        ("XDG_STATE_HOME", home / ".local/state"),
        ("XDG_RUNTIME_DIR", runtime),
    ):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        patch.setenv(variable, str(folder))


@pytest.fixture(scope="session", autouse=True)
def _nothing_left_behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The outermost fixture: settings for fixtures wider than one test, and the look round at the end."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="pfs-") as runtime:
        patch.setenv(_SESSION_MARK, f"{os.getpid()}-{time.time_ns()}")
        _settle_environment(patch, tmp_path_factory.mktemp("session-home"), Path(runtime))
        threads_before = set(threading.enumerate())
        yield
        deadline = time.monotonic() + _LEFTOVER_GRACE_S
        while left := _leftovers(tmp_path_factory.getbasetemp(), threads_before):
            if time.monotonic() > deadline:
                pytest.fail("left behind by the tests:\n  " + "\n  ".join(left), pytrace=False)
            time.sleep(0.05)


@pytest.fixture(autouse=True)
def _own_settings(
    _nothing_left_behind: None, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    # Sockets live in the runtime folder, and their paths end at 107 bytes: tmp_path is too deep for them.
    with tempfile.TemporaryDirectory(prefix="pfs-", ignore_cleanup_errors=True) as runtime:
        _settle_environment(monkeypatch, tmp_path_factory.mktemp("home"), Path(runtime))
        yield


# --- what is left at the end -----------------------------------------------------------------


def _leftovers(scratch: Path, threads_before: set[threading.Thread]) -> list[str]:
    return _left_mounts(scratch) + _left_threads(threads_before) + _left_processes()


def _left_mounts(scratch: Path) -> list[str]:
    """FUSE mounts below pytest's scratch folder; elsewhere others may be at work."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        fields, _, source = line.partition(" - ")
        mount_point = fields.split()[4].encode(errors="surrogateescape").decode("unicode_escape")
        if source.startswith("fuse") and Path(mount_point).is_relative_to(scratch):
            found.append(f"mount {mount_point} ({source})")
    return found


def _left_threads(before: set[threading.Thread]) -> list[str]:
    return [
        f"thread {thread.name!r} ({thread!r})"
        for thread in threading.enumerate()
        if thread.is_alive() and not thread.daemon and thread not in before
    ]


def _left_processes() -> list[str]:
    mark = f"{_SESSION_MARK}={os.environ[_SESSION_MARK]}".encode()
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal() or int(folder.name) == os.getpid():
            continue
        try:
            ours = mark in (folder / "environ").read_bytes().split(b"\0")
            state, parent = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue  # it ended while we looked
        # A zombie has no environment any more, and is a child that nobody waited for.
        if ours or int(parent) == os.getpid():
            found.append(f"process {folder.name} (state {state}): {command}")
    return found
