"""The URLs that the sandbox hands out, and the check of the signed ones."""

from __future__ import annotations

import enum
import hashlib
import hmac
import time
from dataclasses import dataclass
from urllib.parse import quote

from pictofs.sandbox.faults import Faults

API_PREFIX = "/api/v1/developer"


class Area(enum.Enum):
    """What a signed URL opens; also the first part of its path."""

    UPLOAD = "upload"
    """PUT into staging/<key>."""
    OBJECT = "object"
    """GET and HEAD of objects/<key>."""


class BadSignatureError(Exception):
    """The URL was not signed like this, or has expired. The text says which."""


@dataclass(frozen=True)
class Links:
    """Makes URLs for the two ports."""

    base_url: str
    """Of the API, without a trailing slash."""
    storage_url: str
    """What signed URLs begin with, without a trailing slash."""
    secret: bytes
    faults: Faults
    generation: list[int]
    """One number, which `expire_all` counts up; URLs signed under another one have expired."""

    def api(self, path: str) -> str:
        return self.base_url + API_PREFIX + path

    def thumbnail(self, object_id: str) -> str:
        """Served by the storage port without a signature, like a CDN."""
        return f"{self.storage_url}/thumbnail/{object_id}"

    def upload(self, staging_key: str, filename: str, content_type: str) -> str:
        return self._signed(Area.UPLOAD, staging_key, filename, content_type)

    def object(self, object_id: str, filename: str) -> str:
        return self._signed(Area.OBJECT, object_id, filename, "")

    @property
    def ttl_minutes(self) -> int:
        return max(1, int(self.faults.now.url_ttl_s / 60))

    def expire_all(self) -> None:
        self.generation[0] += 1

    def _signed(self, area: Area, key: str, filename: str, content_type: str) -> str:
        generation = str(self.generation[0])
        name = filename if filename.strip(".") else "unnamed"  # a client would resolve a dot segment
        path = f"/{area.value}/{key}/{quote(name, safe='', errors='surrogatepass')}"
        expires = f"{time.time() + self.faults.now.url_ttl_s:.3f}"
        signature = self._signature(path, expires, generation, content_type)
        return f"{self.storage_url}{path}?expires={expires}&generation={generation}&signature={signature}"

    def check(self, raw_path: str, query: dict[str, str], content_type: str) -> None:
        """Raises BadSignatureError unless we signed the URL, for this content type, and it is still good."""
        expires, generation = query.get("expires", ""), query.get("generation", "")
        expected = self._signature(raw_path, expires, generation, content_type)
        if not hmac.compare_digest(expected.encode(), query.get("signature", "").encode()):
            raise BadSignatureError("SignatureDoesNotMatch")
        if generation != str(self.generation[0]) or float(expires) < time.time():
            raise BadSignatureError("ExpiredToken")

    def _signature(self, path: str, expires: str, generation: str, content_type: str) -> str:
        message = f"{path}\n{expires}\n{generation}\n{content_type}"
        return hmac.digest(self.secret, message.encode(), "sha256").hex()


def staging_key(dataset_id: str, directory: str, filename: str) -> str:
    """Where the bytes of a coming image wait: the register route derives it again from the same names."""
    place = "\0".join((dataset_id, directory, filename))
    return hashlib.sha256(place.encode("utf-8", "surrogatepass")).hexdigest()
