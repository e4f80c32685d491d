"""The exceptions of requests, urllib3 and the sockets below, turned into ours.

The frames of requests and http.client hold the raw header bytes, with the key. So what leaves the transport
carries none of their tracebacks and is chained to none of their exceptions: `translated` makes the exception,
and the caller raises it outside of its `except` block.
"""

from __future__ import annotations

import http.client
from collections.abc import Iterator

import requests
import urllib3

from pictofs.api.errors import NetworkError, PictographError, RateLimitError, RequestTimeoutError

_FOREIGN = (requests.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException, OSError)


class ClientClosedError(Exception):
    """The client was closed while a request waited for its next attempt."""


class LocalReadError(Exception):
    """The file being uploaded cannot be read. Not an OSError, which urllib3 would take for its own."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


def translated(error: BaseException, doing: str) -> BaseException:
    """What to raise instead of `error`. `doing` is what failed, for the message: method and address.

    Ours, KeyboardInterrupt and the like, and whatever is a bug, stay what they are but lose their traceback.
    """
    if isinstance(error, LocalReadError):
        return _stripped(error.error)
    if isinstance(error, ClientClosedError):
        return closed()
    if isinstance(error, PictographError) or not isinstance(error, _FOREIGN):
        return _stripped(error)
    return network_error(error, doing)


def network_error(error: BaseException, doing: str) -> NetworkError:
    """For an exception that certainly is the network's."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, urllib3.exceptions.NewConnectionError):
            continue  # by its class a timeout, by its meaning not
        if isinstance(cause, (urllib3.exceptions.TimeoutError, requests.Timeout, TimeoutError)):
            return RequestTimeoutError(f"{doing}: no answer in time")
    return NetworkError(f"{doing}: {_words(causes)}")


def closed() -> NetworkError:
    return NetworkError("the client is closed")


def never_connected(error: BaseException) -> bool:
    """Whether the request surely did not reach the server, so that it cost no budget. (A RateLimitError among
    the causes is the gate's: an answered 429 is an answer.)"""
    return any(
        isinstance(cause, (urllib3.exceptions.ConnectTimeoutError, ClientClosedError, RateLimitError))
        for cause in _causes(error)
    )


def is_short_body(error: BaseException) -> bool:
    """Whether a body ended before its announced length, rather than that the connection broke."""
    return any(isinstance(cause, http.client.IncompleteRead) for cause in _causes(error))


def _stripped(error: BaseException) -> BaseException:
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """`error` and what it wraps, outermost first: these libraries hand exceptions on as arguments."""
    pending, seen = [error], set()
    while pending:
        current = pending.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        candidates = [
            *current.args,
            getattr(current, "reason", None),
            getattr(current, "original_error", None),
        ]
        pending += [c for c in (*candidates, current.__cause__) if isinstance(c, BaseException)]


def _words(causes: list[BaseException]) -> str:
    """The innermost plain words. Those of urllib3's wrappers quote the whole address, signature included."""
    for cause in causes:
        if isinstance(cause, urllib3.exceptions.NameResolutionError):
            return "the host name cannot be resolved"
        if isinstance(cause, (urllib3.exceptions.SSLError, requests.exceptions.SSLError)):
            return f"no secure connection: {causes[-1]}"
    for cause in reversed(causes):
        if isinstance(cause, OSError) and not isinstance(cause, requests.RequestException):
            return cause.strerror or str(cause)
    if any(isinstance(cause, http.client.RemoteDisconnected) for cause in causes):
        return "the server closed the connection"
    return f"the connection failed ({type(causes[-1]).__name__})"
