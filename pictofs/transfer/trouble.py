"""What trouble means for the queue as a whole: told to the service's `Health`, and to the log."""

from __future__ import annotations

import errno
import logging

from pictofs.api.errors import AuthError, PictographError, RateLimitError
from pictofs.transfer.pacing import Health
from pictofs.transfer.refusals import in_words, is_final

__all__ = ["JOURNAL_TROUBLE_S", "report", "report_journal"]

log = logging.getLogger(__name__)

JOURNAL_TROUBLE_S = 5.0
"""Between attempts to write a journal whose disk is full or failing."""

_RATE_LIMIT_S = 60.0  # when a 429 does not say for how long
_KEY_REFUSED_S = 300.0  # a person must act; `Uploader.kick` asks sooner


def report(health: Health, error: Exception) -> None:
    """Tell the API's health what an error says of it. A refusal is an answer."""
    if is_final(error):
        health.ok()
    elif isinstance(error, RateLimitError):
        wait_s = _RATE_LIMIT_S if error.retry_after_s is None else error.retry_after_s
        health.failed(in_words(error), wait_s=wait_s)
    elif isinstance(error, AuthError):
        health.failed(in_words(error), wait_s=_KEY_REFUSED_S, refused=True)
    elif not isinstance(error, OSError):  # that was this machine, not the service
        if not isinstance(error, PictographError):
            log.error("unexpected trouble with the service", exc_info=error)
        health.failed(in_words(error))


def report_journal(error: OSError) -> None:
    """Log that the journal cannot be written, unless it was closed under a thread that is to end."""
    if error.errno != errno.EBADF:
        log.error("the upload journal cannot be written: %s", error)
