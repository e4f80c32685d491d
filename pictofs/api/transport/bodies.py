"""Bytes on their way in and out: `Stream` for downloads, `UploadBody` for uploads."""

from __future__ import annotations

import contextlib
import http.client
import os
import time
from collections.abc import Iterator
from types import TracebackType
from typing import BinaryIO

import requests
import urllib3

from pictofs.api.answers import content_length, content_range
from pictofs.api.errors import IncompleteTransferError, NetworkError, RequestTimeoutError
from pictofs.api.transport.failures import LocalReadError, is_short_body, network_error
from pictofs.api.transport.wire import shown

CHUNK_BYTES = 64 * 1024
"""What a stream hands out at most at a time; what has arrived is handed out at once."""


class Stream:
    """A body as it arrives. Iterate it once; close it, or use it as a context manager.

    Attributes:
        offset_bytes: where in the object the first byte handed out lies. 0 when the server ignored the range
            that was asked for, so look at it.
        total_bytes: size of the whole object, None when the server did not say.
        end_bytes: where in the object the last byte ends, None when the server did not say.
    """

    def __init__(self, response: requests.Response) -> None:
        """Takes over an answer with status 200 or 206; raises NetworkError when its headers make no sense."""
        self._response = response
        self._doing = f"GET {shown(response.url)}"
        self._expected_bytes = content_length(response.headers)
        self.offset_bytes = 0
        self.total_bytes = self._expected_bytes
        if response.status_code == 206:
            served = content_range(response.headers)
            if served is None:
                response.close()
                raise NetworkError(f"{self._doing}: a part without a Content-Range")
            self.offset_bytes, end, self.total_bytes = served
            self._expected_bytes = end - self.offset_bytes
        self.end_bytes = None if self._expected_bytes is None else self.offset_bytes + self._expected_bytes

    def __iter__(self) -> Iterator[bytes]:
        """Chunks of at most CHUNK_BYTES.

        Raises:
            IncompleteTransferError: more or fewer bytes than announced.
            RequestTimeoutError: nothing came for the read timeout.
            NetworkError: the connection broke.
        """
        received = 0
        while True:
            failure: NetworkError | None = None
            chunk = b""
            try:
                chunk = self._response.raw.read1(CHUNK_BYTES, decode_content=True)
            except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError) as error:
                if not is_short_body(error):
                    failure = network_error(error, self._doing)
            if failure is not None:
                self.close()
                raise failure
            if not chunk:
                break
            received += len(chunk)
            yield chunk
        self.close()
        if self._expected_bytes is not None and received != self._expected_bytes:
            raise IncompleteTransferError(self._doing, expected=self._expected_bytes, received=received)

    def cancel(self) -> None:
        """End a read under way in another thread: it raises IncompleteTransferError or NetworkError."""
        # Already finished, already closed, or nothing to shut down: all the same.
        with contextlib.suppress(ValueError, RuntimeError, OSError):
            self._response.raw.shutdown()

    def close(self) -> None:
        """Give the connection back, or drop it when the body was not read to its end."""
        self._response.close()

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class UploadBody:
    """An open file as urllib3 reads it: exactly the size it has now, and not past a deadline.

    The deadline is looked at before each block; the block's own send is bounded by the socket's timeout.
    """

    def __init__(self, file: BinaryIO, deadline_s: float) -> None:
        """`deadline_s` is on `time.monotonic`'s clock."""
        self.size_bytes = os.fstat(file.fileno()).st_size
        self._file = file
        self._deadline_s = deadline_s

    def read(self, size: int) -> bytes:
        """Raises RequestTimeoutError, IncompleteTransferError (the file shrank), LocalReadError."""
        if time.monotonic() > self._deadline_s:
            raise RequestTimeoutError("the upload was not done in time")
        try:
            at = self._file.tell()
            block = self._file.read(min(size, self.size_bytes - at))
        except OSError as error:
            raise LocalReadError(error) from None
        if not block and at < self.size_bytes:
            raise IncompleteTransferError(
                "the file shrank while it was uploaded", expected=self.size_bytes, received=at
            )
        return block

    def tell(self) -> int:
        """With `seek`, what urllib3 needs to send the body again."""
        return self._file.tell()

    def seek(self, position: int) -> None:
        self._file.seek(position)
