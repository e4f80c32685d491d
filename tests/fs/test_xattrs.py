"""Extended attributes: what is shown, what may be set, how much of that reaches the service."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import replace

import pytest

from pictofs.api.errors import ConflictError, RateLimitError
from pictofs.api.models import BatchFailure, BatchResult, Dataset, Directory, Image
from pictofs.cache.metadata import MetadataCache
from pictofs.fs.handles import Key
from pictofs.fs.rules import Policy
from pictofs.fs.view import FolderNode, ImageNode, LocalNode, Node
from pictofs.fs.xattrs import Xattrs

DATASET = Dataset("d1", "photos")
PATH = "/photos/a.jpg"


class FakeService:
    """One image; its changes, and a list of what was asked for."""

    def __init__(self) -> None:
        self.row = Image("i1", "a.jpg", "d1", "/", 5, 6, 4, "image/jpeg", tags=("b", "a"))
        self.calls: list[tuple[object, ...]] = []
        self.refused = False

    def datasets(self) -> Sequence[Dataset]:
        return [DATASET]

    def contents(self, dataset_id: str) -> tuple[Dataset, Sequence[Image]]:
        return DATASET, [self.row]

    def directories(self, dataset_id: str) -> Sequence[Directory]:
        return []

    def image(self, image_id: str) -> Image:
        return self.row

    def set_status(self, dataset_id: str, image_id: str, status: str) -> BatchResult:
        self.calls.append(("status", dataset_id, image_id, status))
        if self.refused:
            return BatchResult(False, 0, (BatchFailure(image_id, "no"),))
        self.row = replace(self.row, status=status)
        return BatchResult(True, 1)

    def set_split(self, image: Image, split: str | None) -> None:
        self.calls.append(("split", image.id, split))
        if self.refused:
            raise ConflictError("this name is not for routes", status=0)
        self.row = replace(self.row, split=split)

    def tag(self, image: Image, tags: Sequence[str], *, add: bool) -> int:
        self.calls.append(("tag" if add else "untag", *tags))
        return 0 if self.refused else 1


class House:
    def __init__(self, policy: Policy | None = None) -> None:
        self.service = FakeService()
        self.settled = True
        self.metadata = MetadataCache(self.service, ttl_s=60)
        self.xattrs = Xattrs(
            metadata=self.metadata,
            remote=self.service,
            policy=policy or Policy(),
            settle=lambda dataset_id: self.settled,
        )

    @property
    def node(self) -> Node:
        with self.metadata.reading("d1") as tree:
            image = tree.image("i1")
        assert image is not None
        return ImageNode(DATASET, "/", "a.jpg", image)

    def get(self, name: str) -> bytes:
        return self.xattrs.get(PATH, self.node, name)

    def set(self, name: str, value: bytes, flags: int = 0, node: Node | None = None) -> None:
        self.xattrs.set(PATH, node or self.node, name, value, flags)


@pytest.fixture
def house() -> House:
    return House()


def refused(number: int, call: object, *args: object) -> None:
    with pytest.raises(OSError) as raised:  # noqa: PT011 - the errno is looked at
        call(*args)  # type: ignore[operator]
    assert raised.value.errno == number


def test_status_split_and_tags_are_set_and_seen_at_once(house: House) -> None:
    house.set("user.pictograph.status", b"review")
    house.set("user.pictograph.split", b"val\n")
    house.set("user.pictograph.tags", b" a, c ,,c")
    assert house.service.calls == [
        ("status", "d1", "i1", "review"),
        ("split", "i1", "val"),
        ("tag", "c"),
        ("untag", "b"),
    ]
    shown = [house.get(f"user.pictograph.{name}") for name in ("status", "split", "tags")]
    assert shown == [b"review", b"val", b"a,c"]
    assert house.metadata.images.get("i1").status == "review"


def test_desktop_tags_are_the_tags(house: House) -> None:
    assert house.get("user.xdg.tags") == b"b,a"
    house.set("user.xdg.tags", "grün".encode())
    assert house.get("user.pictograph.tags") == house.get("user.xdg.tags") == "grün".encode()


def test_tags_that_are_there_already_cost_nothing(house: House) -> None:
    house.set("user.pictograph.tags", b"a,b")
    assert house.service.calls == []


def test_removing_empties_split_and_tags_but_not_the_status(house: House) -> None:
    house.set("user.pictograph.split", b"test")
    house.xattrs.remove(PATH, house.node, "user.pictograph.split")
    house.xattrs.remove(PATH, house.node, "user.xdg.tags")
    assert (house.get("user.pictograph.split"), house.get("user.pictograph.tags")) == (b"", b"")
    assert house.service.calls[-2:] == [("split", "i1", None), ("untag", "b", "a")]
    refused(errno.EPERM, house.xattrs.remove, PATH, house.node, "user.pictograph.status")
    refused(errno.ENOTSUP, house.xattrs.remove, PATH, house.node, "user.comment")


@pytest.mark.parametrize(
    ("name", "value", "number", "why"),
    [
        ("user.pictograph.status", b"done", errno.EINVAL, "new, annotate, review, complete"),
        ("user.pictograph.status", b"", errno.EINVAL, "new, annotate, review, complete"),
        ("user.pictograph.split", b"training", errno.EINVAL, "train, val, test"),
        ("user.pictograph.tags", b"a\x00b", errno.EINVAL, "control characters"),
        ("user.pictograph.tags", b"\xff", errno.EINVAL, "UTF-8"),
        ("user.pictograph.tags", b",".join(b"t%d" % n for n in range(101)), errno.EINVAL, "at most 100"),
        ("user.pictograph.id", b"i2", errno.EPERM, "can only be read"),
        ("user.pictograph.upload", b"done", errno.EPERM, "can only be read"),
        ("user.pictograph.nonsense", b"x", errno.EPERM, "can only be read"),
        ("user.comment", b"x", errno.ENOTSUP, None),
        ("security.capability", b"x", errno.ENOTSUP, None),
        ("system.posix_acl_access", b"x", errno.ENOTSUP, None),
    ],
)
def test_refusals_say_why_and_send_nothing(
    house: House, name: str, value: bytes, number: int, why: str | None
) -> None:
    with pytest.raises(OSError, match=os.strerror(number) if why is None else why) as raised:
        house.set(name, value)
    assert (raised.value.errno, raised.value.filename) == (number, PATH)
    assert house.service.calls == []


def test_create_and_replace_flags(house: House) -> None:
    refused(errno.EEXIST, house.set, "user.pictograph.split", b"val", os.XATTR_CREATE)
    house.set("user.pictograph.split", b"val", os.XATTR_REPLACE)
    assert house.service.calls == [("split", "i1", "val")]


def test_what_is_not_an_image_has_none_of_them(house: House) -> None:
    pending = LocalNode(DATASET, Key("d1", "/", "a.jpg"), None, None)
    folder = FolderNode(DATASET, "/")
    assert house.xattrs.names(pending) == ["user.pictograph.upload"]
    assert house.xattrs.names(folder) == []
    refused(errno.EBUSY, house.set, "user.xdg.tags", b"a", 0, pending)
    refused(errno.EPERM, house.set, "user.pictograph.id", b"a", 0, pending)
    refused(errno.EPERM, house.set, "user.xdg.tags", b"a", 0, folder)
    refused(errno.ENODATA, house.xattrs.get, PATH, pending, "user.xdg.tags")
    refused(errno.ENODATA, house.xattrs.get, PATH, house.node, "user.comment")


def test_what_the_service_refuses_is_not_shown(house: House) -> None:
    house.service.refused = True
    refused(errno.EIO, house.set, "user.pictograph.status", b"review")
    refused(errno.EOPNOTSUPP, house.set, "user.pictograph.split", b"val")
    assert (house.get("user.pictograph.status"), house.get("user.pictograph.split")) == (b"new", b"")
    refused(errno.ENOENT, house.set, "user.pictograph.tags", b"z")
    assert house.get("user.pictograph.tags") == b"b,a"


def test_used_up_requests_are_busy_since_the_kernel_swallows_eagain(house: House) -> None:
    def used_up(*_: object) -> BatchResult:
        raise RateLimitError("used up", status=429)

    house.service.set_status = used_up  # type: ignore[method-assign]
    refused(errno.EBUSY, house.set, "user.pictograph.status", b"review")


def test_a_split_waits_for_changes_under_way(house: House) -> None:
    house.settled = False  # the route names the image by its path
    refused(errno.EBUSY, house.set, "user.pictograph.split", b"val")
    assert house.service.calls == []


def test_a_read_only_mount_sets_nothing() -> None:
    house = House(Policy(read_only=True))
    refused(errno.EROFS, house.set, "user.pictograph.status", b"review")
