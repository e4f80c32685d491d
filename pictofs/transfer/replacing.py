"""Overwriting: the image that an upload replaces is archived once the new bytes are in storage.

Lock order: none of its own; called from the registrar's thread, `is_needed` from others as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from pictofs.api.errors import NotFoundError, PictographError
from pictofs.api.models import BatchResult, Image
from pictofs.transfer.claims import Claims
from pictofs.transfer.crashpoints import CrashPoint, reach
from pictofs.transfer.pacing import Health
from pictofs.transfer.records import Member, Refused, Upload
from pictofs.transfer.refusals import blames_one, in_words, is_final, is_gone_already, isolate

__all__ = ["ReplaceRemote", "Replacer"]


class ReplaceRemote(Protocol):
    """Raises api.errors."""

    def archive(self, dataset_id: str, image_ids: Sequence[str]) -> BatchResult:
        """Archive images: one API request for up to 10,000."""

    def find(self, dataset_id: str, folder: str, filename: str | None) -> Sequence[Image]:
        """The live images of a folder: of that name, or with None all of them."""


class Replacer:
    """Archives what uploads replace. That it may have is in the journal before; that it has is only in
    memory, since archiving twice is harmless."""

    def __init__(
        self,
        claims: Claims,
        remote: ReplaceRemote,
        *,
        api: Health,
        errno_of: Callable[[BaseException], int],
    ) -> None:
        self._claims = claims
        self._remote = remote
        self._api = api
        self._errno_of = errno_of
        self._archived: set[int] = set()

    def is_needed(self, row: Upload) -> bool:
        """Whether an image has still to make room for a row."""
        return row.replaces_image_id is not None and row.id not in self._archived

    def forget(self, upload_ids: Iterable[int]) -> None:
        """These are settled."""
        self._archived.difference_update(upload_ids)

    def archive(self, dataset_id: str, members: Sequence[Member]) -> dict[int, Refused]:
        """Archive the images that uploads of one dataset replace, where that is needed.

        Returns the uploads whose image may not be archived, and why.

        Raises:
            PictographError: not all could be asked about; to be repeated.
            OSError: the journal cannot be written; nothing was asked.
        """
        members = [member for member in members if self.is_needed(member.upload)]
        if not members:
            return {}
        self._claims.mark_old_archived([member.upload.id for member in members])
        refused: dict[int, Refused] = {}

        def send(group: Sequence[Member]) -> BatchResult:
            return self._remote.archive(dataset_id, [_old(member) for member in group])

        def blames(error: Exception) -> bool:
            return blames_one(error) or isinstance(error, NotFoundError)

        for answer in isolate(members, send, blames=blames):
            if answer.result is not None:
                self._api.ok()
                reasons = {failure.id: failure.reason for failure in answer.result.failed}
                for member in answer.items:
                    reason = reasons.get(_old(member))
                    if reason is not None and not is_gone_already(reason) and self._is_listed(member.upload):
                        words = f"the image it replaces cannot be archived: {reason}"
                        refused[member.upload.id] = Refused(words, self._errno_of(PictographError(words)))
            elif answer.error is not None and not (answer.was_sent and is_final(answer.error)):
                raise answer.error
            elif answer.error is not None and not isinstance(answer.error, NotFoundError):
                reason = in_words(answer.error)
                number = self._errno_of(answer.error)
                refused.update((m.upload.id, Refused(reason, number)) for m in answer.items)
        self._archived.update(m.upload.id for m in members if m.upload.id not in refused)
        reach(CrashPoint.OLD_ARCHIVED)
        return refused

    def _is_listed(self, row: Upload) -> bool:
        """Whether the image that a row replaces is still there."""
        images = self._remote.find(row.dataset_id, row.folder, row.filename)
        return any(image.id == row.replaces_image_id for image in images)


def _old(member: Member) -> str:
    assert member.upload.replaces_image_id is not None  # see is_needed
    return member.upload.replaces_image_id
