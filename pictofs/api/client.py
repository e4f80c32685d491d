"""`Client`: the service as Python objects.

    with Client() as client:                      # key and host: see pictofs.api.credentials
        dataset = client.datasets.get("road-signs")
        image = client.images.upload(dataset_id=dataset.id, file_path="a.jpg", folder_path="/day")
        client.images.download(image.id, output_path="copy.jpg")

Any thread may use a client. After a fork, make a new one.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

from pictofs.api.budget import Budget
from pictofs.api.credentials import Secret, resolve
from pictofs.api.images import Images
from pictofs.api.models import Organization
from pictofs.api.resources import Batch, Datasets, Directories
from pictofs.api.transport import RetryPolicy, Transport


class Client:
    """The face of the API. Closing it drops its connections.

    Attributes:
        datasets, projects: `Datasets` (projects is the old name).
        directories: `Directories`.
        images: `Images`.
        batch: `Batch`.
    """

    def __init__(
        self,
        api_key: str | Secret | None = None,
        *,
        base_url: str | None = None,
        profile: str | None = None,
        timeout_s: float = 30.0,
        max_connections: int = 20,
        max_retries: int = 3,
        retry_after_limit_s: float = 120.0,
        backoff_base_s: float = 1.0,
    ) -> None:
        """What is not given comes from the environment and `~/.pictograph/config.toml`, see `credentials`.

        `timeout_s` is the longest silence of the server; `max_connections` those kept open per host. A
        request is repeated up to `max_retries` times, after `backoff_base_s` and then twice as long each
        time; a `Retry-After` of up to `retry_after_limit_s` is waited for (0: a 429 is never waited for).

        Raises:
            ConfigurationError: no key, or an unusable key, profile or host. Nothing is sent.
        """
        explicit_key = Secret(api_key) if isinstance(api_key, str) and api_key else api_key or None
        # What raises below must not show the key to a traceback that prints local variables.
        del api_key
        self._use(
            Transport(
                resolve(explicit_key, base_url, profile),
                timeout_s=timeout_s,
                max_connections=max_connections,
                policy=RetryPolicy(max_retries, retry_after_limit_s, backoff_base_s),
            )
        )

    def with_retries(self, max_retries: int, *, retry_after_limit_s: float = 120.0) -> Client:
        """The same connections, key and budget with other patience; closing either closes both. A queue that
        itself backs off takes `with_retries(1, retry_after_limit_s=0)`: a 429 reaches it at once."""
        other: Client = object.__new__(Client)
        policy = RetryPolicy(max_retries, retry_after_limit_s, self._transport.policy.backoff_base_s)
        other._use(self._transport.with_policy(policy))
        return other

    def organization(self) -> Organization:
        """Who the key belongs to, and the quota."""
        return self._transport.call("GET", "/organizations/me", _organization)

    @property
    def base_url(self) -> str:
        """The host the key belongs to, without a trailing slash."""
        return self._transport.base_url

    @property
    def budget(self) -> Budget:
        """The hour's requests as they stand now; costs none."""
        return self._transport.budget

    def close(self) -> None:
        """Drop idle connections and end waits for a retry. Calls from now on raise NetworkError."""
        self._transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        # Tracebacks also print a client whose construction failed.
        transport = vars(self).get("_transport")
        return f"<pictofs.Client {transport.base_url if transport else 'without a host'}>"

    def _use(self, transport: Transport) -> None:
        self._transport = transport
        self.datasets = self.projects = Datasets(transport)
        self.directories = Directories(transport)
        self.images = Images(transport)
        self.batch = Batch(transport)


def _organization(body: Any) -> Organization:
    return Organization.from_json(body["organization"])
