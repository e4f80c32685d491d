"""Ids for images that the service is still to make, by copying: shown meanwhile, never told to it. Pure."""

from __future__ import annotations

import secrets

__all__ = ["is_provisional", "provisional_id"]

_PREFIX = "provisional-"


def provisional_id() -> str:
    """A new one, never given before."""
    return _PREFIX + secrets.token_hex(16)


def is_provisional(image_id: str) -> bool:
    """Whether an id is one of these, and no image on the service."""
    return image_id.startswith(_PREFIX)
