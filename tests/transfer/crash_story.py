"""A short life of the queue that passes every crash point; run as a program, it is what the crash tests kill.

`python crash_story.py FOLDER` writes each of the user's deeds into FOLDER/deeds before and after it is done,
and each crash point it passes into FOLDER/reached, one name per line.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transfer_fakes import DATASET, FakeClock, FakeService, Room, lose_answer

from pictofs.api.errors import NetworkError
from pictofs.transfer import crashpoints
from pictofs.transfer.journal import State
from pictofs.transfer.records import ChangeKind

Tree = dict[str, bytes]

OLD = {
    "/old.jpg": b"old",
    "/gone.jpg": b"gone",
    "/in/x.jpg": b"moved",
    "/in/y.jpg": b"moved as well",
    "/in/z.jpg": b"copied to another dataset",
    "/w.jpg": b"renamed by copying",
    "/v.jpg": b"copied within the dataset",
}
"""What is on the service before the story begins; `prepare` puts it there."""


def prepare(folder: Path) -> None:
    """The service as the story finds it."""
    service = FakeService(folder / "service.sqlite")
    for path, data in OLD.items():
        folder_path, _, name = path.rpartition("/")
        service.add_image(name, data, folder=folder_path or "/")
    service.close()


DEEDS: list[tuple[str, Callable[[Tree], Tree]]] = [
    ("add a", lambda tree: {**tree, "/a.jpg": b"a, first"}),
    ("add b", lambda tree: {**tree, "/b.jpg": b"b"}),
    ("add c", lambda tree: {**tree, "/c.jpg": b"c"}),
    ("add e", lambda tree: {**tree, "/e.jpg": b"e"}),
    ("add h", lambda tree: {**tree, "/h.png": b"png of h"}),
    ("overwrite old", lambda tree: {**tree, "/old.jpg": b"old, second"}),
    ("add temporary", lambda tree: tree),
    ("rename temporary", lambda tree: {**tree, "/t.jpg": b"t"}),
    ("rewrite a", lambda tree: {**tree, "/a.jpg": b"a, second, longer"}),
    ("rename b", lambda tree: {**_without(tree, "/b.jpg"), "/b2.jpg": b"b"}),
    ("remove c", lambda tree: _without(tree, "/c.jpg")),
    ("remove e", lambda tree: _without(tree, "/e.jpg")),
    ("remove gone", lambda tree: _without(tree, "/gone.jpg")),
    ("make out", lambda tree: tree),
    ("move x", lambda tree: _renamed(tree, "/in/x.jpg", "/out/x.jpg")),
    ("move y", lambda tree: _renamed(tree, "/in/y.jpg", "/out/y.jpg")),
    ("transfer z", lambda tree: _without(tree, "/in/z.jpg")),
    ("copy v", lambda tree: {**tree, "/out/v.jpg": OLD["/v.jpg"]}),
    ("remove v", lambda tree: _without(tree, "/v.jpg")),
    ("remove in", lambda tree: tree),
    ("make empty", lambda tree: tree),
    ("rename w", lambda tree: _renamed(tree, "/w.jpg", "/w2.jpg")),
    ("add f", lambda tree: {**tree, "/f.jpg": b"f"}),
]
"""What the user does, in order, and what it makes of the tree that he sees."""


def _without(tree: Tree, path: str) -> Tree:
    return {key: value for key, value in tree.items() if key != path}


def _renamed(tree: Tree, old: str, new: str) -> Tree:
    return {new if path == old else path: data for path, data in tree.items()}


def trees_after(done: list[str]) -> list[Tree]:
    """The trees that are right after a crash: all finished deeds, and the unfinished one or not."""
    names = [name for name, _ in DEEDS]
    finished = [name for name in names if f"end {name}" in done]
    assert finished == names[: len(finished)]
    tree = dict(OLD)
    for _, change in DEEDS[: len(finished)]:
        tree = change(tree)
    begun = len(finished) < len(DEEDS) and f"begin {DEEDS[len(finished)][0]}" in done
    return [tree, DEEDS[len(finished)][1](tree)] if begun else [tree]


class Story:
    """The program."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.deeds = (folder / "deeds").open("a", buffering=1)
        self.service = FakeService(folder / "service.sqlite")
        self.room = Room(folder / "state", self.service, FakeClock())
        self.rows: dict[str, int] = {}

    def do(self, name: str, deed: Callable[[], Any]) -> None:
        self.deeds.write(f"begin {name}\n")
        deed()
        self.deeds.write(f"end {name}\n")

    def add(self, letter: str, data: bytes, *, extension: str = ".jpg", **fields: Any) -> None:
        self.rows[letter] = self.room.add(letter + extension, data, **fields).id

    def tell(self) -> None:
        room = self.room
        for letter in ("a", "b", "c", "e"):
            data = b"a, first" if letter == "a" else letter.encode()
            self.do(f"add {letter}", lambda letter=letter, data=data: self.add(letter, data))
        self.do("add h", lambda: self.add("h", b"h", extension=".heic"))
        self.do("overwrite old", lambda: self.add("old", b"old, second", replaces_image_id="1"))
        self.do("add temporary", lambda: self.add(".t.jpg", b"t", extension=".x", state=State.HELD))
        self.do("rename temporary", lambda: room.rename(self.rows[".t.jpg"], "t.jpg"))
        room.wait()
        room.dispatch()
        self.do(
            "rewrite a", lambda: room.journal.replace(self.rows["a"], room.new("a.jpg", b"a, second, longer"))
        )
        self.do("rename b", lambda: room.rename(self.rows["b"], "b2.jpg"))
        self.do("remove c", lambda: room.journal.remove(self.rows["c"]))
        # e is removed while its registration is under way, so it lands and is archived.
        self.service.after = self.remove_e
        while room.put() or room.register() or room.wait():
            if self.service.requests["register"]:
                break
        self.service.after = lambda operation, arguments: None
        self.do(
            "remove gone",
            lambda: room.archive("2", "/gone.jpg"),
        )
        room.pump()
        self.change()
        # The answer to f's registration is lost, and the service forgets the key: it has to be found out.
        self.do("add f", lambda: self.add("f", b"f"))
        self.service.after = self.lose_f
        room.pump()

    def change(self) -> None:
        """Moves, a transfer and folders: in one go, so that their order matters."""
        room = self.room
        self.do("make out", lambda: room.changes.add([room.change(ChangeKind.MKDIR, "/out")]))
        self.do("move x", lambda: room.move("3", "/in/x.jpg", "/out"))
        self.do("move y", lambda: room.move("4", "/in/y.jpg", "/out"))
        self.do("transfer z", lambda: room.transfer("5", "/in/z.jpg", "d2", "/new"))
        self.do("copy v", lambda: room.copy("/v.jpg", "/out"))
        self.do("remove v", lambda: room.archive("7", "/v.jpg"))
        self.do("remove in", lambda: room.changes.add([room.change(ChangeKind.RMDIR, "/in")]))
        self.do("make empty", lambda: room.changes.add([room.change(ChangeKind.MKDIR, "/empty")]))
        losing = [lose_answer("transfer"), lose_answer("copy")]
        self.service.after = lambda operation, arguments: [lose(operation, arguments) for lose in losing]  # type: ignore[assignment, return-value]
        room.pump()
        self.service.after = lambda operation, arguments: None
        (w,) = self.service.find(DATASET, "/", "w.jpg")
        self.do("rename w", lambda: self.add("w2", OLD["/w.jpg"], supersedes=w))
        room.pump()

    def remove_e(self, operation: str, arguments: Any) -> None:
        if operation == "register":
            self.do("remove e", lambda: self.room.journal.remove(self.rows["e"]))

    def lose_f(self, operation: str, arguments: Any) -> None:
        if operation == "register":
            self.service.after = lambda operation, arguments: None
            self.service.forget_keys()
            raise NetworkError("the connection broke")


def main() -> None:
    folder = Path(sys.argv[1])
    reached = (folder / "reached").open("a", buffering=1)
    reach = crashpoints.reach

    def noting(point: crashpoints.CrashPoint) -> None:
        reached.write(point.value + "\n")
        reach(point)

    for name, module in list(sys.modules.items()):
        if name.startswith("pictofs.transfer.") and getattr(module, "reach", None) is reach:
            module.reach = noting  # type: ignore[attr-defined]
    Story(folder).tell()


if __name__ == "__main__":
    main()
