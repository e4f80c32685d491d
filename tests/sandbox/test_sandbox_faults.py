"""The trouble that tests ask for, the counters they read, and the shortcuts that fill a dataset."""

from __future__ import annotations

import base64
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pictograph
import pytest
import requests
from sandbox_http import Http
from sandbox_process import SandboxProcess

NEVER_S = 0.3
"""How long a request that must hang is watched."""


def one_shot(match: str, action: str, **more: Any) -> dict[str, Any]:
    return {"match": match, "action": action, **more}


def test_reset_before_and_after_the_effect(http: Http, sandbox: SandboxProcess) -> None:
    sandbox.faults(
        next=[one_shot("POST /datasets/", "reset_before"), one_shot("POST /datasets/", "reset_after")]
    )
    for name in ("never made", "made unseen"):
        with pytest.raises(requests.ConnectionError):
            http("POST", "/datasets/", json={"name": name})
    assert http("GET", "/datasets/never made").status_code == 404
    assert http("GET", "/datasets/made unseen").status_code == 200
    assert sandbox.faults()["next"] == []


def test_a_reset_is_a_reset(sandbox: SandboxProcess) -> None:
    for action in ("reset_before", "reset_after"):
        sandbox.faults(next=[one_shot("*", action)])
        address = ("127.0.0.1", int(sandbox.base_url.rpartition(":")[2]))
        with socket.create_connection(address) as connection:
            connection.sendall(b"GET /api/v1/developer/datasets/ HTTP/1.1\r\nHost: x\r\n")
            connection.sendall(f"X-API-Key: {sandbox.api_key}\r\n\r\n".encode())
            with pytest.raises(ConnectionResetError):
                connection.recv(1)


def test_status_with_retry_after(http: Http, sandbox: SandboxProcess) -> None:
    fault = one_shot("GET /datasets/", "status", status=429, retry_after="7", count=2, message="slow down")
    sandbox.faults(next=[fault])
    assert http("GET", "/organizations/me").status_code == 200
    for _ in range(2):
        answer = http("GET", "/datasets/")
        assert (answer.status_code, answer.headers["Retry-After"]) == (429, "7")
        assert answer.json()["error"]["message"] == "slow down"
    assert http("GET", "/datasets/").status_code == 200


def test_truncated_answers_are_noticed(http: Http, sandbox: SandboxProcess, dataset: str) -> None:
    http.upload(dataset, "a.jpg", b"x" * 100_000)
    url = http("GET", f"/datasets/{dataset}/download").json()["data"]["items"][0]["image_url"]
    sandbox.faults(next=[one_shot("GET /datasets/", "truncate"), one_shot("GET storage", "truncate")])
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        http("GET", "/datasets/")
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        http.storage("GET", url)
    assert len(http.storage("GET", url).content) == 100_000


def test_storage_faults(http: Http, sandbox: SandboxProcess, dataset: str) -> None:
    sandbox.faults(
        next=[
            one_shot("PUT storage", "reset_after", contains="a.jpg"),
            one_shot("PUT storage", "reset_before", contains="b.jpg"),
            one_shot("PUT storage", "status", status=500, contains="c.jpg"),
        ]
    )
    for name in ("a.jpg", "b.jpg"):
        with pytest.raises(requests.ConnectionError):
            http.put(dataset, name, b"12345")
    with pytest.raises(AssertionError, match="Fault"):
        http.put(dataset, "c.jpg", b"12345")
    assert http.register(dataset, "a.jpg", 5).status_code == 200
    assert http.register(dataset, "b.jpg", 5).status_code == 400


def test_rates_hit_their_share(http: Http, sandbox: SandboxProcess) -> None:
    sandbox.faults(fail_rate=0.2, fail_status=502, reset_rate=0.2, seed=1)
    outcomes = []
    for _ in range(200):
        try:
            outcomes.append(http("GET", "/organizations/me").status_code)
        except requests.ConnectionError:
            outcomes.append(0)
    assert 20 < outcomes.count(502) < 60
    assert 20 < outcomes.count(0) < 60
    assert sandbox.stats()["faulted"] == 200 - outcomes.count(200)
    sandbox.faults(scope="storage")
    assert http("GET", "/organizations/me").status_code == 200


def test_a_stalled_put_blocks_no_other(http: Http, sandbox: SandboxProcess, dataset: str) -> None:
    sandbox.faults(stall=["slow"])
    done = threading.Event()

    def put() -> None:
        http.put(dataset, "slow one.jpg", b"12345")
        done.set()

    thread = threading.Thread(target=put)
    thread.start()
    http.put(dataset, "quick.jpg", b"12345")
    assert not done.wait(NEVER_S)
    sandbox.faults(stall=[])
    thread.join()
    assert done.is_set()
    assert http.register(dataset, "slow one.jpg", 5).status_code == 200


def test_refused_names(http: Http, sandbox: SandboxProcess, dataset: str) -> None:
    sandbox.faults(refuse=[{"filename": "bad.jpg", "status": 402, "message": "No room on this plan."}])
    for name in ("bad.jpg", "good.jpg"):
        http.put(dataset, name, b"12345")
    refusal = http.register(dataset, "bad.jpg", 5)
    assert (refusal.status_code, refusal.json()["error"]["message"]) == (402, "No room on this plan.")
    images = [
        {"filename": name, "directory_path": "/", "file_size": 5, "content_type": "image/jpeg"}
        for name in ("bad.jpg", "good.jpg")
    ]
    answer = http("POST", "/images/bulk-register", json={"dataset": dataset, "images": images}).json()["data"]
    assert [i["filename"] for i in answer["succeeded"]] == ["good.jpg"]
    assert answer["failed"] == [
        {"filename": "bad.jpg", "directory_path": "/", "error": "No room on this plan."}
    ]


def test_the_rate_limit_slides(http: Http, sandbox: SandboxProcess) -> None:
    sandbox.faults(rate_limit=1, rate_window_s=3600)
    answer = http("GET", "/organizations/me")
    while answer.status_code == 200:  # earlier tests may have filled the window
        answer = http("GET", "/organizations/me")
    assert answer.status_code == 429
    assert 1 <= int(answer.headers["Retry-After"]) <= 3600
    assert answer.headers["X-RateLimit-Limit"] == "1"
    assert answer.headers["X-RateLimit-Remaining"] == "0"
    assert time.time() <= int(answer.headers["X-RateLimit-Reset"]) <= time.time() + 3601
    sandbox.faults(rate_limit=100_000)
    answer = http("GET", "/organizations/me")
    remaining = int(answer.headers["X-RateLimit-Remaining"])
    assert remaining == int(http("GET", "/organizations/me").headers["X-RateLimit-Remaining"]) + 1


def test_latency_and_bandwidth(http: Http, sandbox: SandboxProcess, dataset: str) -> None:
    sandbox.faults(latency_ms=150)
    start_s = time.monotonic()
    http("GET", "/organizations/me")
    assert time.monotonic() - start_s >= 0.15
    sandbox.faults(latency_ms=0, mbps=4)
    start_s = time.monotonic()
    image = http.upload(dataset, "a.jpg", b"x" * 100_000)  # 0.2 s up
    assert time.monotonic() - start_s >= 0.2
    start_s = time.monotonic()
    assert len(http.original(image["id"])) == 100_000
    assert time.monotonic() - start_s >= 0.2


def test_redirected_originals(http: Http, sandbox: SandboxProcess, dataset: str) -> None:
    image = http.upload(dataset, "a.jpg", b"12345")
    sandbox.faults(redirect_originals=True)
    answer = http("GET", f"/images/{image['id']}", allow_redirects=False)
    assert answer.status_code == 302
    assert http.storage("GET", answer.headers["Location"]).content == b"12345"


def test_bad_requests_to_the_control_endpoints(sandbox: SandboxProcess) -> None:
    before = sandbox.faults()
    for wanted in (
        {"unknown": 1},
        {"fail_rate": 2},
        {"fail_rate": "much"},
        {"role": "king"},
        {"latency_ms": 5, "next": [{"match": "x"}]},
        {"limits": {"subscription_tier": "gold"}},
        {"limits": {"max_pictures": 1}},
        {"refuse": [{"status": 1}]},
    ):
        with pytest.raises(ValueError, match="error"):
            sandbox.faults(**wanted)
    assert sandbox.faults() == before
    for what in (
        {},
        {"dataset": "d", "pictures": 1},
        {"dataset": "d", "raw_images": [{"filename": "a", "x": 1}]},
    ):
        with pytest.raises(ValueError, match="error"):
            sandbox.populate(**what)


def test_stats_count_and_remember(http: Http, sandbox: SandboxProcess, dataset: str) -> None:
    sandbox.reset_stats()
    http.upload(dataset, "a.jpg", b"12345")
    http("GET", "/images/", params={"dataset": dataset, "limit": 5})
    http("GET", "/nowhere")
    images = [{"filename": "b.jpg", "directory_path": "/", "content_type": "image/jpeg"}]
    http("POST", "/images/bulk-upload-url", json={"dataset": dataset, "images": images * 3})
    stats = sandbox.stats()
    assert stats["api"]["total"] == sandbox.requests() == 5
    assert stats["api"]["by_route"] == {
        "POST /images/upload-url": 1,
        "POST /images/register": 1,
        "GET /images/": 1,
        "GET (unknown)": 1,
        "POST /images/bulk-upload-url": 1,
    }
    assert stats["api"]["by_status"] == {"200": 4, "404": 1}
    moved = {"bytes_in": 5, "bytes_out": 0}
    assert stats["storage"] == {"total": 1, "puts": 1, "gets": 0, "heads": 0, "refused": 0, **moved}
    listing, bulk = stats["recent"][2], stats["recent"][4]
    assert listing["query_keys"] == ["dataset", "limit"]
    assert (listing["method"], listing["path"]) == ("GET", "/api/v1/developer/images/")
    assert "x-api-key" in listing["headers"]
    assert bulk["body_keys"] == [
        "dataset",
        "images",
        "images[].content_type",
        "images[].directory_path",
        "images[].filename",
    ]
    sandbox.reset_stats()
    assert sandbox.requests() == 0


def test_populate(sdk: pictograph.Client, sandbox: SandboxProcess, tmp_path: Path) -> None:
    sandbox.populate(dataset="sized", folders=3, images=7, size_bytes=70_000, distinct=True, prefix="p")
    rows = sdk.images.list("sized")
    assert [i.filename for i in rows] == [f"p{number:05d}.jpg" for number in reversed(range(7))]
    assert {i.file_size for i in rows} == {70_000}
    assert [d.image_count for d in sdk.directories.list("sized")] == [3, 2, 2]
    sdk.datasets.download("sized", tmp_path, mode="images_only")
    contents = {path.read_bytes() for path in tmp_path.iterdir()}
    assert len(contents) == 7
    assert {len(data) for data in contents} == {70_000}


HOSTILE = [
    "../../x",
    "a/b.jpg",
    "/etc/passwd",
    "nul\0nul.jpg",
    "n" * 300 + ".jpg",
    ".",
    "..",
    "",
    "😀.jpg",
    "lone\ud800surrogate.jpg",
    "line\nbreak.jpg",
    "same.jpg",
    "same.jpg",
]


def test_hostile_names_are_listed_and_readable(http: Http, sandbox: SandboxProcess) -> None:
    images = [
        {
            "filename": name,
            "directory_path": "/in",
            "content_base64": base64.b64encode(b"%d" % number).decode(),
        }
        for number, name in enumerate(HOSTILE)
    ]
    folders = ["/../up", "/.", "//", "/", "no slash", "/nul\0", "/\udfff", "/" + "d" * 300]
    made = sandbox.populate(dataset="hostile", raw_images=images, raw_directories=folders)
    query = {"include_images": "true", "images_limit": 10_000}
    rows = http("GET", "/datasets/hostile", params=query).json()["data"]["images"]
    assert [row["filename"] for row in reversed(rows)] == HOSTILE
    assert [row["id"] for row in reversed(rows)] == made["raw_image_ids"]
    assert sorted(row["full_path"] for row in http("GET", "/directories/hostile").json()) == sorted(folders)
    assert http("GET", "/directories/hostile/tree").status_code == 200
    items = http("GET", "/datasets/hostile/download").json()["data"]["items"]
    assert [item["filename"] for item in reversed(items)] == HOSTILE
    for number, item in enumerate(reversed(items)):
        assert http.storage("GET", item["image_url"]).content == b"%d" % number
        assert http.original(item["id"]) == b"%d" % number
    answer = http(
        "POST", "/batch/images/delete", json={"dataset_name": "hostile", "image_ids": made["raw_image_ids"]}
    )
    assert answer.json()["processed"] == len(HOSTILE)


def test_raw_sizes_may_be_wrong_or_unknown(http: Http, sandbox: SandboxProcess) -> None:
    images = [{"filename": f"{size}.jpg", "file_size": size} for size in (None, 0, 5)]
    sandbox.populate(dataset="sizes", raw_images=images)
    assert [row["file_size"] for row in http.listing("sizes")] == [5, 0, None]


def test_the_updated_at_follows_the_counters(
    http: Http, sdk: pictograph.Client, dataset: str, picture: Callable[..., Path]
) -> None:
    seen = [sdk.datasets.get(dataset).updated_at]
    image = sdk.images.upload(dataset, picture("a.jpg"))
    seen.append(sdk.datasets.get(dataset).updated_at)
    sdk.batch.delete(dataset, [image.id])
    seen.append(sdk.datasets.get(dataset).updated_at)
    sdk.batch.update(dataset, [image.id], is_archived=False)
    seen.append(sdk.datasets.get(dataset).updated_at)
    assert seen == sorted(set(seen))
    sdk.images.bulk_tag(dataset, [image.id], ["t"])
    assert sdk.datasets.get(dataset).updated_at == seen[-1]
