"""Which key and which host: the rules of the official SDK's command line, 1.69.146 (`cli/_config.py`).

Reads the environment and `~/.pictograph/config.toml` (never writes it, and opens it only when the stronger
sources leave something open). The key, and separately the host, come from the first of:

1. the explicit argument;
2. an explicitly named profile. It decides both: a profile without `base_url` means the production host,
   whatever the environment says, so that its key never goes to another profile's host;
3. `PICTOGRAPH_API_KEY` / `PICTOGRAPH_BASE_URL`;
4. the profile that `PICTOGRAPH_PROFILE` names;
5. the profile `[default]`;
6. for the host: https://api.pictograph.io.
"""

from __future__ import annotations

import ipaddress
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

from pictofs.api.errors import ConfigurationError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFAULT_BASE_URL = "https://api.pictograph.io"
KEY_VARIABLE = "PICTOGRAPH_API_KEY"
URL_VARIABLE = "PICTOGRAPH_BASE_URL"
PROFILE_VARIABLE = "PICTOGRAPH_PROFILE"
_DEFAULT_PROFILE = "default"
# What an HTTP header can carry safely: printable ASCII, no space.
_KEY_CHARACTERS = re.compile(r"[!-~]+")
# From this length on, four shown characters tell keys apart without helping to guess one.
_MASK_WITH_TAIL_LENGTH = 16


class Secret:
    """A string that prints masked. `reveal()` is the only way to the value; it cannot be pickled."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __str__(self) -> str:
        """`pk_live_…cdef`: enough to tell two keys apart."""
        if len(self._value) < _MASK_WITH_TAIL_LENGTH:
            return "…"
        head = "pk_live_" if self._value.startswith("pk_live_") else ""
        return f"{head}…{self._value[-4:]}"

    def __repr__(self) -> str:
        return f"Secret({self})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key is not to be pickled")


@dataclass(frozen=True, slots=True)
class Credentials:
    """A key, the host it belongs to, and where each came from, in words for a person."""

    api_key: Secret
    base_url: str
    source_of_key: str
    source_of_url: str


def resolve(
    api_key: str | Secret | None = None,
    base_url: str | None = None,
    profile: str | None = None,
    environ: Mapping[str, str] = os.environ,
    config_path: str | os.PathLike[str] | None = None,
) -> Credentials:
    """The key and the host in force. Empty values count as absent.

    Raises:
        ConfigurationError: no key, a key no header can carry, an unknown profile, an unreadable file, or a
            host that is neither https nor this machine.
    """
    explicit_key = _secret(api_key)
    sources = _Sources(_clean(profile), environ, Path(config_path) if config_path else None)
    # What raises below must not show the key to a traceback that prints local variables.
    del api_key, environ
    found_key = sources.find("api_key", explicit_key, KEY_VARIABLE)
    found_url = sources.find("base_url", _secret(base_url), URL_VARIABLE)
    if found_key is None:
        raise ConfigurationError(
            f"no API key: set {KEY_VARIABLE}, run `pictograph login` (it writes ~/.pictograph/config.toml), "
            f"or pass one{sources.why_no_key()}. Keys are made in Pictograph under Settings → API Keys"
        )
    key, source_of_key = found_key
    if not _KEY_CHARACTERS.fullmatch(key.reveal()):
        raise ConfigurationError(
            f"the API key ({source_of_key}) holds a space, a line break or another character that no key has"
        )
    url, source_of_url = found_url or (Secret(DEFAULT_BASE_URL), "default")
    return Credentials(key, checked_base_url(url.reveal(), source_of_url), source_of_key, source_of_url)


def checked_base_url(url: str, source: str = "the base URL") -> str:
    """`url` without a trailing slash, when the key may be sent there.

    Raises:
        ConfigurationError: not an absolute URL, not https (plain http is for this machine only), or with a
            user name, a query or a fragment in it.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        parts, host = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigurationError(f"the base URL {url!r} ({source}) is not an address like {DEFAULT_BASE_URL}")
    if parts.username is not None or parts.query or parts.fragment:
        raise ConfigurationError(f"the base URL ({source}) must be scheme, host, port and path only")
    if parts.scheme == "http" and not is_loopback(host):
        raise ConfigurationError(
            f"the base URL {url!r} ({source}) would send the key unencrypted: use https "
            "(plain http is for 127.0.0.1, ::1 and localhost)"
        )
    return url.rstrip("/")


def is_loopback(host: str) -> bool:
    """Whether `host` (a name or an address, without brackets) is this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _clean(value: str | None) -> str | None:
    return (value or "").strip() or None


def _secret(value: str | Secret | None) -> Secret | None:
    if isinstance(value, Secret):
        return value
    return Secret(cleaned) if (cleaned := _clean(value)) else None


class _Sources:
    """One look-up's view of the environment and the file. Every value is kept as a `Secret`."""

    def __init__(self, profile: str | None, environ: Mapping[str, str], path: Path | None) -> None:
        self._profile = profile
        self._named_profile = _clean(environ.get(PROFILE_VARIABLE))
        self._variables = {name: _secret(environ.get(name)) for name in (KEY_VARIABLE, URL_VARIABLE)}
        self._path = path or Path.home() / ".pictograph" / "config.toml"
        self._shown_path = str(self._path) if path else "~/.pictograph/config.toml"

    def find(self, field: str, explicit: Secret | None, variable: str) -> tuple[Secret, str] | None:
        """The value of `field` and its source, or None when every source leaves it open."""
        if explicit:
            return explicit, "given explicitly"
        if self._profile:
            return self._from_profile(field, self._profile, "--profile")
        if value := self._variables[variable]:
            return value, f"environment variable {variable}"
        if self._named_profile:
            return self._from_profile(field, self._named_profile, f"environment variable {PROFILE_VARIABLE}")
        return self._from_profile(field, _DEFAULT_PROFILE, None)

    def why_no_key(self) -> str:
        """What to add to "no API key": the profile that was named and holds none."""
        named = self._profile or self._named_profile
        return f" (profile [{named}] in {self._shown_path} has none)" if named else ""

    def _from_profile(self, field: str, name: str, named_by: str | None) -> tuple[Secret, str] | None:
        """From the profile `name`; one that somebody named must exist, `[default]` need not."""
        table = self._profiles.get(name)
        if table is None and named_by is not None:
            known = ", ".join(sorted(self._profiles)) or "none yet"
            raise ConfigurationError(
                f"no profile {name!r} ({named_by}) in {self._shown_path}; profiles there: {known}"
            )
        value = (table or {}).get(field)
        return (value, f"profile [{name}] in {self._shown_path}") if value else None

    @cached_property
    def _profiles(self) -> dict[str, dict[str, Secret]]:
        problem = None
        try:
            return _read_profiles(self._path)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except OSError as error:
            problem = f"cannot read {self._shown_path}: {error.strerror}"
        except tomllib.TOMLDecodeError as error:
            # Its words name a line and a column, never the value there.
            problem = f"{self._shown_path} is not valid TOML: {error}"
        except ValueError:
            problem = f"{self._shown_path} is not UTF-8 text"
        # Outside the handlers, so that no frame that holds the file's text is chained to it.
        raise ConfigurationError(problem)


def _read_profiles(path: Path) -> dict[str, dict[str, Secret]]:
    return {
        name: {field: secret for field, text in table.items() if (secret := _text(text))}
        for name, table in tomllib.loads(path.read_text(encoding="utf-8")).items()
        if isinstance(table, dict)
    }


def _text(value: object) -> Secret | None:
    return _secret(value) if isinstance(value, str) else None
