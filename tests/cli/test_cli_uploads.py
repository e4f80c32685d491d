"""uploads list, retry, discard, export: through a mount, and on the journal when none runs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_mount import FakeMount, Ran
from journal_fakes import upload

from pictofs import settings
from pictofs.cli import uploads
from pictofs.cli.uploads import export_file
from pictofs.mount import accounts
from pictofs.mount.accounts import AccountNote
from pictofs.mount.uploads import UploadRow
from pictofs.transfer.journal import Journal
from pictofs.transfer.lock import StateLock
from pictofs.transfer.records import NewUpload, State
from pictofs.transfer.spool import Spool

Run = Callable[..., Ran]


# --- mounted ----------------------------------------------------------------------------------------


def test_list(run: Run, mount: FakeMount) -> None:
    assert run("uploads").out == "Nothing is pending, held or failed.\n"
    mount.stuck()
    mount.journal.rows[1] = upload(1)
    for arguments in ((), ("list",), ("list", "--mount", mount.mountpoint)):
        assert run("uploads", *arguments).out == (
            "1  queued     1000 B  birds/day/1.jpg\n"
            "2  failed     1000 B  birds/day/2.jpg\n"
            "                      this name is taken\n"
            "3  held       1000 B  birds/day/3.jpg\n"
            "                      no readable image\n"
            "4  failed     1000 B  birds/day/4.jpg\n"
            "                      the file is too large\n"
        )
    answer = json.loads(run("uploads", "list", "--json").out)
    assert (answer["version"], answer["total"]) == (1, 4)
    assert answer["rows"][0]["path"] == "birds/day/1.jpg"


@pytest.mark.parametrize(
    ("what", "queued", "words"),
    [
        (["--all"], [2, 4], "2 files queued again."),
        (["2"], [2], "1 file queued again."),
        (["#2"], [2], "1 file queued again."),
        (["birds/day/4.jpg"], [4], "1 file queued again."),
        (["--force", "birds"], [2, 3, 4], "3 files queued again."),
    ],
)
def test_retry(run: Run, mount: FakeMount, what: list[str], queued: list[int], words: str) -> None:
    mount.stuck()
    ran = run("uploads", "retry", *what)
    assert (ran.status, ran.err) == (0, f"pictofs: {words}\n")
    assert [row.id for row in mount.journal.pending() if row.state is State.QUEUED] == queued
    assert mount.asked == [("kick", None)]


def test_paths_may_be_typed_as_they_are_seen(
    run: Run, mount: FakeMount, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount.stuck()
    assert run("uploads", "retry", mount.mountpoint / "birds" / "day" / "2.jpg").status == 0
    (mount.mountpoint / "birds" / "day").mkdir(parents=True)
    monkeypatch.chdir(mount.mountpoint / "birds")
    assert run("uploads", "retry", "day/4.jpg").status == 0
    monkeypatch.chdir("/")
    ran = run("uploads", "retry", "birds/none")
    assert ran.status == 1
    assert ran.err == (
        "pictofs: nothing at birds/none is held or failed; `pictofs uploads list` shows what is\n"
    )


def test_discard_asks_first(run: Run, mount: FakeMount, monkeypatch: pytest.MonkeyPatch) -> None:
    mount.stuck()
    ran = run("uploads", "discard", "--all")
    assert (ran.status, len(mount.journal.rows)) == (2, 3)
    assert "give --yes" in ran.err

    questions: list[str] = []
    monkeypatch.setattr(uploads, "ask", lambda question: bool(questions.append(question)))
    assert run("uploads", "discard", "2", "3").status == 1
    assert questions == [
        "Forget 2 files (1.95 KiB), which are nowhere but on this disk: birds/day/2.jpg, birds/day/3.jpg?"
    ]
    ran = run("uploads", "discard", "--yes", "2", "3")
    assert (ran.status, ran.err) == (0, "pictofs: 2 files discarded.\n")
    assert list(mount.journal.rows) == [4]


def test_export(run: Run, mount: FakeMount, tmp_path: Path) -> None:
    mount.stuck()
    target = tmp_path / "rescued"
    ran = run("uploads", "export", "--to", target)
    assert (ran.status, ran.err) == (0, f"pictofs: 3 files copied to {target}.\n")
    assert (target / "birds/day/2.jpg").read_bytes() == b"bytes of 2"
    assert (target / "birds/day/2.jpg").stat().st_mtime_ns == 1_700_000_000_000_000_000
    assert len(mount.journal.rows) == 3  # only copied

    ran = run("uploads", "export", "--to", target, "2", "3")
    assert (ran.status, ran.err) == (0, f"pictofs: 0 files copied to {target}, 2 were there already.\n")

    (target / "birds/day/2.jpg").write_bytes(b"somebody's")
    mount.spool.path("spool4").unlink()
    (target / "birds/day/4.jpg").unlink()
    ran = run("uploads", "export", "--to", target)
    assert ran.status == 1
    assert ran.err == (
        "pictofs: birds/day/4.jpg (#4) was not copied: No such file or directory.\n"
        f"pictofs: 1 file copied to {target}, 1 were there already.\n"
    )
    assert sorted(os.listdir(target / "birds/day")) == ["2 (2).jpg", "2.jpg", "3.jpg"]
    assert (target / "birds/day/2.jpg").read_bytes() == b"somebody's"
    assert (target / "birds/day/2 (2).jpg").read_bytes() == b"bytes of 2"


@pytest.mark.parametrize("action", ["retry", "discard", "export"])
def test_nothing_is_stuck(run: Run, mount: FakeMount, tmp_path: Path, action: str) -> None:
    extra = ["--to", tmp_path / "x"] if action == "export" else []
    ran = run("uploads", action, "--all", *extra)
    assert ran.status == 0
    assert ran.err.startswith("pictofs: nothing ")


def test_several_mounts_need_a_name(run: Run, mount: FakeMount, tmp_path: Path) -> None:
    with FakeMount(tmp_path, "another") as another:
        another.stuck()
        ran = run("uploads", "retry", "--all")
        assert ran.status == 2
        assert f"({another.mountpoint}, {mount.mountpoint}); name one with --mount." in ran.err
        assert run("uploads", "retry", "--all", "--mount", another.mountpoint).status == 0
        assert run("uploads", "discard", "--yes", another.mountpoint / "birds" / "day" / "3.jpg").status == 0
        assert sorted(another.journal.rows) == [2, 4]


def row(path: str, spool_path: Path) -> UploadRow:
    return UploadRow(1, path, "failed", None, 1, 0, 1, str(spool_path))


def test_export_stays_below_its_folder(tmp_path: Path) -> None:
    """Names come from a server; none of them leads out, and no link is followed."""
    spool, target, outside = tmp_path / "spool", tmp_path / "target", tmp_path / "outside"
    spool.write_bytes(b"x")
    target.mkdir()
    outside.mkdir()
    assert export_file(row("../../up.jpg", spool), target)
    assert export_file(row("/etc/./b.jpg", spool), target)
    (target / "link").symlink_to(outside)
    with pytest.raises(NotADirectoryError):
        export_file(row("link/c.jpg", spool), target)
    (target / "d.jpg").symlink_to(outside / "d.jpg")
    assert export_file(row("d.jpg", spool), target)
    assert list(outside.iterdir()) == []
    found = sorted(str(path.relative_to(target)) for path in target.rglob("*") if path.is_file())
    assert found == ["d (2).jpg", "etc/．/b.jpg", "．．/．．/up.jpg"]  # noqa: RUF001


# --- nothing mounted --------------------------------------------------------------------------------


@pytest.fixture
def account() -> Path:
    """The state folder of an account with a queued, a failed and a held file."""
    folder = settings.resolve().mount.state_dir / "localhost-org1"
    with StateLock(folder) as lock:
        accounts.write_note(folder, AccountNote("Lab on localhost", {"d1": "birds"}))
        spool = Spool(folder / accounts.SPOOL_NAME, min_free_bytes=0)
        journal = Journal(folder / accounts.JOURNAL_NAME, spool, lock)
        for number, (state, reason) in enumerate(
            ((State.QUEUED, None), (State.HELD, "not a readable image"), (State.HELD, "a working name")), 1
        ):
            with spool.create() as file:
                file.pwrite(b"bytes of %d" % number, 0)
                file.fsync()
            name = f"{number}.jpg" if number < 3 else "3.jpg.part"
            journal.add(NewUpload("d1", "/day", name, file.name, 10, 7, state=state, reason=reason))
        journal.close()
    return folder


@pytest.mark.usefixtures("account")
def test_status_and_wait_offline(run: Run) -> None:
    ran = run("status")
    assert ran.status == 0
    assert ran.out == (
        "Lab on localhost (not mounted)\n"
        "  2 files need your attention (2 held). 1 more file for the next mount to send.\n"
        "  going up    0 sending, 1 queued; 10 B\n"
        "  held        2 files (20 B)\n"
        "\n"
        "  held #2 birds/day/2.jpg\n"
        "      not a readable image\n"
        "  held #3 birds/day/3.jpg.part\n"
        "      a working name\n"
        "  To resolve: rename the file, or `pictofs uploads retry`, `discard` or `export`.\n"
    )
    ran = run("wait")
    assert ran.status == 1
    assert ran.err.startswith("pictofs: Lab on localhost: 2 files need your attention")


def test_list_offline_takes_no_lock(run: Run, account: Path) -> None:
    with StateLock(account):
        assert run("uploads").out.splitlines()[0] == "1  queued       10 B  birds/day/1.jpg"
        ran = run("uploads", "retry", "--all")
        assert ran.status == 1
        assert f"in use by process {os.getpid()}" in ran.err


@pytest.mark.usefixtures("account")
def test_retry_export_discard_offline(run: Run, tmp_path: Path) -> None:
    ran = run("uploads", "retry", "birds/day/2.jpg")
    assert ran.status == 1
    assert "with --force" in ran.err
    ran = run("uploads", "retry", "--force", "--all")
    assert (ran.status, ran.err) == (0, "pictofs: 1 file queued again, to go up at the next mount.\n")
    assert run("uploads", "export", "--to", tmp_path / "out").status == 0
    assert [path.name for path in (tmp_path / "out/birds/day").iterdir()] == ["3.jpg.part"]
    assert run("uploads", "discard", "--yes", "3").status == 0
    lines = run("uploads").out.splitlines()
    assert [line.split()[0:2] for line in lines] == [["1", "queued"], ["2", "queued"]]


def test_no_account_has_anything(run: Run) -> None:
    ran = run("uploads", "retry", "--all")
    assert (ran.status, ran.err) == (1, "pictofs: nothing is held or failed on this machine.\n")


def test_a_journal_that_cannot_be_read(run: Run, account: Path) -> None:
    (account / accounts.JOURNAL_NAME).write_bytes(b"not a database" * 100)
    for command in ("uploads", "status", "wait"):
        ran = run(command)
        assert ran.status == 1
        assert f"The upload journal {account / accounts.JOURNAL_NAME} cannot be read" in ran.err


def test_without_its_note_ids_stand_in_for_names(run: Run, account: Path) -> None:
    (account / "account.json").write_text("{")
    assert run("status").out.startswith("localhost-org1 (not mounted)\n")
    assert "d1/day/1.jpg" in run("uploads").out
