"""Two mounts and the official SDK at once on one dataset: nothing lost, no wrong bytes, one truth at last."""

from __future__ import annotations

import errno
import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import mounts
import pictograph
import pytest
from drives import Drive, picture
from sandbox_process import SandboxProcess

pytestmark = pytest.mark.fuse

FOLDERS = ("", "/left", "/right")
OVERTAKEN = (errno.ENOENT, errno.EEXIST, errno.EIO)
"""What a change may be refused with when somebody else changed the same image first."""


class Everybody:
    """Two drives, the SDK, and what each has done. Contents are distinct, so bytes say whose a file is."""

    def __init__(self, folder: Path, sandbox: SandboxProcess, *arguments: str) -> None:
        self.drives = [Drive(folder / name, sandbox, *arguments) for name in ("one", "two")]
        self.folder = folder
        self.contested: dict[str, set[bytes]] = {}  # a name that both write → the bytes

    def seed(self, count: int) -> dict[str, bytes]:
        """Images that are there before, for all to fight about: name → bytes."""
        made = {f"v{number}.jpg": picture(900_000 + number) for number in range(count)}
        with self.drives[0].sdk() as sdk:
            for folder in FOLDERS[1:]:
                sdk.directories.create("photos", folder)
            for name, data in made.items():
                self.upload(sdk, name, data)
        return made

    def upload(self, sdk: pictograph.Client, name: str, data: bytes, folder: str = "/") -> str:
        file = self.folder / "scratch" / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(data)
        image: str = sdk.images.upload("photos", file, directory_path=folder or "/").id
        return image

    def live(self, number: int, victims: list[str], rounds: int, own: dict[str, bytes]) -> None:
        """One program on one mount: copies, moves and removes its own files, and whatever it finds."""
        dice = random.Random(number)
        root = self.drives[number].mnt / "photos"
        for turn in range(rounds):
            path = f"{dice.choice(FOLDERS)}/d{number}-{turn}.jpg"
            data = picture(1000 * (number + 1) + turn)
            Path(f"{root}{path}").write_bytes(data)
            own[path] = data
            if turn % 3 == 0:  # the other one writes this name as well
                data = picture(500_000 + 1000 * number + turn)
                with suppress(FileExistsError):  # theirs was seen in time
                    (root / f"both{turn}.jpg").write_bytes(data)
                    self.contested.setdefault(f"/both{turn}.jpg", set()).add(data)
            if turn % 2 and own:
                old = dice.choice(sorted(own))
                new = f"{dice.choice(FOLDERS)}/{old.rpartition('/')[2]}"
                Path(f"{root}{old}").rename(f"{root}{new}")
                own[new] = own.pop(old)
            if turn % 4 == 3:
                gone = dice.choice(sorted(own))
                Path(f"{root}{gone}").unlink()
                del own[gone]
            self.fight(root, dice, dice.choice(victims))

    @staticmethod
    def fight(root: Path, dice: random.Random, name: str) -> None:
        """Remove or move an image that others remove and move too."""
        old, new = (Path(f"{root}{dice.choice(FOLDERS)}/{name}") for _ in range(2))
        try:
            # A rename onto itself of what another client has just removed hangs in libfuse (TROUBLESHOOTING).
            if old == new or dice.random() < 0.2:
                old.unlink()
            else:
                old.rename(new)
        except OSError as error:
            if error.errno not in OVERTAKEN:
                raise

    def work_as_sdk(self, victims: list[str], rounds: int, own: dict[str, bytes]) -> None:
        dice = random.Random(99)
        with self.drives[0].sdk() as sdk:
            for turn in range(rounds):
                folder, data = dice.choice(FOLDERS), picture(100_000 + turn)
                self.upload(sdk, f"s{turn}.jpg", data, folder)
                own[f"{folder}/s{turn}.jpg"] = data
                if turn % 4 == 3:
                    gone = dice.choice(sorted(own))
                    sdk.images.delete("photos", gone.lstrip("/"))
                    del own[gone]
                with suppress(pictograph.PictographError):  # somebody else was faster
                    sdk.images.delete("photos", f"{dice.choice(FOLDERS)}/{dice.choice(victims)}".lstrip("/"))

    def everything(self) -> list[dict[str, bytes]]:
        """What each mount shows: path → bytes."""
        return [
            {f"/{p.relative_to(d.mnt / 'photos')}": p.read_bytes() for p in (d.mnt / "photos").rglob("*.jpg")}
            for d in self.drives
        ]

    def names(self) -> list[list[str]]:
        return [
            sorted(str(p.relative_to(d.mnt)) for p in (d.mnt / "photos").rglob("*.jpg")) for d in self.drives
        ]


def check(everybody: Everybody, sandbox: SandboxProcess, rounds: int) -> None:
    seeded = everybody.seed(8)
    first = everybody.drives[0]
    before = {image.id for image in first.images("photos").values()}
    own: list[dict[str, bytes]] = [{}, {}, {}]
    with everybody.drives[0], everybody.drives[1]:
        victims = sorted(seeded)
        with ThreadPoolExecutor() as pool:
            lives = [pool.submit(everybody.live, n, victims, rounds, own[n]) for n in (0, 1)]
            lives.append(pool.submit(everybody.work_as_sdk, victims, rounds, own[2]))
        for life in lives:
            life.result()
        problems = [_stuck(drive) for drive in everybody.drives]
        images = first.images("photos")
        bytes_of = {path: first.download("photos", path) for path in images}

        # What nobody else touched is where its owner left it, and nowhere else.
        for mine in own:
            assert {path: bytes_of.get(path) for path in mine} == mine
        for path, data in bytes_of.items():
            name = path.rpartition("/")[2]
            if name in seeded:
                assert data == seeded[name]
            elif path in everybody.contested:
                assert data in everybody.contested[path]
            else:
                assert any(mine.get(path) == data for mine in own), f"{path} was removed or moved"
        # No content is there twice; who lost a name to the other keeps the bytes, and is told.
        assert len(set(bytes_of.values())) == len(bytes_of)
        for path, rivals in everybody.contested.items():
            losers = [n for n in (0, 1) if path in problems[n]]
            kept = {(everybody.drives[n].mnt / f"photos{path}").read_bytes() for n in losers}
            assert kept | {bytes_of[path]} == rivals
            assert all(problems[n][path] == "failed" for n in losers)
        assert sorted(p for found in problems for p in found) == sorted(
            path for path, rivals in everybody.contested.items() if len(rivals) == 2
        )
        # Whatever was there is there or in the archive.
        with first.sdk() as sdk:
            ever = {image.id for image in sdk.images.iter("photos", include_archived=True)}
        assert before <= ever

        # Both see the same once the losers have let go, without being asked to look.
        for number, found in enumerate(problems):
            drive = everybody.drives[number]
            for path in found:
                drive.run("uploads", "discard", "--yes", str(drive.mnt / f"photos{path}"), check=True)
        want = sorted(f"photos{path}" for path in bytes_of)
        mounts.wait_until(lambda: everybody.names() == [want, want], "both list what the service has")
        assert everybody.everything() == [bytes_of, bytes_of]


def _stuck(drive: Drive) -> dict[str, str]:
    """`pictofs wait`; then path in the dataset → state of what needs a person."""
    done = drive.wait()
    assert done.returncode in (0, 1), done.stdout + done.stderr + drive.log()
    problems: list[dict[str, Any]] = drive.status()["problems"]
    return {problem["path"].removeprefix("photos"): problem["state"] for problem in problems}


def test_two_mounts_and_the_sdk_on_one_dataset(tmp_path: Path, sandbox: SandboxProcess) -> None:
    check(Everybody(tmp_path, sandbox, "--metadata-ttl", "1s"), sandbox, rounds=12)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_soak_two_mounts_and_the_sdk_for_long(tmp_path: Path, sandbox: SandboxProcess) -> None:
    sandbox.faults(latency_ms=5)
    check(Everybody(tmp_path, sandbox, "--metadata-ttl", "1s"), sandbox, rounds=300)
