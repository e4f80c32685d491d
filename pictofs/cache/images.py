"""Single rows of images: `images.get` behind a TTL cache, for what changes without the listing's counters.

Lock order: `ImageRows._lock` is innermost; the service is asked without it, once at a time about an image.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from cachetools import TTLCache

from pictofs.api.models import Image
from pictofs.cache.flights import Flights

ENTRIES = 10_000
"""How many answers are kept: what one file manager window may show, a few MB."""


class ImageRows:
    """Rows by image id, each for a ttl.

    Args:
        ask: images.get: one API request. May raise PictographError.
        ttl_s: seconds that an answer counts.
        clock: monotonic seconds.
    """

    def __init__(
        self, ask: Callable[[str], Image], *, ttl_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ask = ask
        self._lock = threading.Lock()
        self._flights = Flights()
        self._rows: TTLCache[str, Image] = TTLCache(ENTRIES, ttl_s, timer=clock)
        self._amendments = 0  # so that an answer from before one is not kept

    def cached(self, image_id: str) -> Image | None:
        """What was answered within the ttl; never asks."""
        with self._lock:
            row: Image | None = self._rows.get(image_id)
            return row

    def get(self, image_id: str, *, anew: bool = False) -> Image:
        """The row; `anew` asks whatever is known. Raises PictographError: as the service answered."""
        row = self.cached(image_id)
        if row is not None and not anew:
            return row

        def fetch() -> Image:
            with self._lock:
                before = self._amendments
            image = self._ask(image_id)
            with self._lock:
                if self._amendments == before:
                    self._rows[image_id] = image
            return image

        return self._flights.once(image_id, fetch)

    def put(self, image: Image) -> None:
        """Take in a row that is known to be true."""
        with self._lock:
            self._rows[image.id] = image

    def amend(self, image_id: str, how: Callable[[Image], Image]) -> None:
        """Change a row, also one that is just being asked for: its answer may be older."""
        with self._lock:
            self._amendments += 1
            row = self._rows.get(image_id)
            if row is not None:
                self._rows[image_id] = how(row)

    def drop(self, image_id: str) -> None:
        """Forget a row."""
        with self._lock:
            self._rows.pop(image_id, None)

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._rows.clear()
