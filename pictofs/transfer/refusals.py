"""What a failure means for the queue: does it pass, whom does it blame, what is said about it.

Pure. The one place that reads the service's words about single files of a bulk request; everything else goes
by exception class.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from pictofs.api.errors import (
    ApiError,
    AuthError,
    ConflictError,
    ForbiddenError,
    NetworkError,
    NotFoundError,
    PaymentRequiredError,
    RateLimitError,
    RequestTimeoutError,
    ServerError,
    StorageError,
    ValidationError,
)

__all__ = [
    "Answer",
    "blames_one",
    "in_words",
    "is_about_taken_name",
    "is_final",
    "is_gone_already",
    "is_stale_url",
    "isolate",
    "of_one_file",
]

_TOO_LARGE = 413
_STALE_URL_STATUSES = frozenset({400, 401, 403, 404, 410})
_FROZEN = re.compile(r"coldline|cold storage|frozen|storage.class", re.IGNORECASE)

# Tried in order. The statuses in brackets or after "HTTP" are how some services quote them.
_WORDS: Sequence[tuple[re.Pattern[str], Callable[[str], Exception] | None]] = [
    (re.compile(pattern, re.IGNORECASE), make)
    for pattern, make in (
        # passes: the file is sent again. A missing or short object is a PUT that was lost on the way.
        (r"no uploaded file|not (been )?uploaded|object .*not found|not found in storage|file_size of", None),
        (r"timed? ?out|temporar|unavailable|internal (server )?error|try again|\b50[0-9]\b", None),
        (r"already exists|duplicate|is taken|already in use|\b409\b", lambda w: ConflictError(w, status=0)),
        (
            r"limit reached|quota|credit|payment|plan allows|\b402\b",
            lambda w: PaymentRequiredError(w, status=0),
        ),
        (
            r"too large|exceeds|at most \d+ (bytes )?are allowed|\b413\b",
            lambda w: ApiError(w, status=_TOO_LARGE),
        ),
        (
            r"permission|forbidden|not allowed|your role|\b403\b",
            lambda w: ForbiddenError(w, status=0),
        ),
    )
]


def of_one_file(words: str) -> Exception | None:
    """The exception for what a bulk request says of one of its files; None when it passes.

    What is not understood is a ValidationError: it would not change by itself.
    """
    for pattern, make in _WORDS:
        if pattern.search(words):
            return make(words) if make is not None else None
    return ValidationError(words or "the service gave no reason", status=0)


def is_final(error: Exception) -> bool:
    """Whether asking again changes nothing. A refused key (401) is not: it stops the queue instead."""
    if isinstance(error, (AuthError, RateLimitError, ServerError)):
        return False
    return isinstance(error, ApiError)


def blames_one(error: Exception) -> bool:
    """Whether a request of many may have been refused because of one of them."""
    if isinstance(error, (PaymentRequiredError, ForbiddenError, NotFoundError)):
        return False
    if isinstance(error, ConflictError) and _FROZEN.search(f"{error.code} {error.message}"):
        return False
    return is_final(error)


def is_about_taken_name(error: Exception) -> bool:
    """Whether there is an image of that name, possibly our own from an earlier attempt."""
    return isinstance(error, ConflictError) and not _FROZEN.search(f"{error.code} {error.message}")


def is_stale_url(error: Exception) -> bool:
    """Whether storage wants another upload URL: expired, or not liked."""
    return isinstance(error, StorageError) and error.status in _STALE_URL_STATUSES


def is_gone_already(reason: str) -> bool:
    """Whether archiving an image was refused because there is none to archive."""
    return (
        re.search(r"not found|already archived|does not exist|is archived", reason, re.IGNORECASE) is not None
    )


def in_words(error: Exception) -> str:
    """Why something waits or failed, for people."""
    if isinstance(error, AuthError):
        return f"the key was refused: {error}"
    if isinstance(error, RateLimitError):
        return "the hour's API requests are spent"
    if isinstance(error, RequestTimeoutError):
        return f"the server does not answer in time: {error}"
    if isinstance(error, NetworkError):
        return f"the server cannot be reached: {error}"
    if isinstance(error, ServerError):
        return f"the server has trouble: {error}"
    return str(error) or type(error).__name__


T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Answer(Generic[T, R]):
    """What a request with these items came to: a result, or an error.

    `was_sent` is False for items that were not asked about, because of the error of a group before them.
    """

    items: Sequence[T]
    result: R | None = None
    error: Exception | None = None
    was_sent: bool = True


def isolate(
    items: Sequence[T],
    send: Callable[[Sequence[T]], R],
    *,
    blames: Callable[[Exception], bool] = blames_one,
    budget: int = 64,
) -> Iterator[Answer[T, R]]:
    """Send items in one request; when that is refused because of some of them, in halves, until the guilty
    stand alone. Yields each group's answer as it comes.

    Args:
        send: one request. An error that is not final ends it all: the rest is yielded unsent.
        blames: whether an error may be due to some of the items only.
        budget: how many requests at most; what is undecided then is yielded unsent, with the last refusal.
    """
    groups = [items]
    refusal: Exception | None = None
    while groups:
        if budget <= 0:
            yield from (Answer(group, error=refusal, was_sent=False) for group in groups)
            return
        budget -= 1
        group = groups.pop()
        try:
            result = send(group)
        except Exception as error:  # noqa: BLE001  (it is yielded)
            refusal = error
            if len(group) > 1 and blames(error):
                middle = len(group) // 2
                groups += [group[middle:], group[:middle]]
                continue
            yield Answer(group, error=error)
            if not is_final(error):
                yield from (Answer(rest, error=error, was_sent=False) for rest in groups)
                return
        else:
            yield Answer(group, result=result)
