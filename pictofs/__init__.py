"""Pictograph mounted as a drive, and a small client of its API."""

from __future__ import annotations

__version__ = "0.1.0"
