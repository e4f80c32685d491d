"""Pictograph mounted as a drive, and a small client of its API.

Importing this package is cheap: `Client` and `workflows` (and with them requests) load when first used, since
every room of the drive imports the package and most need no HTTP. Nothing here touches FUSE.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pictofs.api.errors import (
    ApiError,
    AuthError,
    ConfigurationError,
    ConflictError,
    ForbiddenError,
    IncompleteTransferError,
    NetworkError,
    NotFoundError,
    PaymentRequiredError,
    PictographError,
    RateLimitError,
    RequestTimeoutError,
    ServerError,
    StorageError,
    ValidationError,
)

if TYPE_CHECKING:
    from pictofs import workflows
    from pictofs.api.client import Client

__version__ = "0.1.0"

__all__ = [
    "ApiError",
    "AuthError",
    "Client",
    "ConfigurationError",
    "ConflictError",
    "ForbiddenError",
    "IncompleteTransferError",
    "NetworkError",
    "NotFoundError",
    "PaymentRequiredError",
    "PictographError",
    "RateLimitError",
    "RequestTimeoutError",
    "ServerError",
    "StorageError",
    "ValidationError",
    "__version__",
    "workflows",
]


def __getattr__(name: str) -> Any:
    if name == "Client":
        return importlib.import_module("pictofs.api.client").Client
    if name == "workflows":
        return importlib.import_module("pictofs.workflows")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
