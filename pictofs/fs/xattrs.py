"""The extended attributes `user.pictograph.…` of a file: what the service knows of it, and its upload."""

from __future__ import annotations

from collections.abc import Callable

from pictofs.api.models import Image
from pictofs.transfer.journal import State, Upload

PREFIX = "user.pictograph."

Values = dict[str, Callable[[], str]]
"""Names and how to get each value; listing the names asks the service nothing."""


def of_image(image: Image, current: Callable[[str], Image]) -> Values:
    """The attributes of an uploaded image. What changes without its bytes is taken from `current`, which
    is images.get behind its cache and may raise PictographError."""
    values: Values = {
        "id": lambda: image.id,
        "dataset_id": lambda: image.dataset_id,
        "content_type": lambda: image.content_type or "",
        "status": lambda: current(image.id).status,
        "split": lambda: current(image.id).split or "",
        "tags": lambda: ",".join(current(image.id).tags),
        "annotation_count": lambda: str(current(image.id).annotation_count),
        "upload": lambda: State.DONE.name.lower(),
    }
    if image.width is not None and image.height is not None:
        values["width"] = lambda: str(image.width)
        values["height"] = lambda: str(image.height)
    return {PREFIX + name: value for name, value in values.items()}


def of_upload(upload: Upload | None) -> Values:
    """The one attribute of a file that is not uploaded yet: `queued`, `sending`, `held: why`, `failed: why`.

    None stands for a file that is still being written.
    """

    def state() -> str:
        if upload is None:
            return "held: it is being written"
        word = upload.state.name.lower()
        return f"{word}: {upload.reason}" if upload.reason else word

    return {f"{PREFIX}upload": state}
