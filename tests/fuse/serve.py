"""The process that serves a `FakeVfs` for the tests: mounts it, and takes commands as JSON lines.

Says {"ready": true} when the drive answers. Then each line on standard input, {"command": …, …}, calls
`FakeVfs.command_…` and is answered by one line on standard output. It ends when the mount does.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import threading

from fake_vfs import FakeVfs

from pictofs.fs.fuse import MountOptions, mount


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("mountpoint")
    parser.add_argument("--binding", default="auto")
    parser.add_argument("--options", default="{}", help="fields of MountOptions, as JSON")
    parser.add_argument("--fail", choices=["start", "ready"])
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    vfs = FakeVfs(fail_start=arguments.fail == "start")

    def say(answer: object) -> None:
        print(json.dumps(answer), flush=True)

    def obey() -> None:
        for line in sys.stdin:
            command = json.loads(line)
            say(getattr(vfs, "command_" + command.pop("command"))(**command))

    def ready() -> None:
        if arguments.fail == "ready":
            raise RuntimeError("nobody wants it")
        say({"ready": True})
        threading.Thread(target=obey, daemon=True).start()

    mount(
        vfs,
        arguments.mountpoint,
        MountOptions(**json.loads(arguments.options)),
        binding=arguments.binding,
        on_ready=ready,
        kernel=vfs.kernel,
    )


if __name__ == "__main__":
    main()
