"""A sandbox server in a process of its own: started on free ports, asked, troubled, killed, restarted.

with SandboxProcess() as sandbox:                       # empty; SandboxProcess(seed=True) has the examples
    client = Client(sandbox.api_key, base_url=sandbox.base_url)
    sandbox.populate(dataset="big", folders=20, images=10_000)
    sandbox.faults(next=[{"match": "POST /images/bulk-register", "action": "reset_after"}])
    sandbox.kill(); sandbox.restart()                   # same ports, same data
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

START_TIMEOUT_S = 60.0
"""Two cores under a full test run; a healthy start takes about one second."""
STOP_TIMEOUT_S = 15.0
CONTROL_TIMEOUT_S = 60.0


class SandboxProcess:
    """One sandbox. `arguments` are further options of `pictofs sandbox`, e.g. "--latency-ms", "50".

    Raises RuntimeError, with the server's own words, when it does not come up.
    """

    def __init__(
        self,
        *arguments: str,
        seed: bool = False,
        api_key: str = "pk_live_sandbox",
        data: Path | None = None,
        port: int = 0,
        storage_port: int = 0,
    ) -> None:
        self.api_key = api_key
        self.base_url = ""
        self.storage_url = ""
        self._arguments = [*arguments, "--api-key", api_key, "--seed" if seed else "--empty"]
        self._scratch = None if data else Path(tempfile.mkdtemp(prefix="pictofs-sandbox-test-"))
        self.data = data or self._scratch
        self._ports = (port, storage_port)
        self._process: subprocess.Popen[str] | None = None
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    # ── life ──

    def start(self) -> None:
        """Start it and return when it answers. The ports of an earlier start are taken again."""
        assert self._process is None, "already running"
        command = [sys.executable, "-m", "pictofs.sandbox", "--data", str(self.data), *self._arguments]
        command += ["--port", str(self._ports[0]), "--storage-port", str(self._ports[1])]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self._process = process
        said: dict[str, str] = {}
        watchdog = threading.Timer(START_TIMEOUT_S, process.kill)
        watchdog.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:  # ends at EOF too, when the server dies instead
                name, _, value = line.strip().removeprefix("export ").removeprefix("# ").partition("=")
                said[name] = value
                if name.startswith("ready"):
                    break
        finally:
            watchdog.cancel()
        if "storage port" not in said:
            assert process.stderr is not None
            words = process.stderr.read()
            self._reap()
            raise RuntimeError(f"the sandbox did not start (exit {process.returncode}): {words.strip()}")
        # What it prints from here on is drained, so that a full pipe never blocks it.
        self._drains = [
            threading.Thread(target=_drain, args=(pipe, sink), daemon=True)
            for pipe, sink in ((process.stdout, None), (process.stderr, sys.stderr))
        ]
        for drain in self._drains:
            drain.start()
        self.base_url = said["PICTOGRAPH_BASE_URL"]
        self.storage_url = said["storage"]
        self._ports = (int(self.base_url.rpartition(":")[2]), int(said["storage port"]))

    def stop(self) -> int:
        """SIGTERM, as systemd would; returns the exit status."""
        assert self._process is not None, "not running"
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(STOP_TIMEOUT_S)
        finally:
            self._reap()

    def kill(self) -> None:
        """SIGKILL: what it had answered is on disk, nothing is tidied up."""
        assert self._process is not None, "not running"
        self._process.kill()
        self._reap()

    def restart(self) -> None:
        """Stop it if it runs, and start it on the same ports with the same data."""
        if self._process is not None:
            self.stop()
        self.start()

    def close(self) -> None:
        """End it and remove its data, unless the data folder was given."""
        if self._process is not None:
            self.kill()
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def storage_port(self) -> int:
        return self._ports[1]

    @property
    def pid(self) -> int:
        assert self._process is not None, "not running"
        return self._process.pid

    def _reap(self) -> None:
        process, self._process = self._process, None
        assert process is not None
        if process.poll() is None:
            process.kill()
        process.wait()
        for drain in getattr(self, "_drains", ()):
            drain.join(STOP_TIMEOUT_S)
        self._drains = []
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()

    def __enter__(self) -> SandboxProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ── control, see pictofs/sandbox/control.py ──

    def stats(self) -> dict[str, Any]:
        """Since the last reset: {"api": {"total", "by_route", …}, "storage": {"puts", …}, "recent": […]}."""
        return self._control("GET", "/sandbox/stats")

    def reset_stats(self) -> None:
        self._control("POST", "/sandbox/stats/reset", {})

    def requests(self) -> int:
        """API requests since the last reset."""
        total: int = self.stats()["api"]["total"]
        return total

    def transfers(self) -> int:
        """Requests to the storage since the last reset."""
        total: int = self.stats()["storage"]["total"]
        return total

    def faults(self, **changes: Any) -> dict[str, Any]:
        """Change the trouble; what is not named stays. Returns all that is in force."""
        return self._control("POST", "/sandbox/faults", changes)

    def clear_faults(self) -> dict[str, Any]:
        """Back to the options it was started with; stalled requests go on."""
        return self._control("POST", "/sandbox/faults", {"clear": True})

    def populate(self, **what: Any) -> dict[str, Any]:
        """Fill a dataset (dataset=, folders=, images=, raw_images=, …) without uploading."""
        return self._control("POST", "/sandbox/populate", what)

    def _control(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        request = urllib.request.Request(
            self.base_url + path,
            data=None if body is None else json.dumps(body).encode(),
            method=method,
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=CONTROL_TIMEOUT_S) as answer:
                parsed: dict[str, Any] = json.loads(answer.read())
                return parsed
        except urllib.error.HTTPError as refusal:
            with refusal:
                raise ValueError(refusal.read().decode(errors="replace")) from None


def _drain(pipe: Any, sink: Any) -> None:
    for line in pipe:
        if sink is not None:
            sink.write(line)
