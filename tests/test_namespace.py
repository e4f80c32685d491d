"""Names: encoding both ways, lengths, working names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pictofs import namespace


@pytest.mark.parametrize(
    ("server", "local"),
    [
        ("cat.jpg", "cat.jpg"),
        ("a/b.jpg", "a／b.jpg"),  # noqa: RUF001
        ("../../x", "..／..／x"),  # noqa: RUF001
        ("a\0b.png", "a␀b.png"),
        (".", "．"),  # noqa: RUF001
        ("..", "．．"),  # noqa: RUF001
        ("🦊.jpg", "🦊.jpg"),
    ],
)
def test_encoding_there_and_back(server: str, local: str) -> None:
    assert namespace.to_local(server) == local
    assert namespace.to_server(local) == server


@given(st.text())
def test_local_names_are_file_names(name: str) -> None:
    local = namespace.to_local(name)
    assert local not in ("", ".", "..")
    assert "/" not in local
    assert "\0" not in local
    local.encode("utf-8")


@given(st.text(min_size=1), st.uuids())
def test_a_name_with_an_id_fits_and_keeps_its_extension(name: str, identity: object) -> None:
    marked = namespace.with_id(namespace.to_local(name + ".jpg"), str(identity))
    assert len(marked.encode()) <= namespace.NAME_MAX_BYTES
    assert marked.endswith(f" ({str(identity)[:8]}).jpg")


def test_a_lone_surrogate_is_shown_and_one_that_a_program_sends_is_refused() -> None:
    assert namespace.to_local("a\ud800b.jpg") == "a\ufffdb.jpg"
    with pytest.raises(ValueError, match="UTF-8"):
        namespace.to_server(b"a\xff.jpg".decode("utf-8", "surrogateescape"))


@pytest.mark.parametrize(
    "name",
    [
        ".photo.jpg.Ab3xY9",
        "photo.jpg.part",
        "photo.jpg.partial",
        "photo.jpg.filepart",
        "photo.jpg.crdownload",
        "photo.tmp",
        "photo.jpg~",
        ".goutputstream-8XKPZ1",
        "photo.jpg_exiftool_tmp",
        ".fuse_hidden0000000300000001",
        ".photo.jpg.swp",
    ],
)
def test_working_names(name: str) -> None:
    assert namespace.is_working_name(name)


@pytest.mark.parametrize(
    "name", ["photo.jpg", "part.jpg", ".hidden.jpeg", "photo.jpeg", "a.b.tiff", "tmp.png"]
)
def test_final_names(name: str) -> None:
    assert not namespace.is_working_name(name)


def test_paths() -> None:
    assert namespace.components("/a/b") == ["a", "b"]
    assert namespace.components(None) == namespace.components("/") == []
    assert namespace.join(["a", "b"]) == "/a/b"
    assert namespace.join([]) == namespace.parent("/a") == namespace.parent("/") == "/"
    assert namespace.parent("/a/b") == "/a"
    assert namespace.is_within("/a/b", "/a")
    assert namespace.is_within("/a", "/")
    assert not namespace.is_within("/ab", "/a")
