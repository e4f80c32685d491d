"""What an answer of the API means: error statuses into exceptions, headers into numbers. Pure.

The rules are those of the official SDK (`exceptions.from_response`, 1.69.146): the envelope
`{"error": {"code", "message", "details"}}` first, then the older `detail`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

from pictofs.api.errors import (
    ApiError,
    AuthError,
    ConflictError,
    ForbiddenError,
    NotFoundError,
    PaymentRequiredError,
    RateLimitError,
    ServerError,
    ValidationError,
)

_BY_STATUS: dict[int, type[ApiError]] = {
    400: ValidationError,
    401: AuthError,
    402: PaymentRequiredError,
    403: ForbiddenError,
    404: NotFoundError,
    408: ServerError,
    409: ConflictError,
    415: ValidationError,
    422: ValidationError,
    429: RateLimitError,
}
# A page of HTML or a whole list of field errors helps nobody in a log line.
_MESSAGE_CHARACTERS = 500
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


def error_from(status: int, headers: Mapping[str, str], body: bytes) -> ApiError:
    """The exception for an answer with an error status. `headers` must be case-insensitive."""
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        parsed = None
    answer: dict[str, Any] = parsed if isinstance(parsed, dict) else {}
    error = answer.get("error")
    envelope: dict[str, Any] = error if isinstance(error, dict) else {}
    message = _message(answer, envelope) or _phrase(status)
    code = envelope.get("code")
    fields: dict[str, Any] = {
        "status": status,
        "code": code if isinstance(code, str) and code else None,
        "details": envelope.get("details"),
        "request_id": headers.get("X-Request-Id"),
    }
    kind = _BY_STATUS.get(status, ServerError if status >= 500 else ApiError)
    if kind is RateLimitError:
        return RateLimitError(message, retry_after_s=retry_after_s(headers), **fields)
    if status == 400 and says_taken(message):
        kind = ConflictError
    return kind(message, **fields)


def says_taken(words: str) -> bool:
    """Whether a refusal is about a name that is taken; the service says so with a 400 on some routes."""
    return "already exists" in words.lower()


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds from `Retry-After` (a number or an HTTP date), never negative; None when absent or garbled."""
    raw = (headers.get("Retry-After") or "").strip()
    try:
        return max(0.0, float(raw))
    except ValueError:
        pass
    try:
        moment = parsedate_to_datetime(raw)
    except (TypeError, ValueError, IndexError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return max(0.0, (moment - datetime.now(timezone.utc)).total_seconds())


def content_length(headers: Mapping[str, str]) -> int | None:
    """Bytes of the body as announced, None when it was not (chunked, or compressed on the way)."""
    raw = headers.get("Content-Length", "")
    if not raw.isdecimal() or headers.get("Content-Encoding", "identity") != "identity":
        return None
    return int(raw)


def content_range(headers: Mapping[str, str]) -> tuple[int, int, int | None] | None:
    """(first byte, one past the last, size of the whole or None) of a 206; None when absent or garbled."""
    match = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", "").strip())
    if match is None or int(match[2]) < int(match[1]):
        return None
    return int(match[1]), int(match[2]) + 1, None if match[3] == "*" else int(match[3])


def _message(answer: Mapping[str, Any], envelope: Mapping[str, Any]) -> str | None:
    detail = answer.get("detail")
    nested: Mapping[str, Any] = detail if isinstance(detail, dict) else {}
    candidates = [
        envelope.get("message"),
        detail,
        answer.get("error"),
        answer.get("message"),
        nested.get("message"),
        nested.get("detail"),
        _field_errors(detail),
    ]
    found = next((c for c in candidates if isinstance(c, str) and c), None)
    return found[:_MESSAGE_CHARACTERS] if found else None


def _field_errors(detail: object) -> str | None:
    """FastAPI's `[{"loc": [...], "msg": "..."}]` as one sentence."""
    if not isinstance(detail, list):
        return None
    return "; ".join(
        f"{'.'.join(str(part) for part in row.get('loc') or ())}: {row.get('msg')}"
        for row in detail
        if isinstance(row, dict)
    )


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "unexpected answer"
