"""Settings: precedence, the words for a bad value, mount(8) options."""

from __future__ import annotations

from pathlib import Path

import pytest

from pictofs import settings
from pictofs.settings import MOUNT_SETTINGS, Given, MountSettings, SettingsError, parse_options, resolve
from pictofs.units import parse_duration, parse_share, parse_size, show_count, show_duration, show_size


def write_config(text: str) -> Path:
    path = settings.config_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def flag(name: str, text: str) -> Given:
    return Given(name, text, f"--{name}")


def source_of(found: settings.Settings, name: str) -> str:
    return next(row.source for row in found.explain() if row.name == name)


def test_defaults_are_those_of_a_bare_dataclass() -> None:
    assert resolve().mount == MountSettings()
    assert {row.source for row in resolve().explain()} == {"default"}


def test_each_source_beats_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    write_config('[default.pictofs]\nmetadata-ttl = "10s"\n')
    found = resolve()
    assert found.mount.metadata_ttl_s == 10
    assert source_of(found, "metadata-ttl") == "~/.pictograph/config.toml [default.pictofs]"

    monkeypatch.setenv("PICTOFS_METADATA_TTL", "20")
    found = resolve()
    assert (found.mount.metadata_ttl_s, source_of(found, "metadata-ttl")) == (20, "PICTOFS_METADATA_TTL")

    found = resolve([flag("metadata-ttl", "30s"), *parse_options("metadata_ttl=5m")])
    assert (found.mount.metadata_ttl_s, source_of(found, "metadata-ttl")) == (300, "-o metadata_ttl")
    found = resolve([*parse_options("metadata_ttl=5m"), flag("metadata-ttl", "30s")])
    assert (found.mount.metadata_ttl_s, source_of(found, "metadata-ttl")) == (30, "--metadata-ttl")


def test_every_mount_setting_can_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    texts = {"ro": "yes", "binding": "fusepy", "log-level": "debug", "umask": "027", "dataset": r"a\,b,c"}
    for setting in MOUNT_SETTINGS:
        text = texts.get(setting.name)
        if text is None:
            path = setting.name.endswith(("-dir", "-file"))
            text = str(tmp_path / setting.name) if path else "yes" if setting.kind.switch else "7"
        monkeypatch.setenv(setting.environment_name, text)
    found = resolve()
    assert {row.source for row in found.explain()} == {s.environment_name for s in MOUNT_SETTINGS}
    assert found.mount.datasets == ("a,b", "c")
    assert found.mount.umask == 0o27
    assert found.mount.read_only
    assert found.mount.cache_size_bytes == 7
    assert found.mount.log_file == tmp_path / "log-file"


def test_an_empty_variable_is_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PICTOFS_WORKERS", "")
    assert resolve().mount.workers == 8


def test_the_profile_decides_which_table(monkeypatch: pytest.MonkeyPatch) -> None:
    write_config("[default.pictofs]\nworkers = 2\n[lab.pictofs]\nworkers = 3\nsync = true\n")
    assert resolve().mount.workers == 2
    monkeypatch.setenv("PICTOGRAPH_PROFILE", "lab")
    assert resolve().mount.workers == 3
    assert resolve().mount.sync
    assert resolve([flag("profile", "default")]).mount.workers == 2


def test_datasets_add_up_and_a_source_replaces_the_weaker() -> None:
    write_config('[default.pictofs]\ndataset = ["x", "y"]\n')
    assert resolve().mount.datasets == ("x", "y")
    given = [flag("dataset", "a"), *parse_options(r"dataset=b\,c"), flag("dataset", "a")]
    assert resolve(given).mount.datasets == ("a", "b,c")


def test_the_config_file_is_only_read() -> None:
    path = write_config('[default]\napi_key = "pk_live_0123456789abcdef"\n[default.pictofs]\nworkers = 2\n')
    before = path.read_bytes(), path.stat().st_mtime_ns
    resolve()
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("[default.pictofs]\nworkrs = 3\n", "there is no setting called workrs; did you mean workers?"),
        (
            "[default.pictofs]\nworkers = [3]\n",
            "workers (from ~/.pictograph/config.toml [default.pictofs]) must",
        ),
        ("[default]\npictofs = 3\n", "must be a table of settings"),
        ('[default.pictofs]\nprofile = "x"\n', "profile belongs into the profile itself"),
        ('[default.pictofs]\napi-key = "pk_live_0123456789abcdef"\n', "the API key is not accepted"),
        ('[default\napi_key = "pk_live_0123456789abcdef"\n', "is not valid TOML (at line 1"),
        ("[default.pictofs]\nworkers = 0\n", 'workers = "0" (from ~/.pictograph/config.toml'),
    ],
)
def test_a_config_file_that_makes_no_sense(config: str, words: str) -> None:
    write_config(config)
    with pytest.raises(SettingsError) as caught:
        resolve()
    assert words in str(caught.value)
    assert "0123456789abcdef" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("metadata-ttl", "soon", 'metadata-ttl = "soon" (from --metadata-ttl) is not a duration'),
        ("metadata-ttl", "-1", "is not a duration; write it like 60s or 5m."),
        ("request-timeout", "0", "must be more than zero"),
        ("drain-timeout", "400d", "is longer than a year"),
        ("cache-size", "10 GX", "is not a size; write it like 500MiB or 10GiB."),
        ("workers", "65", "is not between 1 and 64"),
        ("workers", "many", "is not a whole number"),
        ("binding", "pyfuse3", "is none of auto, mfusepy, fusepy"),
        ("umask", "9", "is not an octal number"),
        ("sync", "perhaps", "is neither yes nor no"),
        ("dataset", " ", "is empty"),
    ],
)
def test_a_bad_value_is_named_with_its_place_and_an_example(name: str, text: str, words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        resolve([flag(name, text)])
    assert words in str(caught.value)
    assert "; write it like " in str(caught.value)


def test_mount_options() -> None:
    found = resolve(
        parse_options(
            "rw,dev,suid,noauto,user,_netdev,nofail,x-systemd.automount,allow_other,uid=7,umask=077"
        )
    ).mount
    assert (found.read_only, found.allow_other, found.uid, found.umask) == (False, True, 7, 0o77)
    assert resolve(parse_options("ro,rw,ro")).mount.read_only
    assert not resolve(parse_options("sync,async")).mount.sync
    assert not resolve(parse_options("sync=no")).mount.sync
    assert parse_options("") == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("sinc", "-o sinc: there is no setting called sinc; did you mean sync?"),
        ("frobnicate=1", "-o frobnicate: there is no setting called frobnicate; `pictofs config` lists"),
        ("metadata-ttl", "-o metadata-ttl needs a value: write it like -o metadata-ttl=60s."),
        ("api_key=pk_live_0123456789abcdef", "where every process of this machine can read it"),
    ],
)
def test_bad_mount_options(options: str, words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_options(options)
    assert words in str(caught.value)
    assert "0123456789abcdef" not in str(caught.value)


def test_folders_follow_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("CACHE", "STATE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    found = resolve().mount
    assert found.cache_dir == tmp_path / "CACHE" / "pictofs"
    assert found.state_dir == tmp_path / "STATE" / "pictofs"
    assert found.runtime_dir == tmp_path / "run" / "pictofs"


def test_sockets_stay_private_without_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", "relative/is/no/use")
    login = Path(f"/run/user/{settings.os.getuid()}")
    expected = login / "pictofs" if login.is_dir() else tmp_path / "pictofs" / "run"
    assert settings.default_runtime_dir() == expected


def test_a_slip_in_a_variable_name_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PICTOFS_CACHESIZE", "1G")
    monkeypatch.setenv("PICTOFS_NO_FUSE", "1")
    assert resolve().notes == (
        "PICTOFS_CACHESIZE is set, but there is no such setting; did you mean PICTOFS_CACHE_SIZE?",
    )


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("60", 60), ("60s", 60), ("1.5m", 90), ("2h", 7200), ("1d", 86400), ("250ms", 0.25), (" 5 min ", 300)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("10GiB", 10 * 2**30), ("500M", 500 * 2**20), ("1KB", 1000), ("1k", 1024), ("12", 12), ("12B", 12)],
)
def test_sizes(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (1536, "1.5 KiB"), (2**20, "1 MiB"), (2**40, "1 TiB")],
)
def test_showing_sizes(size_bytes: int, text: str) -> None:
    assert show_size(size_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59.4, "59 s"), (59.6, "1 min"), (3599, "1 h"), (7500, "2 h 5 min"), (90000, "1 d 1 h")],
)
def test_showing_durations(seconds: float, text: str) -> None:
    assert show_duration(seconds) == text


def test_showing_counts() -> None:
    assert [show_count(n, "file") for n in (0, 1, 10000)] == ["0 files", "1 file", "10,000 files"]


def test_the_documentation_has_every_setting() -> None:
    page = (Path(__file__).parent.parent / "docs" / "CONFIGURATION.md").read_text(encoding="utf-8")
    rows = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `")}
    for setting in MOUNT_SETTINGS:
        assert rows[setting.name].endswith(f"| {setting.help} |")
        if isinstance(setting.default(), (bool, float, str)):
            assert f"| {setting.kind.show(setting.default())} |" in rows[setting.name]


def test_free_space_is_a_size_or_a_part_of_the_disk() -> None:
    assert parse_share("5%").of(200) == 10
    assert parse_share(" 2.5 % ").of(1000) == 25
    assert parse_share("1GiB").of(5) == 1 << 30
    assert parse_share("0").of(1 << 40) == 0
    assert [str(parse_share(text)) for text in ("5%", "10GiB")] == ["5 %", "10 GiB"]
    for wrong in ("101%", "%", "-1%", "much"):
        with pytest.raises(ValueError, match=r"is (more than|neither)"):
            parse_share(wrong)
