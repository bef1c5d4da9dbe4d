"""A Google Pub/Sub subscription, pulled.

A message is acknowledged when the warehouse holds it; until then its deadline is put off.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator
from pydantic_settings import SettingsConfigDict

from ingestion.delivery import MessageSettings
from ingestion.sources import HOLD_SECONDS, Delivery, SourceError, missing_package

KIND = "pull"
DESCRIPTION = "A Google Pub/Sub subscription."
WINDOW = 50_000

_PER_CALL = 1_000  # ids of some 200 bytes each, and a request may have 512 KiB
_THREADS = 4


class Settings(MessageSettings):
    """Which subscription. Credentials come from where Google's tools keep theirs."""

    model_config = SettingsConfigDict(
        env_prefix="SIGNALBOX_PUBSUB_", env_ignore_empty=True, extra="ignore"
    )
    subscription: str = Field(description="projects/<project>/subscriptions/<name>.")
    credentials_file: str = Field("", description="A service account's key as a JSON file.")
    emulator_host: str = Field("", description="host:port of an emulator, without credentials.")
    deadline_seconds: int = Field(
        60, ge=int(3 * HOLD_SECONDS), le=600, description="Prolonged while we hold a message."
    )

    @field_validator("subscription")
    @classmethod
    def _full_name(cls, value: str) -> str:
        parts = value.split("/")
        if len(parts) != 4 or parts[0] != "projects" or parts[2] != "subscriptions":
            raise ValueError("write projects/<project>/subscriptions/<name>")
        return value


def connect(settings: Settings) -> Subscription:
    """The subscription.

    Raises:
        SourceError: it cannot be reached, or a package is not installed.
    """
    return Subscription(settings)


class Subscription:
    """A `Consumer` of Pub/Sub, by synchronous pulls: the relay decides how much is in flight."""

    def __init__(self, settings: Settings) -> None:
        try:
            from google.api_core import exceptions
            from google.auth.exceptions import GoogleAuthError
            from google.pubsub_v1 import SubscriberClient
        except ImportError:
            raise missing_package("pubsub", "gcp") from None
        self._failures = (exceptions.GoogleAPICallError, exceptions.RetryError, GoogleAuthError)
        self._timed_out = exceptions.DeadlineExceeded
        self._settings = settings
        self._name = settings.subscription
        try:
            self._client: Any = SubscriberClient(**_access(settings))
        except (GoogleAuthError, OSError, ValueError) as error:
            raise self._error(error) from None
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="pubsub")
        self._call(self._client.get_subscription, subscription=self._name)

    def receive(self, limit: int, wait_seconds: float) -> Sequence[Delivery]:
        """See `Consumer`."""
        try:
            answer = self._client.pull(
                subscription=self._name,
                max_messages=min(limit, _PER_CALL),
                timeout=wait_seconds,
                retry=None,
            )
        except self._timed_out:
            return []
        except self._failures as error:
            raise self._error(error) from None
        deliveries = [_delivery(received) for received in answer.received_messages]
        # Their deadlines begin as short as the subscription says.
        self.hold([delivery.receipt for delivery in deliveries])
        return deliveries

    def hold(self, receipts: Sequence[str]) -> None:
        """Put off the deadlines."""

        def prolong(ids: Sequence[str]) -> None:
            self._call(
                self._client.modify_ack_deadline,
                subscription=self._name,
                ack_ids=ids,
                ack_deadline_seconds=self._settings.deadline_seconds,
            )

        list(self._pool.map(prolong, _parts(receipts)))

    def acknowledge(self, receipts: Sequence[str]) -> Sequence[str]:
        """Acknowledge these; returns those of calls that failed."""

        def tell(ids: Sequence[str]) -> Sequence[str]:
            try:
                self._client.acknowledge(subscription=self._name, ack_ids=ids, timeout=30)
            except self._failures:
                return ids
            return []

        return [ack for failed in self._pool.map(tell, _parts(receipts)) for ack in failed]

    def lag(self) -> int | None:
        """Unknown: Pub/Sub tells it only to Google's monitoring."""
        return None

    def close(self) -> None:
        """Let go. What was not acknowledged is delivered again after its deadline."""
        self._pool.shutdown(cancel_futures=True)
        self._client.transport.close()

    def _call(self, method: Any, **arguments: Any) -> Any:
        try:
            return method(**arguments, timeout=30)
        except self._failures as error:
            raise self._error(error) from None

    def _error(self, error: Exception) -> SourceError:
        return SourceError(
            f"The Pub/Sub subscription {self._name} cannot be used ({type(error).__name__}). Check "
            "SIGNALBOX_PUBSUB_SUBSCRIPTION and the credentials' right to subscribe."
        )


def _access(settings: Settings) -> dict[str, Any]:
    if settings.emulator_host:
        import grpc  # type: ignore[import-untyped]
        from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport

        channel = grpc.insecure_channel(settings.emulator_host)
        return {"transport": SubscriberGrpcTransport(channel=channel)}
    if settings.credentials_file:
        from google.oauth2.service_account import Credentials

        key = json.loads(Path(settings.credentials_file).read_text())
        return {"credentials": Credentials.from_service_account_info(key)}  # type: ignore[no-untyped-call]
    return {}


def _delivery(received: Any) -> Delivery:
    message = received.message
    return Delivery(
        body=message.data,
        id=message.message_id,
        time=_plain(message.publish_time) if message.publish_time else None,
        headers=dict(message.attributes),
        key=message.ordering_key or None,
        receipt=received.ack_id,
    )


def _plain(time: datetime) -> datetime:
    """Google's own kind of datetime, which counts nanoseconds, as Python's."""
    return datetime.combine(time.date(), time.timetz())


def _parts(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for at in range(0, len(ids), _PER_CALL):
        yield ids[at : at + _PER_CALL]
