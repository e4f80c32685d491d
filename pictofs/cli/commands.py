"""mount, umount, config, refresh, rm: each takes the parsed command line and returns its exit status."""

from __future__ import annotations

import argparse
import dataclasses
import errno
import json
import os
import stat
import time
from pathlib import Path
from typing import NoReturn

from pictofs import settings
from pictofs.api import credentials
from pictofs.api.credentials import Credentials
from pictofs.api.errors import ConfigurationError
from pictofs.cli import find, render, watching
from pictofs.cli.exitcodes import Exit
from pictofs.cli.terminal import UsageError, ask, printable, put, say
from pictofs.mount import mountinfo, offline
from pictofs.mount.control import BusyError, ControlError, MountRecord, NotMountedError
from pictofs.mount.problems import MountError
from pictofs.mount.status import ReportError
from pictofs.settings import Access, SettingsError
from pictofs.units import Share, show_count

_KEY_FILE_MAX_BYTES = 4096
"""A key has some fifty characters; a longer file is another file."""

_LEAVE_TIMEOUT_S = 60.0
"""How long a daemon may take to close its journal after it is out of the tree."""


def mount(arguments: argparse.Namespace) -> int:
    found = settings.resolve(arguments.given)
    access = find_credentials(found.access)
    place = mountinfo.real_path(arguments.mountpoint)
    from pictofs.mount import lifecycle  # loads FUSE, which no other command needs

    return lifecycle.mount(
        found.mount, access, place, foreground=arguments.foreground, drain_view=watching.bar
    )


def umount(arguments: argparse.Namespace) -> int:
    chosen = settings.resolve(arguments.given).mount
    place = mountinfo.real_path(arguments.mountpoint)
    there = mountinfo.entry(place)
    if there is None:
        raise MountError(f"nothing is mounted at {place}.")
    if not there.is_ours:
        raise MountError(f"{place} is a {there.fstype} file system, not ours; `umount` is for that.")
    if mountinfo.is_dead(place):
        record = find.died(chosen, place)
        mountinfo.detach(place, lazy=True)
        say(f"the mount at {place} had died; it is cleared away now.")
        return _say_what_remains(record)
    try:
        mounted = find.mount_of(chosen, place)
    except NotMountedError:
        # Another user's, or its socket is gone: the daemon drains by itself when the kernel lets go of it.
        _detach(place)
        say(f"{place} is unmounted; what its daemon still sends, it sends on its own.")
        return Exit.OK
    try:
        watching.drain(mounted, chosen.drain_timeout_s)
        mounted.call("unmount", {"drain_timeout_s": 0})
    except BusyError:
        _busy(place)
    except NotMountedError:
        pass  # it went while it answered; what counts is the mount table
    except (ControlError, ReportError) as error:
        say(f"{error}; unmounting without its help.")
        _detach(place)
    if not mountinfo.wait_until_gone(place, _LEAVE_TIMEOUT_S):
        raise MountError(f"{place} is still mounted; see the log of process {mounted.record.pid}.")
    if not mountinfo.wait_until_ended(mounted.record.pid, _LEAVE_TIMEOUT_S):
        raise MountError(f"{place} is unmounted, but process {mounted.record.pid} does not end; see its log.")
    return _say_what_remains(mounted.record)


def config(arguments: argparse.Namespace) -> int:
    found = settings.resolve(arguments.given)
    access_rows: list[tuple[str, str, str]]
    problem = None
    try:
        access = find_credentials(found.access)
        source = f"--api-key-file {found.access.api_key_file}" if found.access.api_key_file else ""
        access_rows = [
            ("api-key", str(access.api_key), source or access.source_of_key),
            ("base-url", access.base_url, access.source_of_url),
        ]
    except ConfigurationError as error:
        access_rows, problem = [("api-key", "-", "not found")], str(error)
    if arguments.json:
        access_json = [settings.Row(name, value, value, "", source) for name, value, source in access_rows]
        rows = [_json_row(row) for row in (*access_json, *found.explain())]
        put(json.dumps({"version": 1, "settings": rows, "notes": list(found.notes)}, indent=2))
    else:
        rows_text = [(name, printable(value), src) for name, value, src in access_rows]
        rows_text += [(row.name, printable(row.text), row.source) for row in found.explain()]
        put(render.columns(rows_text))
        for note in found.notes:
            say(note)
    if problem:
        say(problem)
        return Exit.FAILED
    return Exit.OK


def refresh(arguments: argparse.Namespace) -> int:
    mounted = find.mount_of(settings.resolve(arguments.given).mount, arguments.path)
    mounted.call("refresh", {"path": mounted.relative(arguments.path)}, timeout_s=300.0)
    return Exit.OK


def remove(arguments: argparse.Namespace) -> int:
    if not arguments.permanent:
        raise UsageError(
            "pictofs rm is only for deleting for good: add --permanent. Plain `rm` archives an image, "
            "which can be undone."
        )
    chosen = settings.resolve(arguments.given).mount
    targets = [(path, find.mount_of(chosen, path)) for path in arguments.paths]
    if not arguments.yes:
        names = ", ".join(str(path) for path in arguments.paths[:5])
        more = f" and {len(targets) - 5} more" if len(targets) > 5 else ""
        if not ask(f"Delete {show_count(len(targets), 'image')} for good, with their labels: {names}{more}?"):
            say("nothing was deleted.")
            return Exit.FAILED
    worst = Exit.OK
    for path, mounted in targets:
        try:
            mounted.call("rm_permanent", {"path": mounted.relative(path)})
        except ControlError as error:
            say(f"{path} was not deleted: {error}")
            worst = Exit.FAILED
    return worst


def find_credentials(access: Access) -> Credentials:
    """The key and the server in force.

    Raises:
        ConfigurationError, SettingsError: none can be used.
    """
    key = None
    if access.api_key_file is not None:
        if access.profile is not None:
            raise SettingsError(
                "--profile and --api-key-file both say whose key to use; give one of them, so that no key "
                "goes to another one's server."
            )
        key = _key_from(access.api_key_file)
    return credentials.resolve(api_key=key, base_url=access.base_url, profile=access.profile)


def _key_from(path: Path) -> str:
    try:
        with path.open("rb") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & stat.S_IROTH:
                raise SettingsError(f"everybody can read the key in {path}; run `chmod 600 {path}`.")
            text = file.read(_KEY_FILE_MAX_BYTES + 1)
        lines = text.decode("ascii").split()
    except OSError as error:
        raise SettingsError(f"cannot read the key file {path}: {error.strerror}.") from None
    except UnicodeDecodeError:
        lines = []
    if len(text) > _KEY_FILE_MAX_BYTES or len(lines) != 1:
        raise SettingsError(f"{path} must hold the API key on one line, and nothing else.")
    return lines[0]


def _json_row(row: settings.Row) -> dict[str, object]:
    data = dataclasses.asdict(row)
    return {**data, "value": str(row.value) if isinstance(row.value, (Path, Share)) else row.value}


def _detach(place: Path) -> None:
    try:
        mountinfo.detach(place)
    except OSError as error:
        if error.errno == errno.EBUSY:
            _busy(place)
        raise


def _busy(place: Path) -> NoReturn:
    users = mountinfo.users_of(place)
    by = f" by {', '.join(users)}" if users else ""
    raise MountError(f"{place} is in use{by}; close what uses it, leave the folder, and try again.")


def _say_what_remains(record: MountRecord | None) -> int:
    """One sentence about the journal of a mount that has ended. The unmount itself went well."""
    if record is None:
        return Exit.OK
    try:
        left = offline.read_report(Path(record.account_dir))
    except offline.OfflineError:
        return Exit.OK  # another mount of the account has started already, and speaks for it
    if not left.safe:
        say(left.headline(time.time()))
    return Exit.OK
