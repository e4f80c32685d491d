"""The command line: `pictofs …`. Chooses the command; every failure becomes one sentence and a status."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence

from pictofs.cli.exitcodes import Exit
from pictofs.cli.terminal import UsageError, say


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status (`Exit`). `argv` defaults to the process's arguments.

    Raises:
        SystemExit: after --help or --version.
    """
    from pictofs.cli import parser
    from pictofs.mount.problems import sentence
    from pictofs.settings import SettingsError

    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):  # a test's stream may not have it
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    debug = bool(os.environ.get("PICTOFS_DEBUG"))
    try:
        arguments = parser.parse(argv)
        debug = debug or getattr(arguments, "debug", False)
        return int(_command(arguments)(arguments))
    except KeyboardInterrupt:
        say("interrupted.")
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone. What is buffered must not fail once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.FAILED
    except (UsageError, SettingsError) as error:
        _complain(str(error), debug)
        return Exit.USAGE
    except Exception as error:  # noqa: BLE001  a person reads a sentence, not a traceback
        _complain(sentence(error), debug)
        return Exit.FAILED


def _complain(text: str, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    say(text)


def _command(arguments: argparse.Namespace) -> Callable[[argparse.Namespace], int]:
    """What carries the command out. Imported only now: `--help` needs none of it."""
    if arguments.command == "sandbox":
        from pictofs.sandbox import cli as sandbox

        return sandbox.run
    if arguments.command == "uploads":
        from pictofs.cli import uploads

        return uploads.run
    if arguments.command in ("archive", "restore"):
        from pictofs.cli import archive

        return archive.run
    if arguments.command == "plan":
        from pictofs.cli import plan

        return plan.run
    if arguments.command == "cache":
        from pictofs.cli import cache

        return cache.run
    if arguments.command in ("status", "wait"):
        from pictofs.cli import watching

        return watching.status if arguments.command == "status" else watching.wait
    from pictofs.cli import commands

    return {
        "mount": commands.mount,
        "umount": commands.umount,
        "config": commands.config,
        "refresh": commands.refresh,
        "rm": commands.remove,
    }[arguments.command]
