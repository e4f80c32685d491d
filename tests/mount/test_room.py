"""How much of a disk new files and the image cache leave free."""

from __future__ import annotations

from pathlib import Path

from pictofs.mount import lifecycle
from pictofs.settings import MountSettings
from pictofs.units import Share


def test_a_percentage_keeps_new_files_from_one_gib_at_most(tmp_path: Path) -> None:
    disk_bytes = lifecycle._disk_bytes(tmp_path / "not" / "there" / "yet")
    assert disk_bytes == lifecycle._disk_bytes(tmp_path)

    def reserve(share: Share) -> int:
        return lifecycle._spool_reserve_bytes(MountSettings(min_free=share), tmp_path)

    assert reserve(Share(percent=0.0001)) == int(disk_bytes * 0.000001)
    assert reserve(Share(percent=100)) == min(disk_bytes, 1 << 30)
    assert reserve(Share(size_bytes=5 << 30)) == 5 << 30
