"""plan cp, plan rm: what it would cost and what would be refused, without doing it.

Sources are looked at where they are, and the drive through its mount, as cp and rm themselves would; only
cheap things are checked: names, sizes, what is there already. Whether a file is a whole image shows when it
is copied.
"""

from __future__ import annotations

import argparse
import json
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from pictofs import imagefile, namespace, settings
from pictofs.cli import find
from pictofs.cli.exitcodes import Exit
from pictofs.cli.find import Mounted
from pictofs.cli.terminal import UsageError, printable, put
from pictofs.mount import plan
from pictofs.mount.plan import Cost, Traits, Tree
from pictofs.mount.status import Budget
from pictofs.units import show_count, show_duration, show_size

_SHOWN = 10
"""A screenful of refusals; --json has them all."""


def run(arguments: argparse.Namespace) -> int:
    """`pictofs plan cp|rm`; returns the exit status: 1 when something would be refused or does not fit."""
    chosen = settings.resolve(arguments.given).mount
    *sources, last = arguments.paths
    if arguments.action == "cp":
        if not sources:
            raise UsageError("cp needs a source and a destination; see `pictofs plan cp --help`.")
        mounted = find.mount_of(chosen, last)
        traits = _traits(mounted)
        tree = _Copy(mounted, traits, last).scan(sources)
        cost = plan.cost_of_copy(tree, traits)
    else:
        mounted = find.mount_of(chosen, last)
        for path in sources:
            if find.mount_of(chosen, path).record != mounted.record:
                raise UsageError("these paths are on several drives; plan them one by one.")
        tree = _Removal(mounted, _traits(mounted)).scan(arguments.paths)
        cost = plan.cost_of_removal(tree)
    budget = mounted.report().budget
    warnings = [*_budget_warnings(cost, budget)]
    if arguments.action == "cp":
        warnings += _room_warnings(sum(tree.size_bytes.values()), mounted)
    if arguments.json:
        put(json.dumps(_as_json(arguments.action, tree, cost, budget, warnings), indent=2))
    else:
        put(_as_text(arguments.action, tree, cost, budget, warnings))
    return Exit.FAILED if tree.refused or warnings else Exit.OK


def _traits(mounted: Mounted) -> Traits:
    return Traits.from_json(mounted.call("traits"))


class _Copy:
    """What `cp -r SRC… DEST` would do."""

    def __init__(self, mounted: Mounted, traits: Traits, target: Path) -> None:
        self._mounted = mounted
        self._root = Path(mounted.record.mountpoint)
        self._traits = traits
        below = mounted.relative(target)
        assert below is not None  # The mount is the one around it.
        self._target = self._root / below
        self._tree = Tree()

    def scan(self, sources: Sequence[Path]) -> Tree:
        """Raises UsageError: cp itself would not begin."""
        into = self._target.is_dir()
        if len(sources) > 1 and not into:
            raise UsageError(f"{self._target} is no folder, so only one source can be copied there.")
        for source in sources:
            try:
                mode = source.stat().st_mode
            except OSError as error:
                self._refuse(source, error.strerror or str(error))
                continue
            if self._mounted.relative(source) is not None:
                self._tree.reads_drive = True
            target = self._target / source.absolute().name if into else self._target
            if stat.S_ISDIR(mode):
                self._folder(source, target)
            else:
                self._file(source, target, mode, source.stat().st_size)
        return self._tree

    def _folder(self, source: Path, target: Path) -> None:
        parts = target.relative_to(self._root).parts
        if parts and self._traits.read_only:
            self._refuse(source, "the drive is mounted read-only")
            return
        is_new = not target.is_dir()
        self._tree.datasets += is_new and len(parts) == 1
        self._tree.folders += is_new and len(parts) > 1
        before = sum(self._tree.files.values())
        try:
            entries = sorted(os.scandir(source), key=lambda entry: entry.name)
        except OSError as error:
            self._refuse(source, error.strerror or str(error))
            return
        for entry in entries:
            path = Path(entry.path)
            if entry.is_dir(follow_symlinks=False):
                self._folder(path, target / entry.name)
            else:
                about = entry.stat(follow_symlinks=False)
                self._file(path, target / entry.name, about.st_mode, about.st_size)
        if sum(self._tree.files.values()) == before:
            self._tree.empty_folders += is_new and len(parts) > 1

    def _file(self, source: Path, target: Path, mode: int, size_bytes: int) -> None:
        dataset, *inside = target.relative_to(self._root).parts
        reason = self._refusal(dataset, inside, target, mode, size_bytes)
        if reason is not None:
            self._refuse(source, reason)
        elif namespace.is_working_name(target.name):
            self._tree.held.append((str(source), "a working name: uploaded once it is renamed"))
        elif size_bytes == 0:
            self._tree.held.append((str(source), "the file is empty"))
        else:
            self._tree.replaced += _exists(target)
            self._tree.add(dataset, size_bytes)

    def _refusal(
        self, dataset: str, inside: Sequence[str], target: Path, mode: int, size_bytes: int
    ) -> str | None:
        if self._traits.read_only:
            return "the drive is mounted read-only"
        if not stat.S_ISREG(mode):
            return "links and devices are not taken"
        if not inside:
            return "a file needs a dataset: the drive's root holds only datasets"
        if dataset in self._traits.frozen:
            return f"dataset {dataset} is in cold storage; restore it first"
        if len(os.fsencode(target.name)) > namespace.NAME_MAX_BYTES:
            return "the name is too long"
        suffix = PurePosixPath(target.name).suffix.lower()
        if not namespace.is_working_name(target.name) and suffix not in imagefile.EXTENSIONS:
            return "the service takes only images: " + " ".join(sorted(imagefile.EXTENSIONS))
        if size_bytes > imagefile.MAX_FILE_BYTES:
            return f"it has {show_size(size_bytes)}, and {show_size(imagefile.MAX_FILE_BYTES)} is the most"
        if _exists(target) and not self._traits.overwrite:
            return "a file of this name is there (see -o overwrite)"
        return None

    def _refuse(self, source: Path, reason: str) -> None:
        self._tree.refused.append((str(source), reason))


class _Removal:
    """What `rm -r PATH…` would do."""

    def __init__(self, mounted: Mounted, traits: Traits) -> None:
        self._mounted = mounted
        self._root = Path(mounted.record.mountpoint)
        self._traits = traits
        self._tree = Tree()

    def scan(self, paths: Sequence[Path]) -> Tree:
        for path in paths:
            place = self._root / (self._mounted.relative(path) or "")
            if place == self._root:
                self._refuse(place, "this is the drive itself")
            elif not _exists(place):
                self._refuse(place, "there is no such file")
            elif self._traits.read_only:
                self._refuse(place, "the drive is mounted read-only")
            elif place.relative_to(self._root).parts[0] in self._traits.frozen:
                self._refuse(place, "its dataset is in cold storage; restore it first")
            elif place.is_dir():
                self._folder(place)
            else:
                self._image(place)
        return self._tree

    def _folder(self, folder: Path) -> None:
        if folder.parent == self._root:
            self._tree.datasets += 1
        else:
            self._tree.folders += 1
        for entry in os.scandir(folder):
            if entry.is_dir(follow_symlinks=False):
                self._folder(Path(entry.path))
            else:
                self._image(Path(entry.path))

    def _image(self, path: Path) -> None:
        if os.getxattr(path, "user.pictograph.upload") == b"done":  # else it is forgotten, at no cost
            self._tree.add(path.relative_to(self._root).parts[0], path.stat().st_size)

    def _refuse(self, path: Path, reason: str) -> None:
        self._tree.refused.append((str(path), reason))


def _exists(path: Path) -> bool:
    return os.path.lexists(path)


def _budget_warnings(cost: Cost, budget: Budget | None) -> Iterator[str]:
    if budget is not None and budget.remaining is not None and cost.requests_max > budget.remaining:
        yield f"only {show_count(budget.remaining, 'request')} are left this hour; it will have to wait"


def _room_warnings(size_bytes: int, mounted: Mounted) -> Iterator[str]:
    about = os.statvfs(mounted.record.mountpoint)
    free_bytes = about.f_bavail * about.f_frsize
    if size_bytes > free_bytes:
        yield f"only {show_size(free_bytes)} are free: the plan's storage, or the disk that files wait on"


def _as_text(action: str, tree: Tree, cost: Cost, budget: Budget | None, warnings: Sequence[str]) -> str:
    files = f"{show_count(sum(tree.files.values()), 'file')} ({show_size(sum(tree.size_bytes.values()))})"
    parts = [
        show_count(number, word)
        for number, word in ((tree.folders, "folder"), (tree.datasets, "dataset"))
        if number
    ]
    if action == "cp":
        lines = [f"{files} would be uploaded" + (f", {' and '.join(parts)} made" if parts else "")]
        if tree.replaced:
            lines[0] += f", {show_count(tree.replaced, 'image')} replaced (and archived)"
    else:
        lines = [f"{files} would be archived" + (f", {' and '.join(parts)} removed" if parts else "")]
    low, high = cost.requests_min, cost.requests_max
    requests = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    if budget is not None and budget.remaining is not None:
        requests += f" of the {budget.remaining:,} left this hour"
    lines.append(f"  requests    {requests}")
    lines.append(f"  time        about {show_duration(max(1.0, cost.seconds))} ({cost.assumption})")
    lines += [f"  attention   {warning}" for warning in warnings]
    for word, items in (("refused", tree.refused), ("held", tree.held)):
        if items:
            lines.append(f"  {word:<12}{show_count(len(items), 'file')}")
            lines += [f"    {printable(path)}: {printable(reason)}" for path, reason in items[:_SHOWN]]
            if len(items) > _SHOWN:
                lines.append(f"    … and {len(items) - _SHOWN:,} more (--json has them all)")
    return "\n".join(lines)


def _as_json(
    action: str, tree: Tree, cost: Cost, budget: Budget | None, warnings: Sequence[str]
) -> dict[str, object]:
    return {
        "version": 1,
        "action": action,
        "files": sum(tree.files.values()),
        "bytes": sum(tree.size_bytes.values()),
        "folders": tree.folders,
        "datasets": tree.datasets,
        "replaced": tree.replaced,
        "requests_min": cost.requests_min,
        "requests_max": cost.requests_max,
        "remaining": None if budget is None else budget.remaining,
        "duration_s": cost.seconds,
        "assumption": cost.assumption,
        "warnings": list(warnings),
        "refused": [{"path": path, "reason": reason} for path, reason in tree.refused],
        "held": [{"path": path, "reason": reason} for path, reason in tree.held],
    }
