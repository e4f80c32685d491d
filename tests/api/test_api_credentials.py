"""Key and host come from where the official command line takes them, for every combination of sources."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

import pytest

from pictofs.api.credentials import DEFAULT_BASE_URL, Credentials, checked_base_url, is_loopback, resolve
from pictofs.api.errors import ConfigurationError

CONFIG = """
[default]
api_key = "pk_file_default"
base_url = "https://default.example"

[work]
api_key = "pk_file_work"
base_url = "https://work.example/"

[keyonly]
api_key = "pk_file_keyonly"

[urlonly]
base_url = "https://urlonly.example"

[work.pictofs]
metadata_ttl = 5
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(CONFIG)
    return path


def _theirs(
    path: Path, key: str | None, url: str | None, profile: str | None, environ: dict[str, str]
) -> tuple[str | None, str | None] | None:
    """(key, host) as the official command line decides; None when it refuses."""
    from pictograph.cli import _config

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_config, "CONFIG_PATH", path)
        for name, value in environ.items():
            patch.setenv(name, value)
        _config.set_flag_profile(profile)
        try:
            return _config.resolve_api_key(key), _config.resolve_base_url(url)
        except _config.UnknownProfileError:
            return None
        finally:
            _config.set_flag_profile(None)


KEYS = (None, "pk_explicit")
URLS = (None, "https://explicit.example")
PROFILES = (None, "work", "keyonly", "urlonly", "nobody")
ENVIRONMENTS = [
    {name: value for name, value in zip(names, values, strict=True) if value}
    for names in [("PICTOGRAPH_API_KEY", "PICTOGRAPH_BASE_URL", "PICTOGRAPH_PROFILE")]
    for values in itertools.product(
        ("", "pk_env"), ("", "https://env.example"), ("", "work", "keyonly", "urlonly", "nobody")
    )
]


@pytest.mark.parametrize("has_file", [True, False])
@pytest.mark.parametrize("environ", ENVIRONMENTS, ids=lambda e: "+".join(e.values()) or "empty")
def test_the_official_rules(config: Path, environ: dict[str, str], has_file: bool) -> None:
    if not has_file:
        config.unlink()
    for key, url, profile in itertools.product(KEYS, URLS, PROFILES):
        theirs = _theirs(config, key, url, profile, environ)
        try:
            ours: Credentials | None = resolve(key, url, profile, environ, config)
        except ConfigurationError:
            ours = None
        case = (key, url, profile, environ)
        if theirs is None or theirs[0] is None:
            assert ours is None, case
        else:
            assert ours is not None, case
            expected = (theirs[0], (theirs[1] or DEFAULT_BASE_URL).rstrip("/"))
            assert (ours.api_key.reveal(), ours.base_url) == expected, case


def test_a_named_profile_never_sends_its_key_to_the_environments_host(config: Path) -> None:
    environ = {"PICTOGRAPH_BASE_URL": "https://env.example", "PICTOGRAPH_API_KEY": "pk_env"}
    found = resolve(profile="keyonly", environ=environ, config_path=config)
    assert (found.api_key.reveal(), found.base_url) == ("pk_file_keyonly", DEFAULT_BASE_URL)


@pytest.mark.parametrize(
    ("arguments", "environ", "key_source", "url_source"),
    [
        ({"api_key": "k"}, {}, "given explicitly", "profile [default] in "),
        ({}, {"PICTOGRAPH_API_KEY": "k"}, "environment variable PICTOGRAPH_API_KEY", "profile [default] in "),
        ({"profile": "keyonly"}, {}, "profile [keyonly] in ", "default"),
        (
            {},
            {"PICTOGRAPH_PROFILE": "work", "PICTOGRAPH_BASE_URL": "https://x.example"},
            "profile [work] in ",
            "environment variable PICTOGRAPH_BASE_URL",
        ),
    ],
)
def test_where_it_came_from(
    config: Path, arguments: dict[str, Any], environ: dict[str, str], key_source: str, url_source: str
) -> None:
    found = resolve(**arguments, environ=environ, config_path=config)
    assert found.source_of_key.startswith(key_source)
    assert found.source_of_url.startswith(url_source)
    assert "pk_" not in repr(found)


def test_the_usual_file_is_shown_with_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / ".pictograph"
    folder.mkdir()
    (folder / "config.toml").write_text(CONFIG)
    assert resolve(environ={}).source_of_key == "profile [default] in ~/.pictograph/config.toml"


def test_no_key_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="set PICTOGRAPH_API_KEY, run `pictograph login`"):
        resolve(environ={"PICTOGRAPH_API_KEY": "  "}, config_path=tmp_path / "none.toml")


def test_an_empty_profile_is_named(config: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"profile \[urlonly\] .* has none"):
        resolve(profile="urlonly", environ={}, config_path=config)


def test_an_unknown_profile_lists_the_others(config: Path) -> None:
    with pytest.raises(ConfigurationError, match="default, keyonly, urlonly, work"):
        resolve(profile="nobody", environ={}, config_path=config)


@pytest.mark.parametrize("content", [b"api_key = ", b"\xff\xfe", b"[default\napi_key = 'pk_hidden'"])
def test_a_broken_file_is_named_and_not_quoted(config: Path, content: bytes) -> None:
    config.write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        resolve(environ={}, config_path=config)
    assert str(config) in str(caught.value)
    assert "pk_hidden" not in str(caught.value)
    assert caught.value.__context__ is None


def test_an_unreadable_file_is_named(config: Path) -> None:
    config.unlink()
    config.mkdir()
    with pytest.raises(ConfigurationError, match=r"cannot read .*Is a directory"):
        resolve(environ={}, config_path=config)


def test_a_file_is_not_opened_when_nothing_is_open(config: Path) -> None:
    config.write_bytes(b"\xff")
    found = resolve("pk_1", "https://x.example", environ={}, config_path=config)
    assert found.base_url == "https://x.example"


@pytest.mark.parametrize("key", ["pk live", "pk\nX-Evil: 1", "pk_ü", "pk\0"])
def test_a_key_that_no_header_can_carry(key: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        resolve(key, "https://x.example", environ={})
    assert key not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://api.example",
        "http://127.0.0.1.evil.example",
        "ftp://api.example",
        "api.example",
        "https://",
        "https://user@api.example",
        "https://api.example?x=1",
        "https://api.example#x",
        "https://api.example:port",
        "https://[::1",
        "",
    ],
)
def test_hosts_that_are_refused(url: str) -> None:
    with pytest.raises(ConfigurationError):
        checked_base_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://api.example",
        "https://api.example:8443/pictograph",
        "http://127.0.0.1:8700",
        "http://localhost:1",
        "http://[::1]:1",
    ],
)
def test_hosts_that_are_taken(url: str) -> None:
    assert checked_base_url(url + "/") == url


def test_loopback() -> None:
    assert all(map(is_loopback, ["localhost", "a.localhost", "127.9.9.9", "::1"]))
    assert not any(map(is_loopback, ["", "localhost.example", "10.0.0.1", "::2", "0.0.0.0"]))


def test_the_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PICTOGRAPH_API_KEY", " pk_env ")
    assert resolve().api_key.reveal() == "pk_env"
    assert "PICTOGRAPH_BASE_URL" not in os.environ
