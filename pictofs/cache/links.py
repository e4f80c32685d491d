"""Signed storage URLs by image id: one API request for a whole dataset instead of one for each image read.

A single image costs one request either way, so the first read of a dataset is served without links (`get`
answers None and the caller asks for the original); the second read asks for all links at once.

Lock order: `SignedLinks._lock` only; the question goes to the service outside it, one at a time a dataset.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from pictofs.api.models import DownloadItem, Image

LIFETIME_S = 14 * 60.0
"""URLs expire after 15 minutes unless the service says otherwise (wire contract); a minute to use one."""

_MAX_PATIENCE = 1024
"""Reads without a link between two listings that did not help: images beyond the 10,000 that one holds."""


@dataclass
class _Dataset:
    urls: dict[str, str] = field(default_factory=dict)
    expires_at: float = 0.0
    misses: int = 0
    patience: int = 1
    asking: threading.Lock = field(default_factory=threading.Lock)


class SignedLinks:
    """Links to the bytes of images.

    Args:
        ask: all links of a dataset, by its id: one API request. May raise PictographError.
        clock: monotonic seconds.
    """

    def __init__(
        self, ask: Callable[[str], Iterable[DownloadItem]], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ask = ask
        self._clock = clock
        self._lock = threading.Lock()
        self._datasets: dict[str, _Dataset] = {}

    def get(self, image: Image) -> str | None:
        """The image's URL; None when asking for the image itself is as cheap or there is no link."""
        with self._lock:
            dataset = self._datasets.setdefault(image.dataset_id, _Dataset())
            url = self._fresh(dataset, image)
            if url is not None:
                return url
            dataset.misses += 1
            if dataset.misses <= dataset.patience:
                return None
        with dataset.asking:
            with self._lock:
                url = self._fresh(dataset, image)
            if url is not None:
                return url
            asked_at = self._clock()
            urls = {item.id: item.image_url for item in self._ask(image.dataset_id)}
            with self._lock:
                dataset.urls, dataset.expires_at, dataset.misses = urls, asked_at + LIFETIME_S, 0
                helped = image.id in urls
                dataset.patience = 1 if helped else min(_MAX_PATIENCE, dataset.patience * 2)
                return urls.get(image.id)

    def expire(self, image: Image, url: str) -> None:
        """Storage refused this URL: the next `get` asks for new links."""
        with self._lock:
            dataset = self._datasets.get(image.dataset_id)
            if dataset is not None and dataset.urls.get(image.id) == url:
                dataset.urls = {}
                dataset.misses = dataset.patience

    def _fresh(self, dataset: _Dataset, image: Image) -> str | None:
        return dataset.urls.get(image.id) if self._clock() < dataset.expires_at else None
