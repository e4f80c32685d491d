"""The extended attributes of a file: what the service knows of it, what of that can be set, and its upload.

`user.pictograph.…` are the service's fields; `user.xdg.tags` is the same as `user.pictograph.tags`, under the
name that desktops use. An attribute that is shown always exists, empty when the service has nothing to say:
so setting it "anew" (XATTR_CREATE) is EEXIST, and removing it empties it.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from pictofs.api.errors import ConflictError, NotFoundError, RateLimitError
from pictofs.api.models import BatchResult, Image
from pictofs.cache.metadata import MetadataCache
from pictofs.cache.provisional import is_provisional
from pictofs.cache.rows import CurrentRows
from pictofs.fs import rules
from pictofs.fs.view import ImageNode, LocalNode, Node
from pictofs.transfer.journal import State, Upload

PREFIX = "user.pictograph."
STATUS, SPLIT, TAGS = f"{PREFIX}status", f"{PREFIX}split", f"{PREFIX}tags"
XDG_TAGS = "user.xdg.tags"
"""Where KDE's file manager and search keep tags (freedesktop.org, CommonExtendedAttributes)."""

STATUSES = ("new", "annotate", "review", "complete")
SPLITS = ("train", "val", "test")

MAX_TAGS = 100
"""The most that one request of the service's tag route may carry."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class XattrRemote(Protocol):
    """The service's routes for it; one API request each."""

    def set_status(self, dataset_id: str, image_id: str, status: str) -> BatchResult: ...
    def set_split(self, image: Image, split: str | None) -> None: ...
    def tag(self, image: Image, tags: Sequence[str], *, add: bool) -> int:
        """Add or remove tags; how many images were touched."""
        ...


class Xattrs:
    """Reading and setting attributes.

    Args:
        settle: waits until nothing that was changed here in a dataset is still to be told to the service;
            whether that is so.
    """

    def __init__(
        self,
        *,
        metadata: MetadataCache,
        remote: XattrRemote,
        policy: rules.Policy,
        settle: Callable[[str], bool],
    ) -> None:
        self._metadata = metadata
        self._rows = CurrentRows(metadata)
        self._remote = remote
        self._policy = policy
        self._settle = settle

    def names(self, node: Node) -> list[str]:
        """The attributes that a file has. Asks the service nothing."""
        return list(self._values(node))

    def get(self, path: str, node: Node, name: str) -> bytes:
        """Raises OSError(ENODATA): there is no such attribute. PictographError: the service refused."""
        value = self._values(node).get(name)
        if value is None:
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA), path)
        return value().encode("utf-8", "surrogatepass")

    def set(self, path: str, node: Node, name: str, value: bytes, flags: int) -> None:
        """Change status, split or tags on the service; returns when that is done.

        Raises:
            OSError: ENOTSUP for attributes of other families, EPERM for those that are only shown, EINVAL for
                a value that is none, EEXIST with XATTR_CREATE, EBUSY while the file is not uploaded or the
                hour's requests are used up (the kernel would make EOPNOTSUPP of an EAGAIN).
            PictographError: the service refused.
        """
        image = self._changeable(path, node, name)
        if flags & os.XATTR_CREATE:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        try:
            text = value.decode().strip()
        except UnicodeDecodeError:
            raise rules.refusal(errno.EINVAL, path, f"{name} must be UTF-8 text") from None
        try:
            if name == STATUS:
                self._set_status(path, image, text)
            elif name == SPLIT:
                self._set_split(path, image, text)
            else:
                self._set_tags(path, image, text)
        except RateLimitError as error:
            raise rules.refusal(errno.EBUSY, path, f"{name} was not set: {error}") from None
        except NotFoundError as error:
            self._metadata.refresh(image.dataset_id)
            raise rules.refusal(errno.ENOENT, path, f"{name} was not set: {error}") from None

    def remove(self, path: str, node: Node, name: str) -> None:
        """Empty split or tags. Raises as `set`; EPERM for status, which every image has."""
        if name == STATUS:
            self._changeable(path, node, name)
            raise rules.refusal(errno.EPERM, path, "every image has a status; set another one")
        self.set(path, node, name, b"", 0)

    # Values

    def _values(self, node: Node) -> dict[str, Callable[[], str]]:
        """Names and how to get each value; taking the names asks the service nothing."""
        if isinstance(node, LocalNode):
            return {f"{PREFIX}upload": lambda: _upload_state(node.upload)}
        if not isinstance(node, ImageNode):
            return {}
        image = node.image

        def current() -> Image:
            return image if is_provisional(image.id) else self._rows.of(image)

        values: dict[str, Callable[[], str]] = {
            f"{PREFIX}id": lambda: "" if is_provisional(image.id) else image.id,
            f"{PREFIX}dataset_id": lambda: image.dataset_id,
            f"{PREFIX}content_type": lambda: image.content_type or "",
            STATUS: lambda: current().status,
            SPLIT: lambda: current().split or "",
            TAGS: lambda: ",".join(current().tags),
            XDG_TAGS: lambda: ",".join(current().tags),
            f"{PREFIX}annotation_count": lambda: str(current().annotation_count),
            f"{PREFIX}upload": lambda: (
                State.QUEUED if is_provisional(image.id) else State.DONE
            ).name.lower(),
        }
        if image.width is not None and image.height is not None:
            values[f"{PREFIX}width"] = lambda: str(image.width)
            values[f"{PREFIX}height"] = lambda: str(image.height)
        return values

    # Changes

    def _changeable(self, path: str, node: Node, name: str) -> Image:
        """The image whose attribute is to be changed. Raises OSError: it cannot be."""
        self._policy.check_change(path)
        if not name.startswith(PREFIX) and name != XDG_TAGS:
            raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP), path)
        if name not in (STATUS, SPLIT, TAGS, XDG_TAGS):
            raise rules.refusal(errno.EPERM, path, f"{name} can only be read; status, split, tags can be set")
        if isinstance(node, ImageNode):
            self._policy.check_change(path, node.dataset)
            return node.image
        if isinstance(node, LocalNode):
            raise rules.refusal(
                errno.EBUSY, path, f"{name} belongs to the image on the service; set it after `pictofs wait`"
            )
        raise rules.refusal(errno.EPERM, path, f"{name} is for images, and this is a folder")

    def _set_status(self, path: str, image: Image, status: str) -> None:
        if status not in STATUSES:
            raise rules.refusal(errno.EINVAL, path, f"a status is one of {', '.join(STATUSES)}")
        result = self._remote.set_status(image.dataset_id, image.id, status)
        if result.failed:
            raise rules.refusal(errno.EIO, path, f"the status was not set: {result.failed[0].reason}")
        self._metadata.amend(image, lambda row: replace(row, status=status))

    def _set_split(self, path: str, image: Image, text: str) -> None:
        split = text or None
        if split is not None and split not in SPLITS:
            raise rules.refusal(errno.EINVAL, path, f"a split is one of {', '.join(SPLITS)}, or empty")
        # The route names the image by its path, so that has to be the service's as well.
        if not self._settle(image.dataset_id):
            raise rules.refusal(errno.EBUSY, path, "changes made here before are still on their way")
        try:
            self._remote.set_split(image, split)
        except ConflictError as error:
            raise rules.refusal(errno.EOPNOTSUPP, path, f"the split was not set: {error}") from None
        self._metadata.amend(image, lambda row: replace(row, split=split))

    def _set_tags(self, path: str, image: Image, text: str) -> None:
        wanted = tuple(dict.fromkeys(tag for part in text.split(",") if (tag := part.strip())))
        if _CONTROL.search(text):
            raise rules.refusal(errno.EINVAL, path, "a tag may not hold control characters")
        if len(wanted) > MAX_TAGS:
            raise rules.refusal(errno.EINVAL, path, f"an image takes at most {MAX_TAGS} tags at a time")
        known = self._rows.of(image).tags
        for tags, add in (
            ([tag for tag in wanted if tag not in known], True),
            ([tag for tag in known if tag not in wanted], False),
        ):
            for start in range(0, len(tags), MAX_TAGS):
                if not self._remote.tag(image, tags[start : start + MAX_TAGS], add=add):
                    self._metadata.refresh(image.dataset_id)
                    raise rules.refusal(errno.ENOENT, path, "the tags were not set: the image is gone")
        self._metadata.amend(image, lambda row: replace(row, tags=wanted))


def _upload_state(upload: Upload | None) -> str:
    """`queued`, `sending`, `held: why`, `failed: why`. None stands for a file that is still being written."""
    if upload is None:
        return "held: it is being written"
    word = upload.state.name.lower()
    return f"{word}: {upload.reason}" if upload.reason else word
