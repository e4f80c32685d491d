"""What a sandbox is started with. Imports nothing that the `sandbox` extra brings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROLES = ("viewer", "annotator", "member", "admin", "owner")
"""The roles of an API key, from the weakest up; each may do what those before it may."""

TIERS = ("free", "core", "pro", "team", "enterprise")
"""The plans of an organization."""

DEFAULT_RATE_LIMIT = 100_000
"""Requests per hour: the Enterprise plan's, so that nothing is refused unless a test asks for it."""

DEFAULT_URL_TTL_S = 15 * 60
"""How long the service's signed URLs live."""


@dataclass(frozen=True)
class SandboxOptions:
    """Everything `serve` needs. Rates are probabilities from 0 to 1; port 0 takes a free one."""

    host: str = "127.0.0.1"
    port: int = 8700
    storage_port: int = 8701
    storage_url: str | None = None
    """What signed links carry when something stands in front of the storage port."""
    api_key: str = "pk_live_sandbox"
    data: Path | None = None
    """Where everything is kept; None is a folder that goes with the process."""
    seed: bool | None = None
    """The example datasets: True adds those that are missing, False none, None only into a new store."""
    role: str = "owner"
    url_ttl_s: float = DEFAULT_URL_TTL_S
    latency_ms: float = 0.0
    mbps: float = 0.0
    """Bandwidth in each direction, shared by all connections; 0 is without bound."""
    rate_limit: int = DEFAULT_RATE_LIMIT
    fail_rate: float = 0.0
    reset_rate: float = 0.0
    truncate_rate: float = 0.0
