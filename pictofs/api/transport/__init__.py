"""HTTP: the only room that imports requests and urllib3.

core      Transport: API calls, downloads, uploads; where the key goes and where not
retries   when a request is sent again
gate      one pause for everybody after a 429
bodies    what streams in and out: Stream, UploadBody
failures  their exceptions into ours
wire      addresses, query and bodies as bytes
"""

from __future__ import annotations

from pictofs.api.transport.bodies import CHUNK_BYTES, Stream
from pictofs.api.transport.core import Transport
from pictofs.api.transport.retries import RetryPolicy

__all__ = ["CHUNK_BYTES", "RetryPolicy", "Stream", "Transport"]
