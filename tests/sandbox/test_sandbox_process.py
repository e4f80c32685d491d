"""The program: options, output, signals, what survives a restart, and the example datasets."""

from __future__ import annotations

import hashlib
import io
import socket
import subprocess
import sys
from pathlib import Path

import pictograph
import pytest
from PIL import Image, ImageOps
from sandbox_http import Http
from sandbox_process import SandboxProcess


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pictofs.sandbox", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--port", "x"], "argument --port: must be a port, 0 to 65535, not 'x'"),
        (["--port", "70000"], "must be a port"),
        (["--storage-port", "1.5"], "must be a port"),
        (["--fail-rate", "2"], "argument --fail-rate: must be a probability from 0 to 1, not '2'"),
        (["--reset-rate", "nan"], "must be a probability"),
        (["--truncate-rate", "-1"], "must be a probability"),
        (["--latency-ms", "soon"], "must be a number from 0 up"),
        (["--mbps", "-3"], "must be a number from 0 up"),
        (["--rate-limit", "0"], "must be a whole number from 1 up"),
        (["--url-ttl-s", "0"], "must be a number above 0"),
        (["--storage-url", "here"], "must begin with http:// or https://"),
        (["--api-key", "a b"], "printable ASCII"),
        (["--role", "king"], "invalid choice"),
        (["--seed", "--empty"], "not allowed with"),
        (["--port", "5000", "--storage-port", "5000"], "must differ"),
        (["--data", __file__], "is not a folder"),
    ],
)
def test_options_that_make_no_sense(arguments: list[str], words: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        for option in ("--port", "--storage-port"):
            done = run(option, str(port), *(["--port", "0"] if option != "--port" else []))
            assert done.returncode == 1
            assert (
                done.stderr
                == f"pictofs sandbox: port {port} on 127.0.0.1 is taken; choose another with {option}.\n"
            )


def test_a_data_folder_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "sandbox.db").write_bytes(b"this is no database" * 100)
    done = run("--data", str(tmp_path), "--port", "0", "--storage-port", "0")
    assert (done.returncode, "cannot be used" in done.stderr) == (1, True)
    assert "Traceback" not in done.stderr


def test_the_command_line_needs_no_server_library() -> None:
    code = (
        "import sys; sys.modules['starlette'] = None; sys.modules['uvicorn'] = None\n"
        "from pictofs.sandbox.cli import main\n"
        "sys.exit(main(['--port', '0', '--storage-port', '0']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "pip install 'pictofs[sandbox]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_everything_survives_a_restart() -> None:
    with SandboxProcess() as sandbox:
        sandbox.populate(dataset="d", images=3)
        http = Http(sandbox)
        with http.session:
            image = http.upload("d", "a.jpg", b"12345", "/in")
            http.put("d", "staged.jpg", b"123")
            items = http("GET", "/datasets/d/download").json()["data"]["items"]
            before = (
                http.listing("d"),
                http("GET", "/directories/d").json(),
                http("GET", "/datasets/d").json(),
            )
            address = sandbox.base_url, sandbox.storage_url
            sandbox.kill()
            sandbox.restart()
            assert (sandbox.base_url, sandbox.storage_url) == address
            assert (
                http.listing("d"),
                http("GET", "/directories/d").json(),
                http("GET", "/datasets/d").json(),
            ) == before
            assert http.original(image["id"]) == b"12345"
            assert http.storage("GET", items[0]["image_url"]).content == b"12345"
            assert http.register("d", "staged.jpg", 3).status_code == 200
            assert sandbox.stop() == 0
            sandbox.restart()
            assert len(http.listing("d")) == 5
            objects = sorted(path.name for path in (sandbox.data / "objects").iterdir())
            (sandbox.data / "objects" / "left-by-a-crash").write_bytes(b"x")
            sandbox.restart()
            assert sorted(path.name for path in (sandbox.data / "objects").iterdir()) == objects


def test_permanent_removal_frees_the_bytes() -> None:
    with SandboxProcess() as sandbox:
        sandbox.populate(dataset="d", images=40, distinct=True)
        http = Http(sandbox)
        with http.session:
            ids = [row["id"] for row in http.listing("d")]
            body = {"dataset_name": "d", "image_ids": ids[:10], "permanent": True}
            assert http("POST", "/batch/images/delete", json=body).status_code == 200
            assert len(list((sandbox.data / "objects").iterdir())) == 30
            assert http("DELETE", "/datasets/d").json()["data"]["images_deleted"] == 30
            assert list((sandbox.data / "objects").iterdir()) == []


def test_a_stalled_request_does_not_hold_up_the_end() -> None:
    with (
        SandboxProcess("--latency-ms", "600000") as sandbox,
        socket.create_connection(("127.0.0.1", int(sandbox.base_url.rpartition(":")[2]))) as connection,
    ):
        connection.sendall(b"GET /api/v1/developer/datasets/ HTTP/1.1\r\nHost: x\r\n\r\n")
        while sandbox.requests() == 0:
            pass  # until it is under way; /sandbox/* knows no latency
        assert sandbox.stop() == 0


def test_the_storage_url_can_be_a_proxys() -> None:
    with SandboxProcess("--storage-url", "https://cdn.example/base/") as sandbox:
        sandbox.populate(dataset="d", images=1)
        http = Http(sandbox)
        with http.session:
            item = http("GET", "/datasets/d/download").json()["data"]["items"][0]
            prefix, _, rest = item["image_url"].partition("/base/")
            assert prefix == "https://cdn.example"
            own = f"http://127.0.0.1:{sandbox.storage_port}/{rest}"
            assert len(http.storage("GET", own).content) == item["file_size"]


def test_the_example_datasets() -> None:
    digests = []
    for _ in range(2):
        with (
            SandboxProcess(seed=True) as sandbox,
            pictograph.Client(api_key=sandbox.api_key, base_url=sandbox.base_url) as sdk,
        ):
            datasets = {d.name: d for d in sdk.datasets.list()}
            assert set(datasets) == {"road-signs", "fruit", "street-scenes"}
            rows = [i for name in datasets for i in sdk.images.list(name, limit=1000, include_archived=True)]
            http = Http(sandbox)
            with http.session:
                contents = {row.id: http.original(row.id) for row in rows}
            digests.append({identity: hashlib.sha256(data).digest() for identity, data in contents.items()})
    assert digests[0] == digests[1]
    assert 55 <= len(rows) <= 75
    assert sum(row.is_archived for row in rows) == 1
    assert {Path(row.filename).suffix for row in rows} >= {
        ".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"
    }  # fmt: skip
    assert {row.status for row in rows} == {"new", "annotate", "review", "complete"}
    assert {row.split for row in rows} == {"train", "val", "test", None}
    assert any(row.tags for row in rows)
    assert any(row.annotation_count for row in rows)
    assert any((row.directory_path or "").count("/") == 2 for row in rows)
    arrows = set()
    for row in rows:
        with Image.open(io.BytesIO(contents[row.id])) as stored:
            upright = ImageOps.exif_transpose(stored)
            assert upright.size == (row.width, row.height), row.filename
            assert row.file_size == len(contents[row.id])
            if row.directory_path == "/orientation":
                arrows.add(stored.getexif()[0x0112])
                assert upright.convert("RGB").getpixel((240, 60))[2] > 150, "the tip of the arrow"
                assert upright.convert("RGB").getpixel((160, 230))[0] > 200, "beside its shaft"
    assert arrows == set(range(1, 9))
