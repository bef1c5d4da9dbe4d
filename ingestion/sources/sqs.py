"""An Amazon SQS queue, fed by producers or by an EventBridge rule, whose envelope is taken off.

A message is deleted when the warehouse holds it; until then it is kept invisible to others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from typing import Any

import msgspec
from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from ingestion.delivery import MessageSettings
from ingestion.envelope import parse_time
from ingestion.sources import HOLD_SECONDS, Delivery, SourceError, missing_package

KIND = "pull"
DESCRIPTION = "An Amazon SQS queue, also behind EventBridge."
WINDOW = 60_000  # SQS lets 120,000 be in flight

_PER_CALL = 10  # SQS's maximum, of messages received, deleted or prolonged
_THREADS = 8


class Settings(MessageSettings):
    """Which queue. Without keys, boto3 looks where AWS's tools keep theirs."""

    model_config = SettingsConfigDict(
        env_prefix="SIGNALBOX_SQS_", env_ignore_empty=True, extra="ignore"
    )
    queue_url: str = Field(description="https://sqs.<region>.amazonaws.com/<account>/<queue>.")
    region: str = Field("", description="AWS region; unset: that of AWS's own configuration.")
    access_key_id: str = ""
    secret_access_key: SecretStr | None = None
    endpoint_url: str = Field("", description="Another endpoint, such as a VPC's or an emulator's.")
    visibility_seconds: int = Field(
        120, ge=int(3 * HOLD_SECONDS), le=43_200, description="Prolonged while we hold a message."
    )


@dataclass(frozen=True, slots=True)
class Receipt:
    """A message's id and the handle of its last delivery."""

    id: str
    handle: str


def connect(settings: Settings) -> Queue:
    """The queue.

    Raises:
        SourceError: it cannot be reached, or a package is not installed.
    """
    return Queue(settings)


class Queue:
    """A `Consumer` of SQS. Calls take ten messages each, so several are made at a time."""

    def __init__(self, settings: Settings) -> None:
        try:
            import boto3  # type: ignore[import-untyped]
            from botocore.config import Config  # type: ignore[import-untyped]
            from botocore.exceptions import (  # type: ignore[import-untyped]
                BotoCoreError,
                ClientError,
            )
        except ImportError:
            raise missing_package("sqs", "aws") from None
        self._failures = (BotoCoreError, ClientError)
        self._settings = settings
        secret = settings.secret_access_key
        try:
            self._client: Any = boto3.client(
                "sqs",
                region_name=settings.region or None,
                endpoint_url=settings.endpoint_url or None,
                aws_access_key_id=settings.access_key_id or None,
                aws_secret_access_key=secret.get_secret_value() if secret else None,
                config=Config(max_pool_connections=_THREADS, retries={"mode": "standard"}),
            )
        except self._failures as error:
            raise self._error(error) from None
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="sqs")
        if self.lag() is None:
            self._attributes()  # says why

    def receive(self, limit: int, wait_seconds: float) -> Sequence[Delivery]:
        """See `Consumer`. The first call waits (long polling), the others take what there is."""
        first = self._receive(min(limit, _PER_CALL), wait_seconds)
        calls = min((limit - len(first)) // _PER_CALL, _THREADS)
        if len(first) < _PER_CALL or not calls:
            return first
        more = self._pool.map(lambda _: self._receive(_PER_CALL, 0), range(calls))
        return [*first, *chain.from_iterable(more)]

    def hold(self, receipts: Sequence[Receipt]) -> None:
        """Put off when these become visible to others."""
        seconds = self._settings.visibility_seconds

        def prolong(entries: list[dict[str, Any]]) -> None:
            self._call(
                self._client.change_message_visibility_batch,
                Entries=[{**entry, "VisibilityTimeout": seconds} for entry in entries],
            )

        # One that fails (deleted, or lost to another) comes again or is done with: both are fine.
        list(self._pool.map(prolong, _batches(receipts)))

    def acknowledge(self, receipts: Sequence[Receipt]) -> Sequence[Receipt]:
        """Delete these; returns those that SQS failed to delete through no fault of ours."""

        def delete(entries: list[dict[str, Any]]) -> list[str]:
            answer = self._call(self._client.delete_message_batch, Entries=entries)
            failed = {f["Id"] for f in answer.get("Failed", []) if not f["SenderFault"]}
            return [entry["ReceiptHandle"] for entry in entries if entry["Id"] in failed]

        failed = set(chain.from_iterable(self._pool.map(delete, _batches(receipts))))
        return [receipt for receipt in receipts if receipt.handle in failed]

    def lag(self) -> int | None:
        """About how many messages the queue holds, those in our hands included."""
        try:
            found = self._attributes()
        except SourceError:
            return None
        return sum(map(int, found.values()))

    def close(self) -> None:
        """Let go. What was not deleted becomes visible again when its time is over."""
        self._pool.shutdown(cancel_futures=True)
        self._client.close()

    def _attributes(self) -> Mapping[str, str]:
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        answer = self._call(self._client.get_queue_attributes, AttributeNames=names)
        found: Mapping[str, str] = answer["Attributes"]
        return found

    def _receive(self, limit: int, wait_seconds: float) -> list[Delivery]:
        answer = self._call(
            self._client.receive_message,
            MaxNumberOfMessages=limit,
            WaitTimeSeconds=min(math.ceil(wait_seconds), 20),
            VisibilityTimeout=self._settings.visibility_seconds,
            MessageAttributeNames=["All"],
            MessageSystemAttributeNames=["SentTimestamp", "MessageGroupId"],
        )
        return [_delivery(message) for message in answer.get("Messages", [])]

    def _call(self, method: Any, **arguments: Any) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = method(QueueUrl=self._settings.queue_url, **arguments)
        except self._failures as error:
            raise self._error(error) from None
        return answer

    def _error(self, error: Exception) -> SourceError:
        code = getattr(error, "response", {}).get("Error", {}).get("Code")
        return SourceError(
            f"The SQS queue {self._settings.queue_url} cannot be used "
            f"({code or type(error).__name__}). Check SIGNALBOX_SQS_QUEUE_URL, _REGION and keys."
        )


def _delivery(message: Mapping[str, Any]) -> Delivery:
    body: bytes = message["Body"].encode("utf-8", "surrogatepass")
    system = message.get("Attributes", {})
    sent = int(system.get("SentTimestamp") or 0) / 1000
    headers = {
        name: attribute["StringValue"]
        for name, attribute in message.get("MessageAttributes", {}).items()
        if "StringValue" in attribute
    }
    identity = message["MessageId"]
    delivery = Delivery(
        body=body,
        id=identity,
        time=datetime.fromtimestamp(sent, UTC) if sent else None,
        headers=headers,
        key=system.get("MessageGroupId"),
        receipt=Receipt(identity, message["ReceiptHandle"]),
    )
    return _unwrapped(delivery) or delivery


class _EventBridge(msgspec.Struct):
    """The envelope that EventBridge puts around what producers send."""

    id: str
    source: str
    time: str
    detail: msgspec.Raw
    detail_type: str = msgspec.field(name="detail-type")
    region: str = ""
    account: str = ""


_envelopes = msgspec.json.Decoder(_EventBridge)


def _unwrapped(delivery: Delivery) -> Delivery | None:
    """What EventBridge's envelope holds; its id is the same for every queue it was sent to."""
    try:
        envelope = _envelopes.decode(delivery.body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return Delivery(
        body=bytes(envelope.detail),
        id=envelope.id,
        time=parse_time(envelope.time) or delivery.time,
        event=envelope.detail_type,
        headers={
            **delivery.headers,
            "source": envelope.source,
            "account": envelope.account,
            "region": envelope.region,
        },
        key=delivery.key,
        receipt=delivery.receipt,
    )


def _batches(receipts: Sequence[Receipt]) -> Iterator[list[dict[str, Any]]]:
    # Of a message that was delivered again meanwhile, only the last handle counts.
    handles = list({receipt.id: receipt.handle for receipt in receipts}.values())
    for at in range(0, len(handles), _PER_CALL):
        part = enumerate(handles[at : at + _PER_CALL])
        yield [{"Id": str(number), "ReceiptHandle": handle} for number, handle in part]
