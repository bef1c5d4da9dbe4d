"""Topics of a Kafka-compatible broker, read as a consumer group.

Values are JSON, or Avro or JSON in Confluent's wire format with a schema registry. An offset is
committed when the warehouse holds the message.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any, cast

import msgspec
from pydantic import Field, SecretStr, field_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from ingestion.delivery import MessageSettings, name_pairs
from ingestion.kafka_client import CONNECT_SECONDS, Errors, client_settings
from ingestion.sources import Delivery, SourceError, Unreadable, missing_package

if TYPE_CHECKING:
    from confluent_kafka import Message, TopicPartition

KIND = "pull"
DESCRIPTION = "Topics of Kafka, Redpanda, MSK or Event Hubs."
WINDOW = 200_000

_MAGIC = 0  # of Confluent's wire format: then four bytes of schema id, then the value
_IDLE_SECONDS = 5.0
_LINGER_SECONDS = 0.02


class Settings(MessageSettings):
    """Where the topics are, and how to read them."""

    model_config = SettingsConfigDict(
        env_prefix="SIGNALBOX_KAFKA_", env_ignore_empty=True, extra="ignore"
    )
    servers: str = Field(description="Bootstrap servers: host:port,host:port.")
    topics: Annotated[tuple[str, ...], NoDecode] = Field(
        description="Topics to read.", min_length=1
    )
    group: str = Field("signalbox", description="Consumer group.")
    username: str = ""
    password: SecretStr | None = None
    properties: Annotated[dict[str, str], NoDecode] = Field(
        default_factory=dict,
        description="librdkafka's own settings: security.protocol=SASL_SSL,sasl.mechanisms=PLAIN.",
    )
    registry_url: str = Field("", description="Schema registry with Confluent's REST interface.")
    registry_auth: SecretStr | None = Field(None, description="Its user:password.")

    @field_validator("topics", mode="before")
    @classmethod
    def _parse_topics(cls, value: object) -> object:
        return (
            tuple(t for t in map(str.strip, value.split(",")) if t)
            if isinstance(value, str)
            else value
        )

    @field_validator("properties", mode="before")
    @classmethod
    def _parse_properties(cls, value: object) -> object:
        return name_pairs(value) if isinstance(value, str) else value


@dataclass(frozen=True, slots=True)
class Receipt:
    """Where a message stands."""

    topic: str
    partition: int
    offset: int


def connect(settings: Settings) -> Reader:
    """A member of the consumer group.

    Raises:
        SourceError: the broker cannot be reached, a topic is missing, a package is not installed.
    """
    return Reader(settings)


class Reader:
    """A `Consumer` of Kafka."""

    def __init__(self, settings: Settings) -> None:
        try:
            import confluent_kafka
        except ImportError:
            raise missing_package("kafka", "kafka") from None
        self._kafka = confluent_kafka
        self._settings = settings
        self._errors = Errors()
        self._values = _Values(settings)
        login: dict[str, Any] = {}
        if settings.username and settings.password:
            login = {
                "security.protocol": "SASL_SSL",
                "sasl.mechanisms": "PLAIN",
                "sasl.username": settings.username,
                "sasl.password": settings.password.get_secret_value(),
            }
        options = {
            "group.id": settings.group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "earliest",
            "partition.assignment.strategy": "cooperative-sticky",
            "queued.max.messages.kbytes": 65_536,
            "fetch.wait.max.ms": 200,
        }
        try:
            self._consumer = confluent_kafka.Consumer(
                options
                | login
                | client_settings(settings.servers, settings.properties, self._errors)
            )
        except confluent_kafka.KafkaException as error:
            raise self._error(f"has a setting that is wrong ({error.args[0].str()})") from None
        self._partitions = self._topics()
        self._ours: set[tuple[str, int]] = set()
        self._kept: list[Message] = []  # came while we only meant to keep our place
        self._paused = False
        self._received = monotonic()
        self._consumer.subscribe(
            list(settings.topics),
            on_assign=self._assigned,
            on_revoke=self._taken,
            on_lost=self._taken,
        )

    def receive(self, limit: int, wait_seconds: float) -> Sequence[Delivery]:
        """See `Consumer`."""
        if self._paused:
            self._paused = False
            self._consumer.resume(self._consumer.assignment())
        self._received = monotonic()
        messages, self._kept = self._kept[:limit], self._kept[limit:]
        if not messages and (first := self._consumer.poll(wait_seconds)):
            messages = [first]
        if messages and len(messages) < limit:
            messages += self._consumer.consume(limit - len(messages), _LINGER_SECONDS)
        return [self._delivery(m) for m in messages if self._is_message(m)]

    def hold(self, receipts: Sequence[Receipt]) -> None:
        """Stay in the group although nothing more is wanted now: it sees whoever polls."""
        if monotonic() - self._received < _IDLE_SECONDS:
            return
        self._paused = True
        self._consumer.pause(self._consumer.assignment())
        self._kept += self._consumer.consume(1_000, 0)

    def acknowledge(self, receipts: Sequence[Receipt]) -> Sequence[Receipt]:
        """Commit the offsets after these. What we were relieved of is another's to commit.

        A partition that was taken and given back is ours: all before these offsets is safe, even
        if its messages come a second time.
        """
        ends: dict[tuple[str, int], int] = {}
        for receipt in receipts:
            place = (receipt.topic, receipt.partition)
            if place in self._ours:
                ends[place] = max(ends.get(place, 0), receipt.offset + 1)
        if not ends:
            return []
        offsets = [self._kafka.TopicPartition(*place, end) for place, end in ends.items()]
        try:
            self._consumer.commit(offsets=offsets, asynchronous=False)
        except self._kafka.KafkaException as error:
            if error.args[0].fatal():
                raise self._error(f"refused a commit ({error.args[0].str()})") from None
            return receipts  # a rebalance is under way, or the broker is away: ask again
        return []

    def lag(self) -> int | None:
        """Messages of the topics after the group's committed offsets."""
        try:
            committed = self._consumer.committed(self._partitions, timeout=CONNECT_SECONDS)
            waiting = 0
            for place in committed:
                ends = self._consumer.get_watermark_offsets(place, timeout=CONNECT_SECONDS)
                waiting += max(ends[1] - max(place.offset, ends[0]), 0) if ends else 0
        except self._kafka.KafkaException:
            return None
        return waiting

    def close(self) -> None:
        """Leave the group, so that others take over at once."""
        self._consumer.close()

    def _topics(self) -> list[TopicPartition]:
        try:
            found = self._consumer.list_topics(timeout=CONNECT_SECONDS).topics
        except self._kafka.KafkaException as error:
            raise self._error(f"does not answer ({self._errors.reason(error)})") from None
        missing = [t for t in self._settings.topics if t not in found or found[t].error]
        if missing:
            raise self._error(f"has no topic {', '.join(missing)}, or does not let us read it")
        return [
            self._kafka.TopicPartition(topic, partition)
            for topic in self._settings.topics
            for partition in found[topic].partitions
        ]

    def _assigned(self, _: Any, partitions: list[TopicPartition]) -> None:
        self._ours |= {(place.topic, place.partition) for place in partitions}

    def _taken(self, _: Any, partitions: list[TopicPartition]) -> None:
        self._ours -= {(place.topic, place.partition) for place in partitions}

    def _is_message(self, message: Message) -> bool:
        error = message.error()
        if error is None:
            # Taken from us between arriving and being looked at: its new owner reads it as well.
            return (message.topic(), message.partition()) in self._ours
        if error.code() == self._kafka.KafkaError._PARTITION_EOF or error.retriable():
            return False
        raise self._error(f"cannot be read ({error.str()})")

    def _delivery(self, message: Message) -> Delivery:
        topic, partition, offset = message.topic() or "", message.partition(), message.offset()
        assert partition is not None
        assert offset is not None
        kind, milliseconds = message.timestamp()
        known = kind != self._kafka.TIMESTAMP_NOT_AVAILABLE and milliseconds > 0
        body, unreadable = self._values.decode(message.value() or b"null")
        key = message.key()
        return Delivery(
            body=body,
            id=f"{topic}-{partition}-{offset}",
            time=datetime.fromtimestamp(milliseconds / 1000, UTC) if known else None,
            event=topic,
            headers={
                name: value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
                for name, value in cast(list[tuple[str, Any]], message.headers() or [])
                if value is not None
            },
            key=key.decode("utf-8", "replace") if isinstance(key, bytes) else key,
            unreadable=unreadable,
            receipt=Receipt(topic, partition, offset),
        )

    def _error(self, what: str) -> SourceError:
        return SourceError(
            f"Kafka at {self._settings.servers} {what}. Check SIGNALBOX_KAFKA_SERVERS, _TOPICS and "
            "_PROPERTIES."
        )


class _Values:
    """Values in Confluent's wire format as JSON; any other as it is."""

    def __init__(self, settings: Settings) -> None:
        self._registry: Any = None
        self._where = settings.registry_url
        self._avro: Any = None
        self._kinds: dict[int, str] = {}
        if not settings.registry_url:
            return
        try:
            from confluent_kafka.schema_registry import SchemaRegistryClient
            from confluent_kafka.schema_registry.avro import AvroDeserializer
        except ImportError:
            raise missing_package("kafka", "kafka") from None
        conf: dict[str, Any] = {"url": settings.registry_url, "max.retries": 1}
        if settings.registry_auth:
            conf["basic.auth.user.info"] = settings.registry_auth.get_secret_value()
        self._registry = SchemaRegistryClient(conf)
        self._avro = AvroDeserializer(self._registry)

    def decode(self, value: bytes) -> tuple[bytes, Unreadable | None]:
        """The value as JSON, or why it is none.

        Raises:
            SourceError: the registry cannot be asked.
        """
        if self._registry is None or len(value) < 6 or value[0] != _MAGIC:
            return value, None
        schema = int.from_bytes(value[1:5], "big")
        try:
            kind = self._kind(schema)
        except LookupError:
            return value, Unreadable("unknown_schema", f"the registry has no schema {schema}")
        if kind == "JSON":
            return value[5:], None
        if kind != "AVRO":
            return value, Unreadable(
                "unknown_schema", f"schema {schema} is {kind}, not Avro or JSON"
            )
        try:
            return msgspec.json.encode(self._avro(value, None)), None
        except Exception as error:  # fastavro raises whatever the broken bytes lead it to
            if "schema_registry" in type(error).__module__ or "http" in type(error).__module__:
                raise self._error(f"does not answer ({type(error).__name__})") from None
            words = f"the value does not fit schema {schema} ({type(error).__name__})"
            return value, Unreadable("invalid_avro", words)

    def _kind(self, schema: int) -> str:
        from confluent_kafka.schema_registry.error import SchemaRegistryError

        if schema not in self._kinds:
            try:
                self._kinds[schema] = self._registry.get_schema(schema).schema_type or "AVRO"
            except SchemaRegistryError as error:
                if error.http_status_code == 404:
                    raise LookupError from None
                raise self._error(f"answered {error.http_status_code}") from None
            except Exception as error:
                raise self._error(f"does not answer ({type(error).__name__})") from None
        return self._kinds[schema]

    def _error(self, what: str) -> SourceError:
        return SourceError(
            f"The schema registry at {self._where} {what}. Check SIGNALBOX_KAFKA_REGISTRY_URL and "
            "_REGISTRY_AUTH."
        )
