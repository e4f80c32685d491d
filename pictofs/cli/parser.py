"""The command line's grammar. Settings come from `pictofs.settings`; what a command does is elsewhere.

Every parsed namespace has `command` and `given`, the settings in the order they were typed, from flags and
`-o` alike; that of `uploads` has `action` too. `debug` is there when it was asked for.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import pictofs
from pictofs import settings
from pictofs.cli.terminal import UsageError
from pictofs.sandbox import cli as sandbox_cli
from pictofs.settings import ACCESS_SETTINGS, MOUNT_SETTINGS, Given, Setting, SettingsError
from pictofs.units import parse_duration

_PLACES = ("state-dir", "runtime-dir")
"""What a command that speaks to a mount needs to find it."""

_MOUNT_EXAMPLES = """\
examples:
  pictofs mount ~/Pictograph
  pictofs mount ~/Pictograph --dataset birds --dataset plants --ro
  pictofs mount ~/Pictograph --foreground --log-level debug
  pictofs mount ~/Pictograph -o sync,metadata-ttl=5m,cache-size=50GiB

The API key comes from PICTOGRAPH_API_KEY, a profile of ~/.pictograph/config.toml (`pictograph login`
writes it) or --api-key-file. It is never taken from the command line, which every process can read.
Each setting can also stand in the environment (PICTOFS_METADATA_TTL=5m) or in the config file, in the
table [default.pictofs]; `pictofs config` shows what is in force.
"""

_UPLOADS_EXAMPLES = """\
examples:
  pictofs uploads                                    what is pending, held or failed
  pictofs uploads retry --all                        try all failed files again
  pictofs uploads retry --force birds/odd.jpg        send a held file as it is
  pictofs uploads export --to ~/rescued              copy the bytes of held and failed files
  pictofs uploads discard 17                         forget one, with its bytes
"""

_ARCHIVE_EXAMPLES = """\
examples:
  pictofs archive list ~/Pictograph/birds            what was removed there, and can come back
  pictofs restore ~/Pictograph/birds/robin.jpg       bring an image back
  pictofs restore ~/Pictograph/birds/2024            all that was removed in this folder
  pictofs restore ~/Pictograph/plants                a dataset that was removed
"""

_PLAN_EXAMPLES = """\
examples:
  pictofs plan cp ~/Photos/2024 ~/Pictograph/birds   what `cp -r` of this would cost, and what is refused
  pictofs plan rm ~/Pictograph/birds/2019            the same for `rm -r`

Nothing is copied or removed. Exit status 1: something would be refused, or does not fit.
"""

_CACHE_EXAMPLES = """\
examples:
  pictofs cache                                      how much is on this disk
  pictofs cache warm ~/Pictograph/birds              fetch all its images, for the next epoch
  pictofs cache clear                                free the disk; the images stay on the server
"""

_TOP_EPILOG = """\
first steps:
  pictograph login                 store the API key (or set PICTOGRAPH_API_KEY)
  mkdir ~/Pictograph && pictofs mount ~/Pictograph
  cp photo.jpg ~/Pictograph/birds/
  pictofs status                   is everything on the server?
  pictofs umount ~/Pictograph

exit status: 0 done; 1 failed (for wait: an upload failed or is held); 2 the command line or a setting
makes no sense (for wait: the timeout ran out); 130 interrupted.
"""


class _Parser(argparse.ArgumentParser):
    """An ArgumentParser whose complaints are one sentence."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see `{self.prog} --help`.")


class _Value(argparse.Action):
    """Notes a setting's text; it is read and checked with the other sources."""

    def __call__(
        self, _: Any, namespace: argparse.Namespace, values: Any, option_string: str | None = None
    ) -> None:
        namespace.given.append(Given(self.dest, values, option_string or self.dest))


class _Switch(argparse.Action):
    """`--ro` and `--no-ro`."""

    def __call__(
        self, _: Any, namespace: argparse.Namespace, __: Any, option_string: str | None = None
    ) -> None:
        flag = option_string or ""
        namespace.given.append(Given(self.dest, "no" if flag.startswith("--no-") else "yes", flag))


class _Options(argparse.Action):
    """`-o a,b=c`, as mount(8) has it."""

    def __call__(self, _: Any, namespace: argparse.Namespace, values: Any, __: str | None = None) -> None:
        namespace.given.extend(settings.parse_options(values))


class _NoKeyHere(argparse.Action):
    """`--api-key`, which people will try, is answered with the reason."""

    def __call__(self, *_: object, **__: object) -> None:
        raise SettingsError(f"{settings.NO_KEY_HERE}.")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, understood.

    Raises:
        UsageError, SettingsError: it makes no sense.
        SystemExit: help or the version was asked for, and printed.
    """
    return build().parse_args(argv)


def build() -> argparse.ArgumentParser:
    """The whole grammar, good for parsing once: the list of `given` settings is part of it."""
    parser = _Parser(
        prog="pictofs",
        description="Pictograph mounted as a drive: datasets are folders, images are files.",
        epilog=_TOP_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"pictofs {pictofs.__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)

    mount = _command(commands, "mount", "mount the drive", _MOUNT_EXAMPLES)
    mount.add_argument("mountpoint", type=Path, metavar="MOUNTPOINT", help="an empty folder")
    mount.add_argument("--foreground", action="store_true", help="stay, and log to the terminal")
    _add_settings(mount)

    umount = _command(commands, "umount", "unmount, after sending what is pending")
    umount.add_argument("mountpoint", type=Path, metavar="MOUNTPOINT")
    _add_settings(umount, only=("drain-timeout", *_PLACES))

    config = _command(commands, "config", "show what is in force and where each value came from")
    config.add_argument("--json", action="store_true", help="for programs")
    _add_settings(config)

    status = _command(commands, "status", "is everything safe, what is going up, what needs you")
    _add_mount(status)
    status.add_argument("--json", action="store_true", help="for programs; has a version")
    status.add_argument("--watch", action="store_true", help="keep showing it, until Ctrl-C")
    _add_settings(status, only=_PLACES)

    wait = _command(commands, "wait", "wait until everything is on the server")
    _add_mount(wait)
    wait.add_argument("--timeout", type=_duration, metavar="S", help="give up after so long (60, 5m); exit 2")
    _add_settings(wait, only=_PLACES)

    _add_uploads(commands)
    _add_cache(commands)

    refresh = _command(commands, "refresh", "look at the server again, below PATH")
    refresh.add_argument("path", type=Path, metavar="PATH")
    _add_settings(refresh, only=_PLACES)

    rm = _command(commands, "rm", "delete images for good (plain rm archives them)")
    rm.add_argument("--permanent", action="store_true", help="required: what it deletes does not come back")
    rm.add_argument("--yes", action="store_true", help="do not ask")
    rm.add_argument("paths", type=Path, nargs="+", metavar="PATH")
    _add_settings(rm, only=_PLACES)

    restore = _command(commands, "restore", "bring back what was removed", _ARCHIVE_EXAMPLES)
    restore.add_argument(
        "paths", type=Path, nargs="+", metavar="PATH", help="where it was, or a folder of it"
    )
    _add_settings(restore, only=_PLACES)

    _add_archive(commands)
    _add_plan(commands)

    sandbox = _command(commands, "sandbox", "run a Pictograph-compatible server on this machine")
    sandbox_cli.add_arguments(sandbox)
    return parser


def _command(commands: Any, name: str, help: str, epilog: str | None = None) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=help,
        description=help[0].upper() + help[1:] + ".",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help="show where an error came from"
    )
    parser.set_defaults(given=[])
    return parser


def _add_uploads(commands: Any) -> None:
    uploads = _command(commands, "uploads", "look after files that are not on the server", _UPLOADS_EXAMPLES)
    actions = uploads.add_subparsers(dest="action", metavar="ACTION")
    uploads.set_defaults(action=None, json=False, mount=None)

    show = _command(actions, "list", "list pending, held and failed files (the default)")
    show.add_argument("--json", action="store_true", help="for programs")

    retry = _command(actions, "retry", "try failed files again")
    retry.add_argument("--force", action="store_true", help="send held files too, as they are")

    discard = _command(actions, "discard", "forget held or failed files, with their bytes")
    discard.add_argument("--yes", action="store_true", help="do not ask")

    export = _command(actions, "export", "copy the bytes of held and failed files somewhere")
    export.add_argument("--to", type=Path, required=True, metavar="DIR", help="where; nothing is overwritten")

    for parser in (retry, discard, export):
        parser.add_argument("--all", action="store_true", help="all that are held or failed")
        parser.add_argument(
            "what", nargs="*", metavar="ID|PATH", help="an id from the list, a file, or a folder"
        )
    for parser in (show, retry, discard, export):
        parser.add_argument("--mount", type=Path, metavar="MOUNT", help="which mount, when there are several")
        _add_settings(parser, only=_PLACES)


def _add_archive(commands: Any) -> None:
    archive = _command(commands, "archive", "list or bring back what was removed", _ARCHIVE_EXAMPLES)
    actions = archive.add_subparsers(dest="action", metavar="ACTION", required=True)

    show = _command(actions, "list", "list what is archived below PATH (default: on all mounts)")
    show.add_argument("path", type=Path, nargs="?", metavar="PATH")
    show.add_argument("--json", action="store_true", help="for programs")

    restore = _command(actions, "restore", "bring it back")
    restore.add_argument("paths", type=Path, nargs="+", metavar="PATH")
    for parser in (show, restore):
        _add_settings(parser, only=_PLACES)


def _add_plan(commands: Any) -> None:
    plan = _command(commands, "plan", "what a copy or removal would cost, before doing it", _PLAN_EXAMPLES)
    actions = plan.add_subparsers(dest="action", metavar="ACTION", required=True)
    copy = _command(actions, "cp", "plan `cp -r SRC… DEST`, with DEST on the drive")
    copy.add_argument("paths", type=Path, nargs="+", metavar="PATH", help="sources, and the destination last")
    remove = _command(actions, "rm", "plan `rm -r PATH…`")
    remove.add_argument("paths", type=Path, nargs="+", metavar="PATH")
    for parser in (copy, remove):
        parser.add_argument("--json", action="store_true", help="for programs")
        _add_settings(parser, only=_PLACES)


def _add_cache(commands: Any) -> None:
    cache = _command(commands, "cache", "look at, fill or empty the image cache", _CACHE_EXAMPLES)
    actions = cache.add_subparsers(dest="action", metavar="ACTION")
    cache.set_defaults(action=None, json=False)
    info = _command(actions, "info", "show how much is on this disk (the default)")
    info.add_argument("--json", action="store_true", help="for programs")
    clear = _command(actions, "clear", "remove what is not open; it is fetched again when it is read")
    warm = _command(actions, "warm", "fetch every image below PATH")
    warm.add_argument("path", type=Path, metavar="PATH", help="a file or folder on the drive")
    for parser in (info, clear, warm):
        _add_settings(parser, only=("cache-dir", *_PLACES))


def _add_mount(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("mount", type=Path, nargs="?", metavar="MOUNT", help="a mount point (default: all)")


def _add_settings(parser: argparse.ArgumentParser, only: Sequence[str] | None = None) -> None:
    """The flags of the settings; without `only`, all of them, the access settings and `-o`."""
    group = parser.add_argument_group("settings")
    for setting in MOUNT_SETTINGS:
        if only is None or setting.name in only:
            _add_setting(group, setting)
    if only is not None:
        return
    access = parser.add_argument_group("whose key, which server")
    for setting in ACCESS_SETTINGS:
        _add_setting(access, setting)
    access.add_argument("--api-key", action=_NoKeyHere, nargs="?", help=argparse.SUPPRESS)
    group.add_argument(
        "-o", action=_Options, metavar="OPTS", help="settings as mount(8) has them: -o ro,metadata-ttl=5m"
    )


def _add_setting(group: Any, setting: Setting) -> None:
    if setting.kind.switch:
        flags = [setting.flag, f"--no-{setting.name}"]
        group.add_argument(*flags, dest=setting.name, action=_Switch, nargs=0, help=setting.help)
        return
    default = setting.default()
    shown = "" if default in (None, ()) else f" (default: {setting.kind.show(default)})"
    choices = "{" + ",".join(setting.kind.choices) + "}"
    group.add_argument(
        setting.flag,
        dest=setting.name,
        action=_Value,
        metavar=choices if setting.kind.choices else _metavar(setting),
        help=(setting.help + shown).replace("%", "%%"),
    )


def _metavar(setting: Setting) -> str:
    if setting.kind.unit:
        return {"s": "DURATION", "bytes": "SIZE"}[setting.kind.unit]
    return {"dataset": "NAME", "base-url": "URL", "profile": "NAME", "min-free": "SIZE|PERCENT"}.get(
        setting.name, "PATH" if setting.name.endswith(("-dir", "-file")) else "N"
    )


def _duration(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f'"{text}" {error}; write it like 60, 90s or 5m') from None
