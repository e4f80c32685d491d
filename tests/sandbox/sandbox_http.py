"""Plain HTTP against a sandbox, for tests that must see each answer as it is."""

from __future__ import annotations

import io
from typing import Any

import requests
from PIL import Image
from sandbox_process import SandboxProcess

TIMEOUT_S = 30.0


class Http:
    """Plain requests with the key; `storage` ones without."""

    def __init__(self, sandbox: SandboxProcess) -> None:
        self.sandbox = sandbox
        self.session = requests.Session()

    def __call__(self, method: str, path: str, **options: Any) -> requests.Response:
        headers = {"X-API-Key": self.sandbox.api_key, **options.pop("headers", {})}
        url = f"{self.sandbox.base_url}/api/v1/developer{path}"
        return self.session.request(method, url, headers=headers, timeout=TIMEOUT_S, **options)

    def storage(self, method: str, url: str, **options: Any) -> requests.Response:
        return self.session.request(method, url, timeout=TIMEOUT_S, **options)

    def upload_url(self, dataset: str, filename: str, directory: str = "/") -> str:
        body = {
            "dataset": dataset,
            "filename": filename,
            "directory_path": directory,
            "content_type": "image/jpeg",
        }
        answer = self("POST", "/images/upload-url", json=body)
        assert answer.status_code == 200, answer.text
        url: str = answer.json()["data"]["upload_url"]
        return url

    def put(self, dataset: str, filename: str, data: bytes, directory: str = "/") -> None:
        url = self.upload_url(dataset, filename, directory)
        answer = self.storage("PUT", url, data=data, headers={"Content-Type": "image/jpeg"})
        assert answer.status_code == 200, answer.text

    def register(
        self,
        dataset: str,
        filename: str,
        size: int,
        directory: str = "/",
        key: str | None = None,
        **more: Any,
    ) -> requests.Response:
        body = {
            "dataset": dataset,
            "filename": filename,
            "directory_path": directory,
            "file_size": size,
            "content_type": "image/jpeg",
            "width": 4,
            "height": 3,
            **more,
        }
        return self("POST", "/images/register", json=body, headers={"Idempotency-Key": key} if key else {})

    def upload(self, dataset: str, filename: str, data: bytes = b"", directory: str = "/") -> dict[str, Any]:
        data = data or jpeg()
        self.put(dataset, filename, data, directory)
        answer = self.register(dataset, filename, len(data), directory)
        assert answer.status_code == 200, answer.text
        image: dict[str, Any] = answer.json()["data"]
        return image

    def listing(self, dataset: str, **query: Any) -> list[dict[str, Any]]:
        answer = self("GET", "/images/", params={"dataset": dataset, **query})
        assert answer.status_code == 200, answer.text
        rows: list[dict[str, Any]] = answer.json()["data"]
        return rows

    def original(self, image_id: str) -> bytes:
        answer = self("GET", f"/images/{image_id}")
        assert answer.status_code == 200, answer.text
        return answer.content


def jpeg(colour: str = "red", size: tuple[int, int] = (40, 30)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "JPEG")
    return buffer.getvalue()
