"""mount, umount, config, refresh, rm, sandbox: settings, sentences, exit statuses, and never the key."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from fake_mount import KEY, FakeMount, Ran
from journal_fakes import upload

import pictofs
from pictofs import settings
from pictofs.api.credentials import Credentials
from pictofs.api.errors import AuthError, NetworkError
from pictofs.cli import commands, parser
from pictofs.mount import control, mountinfo
from pictofs.mount.control import ControlError
from pictofs.mount.mountinfo import MountEntry
from pictofs.mount.problems import MountError
from pictofs.settings import MOUNT_SETTINGS, MountSettings

Run = Callable[..., Ran]
Execute = Callable[..., "subprocess.CompletedProcess[str]"]

COMMANDS = ("mount", "umount", "config", "status", "wait", "uploads", "refresh", "rm", "sandbox")


# --- as processes -----------------------------------------------------------------------------------


def test_help_names_every_command(execute: Execute) -> None:
    shown = execute("--help")
    assert shown.returncode == 0
    assert all(f"    {name} " in shown.stdout for name in COMMANDS)
    assert "exit status: 0 done" in shown.stdout
    assert shown.stderr == ""


def test_version(execute: Execute) -> None:
    assert execute("--version").stdout == f"pictofs {pictofs.__version__}\n"


def test_the_key_is_masked(execute: Execute, tmp_path: Path) -> None:
    by_environment = execute("config", PICTOGRAPH_API_KEY=KEY)
    file = tmp_path / "key"
    file.write_text(KEY + "\n")
    file.chmod(0o600)
    by_file = execute("config", "--json", "--api-key-file", file)
    for shown in (by_environment, by_file):
        assert shown.returncode == 0
        assert KEY not in shown.stdout + shown.stderr
        assert KEY[8:-4] not in shown.stdout
    assert "pk_live_…ghij" in by_environment.stdout
    assert "environment variable PICTOGRAPH_API_KEY" in by_environment.stdout
    (key,) = [row for row in json.loads(by_file.stdout)["settings"] if row["name"] == "api-key"]
    assert (key["value"], key["source"]) == ("pk_live_…ghij", f"--api-key-file {file}")


def test_a_failure_is_one_sentence_and_debug_shows_more(execute: Execute) -> None:
    plain = execute("refresh", "/nowhere")
    assert (plain.returncode, plain.stdout) == (1, "")
    assert plain.stderr == (
        "pictofs: nothing of ours is mounted at /nowhere; `pictofs mount /nowhere` does that.\n"
    )
    assert "Traceback" in execute("refresh", "--debug", "/nowhere").stderr
    assert "Traceback" in execute("refresh", "/nowhere", PICTOFS_DEBUG="1").stderr


def test_output_to_a_closed_pipe_is_no_traceback() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "pictofs", "config"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert b"Traceback" not in process.stderr.read()
    assert process.returncode == 1


# --- the grammar ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        parser.parse([name, "--help"])
    assert done.value.code == 0
    assert f"usage: pictofs {name}" in capsys.readouterr().out


def test_mount_help_has_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser.parse(["mount", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for setting in MOUNT_SETTINGS:
        assert setting.flag in shown
        assert setting.help in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "the following arguments are required: COMMAND; see `pictofs --help`."),
        (["frob"], "invalid choice"),
        (["mount"], "required: MOUNTPOINT; see `pictofs mount --help`."),
        (["mount", "/m", "--workers", "x"], 'workers = "x" (from --workers) is not a whole number'),
        (["mount", "/m", "-o", "frob"], "-o frob: there is no setting called frob"),
        (["mount", "/m", "--metadata"], "unrecognized arguments: --metadata"),
        (["config", "--api-key", KEY], "the API key is not accepted on the command line"),
        (["config", f"--api-key={KEY}"], "the API key is not accepted on the command line"),
        (["config", KEY], "unrecognized arguments: pk_…"),
        (["config", "-o", f"api_key={KEY}"], "the API key is not accepted on the command line"),
        (["config", "--profile", "a", "--api-key-file", "/k"], "give one of them"),
        (["wait", "--timeout", "soon"], 'argument --timeout: "soon" is not a duration'),
        (["uploads", "export"], "the following arguments are required: --to"),
        (["uploads", "retry"], "say which: pictofs uploads retry ID, PATH or --all."),
        (["rm", "/m/x.jpg"], "add --permanent"),
    ],
)
def test_a_command_line_that_makes_no_sense(run: Run, arguments: list[str], words: str) -> None:
    ran = run(*arguments)
    assert ran.status == 2
    assert words in ran.err
    assert ran.err.startswith("pictofs: ")
    assert ran.err.count("\n") == 1
    assert KEY not in ran.err
    assert ran.out == ""


# --- config -----------------------------------------------------------------------------------------


def test_config_says_where_each_value_came_from(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    path = settings.config_path()
    path.parent.mkdir(parents=True)
    path.write_text(
        f'[default]\napi_key = "{KEY}"\nbase_url = "http://127.0.0.1:8700"\n[default.pictofs]\nworkers = 3\n'
    )
    monkeypatch.setenv("PICTOFS_METADATA_TTL", "90")
    monkeypatch.setenv("PICTOFS_WORKRS", "9")
    ran = run("config", "--no-sync", "-o", "ro,cache_size=50GiB")
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in ran.out.splitlines()}
    assert rows["api-key"] == "pk_live_…ghij profile [default] in ~/.pictograph/config.toml"
    assert rows["base-url"] == "http://127.0.0.1:8700 profile [default] in ~/.pictograph/config.toml"
    assert rows["workers"] == "3 ~/.pictograph/config.toml [default.pictofs]"
    assert rows["metadata-ttl"] == "90 s PICTOFS_METADATA_TTL"
    assert rows["sync"] == "no --no-sync"
    assert rows["ro"] == "yes -o ro"
    assert rows["cache-size"] == "50 GiB -o cache_size"
    assert rows["overwrite"] == "no default"
    assert ran.err == (
        "pictofs: PICTOFS_WORKRS is set, but there is no such setting; did you mean PICTOFS_WORKERS?\n"
    )
    assert ran.status == 0


def test_config_without_a_key_shows_the_rest(run: Run) -> None:
    ran = run("config", "--json")
    rows = {row["name"]: row for row in json.loads(ran.out)["settings"]}
    assert (rows["api-key"]["value"], rows["api-key"]["source"]) == ("-", "not found")
    assert rows["metadata-ttl"] == {
        "name": "metadata-ttl", "value": 60.0, "text": "60 s", "unit": "s", "source": "default",
    }  # fmt: skip
    assert ran.status == 1
    assert ran.err.startswith("pictofs: no API key: set PICTOGRAPH_API_KEY")


@pytest.mark.parametrize(
    ("content", "mode", "words"),
    [
        (KEY, 0o644, "everybody can read the key in "),
        ("", 0o600, "must hold the API key on one line"),
        (f"{KEY}\n{KEY}\n", 0o600, "must hold the API key on one line"),
        ("ü", 0o600, "must hold the API key on one line"),
        ("x" * 5000, 0o600, "must hold the API key on one line"),
        (None, 0, "No such file or directory"),
    ],
)
def test_key_files_that_cannot_be_used(
    run: Run, tmp_path: Path, content: str | None, mode: int, words: str
) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_text(content, encoding="utf-8")
        file.chmod(mode)
    ran = run("config", "--api-key-file", file)
    assert ran.status == 2
    assert words in ran.err
    assert KEY not in ran.err


# --- mount ------------------------------------------------------------------------------------------


class FakeLifecycle(ModuleType):
    """Takes the place of pictofs.mount.lifecycle."""

    def __init__(self) -> None:
        super().__init__("pictofs.mount.lifecycle")
        self.mounted: list[tuple[MountSettings, Credentials, Path, bool]] = []
        self.error: BaseException | None = None

    def mount(
        self, chosen: MountSettings, access: Credentials, place: Path, *, foreground: bool, drain_view: object
    ) -> int:
        self.mounted.append((chosen, access, place, foreground))
        if self.error is not None:
            raise self.error
        return 0


@pytest.fixture
def lifecycle(monkeypatch: pytest.MonkeyPatch) -> FakeLifecycle:
    fake = FakeLifecycle()
    monkeypatch.setitem(sys.modules, "pictofs.mount.lifecycle", fake)
    monkeypatch.setattr("pictofs.mount.lifecycle", fake, raising=False)
    monkeypatch.setenv("PICTOGRAPH_API_KEY", KEY)
    return fake


def test_mount_hands_over_what_is_in_force(
    run: Run, lifecycle: FakeLifecycle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("mount", "drive", "--foreground", "--dataset", "a", "-o", "ro,dataset=b").status == 0
    ((chosen, access, place, foreground),) = lifecycle.mounted
    assert (chosen.datasets, chosen.read_only, foreground) == (("a", "b"), True, True)
    assert access.api_key.reveal() == KEY
    assert place == tmp_path / "drive"


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (MountError("the mount point /m is not empty."), 1, "the mount point /m is not empty."),
        (AuthError("bad key", status=401), 1, "create a new key"),
        (NetworkError("connection refused"), 1, "check the network and the server's address"),
        (PermissionError(13, "Permission denied", "/state"), 1, "/state: Permission denied."),
        (ZeroDivisionError("oops"), 1, "this should not happen (ZeroDivisionError: oops)"),
        (KeyboardInterrupt(), 130, "interrupted."),
    ],
)
def test_what_mounting_fails_with(
    run: Run, lifecycle: FakeLifecycle, error: BaseException, status: int, words: str
) -> None:
    lifecycle.error = error
    ran = run("mount", "/m")
    assert ran.status == status
    assert words in ran.err
    assert ran.err.startswith("pictofs: ")
    assert ran.err.count("\n") == 1


def test_mount_without_a_key_does_not_begin(
    run: Run, lifecycle: FakeLifecycle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PICTOGRAPH_API_KEY")
    ran = run("mount", "/m")
    assert ran.status == 1
    assert "run `pictograph login`" in ran.err
    assert lifecycle.mounted == []


# --- umount -----------------------------------------------------------------------------------------


class FakeTable:
    """The mount table and fusermount, for one mount point."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, place: Path, fstype: str | None) -> None:
        self.there = MountEntry(str(place), fstype, "pictofs") if fstype else None
        self.dead = False
        self.detached: list[bool] = []
        self.error: OSError | None = None
        monkeypatch.setattr(mountinfo, "entry", lambda path: self.there if str(path) == str(place) else None)
        monkeypatch.setattr(mountinfo, "is_dead", lambda path: self.dead)
        monkeypatch.setattr(mountinfo, "detach", self.detach)
        monkeypatch.setattr(mountinfo, "wait_until_gone", lambda path, timeout_s: self.there is None)
        monkeypatch.setattr(mountinfo, "wait_until_ended", lambda pid, timeout_s: True)
        monkeypatch.setattr(mountinfo, "users_of", lambda path: ["bash (4711)"])

    def detach(self, path: Path, *, lazy: bool = False) -> None:
        self.detached.append(lazy)
        if self.error is not None:
            raise self.error
        self.there = None


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch, mount: FakeMount) -> FakeTable:
    found = FakeTable(monkeypatch, mount.mountpoint, "fuse.pictofs")
    mount.on_unmount = lambda: found.detach(mount.mountpoint)
    return found


def test_umount_sends_first_and_then_leaves(run: Run, mount: FakeMount, table: FakeTable) -> None:
    mount.stuck()
    mount.journal.rows[1] = upload(1)
    mount.on_kick = mount.land_all
    ran = run("umount", mount.mountpoint)
    assert ran.err == "pictofs: sending 1 file first, for at most 5 min (Ctrl-C: stay mounted)\n"
    assert ran.status == 0
    assert mount.asked == [("kick", None), ("unmount", 0.0)]
    assert table.there is None


def test_umount_with_nothing_pending_is_silent(run: Run, mount: FakeMount, table: FakeTable) -> None:
    ran = run("umount", mount.mountpoint)
    assert (ran.status, ran.out, ran.err) == (0, "", "")
    assert mount.asked == [("unmount", 0.0)]


def test_umount_stops_waiting_when_the_time_is_up(run: Run, mount: FakeMount, table: FakeTable) -> None:
    mount.journal.rows[1] = upload(1)
    ran = run("umount", mount.mountpoint, "--drain-timeout", "10ms")
    assert ran.status == 0
    assert mount.asked == [("kick", None), ("unmount", 0.0)]


def test_umount_of_a_busy_mount_names_who_uses_it(run: Run, mount: FakeMount, table: FakeTable) -> None:
    table.error = OSError(16, "Device or resource busy")
    ran = run("umount", mount.mountpoint)
    assert ran.status == 1
    assert ran.err == (
        f"pictofs: {mount.mountpoint} is in use by bash (4711); close what uses it, leave the folder, "
        "and try again.\n"
    )


def test_umount_does_without_a_daemon_that_does_not_answer(
    run: Run, mount: FakeMount, table: FakeTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hang(*_: object, **__: object) -> None:
        raise ControlError("the mount did not answer within 60 seconds")

    monkeypatch.setattr(control, "call", hang)
    ran = run("umount", mount.mountpoint)
    assert (ran.status, table.detached) == (0, [False])
    assert ran.err == "pictofs: the mount did not answer within 60 seconds; unmounting without its help.\n"


def test_umount_of_a_dead_mount_clears_it(run: Run, mount: FakeMount, table: FakeTable) -> None:
    mount.die()
    table.dead = True
    ran = run("umount", mount.mountpoint)
    assert ran.status == 0
    assert table.detached == [True]
    assert f"the mount at {mount.mountpoint} had died; it is cleared away now." in ran.err


def test_umount_without_a_socket_asks_the_kernel(run: Run, mount: FakeMount, table: FakeTable) -> None:
    mount.die()
    ran = run("umount", mount.mountpoint)
    assert (ran.status, table.detached) == (0, [False])
    assert "is unmounted" in ran.err


@pytest.mark.parametrize(
    ("fstype", "words"),
    [(None, "nothing is mounted at"), ("fuse.sshfs", "is a fuse.sshfs file system, not ours")],
)
def test_umount_of_what_is_not_ours(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fstype: str | None, words: str
) -> None:
    FakeTable(monkeypatch, tmp_path / "x", fstype)
    ran = run("umount", tmp_path / "x")
    assert ran.status == 1
    assert words in ran.err


# --- refresh, rm ------------------------------------------------------------------------------------


def test_refresh_counts_from_the_root(run: Run, mount: FakeMount, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("refresh", mount.mountpoint / "birds" / "day").status == 0
    monkeypatch.chdir(mount.mountpoint)
    assert run("refresh", ".").status == 0
    assert run("refresh", ".hidden").status == 0
    assert mount.asked == [("refresh", "birds/day"), ("refresh", ""), ("refresh", ".hidden")]


def test_rm_asks_first(run: Run, mount: FakeMount, monkeypatch: pytest.MonkeyPatch) -> None:
    path = mount.mountpoint / "birds" / "a.jpg"
    ran = run("rm", "--permanent", path)
    assert ran.status == 2
    assert "give --yes" in ran.err

    answers: list[str] = []

    def ask(question: str) -> bool:
        answers.append(question)
        return len(answers) > 1

    monkeypatch.setattr(commands, "ask", ask)
    assert run("rm", "--permanent", path).status == 1
    assert mount.asked == []
    assert answers == [f"Delete 1 image for good, with their labels: {path}?"]
    assert run("rm", "--permanent", path).status == 0
    assert mount.asked == [("rm", "birds/a.jpg")]


def test_rm_goes_on_after_a_failure(run: Run, mount: FakeMount) -> None:
    ran = run("rm", "--permanent", "--yes", mount.mountpoint / "missing.jpg", mount.mountpoint / "b.jpg")
    assert ran.status == 1
    assert ran.err == (
        f"pictofs: {mount.mountpoint / 'missing.jpg'} was not deleted: No such file or directory\n"
    )
    assert mount.asked == [("rm", "missing.jpg"), ("rm", "b.jpg")]


def test_sandbox_delegates(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from pictofs.sandbox import cli as sandbox

    monkeypatch.setattr(sandbox, "run", lambda namespace: 7 if namespace.port == 0 else 0)
    assert run("sandbox", "--port", "0").status == 7
