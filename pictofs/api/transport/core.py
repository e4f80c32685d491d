"""`Transport`: sends requests and reads answers.

Two kinds of address. *API* addresses lie under the configured base URL and get the key. Everything else is
*storage* (signed URLs, the CDN that a download is redirected to) and never gets it. The key is attached at
one point, to addresses that begin with our own base URL; an absolute API address from the server is reduced
to path and query first (`_pinned`), and redirects are followed here, by hand, under the same rule.

Any thread may use a transport; nothing is kept per thread (FUSE threads come and go). After a fork, make a
new one. Lock order: the budget meter's and the gate's own locks only.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, BinaryIO, TypeVar, cast
from urllib.parse import urljoin, urlsplit, urlunsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter

from pictofs.api.answers import content_length, error_from
from pictofs.api.budget import Budget, BudgetMeter, remaining_in
from pictofs.api.credentials import Credentials, is_loopback
from pictofs.api.errors import ApiError, NetworkError, ServerError, StorageError
from pictofs.api.transport.bodies import Stream, UploadBody
from pictofs.api.transport.failures import (
    ClientClosedError,
    closed,
    network_error,
    never_connected,
    translated,
)
from pictofs.api.transport.gate import Gate
from pictofs.api.transport.retries import Attempts, RetryPolicy
from pictofs.api.transport.wire import (
    KeyHeader,
    checked_storage_url,
    fill,
    json_bytes,
    prepared,
    query_string,
    shown,
)

_API_PREFIX = "/api/v1/developer"
# A host that does not even accept the connection in this time will not do so later.
_CONNECT_TIMEOUT_S = 10.0
# Per send of an upload. Each must leave within the socket's timeout, which a line of 4 kB/s still manages.
_SEND_BLOCK_BYTES = 32 * 1024
# The API, storage and a CDN or two.
_HOSTS = 8
_MAX_REDIRECTS = 5
_REDIRECT_STATUSES = frozenset({301, 302, 303, 307, 308})
# As the official SDK decides (`_http/idempotency.py`): DELETE is idempotent by itself.
_IDEMPOTENCY_METHODS = frozenset({"POST", "PUT", "PATCH"})

T = TypeVar("T")


class Transport:
    """Sends requests, again where that is right, and maps every failure onto `pictofs.api.errors`."""

    def __init__(
        self, credentials: Credentials, *, timeout_s: float, max_connections: int, policy: RetryPolicy
    ) -> None:
        """`timeout_s` is the longest silence of a server that is to answer."""
        self.base_url = credentials.base_url
        self.policy = policy
        self._key = credentials.api_key
        self._timeout_s = timeout_s
        self._closing = threading.Event()
        self._meter = BudgetMeter()
        self._gate = Gate()
        # Asked for the proxies and CA bundles of the environment only; it sends nothing, so that it neither
        # keeps cookies nor reads ~/.netrc.
        self._environment = requests.Session()
        self._pools = _Pools(max_connections)

    def with_policy(self, policy: RetryPolicy) -> Transport:
        """The same connections, budget and key with other patience. Closing one closes all."""
        other = object.__new__(Transport)
        other.__dict__.update(self.__dict__, policy=policy)
        return other

    @property
    def budget(self) -> Budget:
        return replace(self._meter.snapshot(), pause_s=self._gate.pause_s())

    def close(self) -> None:
        """Drop idle connections and end waits for a retry. Calls from now on raise NetworkError."""
        self._closing.set()
        self._gate.close()
        self._pools.close()
        self._environment.close()

    # --- the API: JSON in, JSON out ----------------------------------------------------------

    def call(
        self,
        method: str,
        template: str,
        parse: Callable[[Any], T],
        *,
        query: Mapping[str, object] | None = None,
        body: object = None,
        idempotency_key: str | None = None,
        each: Callable[[dict[str, Any]], object] | None = None,
        **values: str,
    ) -> T:
        """One API request, and `parse` of its decoded answer (None for an empty one).

        `each` is handed every JSON object of the answer as soon as it is read, and what it returns takes the
        object's place. With it, other threads run while a long answer is decoded; without, they all wait.

        `template` is a route below `/api/v1/developer`, filled from `values` (see `wire.fill`); method and
        template are also the budget's name for it. POST, PUT and PATCH carry an idempotency key, the same on
        every attempt: `idempotency_key` or a fresh one.

        Raises:
            ApiError: the answer is an error; ServerError also when `parse` makes no sense of a success.
            ValidationError: a value cannot be sent (status 0).
            NetworkError: no answer.
        """
        route = f"{method} {template}"
        headers = {"Accept": "application/json"}
        if method in _IDEMPOTENCY_METHODS:
            headers["Idempotency-Key"] = idempotency_key or uuid.uuid4().hex
        payload = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            payload = json_bytes(body)
        url = self._api_url(template, values) + (f"?{query_string(query)}" if query else "")
        attempts = self._attempts(route)
        while True:
            response = self._follow(method, url, headers, payload, route, attempts, leave_api=False)
            content = self._content(response)
            if isinstance(content, NetworkError):
                # Broken off while the body was read, which urllib3 leaves to its caller.
                attempts = _next_attempt(response, content)
                continue
            if not 200 <= response.status_code < 300:
                raise _api_error(response, content)
            return _parsed(response, content, parse, each)

    # --- bytes -------------------------------------------------------------------------------

    def open_route(
        self, template: str, *, offset: int = 0, length: int | None = None, **values: str
    ) -> Stream:
        """The bytes behind an API route, from `offset` on; a redirect to storage is followed without the key.

        Raises:
            ApiError, StorageError, NetworkError.
        """
        return self._open(self._api_url(template, values), f"GET {template}", offset, length)

    def open_url(self, url: str, *, offset: int = 0, length: int | None = None) -> Stream:
        """The bytes behind an absolute URL from the server: a signed storage URL, or an address of the API,
        which is pinned to the configured host.

        Raises:
            StorageError: 403 means that a signed URL has expired.
            ApiError, NetworkError.
        """
        return self._open(self._pinned(url), "GET {url}", offset, length)

    def size_of(self, url: str) -> int | None:
        """Bytes behind a signed storage URL, None when storage does not tell. Asks with HEAD, and where the
        signature is good for GET only, with a GET of one byte.

        Raises:
            StorageError, ApiError, NetworkError.
        """
        url = self._pinned(url)
        with self._follow("HEAD", url, {"Accept-Encoding": "identity"}, None, "HEAD {url}") as response:
            size_bytes = content_length(response.headers) if response.status_code == 200 else None
        if size_bytes is not None:
            return size_bytes
        with self._open(url, "GET {url}", 0, 1) as stream:
            return stream.total_bytes

    def put_file(self, url: str, file: BinaryIO, content_type: str, *, timeout_s: float) -> None:
        """PUT an open file to a signed storage URL, streamed; without the key and without an idempotency key.

        `timeout_s` bounds the whole upload, retries included, give or take one read timeout.

        Raises:
            StorageError: storage refused; 403 means that the URL has expired.
            RequestTimeoutError: not done in time.
            IncompleteTransferError: the file shrank meanwhile.
            NetworkError: the connection failed.
            OSError: the file cannot be read.
        """
        body = UploadBody(file, time.monotonic() + timeout_s)
        headers = {"Content-Type": content_type}
        request = prepared("PUT", checked_storage_url(url, self.base_url), headers)
        request.headers["Content-Length"] = str(body.size_bytes)
        request.body = cast("Any", body)
        attempts = self._attempts(None)
        with self._send(request, attempts, None, min(self._timeout_s, timeout_s)) as response:
            if response.status_code not in (200, 201):
                raise _storage_error(response)

    def _open(self, url: str, route: str, offset: int, length: int | None) -> Stream:
        headers = {"Accept-Encoding": "identity"}
        if offset or length is not None:
            headers["Range"] = f"bytes={offset}-" + (str(offset + length - 1) if length is not None else "")
        response = self._follow("GET", url, headers, None, route)
        if response.status_code in (200, 206):
            return Stream(response)
        if not self._is_api(response.url):
            with response:
                raise _storage_error(response)
        content = self._content(response)
        raise _api_error(response, b"" if isinstance(content, NetworkError) else content)

    # --- addresses ---------------------------------------------------------------------------

    def _api_url(self, template: str, values: Mapping[str, str]) -> str:
        return f"{self.base_url}{_API_PREFIX}{fill(template, values)}"

    def _pinned(self, url: str) -> str:
        """`url` itself, or when it is an address of the API, on whatever host, its path and query on ours."""
        problem = False
        try:
            parts = urlsplit(url)
        except ValueError:
            problem = True
        if problem:
            raise NetworkError("the server gave an address that is none")
        at = parts.path.find(f"{_API_PREFIX}/")
        if at < 0:
            return url
        # What stands before the prefix is the other host's mount point, not ours.
        return self.base_url + urlunsplit(("", "", parts.path[at:], parts.query, ""))

    def _is_api(self, url: str) -> bool:
        return url.startswith(f"{self.base_url}{_API_PREFIX}/")

    # --- sending -----------------------------------------------------------------------------

    def _attempts(self, route: str | None) -> Attempts:
        """`route` None: storage, which costs no budget."""

        def repeated(headers: Mapping[str, str] | None) -> None:
            if route is not None:
                self._meter.count(route, headers)

        turn = None if route is None else self._gate.turn(self.policy.retry_after_limit_s)
        return Attempts.of(self.policy, self._closing, turn, repeated)

    def _follow(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None,
        route: str,
        attempts: Attempts | None = None,
        *,
        leave_api: bool = True,
    ) -> requests.Response:
        """The answer at the end of the redirects, its body not yet read. Only GET and HEAD follow any, and
        JSON (`leave_api` False) stays on the API."""
        for _ in range(_MAX_REDIRECTS + 1):
            if self._is_api(url):
                request = prepared(method, url, headers, body, KeyHeader(self._key))
                response = self._send(request, attempts or self._attempts(route), route, self._timeout_s)
            else:
                request = prepared(method, checked_storage_url(url, self.base_url), headers, body)
                response = self._send(request, self._attempts(None), None, self._timeout_s)
            location = response.headers.get("Location")
            if response.status_code not in _REDIRECT_STATUSES or not location:
                return response
            target = urljoin(url, location)
            if method not in ("GET", "HEAD") or not (leave_api or self._is_api(target)):
                return response
            response.close()
            url = target
        raise NetworkError(f"{method} {shown(url)}: redirected more than {_MAX_REDIRECTS} times")

    def _send(
        self, request: requests.PreparedRequest, attempts: Attempts, route: str | None, read_timeout_s: float
    ) -> requests.Response:
        """All attempts of one request, counted for `route`. An answer with an error status is an answer."""
        if self._closing.is_set():
            raise closed()
        url = cast("str", request.url)
        settings = self._environment.merge_environment_settings(url, {}, True, None, None)
        if is_loopback(urlsplit(url).hostname or ""):
            # No proxy can reach this machine's own address, and one would read the key of plain http.
            settings["proxies"] = {}
        timeout = (min(_CONNECT_TIMEOUT_S, read_timeout_s), read_timeout_s)
        turn = attempts.turn
        try:
            if turn is not None:
                turn.enter()
            response = self._pools.adapter(attempts).send(request, timeout=timeout, **cast("Any", settings))
        except BaseException as error:  # noqa: BLE001 - whatever it is, its frames hold the key
            if turn is not None:
                turn.failed()
            failure = translated(error, f"{request.method} {shown(url)}")
            reached = not never_connected(error)
        else:
            if route is not None:
                self._meter.count(route, response.headers)
            if turn is not None and response.status_code != 429:
                turn.answered(remaining_in(response.headers))
            return response
        if route is not None and reached:
            self._meter.count(route, None)
        raise failure

    def _content(self, response: requests.Response) -> bytes | NetworkError:
        """The whole body; a NetworkError (returned, not raised) when it broke off. Gives the connection back.

        A server that quotes the key must not get it into a log, so it is masked here.
        """
        try:
            with contextlib.closing(response):
                return cast("bytes", response.content).replace(
                    self._key.reveal().encode(), str(self._key).encode()
                )
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            return network_error(error, f"{response.request.method} {shown(response.url)}")


class _Pools:
    """The connections, shared by all requests. requests ties the retry rule to the adapter, so each request
    gets an adapter of its own: a thin object over these."""

    def __init__(self, max_connections: int) -> None:
        self._max_connections = max_connections
        self._shared = HTTPAdapter(pool_connections=_HOSTS, pool_maxsize=max_connections)
        self._shared.init_poolmanager(_HOSTS, max_connections, blocksize=_SEND_BLOCK_BYTES)

    def adapter(self, attempts: Attempts) -> HTTPAdapter:
        return _Adapter(self._shared, self._max_connections, attempts)

    def close(self) -> None:
        self._shared.close()


class _Adapter(HTTPAdapter):
    def __init__(self, shared: HTTPAdapter, max_connections: int, attempts: Attempts) -> None:
        self._shared = shared
        super().__init__(pool_connections=_HOSTS, pool_maxsize=max_connections, max_retries=attempts)
        self.proxy_manager = shared.proxy_manager

    def init_poolmanager(self, *_sizes: Any, **_options: Any) -> None:
        self.poolmanager = self._shared.poolmanager


def _next_attempt(response: requests.Response, failure: NetworkError) -> Attempts:
    """The attempts left after an answer that broke off, once it is time for the next.

    Raises:
        NetworkError: `failure`, when there is none left.
    """
    made = cast("Attempts", response.raw.retries)
    try:
        left = made.after_broken_answer(response.request.method)
        left.sleep()
    except urllib3.exceptions.MaxRetryError:
        pass
    except ClientClosedError:
        failure = closed()
    else:
        return left
    raise failure


def _parsed(
    response: requests.Response,
    content: bytes,
    parse: Callable[[Any], T],
    each: Callable[[dict[str, Any]], object] | None,
) -> T:
    try:
        return parse(json.loads(content, object_hook=each) if content else None)
    except (json.JSONDecodeError, UnicodeDecodeError):
        problem = "is not JSON"
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        problem = f"is not what it should be ({error!r})"
    raise ServerError(
        f"the answer to {response.request.method} {shown(response.url)} {problem}",
        status=response.status_code,
        request_id=response.headers.get("X-Request-Id"),
    )


def _api_error(response: requests.Response, content: bytes) -> ApiError:
    if response.status_code < 400:
        return ServerError(
            f"redirected to {shown(response.headers.get('Location', ''))}: is the base URL right?",
            status=response.status_code,
        )
    return error_from(response.status_code, response.headers, content)


def _storage_error(response: requests.Response) -> StorageError:
    return StorageError(
        f"{response.request.method} {shown(response.url)} was refused", status=response.status_code
    )
