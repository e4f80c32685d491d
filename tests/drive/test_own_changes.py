"""What this mount changes itself costs no listing; what others change meanwhile is seen as soon as ever."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import mounts
import pytest
from drives import Drive, picture
from sandbox_process import SandboxProcess

pytestmark = pytest.mark.fuse

TTL_S = 1.0
LISTING = "GET /datasets/{dataset}"
CHECK = "GET /directories/{dataset}"


def test_copying_in_over_several_ttls_costs_no_listing_and_others_changes_are_seen(
    tmp_path: Path, sandbox: SandboxProcess
) -> None:
    def asked(route: str) -> int:
        count: int = sandbox.stats()["api"]["by_route"].get(route, 0)
        return count

    def look_until(holds: Callable[[], bool], what: str) -> None:
        mounts.wait_until(lambda: [list(folder.iterdir()) for folder in folders] and holds(), what)

    def check(times: int = 2) -> None:
        """Look until the service was asked again; the first question may have come before the last change."""
        before = asked(CHECK)
        look_until(lambda: asked(CHECK) >= before + times, "the listing is checked")

    sandbox.populate(dataset="photos", folders=2, images=40)
    drive = Drive(tmp_path, sandbox, "--metadata-ttl", f"{TTL_S}s")
    with drive.sdk() as sdk:
        sdk.directories.create("photos", "/in")
    with drive, drive.sdk() as sdk:
        root = drive.mnt / "photos"
        target = root / "in"
        folders = [root, target]
        look_until(lambda: asked(LISTING) > 0, "it is listed")
        sandbox.reset_stats()
        started_s = time.monotonic()

        for number in range(240):
            (target / f"own-{number}.jpg").write_bytes(picture(number))
            if number % 80 == 79:
                check(1)
        assert drive.wait().returncode == 0
        for number in range(40):
            (target / f"own-{number}.jpg").unlink()
            shutil.move(target / f"own-{number + 40}.jpg", root)
        assert drive.wait().returncode == 0
        check()
        questions = sum(asked(route) for route in (CHECK, "GET /datasets/"))
        assert asked(LISTING) == 0
        assert questions <= 2 * ((time.monotonic() - started_s) / TTL_S + 2)

        def seen(holds: Callable[[], bool], listings: int) -> None:
            """At the first check after it; one may be under way, and another follow before the look."""
            before = asked(CHECK)
            look_until(holds, "it is seen")
            assert asked(CHECK) <= before + 3
            assert asked(LISTING) == listings

        (tmp_path / "other.jpg").write_bytes(picture(1000))
        (target / "mine.jpg").write_bytes(picture(1001))
        assert drive.wait().returncode == 0
        other = sdk.images.upload("photos", tmp_path / "other.jpg", directory_path="/in")
        seen((target / "other.jpg").exists, 1)
        (target / "my other.jpg").write_bytes(picture(1002))
        assert drive.wait().returncode == 0
        sdk.batch.move("photos", [other.id], target_directory_path="/")
        seen(lambda: (root / "other.jpg").exists() and not (target / "other.jpg").exists(), 2)
        (target / "my other.jpg").unlink()
        assert drive.wait().returncode == 0
        sdk.images.delete("photos", "other.jpg")
        seen(lambda: not (root / "other.jpg").exists(), 3)
        shown = {f"/in/{path.name}" for path in target.iterdir()} | {
            f"/{path.name}" for path in root.glob("*.jpg")
        }
        assert shown == {
            path for path in drive.images("photos") if path.startswith("/in/") or path.count("/") == 1
        }
