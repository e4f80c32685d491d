"""The control socket: answers, refusals, dead daemons, long paths, privacy."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from pictofs.mount import control, mountinfo
from pictofs.mount.control import (
    BusyError,
    ControlError,
    ControlServer,
    MountRecord,
    NotMountedError,
    call,
    is_alive,
    read_records,
    record_path,
    socket_path,
    write_record,
)


def echo(arguments: Mapping[str, Any]) -> object:
    return dict(arguments)


def refuse(_: Mapping[str, Any]) -> object:
    raise ValueError("no image is called that")


def busy(_: Mapping[str, Any]) -> object:
    raise BusyError("the mount point is in use")


def full(_: Mapping[str, Any]) -> object:
    raise OSError(28, "No space left on device", "/spool")


def nonsense(_: Mapping[str, Any]) -> object:
    return object()


HANDLERS = {"echo": echo, "refuse": refuse, "busy": busy, "full": full, "nonsense": nonsense}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "pictofs" / "x.sock"


@pytest.fixture
def server(path: Path) -> Iterator[ControlServer]:
    with ControlServer(path, HANDLERS) as running:
        yield running


def talk(path: Path, *lines: bytes) -> list[dict[str, Any]]:
    """Send raw lines on one connection; the answers until the server closes or all are there."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(path))
        with connection.makefile("rwb") as stream:
            answers = []
            for line in lines:
                stream.write(line)
                stream.flush()
                answers.append(json.loads(stream.readline()))
    return answers


@pytest.mark.usefixtures("server")
def test_a_request_is_answered_and_a_connection_carries_several(path: Path) -> None:
    assert call(path, "echo", {"path": "a/ü\udcff"}) == {"path": "a/ü\udcff"}
    line = b'{"version": 1, "command": "echo", "arguments": {"n": 1}}\n'
    assert talk(path, line, line) == [{"version": 1, "ok": True, "result": {"n": 1}}] * 2
    assert talk(path, b'{"version": 1, "command": "echo"}\n')[0]["result"] == {}


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(
    ("command", "kind", "words"),
    [
        ("refuse", ControlError, "no image is called that"),
        ("busy", BusyError, "the mount point is in use"),
        ("full", ControlError, "/spool: No space left on device"),
        ("nonsense", ControlError, "the mount's answer cannot be sent"),
        ("frob", ControlError, "this mount does not know the command 'frob'"),
    ],
)
def test_what_a_handler_raises_is_an_error_answer(
    path: Path, command: str, kind: type[ControlError], words: str
) -> None:
    with pytest.raises(ControlError) as caught:
        call(path, command)
    assert type(caught.value) is kind
    assert words in str(caught.value)
    assert call(path, "echo") == {}  # it goes on


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"hello\n", "not JSON"),
        (b"[1]\n", "version 1"),
        (b"[" * 100_000 + b"\n", "not JSON"),
        (b'{"version": 2, "command": "echo"}\n', "remount with the installed pictofs"),
        (b'{"version": 1, "command": "echo", "arguments": []}\n', "does not know"),
        (b"\xff\xfe\n", "not JSON"),
    ],
)
def test_a_malformed_request_does_not_end_the_connection(path: Path, line: bytes, words: str) -> None:
    refused, answered = talk(path, line, b'{"version": 1, "command": "echo"}\n')
    assert not refused["ok"]
    assert words in refused["error"]
    assert answered["ok"]


@pytest.mark.usefixtures("server")
def test_an_endless_request_is_cut_off(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "MAX_REQUEST_BYTES", 1000)
    (refused,) = talk(path, b"x" * 1001)
    assert "longer than 1000 bytes" in refused["error"]


@pytest.mark.usefixtures("server")
def test_an_answer_beyond_the_bound_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "MAX_ANSWER_BYTES", 1000)
    with pytest.raises(ControlError, match="ask for less"):
        call(path, "echo", {"text": "x" * 1000})


@pytest.mark.usefixtures("server")
def test_a_silent_connection_is_closed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "IDLE_TIMEOUT_S", 0.05)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(path))
        assert connection.recv(1) == b""


def test_more_connections_than_allowed_are_turned_away(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "MAX_CONNECTIONS", 1)
    with ControlServer(path, HANDLERS), socket.socket(socket.AF_UNIX) as first:
        first.connect(str(path))
        first.sendall(b'{"version": 1, "command": "echo"}\n')
        assert first.recv(1)  # it is being served
        with pytest.raises(NotMountedError, match="ended before it answered"):
            call(path, "echo")


def test_a_slow_answer_is_not_waited_for(path: Path) -> None:
    release = threading.Event()
    with ControlServer(path, {"slow": lambda _: release.wait(10)}):
        with pytest.raises(ControlError, match="did not answer within"):
            call(path, "slow", timeout_s=0.05)
        release.set()


def test_close_lets_a_running_handler_answer(path: Path) -> None:
    entered, release = threading.Event(), threading.Event()

    def slow(_: Mapping[str, Any]) -> object:
        entered.set()
        release.wait(10)
        return "done"

    answers: list[object] = []
    server = ControlServer(path, {"slow": slow})
    client = threading.Thread(target=lambda: answers.append(call(path, "slow")))
    client.start()
    entered.wait(10)
    closer = threading.Thread(target=server.close)
    closer.start()
    release.set()
    client.join(10)
    closer.join(10)
    assert answers == ["done"]
    assert not path.exists()


def test_a_handler_may_close_the_server(path: Path) -> None:
    server = ControlServer(path, {"stop": lambda _: server.close()})
    assert call(path, "stop") is None
    server.close()
    with pytest.raises(NotMountedError):
        call(path, "stop")


@pytest.mark.usefixtures("server")
def test_socket_and_folder_are_private(path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [entry.name for entry in path.parent.iterdir()] == ["x.sock"]


def test_a_folder_that_others_can_enter_is_refused(path: Path, tmp_path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.parent.chmod(0o750)
    with pytest.raises(PermissionError, match="others can enter"):
        ControlServer(path, {})
    path.parent.chmod(0o700)
    link = tmp_path / "link"
    link.symlink_to(path.parent)
    with pytest.raises(PermissionError):
        ControlServer(link / "y.sock", {})


def test_the_socket_of_a_dead_daemon_is_replaced(path: Path) -> None:
    control.make_private(path.parent)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with pytest.raises(NotMountedError):
        call(path, "echo")
    with ControlServer(path, HANDLERS):
        assert call(path, "echo") == {}


@pytest.mark.usefixtures("server")
def test_a_living_daemon_is_not_replaced(path: Path) -> None:
    with pytest.raises(ControlError, match="already answers"):
        ControlServer(path, HANDLERS)
    assert call(path, "echo") == {}


def test_a_successors_socket_is_not_removed(path: Path) -> None:
    first = ControlServer(path, HANDLERS)
    path.unlink()
    with ControlServer(path, HANDLERS):
        first.close()
        assert call(path, "echo") == {}


def test_a_path_too_long_for_a_socket_address(tmp_path: Path) -> None:
    path = tmp_path / ("d" * 100) / ("e" * 100) / "x.sock"
    assert len(os.fsencode(path)) > 107
    with pytest.raises(NotMountedError):
        call(path, "echo")
    with ControlServer(path, HANDLERS):
        assert call(path, "echo", {"a": 1}) == {"a": 1}
    assert not path.exists()


def test_an_answer_that_is_not_ours(path: Path) -> None:
    control.make_private(path.parent)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n")

        stranger = threading.Thread(target=answer)
        stranger.start()
        with pytest.raises(ControlError, match="not ours"):
            call(path, "echo")
        stranger.join(10)


def record(mountpoint: Path) -> MountRecord:
    return MountRecord(str(mountpoint), os.getpid(), "Lab on api.pictograph.io", "/state/a", 1000.0)


def test_records_say_which_mounts_there_are(tmp_path: Path) -> None:
    runtime, here, there = tmp_path / "run", tmp_path / "here", tmp_path / "there"
    assert read_records(runtime) == []
    for place in (there, here):
        place.mkdir()
        write_record(runtime, record(place))
    (runtime / "broken.json").write_text("{")
    (runtime / "foreign.json").write_text('{"mountpoint": "/x"}')
    newer = json.loads(record_path(runtime, here).read_text())
    record_path(runtime, here).write_text(json.dumps({**newer, "added": "later"}))
    assert read_records(runtime) == [record(here), record(there)]
    assert stat.S_IMODE(record_path(runtime, here).stat().st_mode) == 0o600

    assert not is_alive(runtime, record(here))
    with ControlServer(socket_path(runtime, here), {}):
        assert is_alive(runtime, record(here))
        assert not is_alive(runtime, record(there))


def test_one_mount_point_by_several_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "deep" / "drive"
    place.mkdir(parents=True)
    (tmp_path / "short").symlink_to(place)
    (tmp_path / "up").symlink_to(tmp_path / "deep")
    monkeypatch.chdir(place)
    names = [place, tmp_path / "short", tmp_path / "up" / "drive", Path(), place / ".." / "drive"]
    assert {mountinfo.real_path(name) for name in names} == {place.resolve()}
    assert len({socket_path(tmp_path, name) for name in names}) == 1


def test_the_mount_table() -> None:
    root = mountinfo.entry("/proc")
    assert root is not None
    assert (root.fstype, root.is_ours, root.is_fuse) == ("proc", False, False)
    assert mountinfo.entry("/proc/self") is None
    assert not mountinfo.is_dead("/proc")
    assert mountinfo.wait_until_gone("/nowhere", 0)
    assert not mountinfo.wait_until_gone("/proc", 0.01)


def test_the_mount_table_escapes_spaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(
        "1 0 0:1 / /mnt/a\\040b\\134c rw shared:1 - fuse.pictofs pictofs rw\n"
        "2 1 0:2 / /mnt/ü rw - fuse.sshfs host:/x rw\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(mountinfo, "_MOUNTINFO", table)
    ours = mountinfo.entry("/mnt/a b\\c")
    other = mountinfo.entry("/mnt/ü")
    assert ours is not None
    assert ours.is_ours
    assert other is not None
    assert (other.is_ours, other.is_fuse) == (False, True)


@pytest.fixture
def sitting(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process whose working directory is `tmp_path`, until its stdin is closed."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, cwd=tmp_path) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


def test_waiting_for_a_process(sitting: subprocess.Popen[bytes]) -> None:
    assert not mountinfo.wait_until_ended(sitting.pid, 0.01)
    assert sitting.stdin is not None
    sitting.stdin.close()
    assert mountinfo.wait_until_ended(sitting.pid, 10)
    sitting.wait(10)
    assert mountinfo.wait_until_ended(sitting.pid, 10)


def test_who_keeps_a_folder_busy(sitting: subprocess.Popen[bytes], tmp_path: Path) -> None:
    assert mountinfo.users_of(tmp_path) == [f"cat ({sitting.pid})"]
    assert mountinfo.users_of(tmp_path / "other") == []
