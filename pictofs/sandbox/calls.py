"""What a route handler is given and may return, and how query and body are checked before it runs.

A handler is a plain function `(Call) -> JSON`, run on the database thread inside one transaction; it raises
`RefusalError` to answer with an error and undo what it did.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pictofs.sandbox.errors import RefusalError
from pictofs.sandbox.faults import Faults
from pictofs.sandbox.links import Links
from pictofs.sandbox.options import ROLES
from pictofs.sandbox.store import Store

Json = Any
Check = Callable[[Any], Any]
"""Takes a value as sent, returns it as the handler wants it. Raises ValueError with what was expected."""

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


@dataclass(frozen=True)
class Converted:
    """A staged HEIC file as the PNG to register in its place; `object_id` is None when it is no image."""

    object_id: str | None
    size_bytes: int = 0
    width: int | None = None
    height: int | None = None


@dataclass
class Call:
    """One request that passed every check."""

    store: Store
    links: Links
    faults: Faults
    path: dict[str, str]
    query: dict[str, Any]
    body: dict[str, Any]
    converted: dict[str, Converted] = field(default_factory=dict)
    """By staging key."""

    def require(self, role: str) -> None:
        """Raises RefusalError(403) when the key is weaker than `role`."""
        actual = self.faults.now.role
        if ROLES.index(actual) < ROLES.index(role):
            raise RefusalError(
                403, f"This needs the {role} role or higher; the API key has the {actual} role."
            )


@dataclass(frozen=True)
class Original:
    """Answer with the stored bytes of an image."""

    object_id: str
    filename: str
    content_type: str


@dataclass(frozen=True)
class Thumbnail:
    """Answer with a small JPEG of an image."""

    object_id: str


@dataclass(frozen=True)
class Key:
    """One query or body key."""

    check: Check
    required: bool = True
    default: Any = None


def optional(check: Check, default: Any = None) -> Key:
    """A key that may be left out or null."""
    return Key(lambda value: default if value is None else check(value), required=False, default=default)


def read_keys(keys: Mapping[str, Key], given: Mapping[str, Any], place: str) -> dict[str, Any]:
    """The checked values of every key.

    Raises RefusalError: 400 for a key that the route does not know, 422 for one that is missing or badly
    typed.
    """
    if unknown := sorted(set(given) - set(keys)):
        raise RefusalError(
            400,
            f"Unknown {place} parameter(s): {', '.join(unknown)}; known: {', '.join(sorted(keys)) or '-'}.",
            code="unknown_parameter",
            details={"unknown": unknown},
        )
    values: dict[str, Any] = {}
    errors = []
    for name, key in keys.items():
        if name not in given:
            values[name] = key.default
            if key.required:
                errors.append({"loc": [place, name], "msg": "Field required", "type": "missing"})
            continue
        try:
            values[name] = key.check(given[name])
        except ValueError as problem:
            errors.append({"loc": [place, name], "msg": str(problem), "type": "value_error"})
    if errors:
        words = "; ".join(f"{error['loc'][1]}: {error['msg']}" for error in errors)
        raise RefusalError(422, f"Invalid {place}: {words}", details={"errors": errors})
    return values


# ── checks ──


def text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("must be a string")
    return value


def filled_text(value: Any) -> str:
    if not text(value).strip():
        raise ValueError("must not be blank")
    return str(value)


def flag(value: Any) -> bool:
    """A JSON boolean, or its spelling in a query."""
    if value in ("true", "True", "1", True):
        return True
    if value in ("false", "False", "0", False):
        return False
    raise ValueError("must be true or false")


def integer(lowest: int, highest: int | None = None) -> Check:
    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
            raise ValueError(f"must be an integer of at least {lowest}")
        if highest is not None and value > highest:
            raise ValueError(f"must be at most {highest}")
        return value

    return check


def page(lowest: int, cap: int | None = None) -> Check:
    """A query's limit or offset; beyond the cap the service quietly gives the cap."""

    def check(value: Any) -> int:
        if not re.fullmatch(r"\d{1,12}", str(value)) or int(value) < lowest:
            raise ValueError(f"must be an integer of at least {lowest}")
        return int(value) if cap is None else min(int(value), cap)

    return check


def fraction(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1.0
    if not 0 <= number <= 1:
        raise ValueError("must be a number from 0 to 1")
    return number


def one_of(*choices: str) -> Check:
    def check(value: Any) -> str:
        if value not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return str(value)

    return check


def list_of(check_item: Check, lowest: int, highest: int) -> Check:
    def check(value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise ValueError("must be a list")
        if not lowest <= len(value) <= highest:
            raise ValueError(f"must hold {lowest} to {highest} items, not {len(value)}")
        return [check_item(item) for item in value]

    return check


def objects(keys: Mapping[str, Key], lowest: int, highest: int) -> Check:
    """A list of objects with these keys."""

    def check_item(item: Any) -> dict[str, Any]:
        return read_keys(keys, mapping(item), "body")

    return list_of(check_item, lowest, highest)


def mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("must be an object")
    return value
