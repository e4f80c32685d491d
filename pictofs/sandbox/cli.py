"""The command line of the sandbox: options in, exit status out.

Mounted as `pictofs sandbox` and as `python -m pictofs.sandbox`. Starlette and uvicorn are imported only when
the server starts, so that their absence is one plain sentence and not a traceback.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from pictofs.sandbox.options import DEFAULT_RATE_LIMIT, DEFAULT_URL_TTL_S, ROLES, SandboxOptions

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the sandbox's options on `parser`."""
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s, this machine only)")
    add("--port", type=_port, default=8700, help="port of the API; 0 takes a free one (default: %(default)s)")
    add("--storage-port", type=_port, default=8701, help="port of the signed URLs (default: %(default)s)")
    add("--storage-url", type=_url, help="what signed URLs begin with, when a proxy stands before that port")
    add(
        "--api-key", type=_api_key, default="pk_live_sandbox", help="the key to accept (default: %(default)s)"
    )
    add("--data", type=Path, metavar="DIR", help="keep everything in DIR (default: gone when it stops)")
    content = parser.add_mutually_exclusive_group()
    content.add_argument(
        "--seed",
        dest="seed",
        action="store_const",
        const=True,
        default=None,
        help="add the example datasets that are missing (the default for a new store)",
    )
    content.add_argument(
        "--empty", dest="seed", action="store_const", const=False, help="add no example datasets"
    )
    add("--role", choices=ROLES, default="owner", help="what the key may do (default: %(default)s)")
    add(
        "--url-ttl-s",
        type=_positive,
        default=DEFAULT_URL_TTL_S,
        metavar="S",
        help="seconds that a signed URL lives (default: %(default)s)",
    )
    add("--latency-ms", type=_amount, default=0.0, metavar="N", help="wait N ms before every answer")
    add("--mbps", type=_amount, default=0.0, metavar="N", help="carry at most N Mbit/s each way; 0: no bound")
    add(
        "--rate-limit",
        type=_count,
        default=DEFAULT_RATE_LIMIT,
        metavar="N",
        help="API requests per hour (default: %(default)s)",
    )
    add("--fail-rate", type=_rate, default=0.0, metavar="P", help="answer this share of requests with 503")
    add("--reset-rate", type=_rate, default=0.0, metavar="P", help="reset this share of connections")
    add("--truncate-rate", type=_rate, default=0.0, metavar="P", help="cut this share of answers short")


def run(namespace: argparse.Namespace) -> int:
    """Serve until a signal comes.

    Returns the exit status: 0 after a clean stop, 1 when it cannot run here, 2 for an option that makes no
    sense; the reason is one sentence on stderr.
    """
    options = SandboxOptions(
        **{name: getattr(namespace, name) for name in SandboxOptions.__dataclass_fields__}
    )
    if options.port and options.port == options.storage_port:
        return _say(f"--port and --storage-port are both {options.port}: they must differ.", EXIT_USAGE)
    if options.data is not None and options.data.exists() and not options.data.is_dir():
        return _say(f"--data {options.data} is not a folder.", EXIT_USAGE)
    try:
        from pictofs.sandbox import server
    except ModuleNotFoundError as missing:
        return _say(
            f"the sandbox needs {missing.name}, which is not installed: pip install 'pictofs[sandbox]'",
            EXIT_FAILED,
        )
    try:
        server.serve(options)
    except server.CannotServeError as problem:
        return _say(str(problem), EXIT_FAILED)
    return EXIT_OK


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m pictofs.sandbox`."""
    parser = argparse.ArgumentParser(
        prog="pictofs sandbox",
        description="A Pictograph-compatible server on this machine, for trying things.",
    )
    add_arguments(parser)
    return run(parser.parse_args(arguments))


def _say(sentence: str, status: int) -> int:
    print(f"pictofs sandbox: {sentence}", file=sys.stderr)
    return status


def _number(text: str, accept: Callable[[float], bool], wanted: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not accept(value):  # a NaN is accepted by no comparison
        raise argparse.ArgumentTypeError(f"must be {wanted}, not '{text}'")
    return value


def _port(text: str) -> int:
    return int(_number(text, lambda n: 0 <= n <= 65535 and n == int(n), "a port, 0 to 65535"))


def _count(text: str) -> int:
    return int(_number(text, lambda n: 1 <= n < 1e12 and n == int(n), "a whole number from 1 up"))


def _amount(text: str) -> float:
    return _number(text, lambda n: 0 <= n < 1e9, "a number from 0 up")


def _positive(text: str) -> float:
    return _number(text, lambda n: 0 < n < 1e9, "a number above 0")


def _rate(text: str) -> float:
    return _number(text, lambda n: 0 <= n <= 1, "a probability from 0 to 1")


def _url(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f"must begin with http:// or https://, not '{text}'")
    return text.rstrip("/")


def _api_key(text: str) -> str:
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise argparse.ArgumentTypeError("must be printable ASCII without spaces")
    return text
