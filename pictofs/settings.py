"""Settings: what may be set, declared once, and where each value came from.

A field of `MountSettings` (how the drive behaves) or `Access` (whose key is used) *is* the declaration: its
name outside, its kind, default, help and unit. Flags, `-o` options, environment names, the config file's
keys, `pictofs config` and docs/CONFIGURATION.md all follow from it.

Order: command line (a later flag or `-o` beats an earlier one) > `PICTOFS_<NAME>` > the table
`[<profile>.pictofs]` of the official CLI's `~/.pictograph/config.toml`, which is only ever read > default.
This module holds no key.
"""

# ruff: noqa: RUF009  (the calls in the dataclasses below are field declarations)

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import platformdirs

from pictofs.units import Share, parse_duration, parse_share, parse_size, show_seconds, show_size

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFAULT_PROFILE = "default"
CONFIG_TABLE = "pictofs"
"""The sub-table of a profile that holds our settings."""

NO_KEY_HERE = (
    "the API key is not accepted on the command line or in mount options, where every process of "
    "this machine can read it; put it into PICTOGRAPH_API_KEY, a profile (`pictograph login`) "
    "or a file (--api-key-file)"
)

STANDARD_OPTIONS = frozenset(
    re.findall(
        r"\S+",
        """defaults auto noauto user nouser users owner group nofail _netdev dev nodev suid nosuid exec noexec
        atime noatime diratime nodiratime relatime norelatime strictatime nostrictatime lazytime
        nolazytime""",
    )
)
"""mount(8) options that are accepted and change nothing here: they steer mount(8), or FUSE imposes them."""

_OPPOSITES = {"rw": "ro", "async": "sync"}
"""mount(8)'s words for switching one of ours off."""


class SettingsError(Exception):
    """A setting cannot be used. The message names it, where it was set, and how it should look."""


@dataclass(frozen=True, slots=True)
class Kind:
    """How a setting's text is read and shown.

    Attributes:
        parse: text → value; ValueError says what is wrong with it ("is not …").
        show: value → text for people.
        example: how a good value looks.
        unit: of the value as stored: "s", "bytes", or "".
    """

    parse: Callable[[str], Any]
    show: Callable[[Any], str]
    example: str
    unit: str = ""
    choices: tuple[str, ...] = ()
    switch: bool = False
    many: bool = False


# --- kinds ----------------------------------------------------------------------------------------


def _positive_duration(text: str) -> float:
    seconds = parse_duration(text)
    if seconds <= 0:
        raise ValueError("must be more than zero")
    return seconds


def _parse_switch(text: str) -> bool:
    word = text.strip().lower()
    if word in ("yes", "true", "on", "1"):
        return True
    if word in ("no", "false", "off", "0"):
        return False
    raise ValueError("is neither yes nor no")


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text.strip())
        except ValueError:
            raise ValueError("is not a whole number") from None
        if not low <= value <= high:
            raise ValueError(f"is not between {low} and {high}")
        return value

    return parse


def _parse_octal(text: str) -> int:
    try:
        value = int(text.strip(), 8)
    except ValueError:
        raise ValueError("is not an octal number") from None
    if not 0 <= value <= 0o777:
        raise ValueError("is not between 000 and 777")
    return value


def _parse_path(text: str) -> Path:
    # Absolute at once: the daemon leaves the working directory.
    return Path(text).expanduser().absolute()


def _parse_text(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty")
    return text


def _choice(*words: str) -> Kind:
    def parse(text: str) -> str:
        if text.strip().lower() not in words:
            raise ValueError("is none of " + ", ".join(words))
        return text.strip().lower()

    return Kind(parse, str, words[0], choices=words)


DURATION = Kind(parse_duration, show_seconds, "60s or 5m", "s")
POSITIVE_DURATION = Kind(_positive_duration, show_seconds, "30s or 5m", "s")
SIZE = Kind(parse_size, show_size, "500MiB or 10GiB", "bytes")
SHARE = Kind(parse_share, str, "5% or 10GiB")
SWITCH = Kind(_parse_switch, lambda on: "yes" if on else "no", "yes or no", switch=True)
PATH = Kind(_parse_path, str, "/srv/pictofs")
OPTIONAL_PATH = Kind(_parse_path, lambda path: str(path) if path else "-", "/var/log/pictofs.log")
TEXT = Kind(_parse_text, lambda text: text or "-", "research")
NAMES = Kind(_parse_text, lambda names: ", ".join(names) or "all", "birds", many=True)
OWNER = Kind(_whole(0, 2**32 - 2), str, "1000")
OCTAL = Kind(_parse_octal, lambda mask: f"{mask:03o}", "022")


# --- defaults that depend on the machine ----------------------------------------------------------


def default_runtime_dir() -> Path:
    """Where sockets live: XDG_RUNTIME_DIR, the login's /run/user/UID, else beside our state (never a
    folder that other users can write to)."""
    named = os.environ.get("XDG_RUNTIME_DIR", "")
    if named.startswith("/"):
        return Path(named) / "pictofs"
    login = Path(f"/run/user/{os.getuid()}")
    try:
        if login.is_dir() and login.stat().st_uid == os.getuid():
            return login / "pictofs"
    except OSError:
        pass
    return default_state_dir() / "run"


def default_state_dir() -> Path:
    return platformdirs.user_state_path("pictofs")


def default_cache_dir() -> Path:
    return platformdirs.user_cache_path("pictofs")


def _process_umask() -> int:
    mask = os.umask(0o077)  # it can only be read by setting it
    os.umask(mask)
    return mask


# --- the declarations -----------------------------------------------------------------------------


def _setting(name: str, kind: Kind, default: object, help: str, *, command_line_only: bool = False) -> Any:
    metadata = {"name": name, "kind": kind, "help": help, "command_line_only": command_line_only}
    if callable(default):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class MountSettings:
    """How a mount behaves. Every value is valid; durations are seconds, sizes bytes, paths absolute."""

    datasets: tuple[str, ...] = _setting(
        "dataset", NAMES, (), "show only this dataset, by name or id; may be given several times"
    )
    read_only: bool = _setting(
        "ro", SWITCH, False, "refuse every change; files are opened without asking the daemon (on libfuse 3)"
    )
    sync: bool = _setting(
        "sync", SWITCH, False, "close() waits until the image is registered, and a failure is close()'s error"
    )
    overwrite: bool = _setting(
        "overwrite", SWITCH, False, "let a file replace an uploaded image; the old one is archived"
    )
    metadata_ttl_s: float = _setting(
        "metadata-ttl", DURATION, 60.0, "how long a listing counts as fresh before it is checked again"
    )
    listing_limit: int = _setting(
        "listing-limit",
        Kind(_whole(0, 10_000_000), str, "200000"),
        200_000,
        "images in a dataset beyond which it is listed folder by folder, when somebody looks",
    )
    workers: int = _setting(
        "workers", Kind(_whole(1, 64), str, "8"), 8, "how many files are uploaded side by side"
    )
    cache_size_bytes: int = _setting(
        "cache-size", SIZE, 10 * 2**30, "the most the image cache may take on disk"
    )
    min_free: Share = _setting(
        "min-free",
        SHARE,
        Share(percent=5),
        "free disk space that the cache leaves, and new files too (of a percentage, 1 GiB)",
    )
    prefetch: int = _setting(
        "prefetch",
        Kind(_whole(0, 64), str, "16"),
        16,
        "how many files are fetched ahead at once when those of a folder are read in order; 0: none",
    )
    drain_timeout_s: float = _setting(
        "drain-timeout",
        DURATION,
        300.0,
        "how long unmounting waits for uploads; the rest goes on at the next mount",
    )
    upload_wait_s: float = _setting(
        "upload-wait",
        POSITIVE_DURATION,
        300.0,
        "the longest that fsync, or close with sync, waits for an upload",
    )
    request_timeout_s: float = _setting(
        "request-timeout",
        POSITIVE_DURATION,
        30.0,
        "the longest wait for one answer of the server, and for the end of a rate limit",
    )
    notices: bool = _setting(
        "notices", SWITCH, True, "show a notice on the desktop when an upload has failed for good"
    )
    binding: Literal["auto", "mfusepy", "fusepy"] = _setting(
        "binding",
        _choice("auto", "mfusepy", "fusepy"),
        "auto",
        "FUSE binding: mfusepy (libfuse 3) where it loads, else fusepy (libfuse 2)",
    )
    allow_other: bool = _setting(
        "allow-other", SWITCH, False, "let other users in (needs user_allow_other in /etc/fuse.conf)"
    )
    default_permissions: bool = _setting(
        "default-permissions", SWITCH, False, "let the kernel check modes and owners"
    )
    uid: int = _setting("uid", OWNER, os.getuid, "owner of the files shown, a number")
    gid: int = _setting("gid", OWNER, os.getgid, "group of the files shown, a number")
    umask: int = _setting("umask", OCTAL, _process_umask, "permissions taken away from 644 and 755, octal")
    log_level: str = _setting(
        "log-level", _choice("debug", "info", "warning", "error"), "info", "how much is logged"
    )
    log_file: Path | None = _setting(
        "log-file",
        OPTIONAL_PATH,
        None,
        "where to log; unset: stderr in the foreground, pictofs.log in the state folder otherwise",
    )
    cache_dir: Path = _setting(
        "cache-dir", PATH, default_cache_dir, "listings and image bytes; may be deleted"
    )
    state_dir: Path = _setting(
        "state-dir",
        PATH,
        default_state_dir,
        "files waiting to be uploaded and their journal; never delete it",
    )
    runtime_dir: Path = _setting(
        "runtime-dir", PATH, default_runtime_dir, "control sockets of running mounts"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Whose key is used and where it is sent, as far as the command line says so.

    The environment and the profile are read by `pictofs.api.credentials`, in the official tool's way.
    """

    profile: str | None = _setting(
        "profile",
        TEXT,
        None,
        "profile of ~/.pictograph/config.toml: its key and its server",
        command_line_only=True,
    )
    base_url: str | None = _setting(
        "base-url",
        Kind(_parse_text, lambda url: url or "-", "http://127.0.0.1:8700"),
        None,
        "server to use",
        command_line_only=True,
    )
    api_key_file: Path | None = _setting(
        "api-key-file",
        Kind(_parse_path, lambda path: str(path) if path else "-", "~/.config/pictograph.key"),
        None,
        "file whose first line is the API key (never the key itself: other users see command lines)",
        command_line_only=True,
    )


@dataclass(frozen=True, slots=True)
class Setting:
    """One declaration, as the command line and the documentation need it."""

    name: str
    field: str
    kind: Kind
    help: str
    command_line_only: bool
    default: Callable[[], Any]

    @property
    def flag(self) -> str:
        return f"--{self.name}"

    @property
    def environment_name(self) -> str:
        return "PICTOFS_" + self.name.upper().replace("-", "_")


def _declared(owner: type[Any]) -> tuple[Setting, ...]:
    found = []
    for field in dataclasses.fields(owner):
        if field.default_factory is not dataclasses.MISSING:
            default: Callable[[], Any] = field.default_factory
        else:
            default = _constant(field.default)
        about = field.metadata
        found.append(
            Setting(
                name=about["name"],
                field=field.name,
                kind=about["kind"],
                help=about["help"],
                command_line_only=about["command_line_only"],
                default=default,
            )
        )
    return tuple(found)


def _constant(value: object) -> Callable[[], object]:
    return lambda: value


MOUNT_SETTINGS = _declared(MountSettings)
ACCESS_SETTINGS = _declared(Access)
_BY_NAME = {setting.name: setting for setting in (*MOUNT_SETTINGS, *ACCESS_SETTINGS)}


# --- putting the sources together -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Given:
    """A setting as the command line had it; `source` is what the user typed (`--ro`, `-o ro`)."""

    name: str
    text: str
    source: str


@dataclass(frozen=True, slots=True)
class Row:
    """One line of `pictofs config`: `value` as stored, in `unit`; `text` for people."""

    name: str
    value: object
    text: str
    unit: str
    source: str


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything in force.

    Attributes:
        notes: one sentence for each thing that is set but means nothing here.
    """

    mount: MountSettings
    access: Access
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    def explain(self) -> tuple[Row, ...]:
        """Every mount setting with its value and where it came from, in the order of declaration."""
        return self.rows


def config_path() -> Path:
    """The official CLI's config file."""
    return Path.home() / ".pictograph" / "config.toml"


def resolve(given: Iterable[Given] = (), *, config_file: Path | None = None) -> Settings:
    """What is in force, from the command line as `given`, the environment and the config file.

    Raises:
        SettingsError: a value, a name or the config file cannot be used.
    """
    typed = list(given)
    for item in typed:
        _known(item.name, item.source)
    access_values = {s.field: _take(s, typed, {}, "")[0] for s in ACCESS_SETTINGS}
    access = Access(**access_values)

    path = config_file or config_path()
    profile = access.profile or os.environ.get("PICTOGRAPH_PROFILE") or DEFAULT_PROFILE
    where = f"{_tilde(path)} [{profile}.{CONFIG_TABLE}]"
    table = _config_table(path, profile, where)

    values: dict[str, Any] = {}
    rows = []
    for setting in MOUNT_SETTINGS:
        value, source = _take(setting, typed, table, where)
        values[setting.field] = value
        rows.append(Row(setting.name, value, setting.kind.show(value), setting.kind.unit, source))
    return Settings(MountSettings(**values), access, tuple(rows), _stray_environment())


def parse_options(text: str) -> list[Given]:
    r"""What a mount(8)-style `-o` argument sets: `ro,metadata-ttl=5m,dataset=birds`.

    `_` and `-` are the same in names; `\,` is a comma within a value. Options for mount(8) itself are
    accepted and left out.

    Raises:
        SettingsError: an option that neither pictofs nor mount(8) knows, or one without its value.
    """
    found = []
    for option in split_escaped(text):
        word, equals, value = option.partition("=")
        name = word.strip().replace("_", "-")
        if not word.strip() or word in STANDARD_OPTIONS or word.startswith(("x-", "X-")) or word == "comment":
            continue
        if word in _OPPOSITES:
            found.append(Given(_OPPOSITES[word], "no", f"-o {word}"))
            continue
        setting = _known(name, f"-o {word}")
        if not equals:
            if not setting.kind.switch:
                example = setting.kind.example.split(" or ")[0]
                raise SettingsError(f"-o {word} needs a value: write it like -o {name}={example}.")
            value = "yes"
        found.append(Given(setting.name, value, f"-o {word}"))
    return found


def split_escaped(text: str) -> list[str]:
    r"""The parts between commas; `\,` is a comma within a part and `\\` a backslash."""
    parts = [""]
    escaped = False
    for char in text:
        if escaped:
            parts[-1] += char if char in ",\\" else "\\" + char
            escaped = False
        elif char == "\\":
            escaped = True
        elif char == ",":
            parts.append("")
        else:
            parts[-1] += char
    if escaped:
        parts[-1] += "\\"
    return parts


def _known(name: str, source: str) -> Setting:
    setting = _BY_NAME.get(name)
    if setting is not None:
        return setting
    if name in ("api-key", "key", "password", "token"):
        raise SettingsError(f"{source}: {NO_KEY_HERE}.")
    close = difflib.get_close_matches(name, _BY_NAME, n=1)
    hint = f"did you mean {close[0]}?" if close else "`pictofs config` lists what can be set."
    raise SettingsError(f"{source}: there is no setting called {name}; {hint}")


def _take(
    setting: Setting, typed: Sequence[Given], table: Mapping[str, object], where: str
) -> tuple[Any, str]:
    """The value of one setting and where it came from: the first source that has it."""
    mine = [item for item in typed if item.name == setting.name]
    if mine:
        return _parsed(setting, [item.text for item in mine], mine[-1].source), mine[-1].source
    if not setting.command_line_only:
        text = os.environ.get(setting.environment_name, "")
        if text:
            source = setting.environment_name
            return _parsed(setting, split_escaped(text) if setting.kind.many else [text], source), source
        if setting.name in table:
            return _parsed(setting, _texts(setting, table[setting.name], where), where), where
    return setting.default(), "default"


def _parsed(setting: Setting, texts: Sequence[str], source: str) -> Any:
    try:
        if setting.kind.many:
            return tuple(dict.fromkeys(setting.kind.parse(text) for text in texts))
        return setting.kind.parse(texts[-1])
    except ValueError as error:
        raise SettingsError(
            f'{setting.name} = "{texts[-1]}" (from {source}) {error}; write it like {setting.kind.example}.'
        ) from None


def _texts(setting: Setting, value: object, where: str) -> list[str]:
    """A value of the config file as the texts that a flag would carry."""
    if isinstance(value, bool):
        return ["yes" if value else "no"]
    if isinstance(value, (str, int, float)):
        return [str(value)]
    if setting.kind.many and isinstance(value, list) and all(isinstance(item, str) for item in value):
        return value
    wanted = "a list of texts" if setting.kind.many else "a text, a number, true or false"
    raise SettingsError(
        f"{setting.name} (from {where}) must be {wanted}; write it like {setting.kind.example}."
    )


def _config_table(path: Path, profile: str, where: str) -> Mapping[str, object]:
    try:
        with path.open("rb") as file:
            document = tomllib.load(file)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}; make it readable for you.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        # Only the place: the text of the error can quote the line, and the line can hold the key.
        place = re.search(r" \(at [^)]*\)", str(error))
        raise SettingsError(
            f"{path} is not valid TOML{place[0] if place else ''}; correct it, or run `pictograph login`."
        ) from None
    own = document.get(profile)
    table = own.get(CONFIG_TABLE, {}) if isinstance(own, dict) else {}
    if not isinstance(table, dict):
        raise SettingsError(f"{where} must be a table of settings.")
    for name in table:
        if _known(name, where).command_line_only:
            raise SettingsError(f"{where}: {name} belongs into the profile itself or on the command line.")
    return table


def _stray_environment() -> tuple[str, ...]:
    """Names that look like slips; other tools may have PICTOFS_ variables of their own."""
    names = [setting.environment_name for setting in MOUNT_SETTINGS]
    return tuple(
        f"{name} is set, but there is no such setting; did you mean {close[0]}?"
        for name in sorted(os.environ)
        if name.startswith("PICTOFS_")
        and name not in names
        and (close := difflib.get_close_matches(name, names, n=1, cutoff=0.85))
    )


def _tilde(path: Path) -> str:
    try:
        return f"~/{path.relative_to(Path.home())}"
    except ValueError:
        return str(path)
