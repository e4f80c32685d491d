"""Signed storage URLs by image id: one API request for a whole dataset instead of one for each image read.

One image costs one request either way. With the links of all of its dataset the others cost none, but its own
bytes come later: after a second round trip, to the storage, and after all links were made and read. Until the
first 64 KB of one image were here (milliseconds; sandbox, 50 ms latency, medians of 9):

    images in the dataset         1   100   500  1,000  2,000  5,000  10,000
    by the image's id            55    54    54     54     53     53      55
    the request for all links    54    56    64     78     93    142     294
    all links, then the bytes   108   111   118    129    140    206     340

In a small dataset (`SMALL_IMAGES`) they are asked for at once. In any other, also one of a single image or of
unknown size, the first read is served without links (`get` answers None and the caller asks for the
original); the second asks for all links. Whoever comes meanwhile waits for the answer.

The route lists 10,000 images and has no second page. Images beyond are read by id, and are not worth a new
listing each: after one that did not help, twice as many reads as before go by id. The same holds when the
route fails, or when storage refuses links that have only just been made.

Lock order: `_Dataset.asking`, then `SignedLinks._lock`. The first is held while the service is asked, the
second while `count` is.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from pictofs.api.errors import PictographError
from pictofs.api.models import DownloadItem, Image

log = logging.getLogger(__name__)

LIFETIME_S = 14 * 60.0
"""URLs expire after 15 minutes unless the service says otherwise (wire contract); a minute to use one."""

SMALL_IMAGES = 500
"""Images in a dataset whose links are asked for by the first read: that makes it later by a round trip, 10
ms, and the time of 180 KB (100 Mbit/s: 14 ms). The service makes as many in one request for uploads."""

_MAX_PATIENCE = 1024
"""Reads without a link between two listings that did not help: images beyond the 10,000 that one holds."""

_YOUNG_S = 10.0
"""A link that is refused so soon was probably never any good."""

_YOUNG_REFUSALS = 2
"""After so many of them in a row, new links are taken to be no better."""

_PAUSE_S = 60.0
"""How long links are not asked for, nor used, after they failed."""


@dataclass
class _Dataset:
    """What is known of one dataset's links. Times are on the monotonic clock, in seconds."""

    urls: dict[str, str] = field(default_factory=dict)
    made_at: float = 0.0
    listings: int = 0
    young_refusals: int = 0
    not_before: float = 0.0
    misses: int = 0
    patience: int = 1
    asking: threading.Lock = field(default_factory=threading.Lock)


class SignedLinks:
    """Links to the bytes of images.

    Args:
        ask: all links of a dataset, by its id: one API request. May raise PictographError.
        count: how many images a dataset has, by its id, None where that is not known. Asks nobody.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        ask: Callable[[str], Iterable[DownloadItem]],
        *,
        count: Callable[[str], int | None] = lambda _dataset_id: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask = ask
        self._count = count
        self._clock = clock
        self._lock = threading.Lock()
        self._datasets: dict[str, _Dataset] = {}

    def get(self, image: Image, *, many: bool = False) -> str | None:
        """The image's URL; None when asking for the image itself is as cheap or there is no link.

        `many`: more reads are sure to follow, so that links are worth a request already.
        """
        with self._lock:
            dataset = self._datasets.setdefault(image.dataset_id, _Dataset())
            url = self._fresh(dataset, image)
            if url is not None:
                return url
            dataset.misses += 1
            is_worth_it = many or self._is_small(image.dataset_id)
            patience = 0 if is_worth_it and dataset.patience == 1 else dataset.patience
            if dataset.misses <= patience or self._clock() < dataset.not_before:
                return None
            seen = dataset.listings
        with dataset.asking:
            with self._lock:
                # Somebody has asked while this waited, or has found out that asking does not help.
                if dataset.listings != seen or self._clock() < dataset.not_before:
                    return self._fresh(dataset, image)
            return self._renew(dataset, image)

    def _renew(self, dataset: _Dataset, image: Image) -> str | None:
        """Ask for all links of the image's dataset. Call it with `dataset.asking` held."""
        asked_at = self._clock()
        try:
            urls = {item.id: item.image_url for item in self._ask(image.dataset_id)}
        except PictographError as error:
            log.warning("No links to the images of a dataset; they are asked for one by one: %s", error)
            with self._lock:
                dataset.not_before = self._clock() + _PAUSE_S
            return None
        with self._lock:
            dataset.urls, dataset.made_at, dataset.misses = urls, asked_at, 0
            dataset.listings += 1
            dataset.patience = 1 if image.id in urls else min(_MAX_PATIENCE, dataset.patience * 2)
            return urls.get(image.id)

    def expire(self, image: Image, url: str) -> None:
        """Storage refused this URL: the next `get` asks for new links, once for all who were refused."""
        with self._lock:
            dataset = self._datasets.get(image.dataset_id)
            if dataset is None or dataset.urls.get(image.id) != url:
                return
            dataset.urls = {}
            dataset.misses = dataset.patience
            is_young = self._clock() - dataset.made_at < _YOUNG_S
            dataset.young_refusals = dataset.young_refusals + 1 if is_young else 0
            if dataset.young_refusals >= _YOUNG_REFUSALS:
                dataset.young_refusals = 0
                dataset.not_before = self._clock() + _PAUSE_S

    def _is_small(self, dataset_id: str) -> bool:
        count = self._count(dataset_id)
        return count is not None and 1 < count <= SMALL_IMAGES

    def _fresh(self, dataset: _Dataset, image: Image) -> str | None:
        if self._clock() >= dataset.made_at + LIFETIME_S:
            dataset.urls = {}
        return dataset.urls.get(image.id)
