"""Which row of an image to believe about what changes without its bytes: status, split, tags, label count.

The listing's row counts for a ttl after the listing was fetched. Later a lone question goes to images.get,
whose answer counts for a ttl too; but whoever asks about one image after the other (`getfattr -R`, a file
manager) makes the whole listing be fetched anew, once, instead of one request each. When the service does
not answer, the last known row is served, and it is left alone for a ttl.

Lock order: `CurrentRows._lock`, taken by itself; nothing is called while it is held.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from pictofs.api.errors import NetworkError, RateLimitError, ServerError
from pictofs.api.models import Image
from pictofs.cache.metadata import MetadataCache

log = logging.getLogger(__name__)

LONE_QUESTIONS = 2
"""So many images of a dataset are asked for one by one within a ttl; the listing that then answers all the
others costs two requests."""


class CurrentRows:
    """Rows of images that are at most a ttl old.

    Args:
        metadata: the listings and images.get.
        clock: monotonic seconds.
    """

    def __init__(self, metadata: MetadataCache, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._metadata = metadata
        self._clock = clock
        self._lock = threading.Lock()
        self._asked_at: dict[str, deque[float]] = {}  # dataset id → when lone questions were asked
        self._silent_until: dict[str, float] = {}  # dataset id → when to ask again after no answer

    def of(self, image: Image) -> Image:
        """The current row of an image that was just found in its listing.

        Raises:
            PictographError: the service refused (NotFoundError: the image is gone). When it could not be
                asked, the last known row is returned instead.
        """
        metadata, dataset_id, path = self._metadata, image.dataset_id, image.directory_path
        if metadata.has_fresh_rows(dataset_id, path):
            return image
        cached = metadata.images.cached(image.id)
        if cached is not None:
            return cached
        now = self._clock()
        with self._lock:
            if now < self._silent_until.get(dataset_id, now):
                return image
            asked_at = self._asked_at.setdefault(dataset_id, deque(maxlen=LONE_QUESTIONS))
            many = len(asked_at) == LONE_QUESTIONS and now - asked_at[0] < metadata.ttl_s
            if not many:
                asked_at.append(now)
        try:
            if many:
                metadata.reload(dataset_id, path)
                with metadata.reading(dataset_id) as tree:
                    return tree.image(image.id) or image
            return metadata.images.get(image.id)
        except (NetworkError, ServerError, RateLimitError) as error:
            log.warning("%s: its attributes are the last known ones: %s", image.filename, error)
            with self._lock:
                self._silent_until[dataset_id] = self._clock() + metadata.ttl_s
            return image
