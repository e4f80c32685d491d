"""The documentation keeps up with the tree: links lead somewhere, named tests and commands exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from pictofs.cli import parser

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])

_LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")
_TEST = re.compile(r"`?(tests/[\w/]+\.py)(?:::(\w+))?`?")
_COMMAND = re.compile(r"(?<!from )\bpictofs ([a-z]+)\b")


def _words(page: Path) -> str:
    return page.read_text(encoding="utf-8")


@cache
def _functions(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(
        node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    broken = [target for target in _LINK.findall(_words(page)) if not (page.parent / target).exists()]
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_tests_that_a_page_names_exist(page: Path) -> None:
    missing = [
        f"{file}::{name}"
        for file, name in _TEST.findall(_words(page))
        if not (ROOT / file).is_file() or (name and name not in _functions(ROOT / file))
    ]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_commands_that_a_page_shows_exist(page: Path) -> None:
    code = "\n".join(re.findall(r"```.*?```|`[^`\n]+`", _words(page), flags=re.DOTALL))
    shown = set(_COMMAND.findall(code))
    known = set(parser.build()._subparsers._group_actions[0].choices or ())  # type: ignore[union-attr]
    assert shown - known == set()


def test_the_map_shows_every_room() -> None:
    shown = _words(ROOT / "docs" / "ARCHITECTURE.md")
    package = ROOT / "pictofs"
    # These are shown as a whole: their modules are the business of nobody else.
    whole = {"cli", "sandbox", "api/transport"}
    missing = []
    for path in package.rglob("*.py"):
        module = path.relative_to(package).with_suffix("")
        if module.name in ("__init__", "__main__"):
            continue
        name = module.parent.as_posix() + "/" if module.parent.as_posix() in whole else module.as_posix()
        if f"`{name}`" not in shown:
            missing.append(module.as_posix())
    assert sorted(missing) == []


def test_the_map_shows_no_room_that_is_gone() -> None:
    rows = "\n".join(re.findall(r"^\| .*? \|", _words(ROOT / "docs" / "ARCHITECTURE.md"), flags=re.MULTILINE))
    named = re.findall(r"`([a-z_/]+)`", rows)
    package = ROOT / "pictofs"
    gone = [
        name
        for name in named
        if name != "pictofs/__init__"
        and not (package / f"{name}.py").exists()
        and not (package / name).is_dir()
    ]
    assert gone == []
