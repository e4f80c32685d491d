"""The trouble a sandbox makes on request: delays, narrow lines, errors, resets, cut answers, refusals.

Only the event loop touches a `Faults`; handlers on the database thread read the few plain values they need.
"""

from __future__ import annotations

import asyncio
import enum
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from pictofs.sandbox.options import ROLES, TIERS, SandboxOptions


class Action(enum.Enum):
    """What happens to one request."""

    NONE = "none"
    STATUS = "status"
    """Answered with an error before anything took effect."""
    RESET_BEFORE = "reset_before"
    """The connection is reset before anything took effect."""
    RESET_AFTER = "reset_after"
    """It takes effect, then the connection is reset instead of an answer."""
    TRUNCATE = "truncate"
    """It takes effect, and half of the answer's body arrives."""
    STALL = "stall"
    """It hangs, before anything took effect, until the faults change or the client goes."""


@dataclass(frozen=True)
class Plan:
    """What was decided for one request."""

    action: Action = Action.NONE
    status: int = 503
    retry_after: float | str | None = None
    message: str = "The service is unavailable (a fault was asked for)."


UNHARMED = Plan()


@dataclass
class OneShot:
    """A fault for the next `count` requests that match."""

    match: str
    """'METHOD /route/template' as in the stats, or 'PUT storage' (GET, HEAD); '*' is any."""
    action: Action
    status: int = 503
    count: int = 1
    retry_after: float | str | None = None
    message: str = UNHARMED.message
    contains: str = ""
    """Only requests whose decoded path holds this text."""


@dataclass(frozen=True)
class NameRefusal:
    """Registering this file name is refused, with these words."""

    filename: str
    status: int
    message: str


@dataclass
class Settings:
    """What POST /sandbox/faults sets; each key may be sent alone."""

    latency_ms: float = 0.0
    mbps: float = 0.0
    fail_rate: float = 0.0
    fail_status: int = 503
    reset_rate: float = 0.0
    """Half of them before the request took effect, half after."""
    truncate_rate: float = 0.0
    scope: str = "all"
    """Where the three rates apply: all | api | storage."""
    rate_limit: int = 0
    """API requests per window; 0 is never stored, the options bring the default."""
    rate_window_s: float = 3600.0
    role: str = "owner"
    url_ttl_s: float = 900.0
    stall: tuple[str, ...] = ()
    """PUTs whose file name holds one of these hang until this changes."""
    refuse: tuple[NameRefusal, ...] = ()
    ignore_range: bool = False
    """Answer ranged reads with 200 and everything."""
    redirect_originals: bool = False
    """Answer GET /images/{id} with 302 to a signed URL."""
    limits: dict[str, Any] = field(default_factory=dict)
    """Overrides of the organization: max_images, max_storage_bytes, subscription_tier."""

    @classmethod
    def from_options(cls, options: SandboxOptions) -> Settings:
        return cls(
            latency_ms=options.latency_ms,
            mbps=options.mbps,
            fail_rate=options.fail_rate,
            reset_rate=options.reset_rate,
            truncate_rate=options.truncate_rate,
            rate_limit=options.rate_limit,
            role=options.role,
            url_ttl_s=options.url_ttl_s,
        )


class Faults:
    """The settings in force, the one-shot faults still due, and the dice."""

    def __init__(self, options: SandboxOptions) -> None:
        self._options = options
        self.now = Settings.from_options(options)
        self.due: list[OneShot] = []
        self._dice = random.Random(0)  # noqa: S311  # decides which request fails, nothing secret
        self._changed = asyncio.Event()

    def change(self, wanted: Mapping[str, Any]) -> None:
        """Put `wanted` in force, all of it or nothing.

        Raises ValueError, in words, for an unknown key or a value that makes no sense.
        """
        known = {f.name for f in fields(Settings)} | {"next", "clear", "expire_urls", "seed"}
        if unknown := sorted(set(wanted) - known):
            raise ValueError(f"unknown fault(s): {', '.join(unknown)}; known: {', '.join(sorted(known))}")
        base = Settings.from_options(self._options) if wanted.get("clear") else self.now
        values = {f.name: getattr(base, f.name) for f in fields(Settings)}
        for name in values.keys() & wanted.keys():
            values[name] = _checked(name, wanted[name])
        due = [_one_shot(item) for item in wanted.get("next") or ()]
        self.now = Settings(**values)
        self.due = due if "next" in wanted or wanted.get("clear") else self.due
        if "seed" in wanted:
            self._dice.seed(wanted["seed"])
        self._changed.set()
        self._changed = asyncio.Event()

    def as_json(self) -> dict[str, Any]:
        answer: dict[str, Any] = {f.name: getattr(self.now, f.name) for f in fields(Settings)}
        answer["stall"] = list(self.now.stall)
        answer["refuse"] = [vars(refusal) for refusal in self.now.refuse]
        answer["next"] = [{**vars(fault), "action": fault.action.value} for fault in self.due]
        return answer

    def plan(self, target: str, *texts: str, storage: bool = False) -> Plan:
        """Decide about a request to `target` (as in `OneShot.match`); `texts` is what `contains` sees."""
        for fault in self.due:
            if fault.match in ("*", target) and any(fault.contains in text for text in texts or ("",)):
                fault.count -= 1
                if fault.count <= 0:
                    self.due.remove(fault)
                return Plan(fault.action, fault.status, fault.retry_after, fault.message)
        if self.now.scope not in ("all", "storage" if storage else "api"):
            return UNHARMED
        drawn = self._dice.random()
        if drawn < self.now.fail_rate:
            return Plan(Action.STATUS, self.now.fail_status)
        drawn -= self.now.fail_rate
        if drawn < self.now.reset_rate:
            return Plan(self._dice.choice((Action.RESET_BEFORE, Action.RESET_AFTER)))
        drawn -= self.now.reset_rate
        return Plan(Action.TRUNCATE) if drawn < self.now.truncate_rate else UNHARMED

    def is_stalled(self, filename: str) -> bool:
        return any(part in filename for part in self.now.stall)

    async def changed(self) -> None:
        """Until the next change."""
        await self._changed.wait()

    def refusal_of(self, filename: str) -> NameRefusal | None:
        return next((refusal for refusal in self.now.refuse if refusal.filename == filename), None)


class Line:
    """One direction of a line of `Settings.mbps`, shared by all connections."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._free_at_s = 0.0

    @property
    def is_bounded(self) -> bool:
        return self._faults.now.mbps > 0

    async def carry(self, size_bytes: int) -> None:
        """Return when that many bytes have gone through."""
        if not self.is_bounded:
            return
        now_s = asyncio.get_running_loop().time()
        self._free_at_s = max(self._free_at_s, now_s) + size_bytes * 8 / (self._faults.now.mbps * 1e6)
        await asyncio.sleep(self._free_at_s - now_s)


def _checked(name: str, value: Any) -> Any:
    """One setting as it is stored. Raises ValueError."""
    if name in ("latency_ms", "mbps", "rate_window_s", "url_ttl_s"):
        return _number(name, value, 0, 1e9)
    if name.endswith("_rate"):
        return _number(name, value, 0, 1)
    if name in ("rate_limit", "fail_status"):
        lowest, highest = (1, 10**9) if name == "rate_limit" else (400, 599)
        return int(_number(name, value, lowest, highest))
    if name in ("ignore_range", "redirect_originals"):
        return bool(value)
    if name == "stall":
        return () if value is None else (value,) if isinstance(value, str) else tuple(map(str, value))
    if name == "refuse":
        return tuple(_name_refusal(item) for item in value or ())
    if name == "limits":
        return _limits(value or {})
    choices = ROLES if name == "role" else ("all", "api", "storage")
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, not {value!r}")
    return value


def _limits(value: Mapping[str, Any]) -> dict[str, Any]:
    if unknown := set(value) - {"max_images", "max_storage_bytes", "subscription_tier"}:
        raise ValueError(f"unknown limit(s): {', '.join(sorted(unknown))}")
    for name in set(value) - {"subscription_tier"}:
        _number(name, value[name], 0, 2**60)
    if value.get("subscription_tier", "free") not in TIERS:
        raise ValueError(f"subscription_tier must be one of {', '.join(TIERS)}")
    return dict(value)


def _number(name: str, value: Any, lowest: float, highest: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not lowest <= value <= highest:
        raise ValueError(f"{name} must be a number from {lowest} to {highest}, not {value!r}")
    return value


def _one_shot(item: Mapping[str, Any]) -> OneShot:
    try:
        return OneShot(**{**item, "action": Action(item["action"])})
    except (TypeError, KeyError, ValueError) as problem:
        raise ValueError(f"a fault in 'next' needs match and action ({problem}): {item!r}") from None


def _name_refusal(item: Mapping[str, Any]) -> NameRefusal:
    try:
        return NameRefusal(
            item["filename"], int(item["status"]), item.get("message") or f"Refused ({item['status']})."
        )
    except (TypeError, KeyError, ValueError) as problem:
        raise ValueError(f"an item of 'refuse' needs filename and status ({problem}): {item!r}") from None
