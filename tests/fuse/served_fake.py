"""A mounted `FakeVfs` as tests hold it: where it is, through which binding, and how to pull its levers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mounts import MountProcess


@dataclass(frozen=True)
class Backend:
    """A binding together with the libfuse it is made to load."""

    binding: str
    library: str
    major: int


BACKENDS = [
    Backend("fusepy", "libfuse.so.2", 2),
    Backend("mfusepy", "libfuse.so.2", 2),
    Backend("mfusepy", "libfuse3.so.3", 3),
]


@dataclass
class Drive:
    """A mounted `FakeVfs`: where it is, and how to pull its levers."""

    backend: Backend
    served: MountProcess

    @property
    def root(self) -> Path:
        return self.served.mountpoint

    def ask(self, command: str, **arguments: Any) -> Any:
        """Call `FakeVfs.command_…` in the process that serves."""
        stdin, stdout = self.served.process.stdin, self.served.process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps({"command": command, **arguments}) + "\n")
        stdin.flush()
        return json.loads(stdout.readline())

    def calls(self, operation: str) -> int:
        return int(self.ask("state")["calls"].get(operation, 0))

    @contextmanager
    def fault(self, operation: str, exception: str) -> Iterator[None]:
        """Let an operation raise, for the length of the block."""
        self.ask("fault", operation=operation, exception=exception)
        try:
            yield
        finally:
            self.ask("fault", operation=operation, exception=None)


MountIt = Callable[..., AbstractContextManager[Drive]]
