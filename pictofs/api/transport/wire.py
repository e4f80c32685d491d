"""Addresses, queries and JSON bodies as bytes on the wire. Pure, except that it builds requests' objects.

Names come from a hostile server or a hostile disk: every character of them is data. What UTF-8 cannot carry
(a lone surrogate) is refused here, before anything is sent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import requests
from requests.auth import AuthBase

import pictofs
from pictofs.api.credentials import Secret, is_loopback
from pictofs.api.errors import NetworkError, ValidationError

_PLACEHOLDER = re.compile(r"\{(\w+)\}")


class KeyHeader(AuthBase):
    """Puts the key on one request. The value exists in no variable on the way."""

    def __init__(self, key: Secret) -> None:
        self._key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["X-API-Key"] = self._key.reveal()
        return request


def fill(template: str, values: Mapping[str, str]) -> str:
    """`/datasets/{dataset}` with its values percent-encoded. In a value whose name ends in `_path` slashes
    separate, except leading and trailing ones; elsewhere they are data.

    Raises:
        ValidationError: an empty value, which would make another route of it, or one with a lone surrogate.
    """
    return _PLACEHOLDER.sub(lambda match: _encoded(match[1], values[match[1]]), template)


def query_string(query: Mapping[str, object]) -> str:
    """Raises ValidationError."""
    texts = {k: str(v).lower() if isinstance(v, bool) else str(v) for k, v in query.items()}
    try:
        return urlencode(texts, quote_via=quote, safe="")
    except UnicodeEncodeError:
        raise _unsendable(query) from None


def json_bytes(body: object) -> bytes:
    """Raises ValidationError."""
    try:
        return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        raise _unsendable(body) from None


def prepared(
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: bytes | None = None,
    auth: AuthBase | None = None,
) -> requests.PreparedRequest:
    """A request ready to be sent, without cookies, defaults or credentials other than `auth`.

    Raises:
        NetworkError: `url` is no address.
    """
    headers = {"User-Agent": f"pictofs/{pictofs.__version__}", **headers}
    try:
        request = requests.Request(method, url, headers=headers, data=body, auth=auth).prepare()
    except (requests.RequestException, ValueError):
        request = None
    if request is None:
        raise NetworkError(f"not an address: {shown(url)}")
    # As we encoded it: requests would undo the encoding of the dots in a name that is "..".
    request.url = url
    return request


def checked_storage_url(url: str, base_url: str) -> str:
    """`url`, when bytes may go to or come from there: https, or plain http where the API itself is on this
    machine or storage is.

    Raises:
        NetworkError: it is not.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        raise NetworkError("the server gave a storage address that is none") from None
    if parts.scheme == "https" and host:
        return url
    if parts.scheme == "http" and host and (is_loopback(host) or base_url.startswith("http:")):
        return url
    raise NetworkError(f"the server gave an insecure storage address: {shown(url)}")


def shown(url: str) -> str:
    """An address for a message: without its query, which holds signatures, and without user names."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.scheme}://{parts.hostname}{port}{parts.path}"[:300]
    except ValueError:
        return "(malformed address)"


def _encoded(name: str, value: str) -> str:
    slashes = name.endswith("_path")
    text = value.strip("/") if slashes else value
    if not text:
        raise ValidationError(f"the {name.replace('_', ' ')} is empty", status=0)
    try:
        segments = [quote(part, safe="") for part in (text.split("/") if slashes else [text])]
    except UnicodeEncodeError:
        raise _unsendable(value) from None
    # Proxies and servers resolve dot segments; as escapes they are names again.
    return "/".join(s.replace(".", "%2E") if s in (".", "..") else s for s in segments)


def _unsendable(value: Any) -> ValidationError:
    shown_value = ascii(value)
    if len(shown_value) > 200:
        shown_value = "one of the names"
    return ValidationError(f"{shown_value} cannot be sent: it is not valid Unicode text", status=0)
