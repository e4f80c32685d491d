"""The tree of a dataset: hostile and colliding names, independence of order, changes in place."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import datetime, timezone

from pictofs.api.models import Directory, Image
from pictofs.cache.tree import Tree


def image(identity: str, filename: str, folder: str = "/", day: int = 1) -> Image:
    created = datetime(2026, 1, day, tzinfo=timezone.utc)
    return Image(identity, filename, "d1", folder, 10, created_at=created)


def names(tree: Tree, folder: str = "/") -> dict[str, str]:
    found = tree.folder(folder)
    assert found is not None
    return {name: shown.id for name, shown in found.images.items()}


def test_names_that_collide_are_told_apart_whatever_the_order() -> None:
    images = [
        image("aaaaaaaa-1", "x.jpg", day=2),
        image("bbbbbbbb-2", "x.jpg", day=1),
        image("cccccccc-3", "a/b.jpg"),
        image("dddddddd-4", "a／b.jpg"),  # noqa: RUF001
        image("eeeeeeee-5", "n" * 300 + ".jpg"),
        image("ffffffff-6", "."),
    ]
    expected = {
        "x.jpg": "bbbbbbbb-2",
        "x (aaaaaaaa).jpg": "aaaaaaaa-1",
        "a／b.jpg": "dddddddd-4",  # noqa: RUF001
        "a／b (cccccccc).jpg": "cccccccc-3",  # noqa: RUF001
        "n" * (255 - len(" (eeeeeeee).jpg")) + " (eeeeeeee).jpg": "eeeeeeee-5",
        "．": "ffffffff-6",  # noqa: RUF001
    }
    for seed in range(10):
        random.Random(seed).shuffle(images)
        assert names(Tree([], images)) == expected


def test_a_folder_keeps_the_plain_name_before_an_image() -> None:
    tree = Tree([Directory("f1", "d1", "cat.jpg", "/cat.jpg")], [image("aaaaaaaa-1", "cat.jpg")])
    assert set(tree.root.subfolders) == {"cat.jpg"}
    assert names(tree) == {"cat (aaaaaaaa).jpg": "aaaaaaaa-1"}
    later = Tree([], [image("aaaaaaaa-1", "cat.jpg")])
    later.add_folder("/cat.jpg")
    assert set(later.root.subfolders) == {"cat.jpg"}
    assert names(later) == {"cat (aaaaaaaa).jpg": "aaaaaaaa-1"}


def test_ids_that_begin_alike_use_all_of_the_id() -> None:
    tree = Tree(
        [], [image("aaaaaaaa-1", "x.jpg"), image("aaaaaaaa-2", "x.jpg"), image("aaaaaaaa-3", "x.jpg")]
    )
    assert set(names(tree)) == {"x.jpg", "x (aaaaaaaa).jpg", "x (aaaaaaaa-3).jpg"}


def test_folders_appear_with_their_parents_and_go_with_what_is_below() -> None:
    tree = Tree([Directory("f1", "d1", "b", "/a/b")], [image("i1", "x.jpg", "/a/b/c"), image("i2", "y.jpg")])
    assert set(tree.root.subfolders) == {"a"}
    assert names(tree, "/a/b/c") == {"x.jpg": "i1"}
    tree.remove_folder("/a")
    assert tree.folder("/a/b") is None
    assert tree.image("i1") is None
    assert not tree.root.subfolders
    assert [shown.id for shown in tree.images()] == ["i2"]


def test_an_image_moves_and_a_change_counts() -> None:
    tree = Tree([], [image("i1", "x.jpg")])
    before = tree.root.version
    tree.add(image("i1", "x.jpg", "/a"))
    assert names(tree) == {}
    assert names(tree, "/a") == {"x.jpg": "i1"}
    assert tree.root.version > before
    assert tree.discard("i1") is not None
    assert tree.discard("i1") is None


def test_what_the_service_counts_is_kept_up_with_every_change() -> None:
    choose = random.Random(3)
    tree = Tree([], [image("i0", "x.jpg"), image("i0", "x.jpg"), image("i1", "y.jpg", "/a")])
    listed = {"i0": 10, "i1": 10}
    assert not tree.touched()
    for number in range(2, 300):
        known = choose.choice(tree.images() or [image("i0", "x.jpg")])
        what = choose.randrange(6)
        if what == 0:
            tree.discard(known.id)
        elif what == 1:
            tree.correct(known.id, number)
        elif what == 2 and number % 7 == 0:
            tree.remove_folder(known.directory_path)
        elif what == 3:
            tree.add(replace(known, directory_path=choose.choice(["/", "/a", "/a/b", "/c"])))
            listed.setdefault(known.id, 10)
        else:
            tree.add(replace(image(f"i{number}", f"{number}.jpg"), file_size=number))
            listed[f"i{number}"] = number
        assert (
            tree.image_count == len(tree.images()) == sum(len(folder.images) for _, folder in tree.folders())
        )
        assert tree.listed_bytes == sum(listed[shown.id] for shown in tree.images())


def test_archiving_and_restoring_count_once() -> None:
    tree = Tree([], [image("i1", "x.jpg"), image("i2", "y.jpg")])
    tree.archive("i1")
    tree.archive("i1")
    tree.restore(image("i3", "z.jpg"))
    assert tree.archived == 0
    tree.restore(image("i1", "x.jpg"))
    assert tree.archived == -1
    assert names(tree) == {"y.jpg": "i2", "z.jpg": "i3", "x.jpg": "i1"}


def test_rows_of_folders_are_taken_over_and_those_that_changed_are_told() -> None:
    rows = [Directory("f1", "d1", "a", "/a"), Directory("f2", "d1", "b", "/a/b")]
    tree = Tree(rows, [])
    versions = [folder.version for _, folder in tree.folders()]
    fresh = replace(rows[1], updated_at=datetime(2026, 1, 2, tzinfo=timezone.utc))
    assert tree.take_rows([rows[0], fresh, Directory("f3", "d1", "c", "/c")]) == ["a/b"]
    below = tree.folder("/a/b")
    assert below is not None
    assert below.directory == fresh
    assert [folder.version for _, folder in tree.folders()] == [versions[0], versions[1] + 1, versions[2] + 1]
    assert tree.folder("/c") is None
