"""Kafka in the place of the event log: the same two ends, one topic with exactly one partition.

With one partition a record's offset is its `log_seq`: increasing, without gaps that matter, the
same for every reader. What is lost by that is little: the collector sends what waits as one
batch, so the partition's throughput is that of large sequential writes, and the warehouse, which
has one writer, is slower than it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from ingestion.kafka_client import CONNECT_SECONDS, Errors, client_settings
from ingestion.segment import MAX_RECORD_BYTES, LogError, LogUnavailable

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Producer

DELIVERY_SECONDS = 10.0
READ_SECONDS = 15.0
_POLL_SECONDS = 0.05
_CONSUME = 10_000  # messages at a time


@dataclass(frozen=True)
class KafkaAddress:
    """`kafka://[user:password@]host:port[,host:port]/topic[?librdkafka.setting=value]`."""

    servers: str
    topic: str
    options: Mapping[str, str]

    @classmethod
    def parse(cls, url: str) -> KafkaAddress:
        """Raises LogError, without the password, if it is not such a URL."""
        parts = urlsplit(url)
        login, _, servers = parts.netloc.rpartition("@")
        topic = parts.path.strip("/")
        if parts.scheme != "kafka" or not servers or not topic or "/" in topic:
            raise LogError(
                "SIGNALBOX_LOG_URL must be kafka://host:port/topic, or unset for the log on disk."
            )
        options = dict(parse_qsl(parts.query))
        if login:
            user, _, password = login.partition(":")
            options = {
                "security.protocol": "SASL_SSL",
                "sasl.mechanisms": "PLAIN",
                "sasl.username": unquote(user),
                "sasl.password": unquote(password),
            } | options
        return cls(servers, topic, options)


class KafkaLog:
    """Appends to the topic. Safe to share by threads; any number of processes may have one.

    Raises LogError if the topic is not fit to be a log, LogUnavailable if it cannot be reached.
    """

    recovered_bytes = 0

    def __init__(self, address: KafkaAddress) -> None:
        self._address = address
        self._errors = Errors()
        self._mutex = threading.Lock()
        self._producer: Producer | None = None
        self._reader = KafkaLogReader(address, Path())
        with self._mutex:
            self._connected()

    def append(self, records: Sequence[bytes]) -> range:
        """Return once every in-sync replica has all records (`acks=all`): their positions.

        Those of others may stand between them. When LogUnavailable is raised some may be in the
        log all the same: send them again under the same message ids.
        """
        for record in records:
            if not 0 < len(record) <= MAX_RECORD_BYTES:
                raise ValueError(
                    f"a log record must have 1 to {MAX_RECORD_BYTES} bytes, not {len(record)}"
                )
        if not records:
            return range(0)
        from confluent_kafka import KafkaException

        with self._mutex:
            producer = self._connected()
            batch = _Delivery(len(records))
            try:
                for record in records:
                    self._produce(producer, record, batch)
                while batch.missing:
                    producer.poll(_POLL_SECONDS)
            except KafkaException as error:
                self._drop(producer)
                raise self._unavailable(error.args[0].str()) from None
            if batch.error is not None:
                self._drop(producer)
                raise self._unavailable(batch.error)
        return range(batch.first, batch.last + 1)

    def end(self) -> int:
        """The next position."""
        with self._mutex:
            return self._reader.end()

    def problem(self) -> str | None:
        """Why an append would be refused now; None if it would not."""
        try:
            with self._mutex:
                _check_topic(self._connected(), self._address, self._errors)
        except LogError as error:
            return str(error)
        return None

    def close(self) -> None:
        """Disconnect. Safe to call twice."""
        with self._mutex:
            self._producer = None
            self._reader.close()

    def __enter__(self) -> KafkaLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _connected(self) -> Producer:
        if self._producer is None:
            producer = _client(
                "Producer",
                self._address,
                self._errors,
                {
                    "enable.idempotence": True,
                    "acks": "all",
                    "linger.ms": 1,
                    "delivery.timeout.ms": int(DELIVERY_SECONDS * 1000),
                    "message.max.bytes": MAX_RECORD_BYTES + 1024 * 1024,
                    "queue.buffering.max.messages": 1_000_000,
                },
            )
            _check_topic(producer, self._address, self._errors)
            self._producer = producer
        return self._producer

    def _drop(self, producer: Producer) -> None:
        # An idempotent producer that has lost a message takes no other.
        producer.purge()
        self._producer = None

    def _produce(self, producer: Producer, record: bytes, batch: _Delivery) -> None:
        while True:
            try:
                producer.produce(self._address.topic, record, partition=0, on_delivery=batch)
                return
            except BufferError:
                producer.poll(_POLL_SECONDS)

    def _unavailable(self, reason: str) -> LogUnavailable:
        return LogUnavailable(f"{_name(self._address)} took not all records ({reason})")


class _Delivery:
    """Counts the reports of one batch."""

    def __init__(self, count: int) -> None:
        self.missing = count
        self.error: str | None = None
        self.first = self.last = -1

    def __call__(self, error: Any, message: Any) -> None:
        self.missing -= 1
        if error is not None:
            self.error = error.str()
            return
        offset = message.offset()
        self.first = offset if self.first < 0 else min(self.first, offset)
        self.last = max(self.last, offset)


class KafkaLogReader:
    """The same view of the topic as `LogReader` has of a directory. Not for use by two threads.

    `directory` is where `loaded_end` finds how far the warehouse has come.
    """

    def __init__(self, address: KafkaAddress, directory: Path) -> None:
        self.directory = directory
        self._address = address
        self._errors = Errors()
        self._consumer: Consumer | None = None
        self._probe: Consumer | None = None
        self._position = -1
        self._asked = self._end = 0

    def end(self) -> int:
        """The next log_seq: every in-sync replica has all records before it."""
        low, high = self._watermarks()
        if high == self._asked:
            return self._end
        # What a fetch says about the end is exact. The answer to the question for it may, with
        # some brokers, stop before the last batch.
        fetched = self._fetched_end(high - 1) if high > low else high
        self._asked, self._end = high, max(high, fetched)
        return self._end

    def first(self) -> int:
        """The oldest log_seq that is kept."""
        return self._watermarks()[0]

    def read(self, start: int, limit: int) -> list[tuple[int, bytes]]:
        """Up to `limit` records from log_seq `start` on, as (log_seq, record), in order.

        Empty when nothing is new. If `start` is older than the oldest record kept, reading begins
        there. Raises LogUnavailable if what should be there does not come.
        """
        stop = min(start + limit, self.end())
        if start >= stop:
            return []
        consumer = self._at(start)
        records: list[tuple[int, bytes]] = []
        deadline = time.monotonic() + READ_SECONDS
        while self._position < stop:
            for message in consumer.consume(min(stop - self._position, _CONSUME), _POLL_SECONDS):
                if message.error():
                    continue  # librdkafka goes on by itself; the deadline ends it
                offset = message.offset()
                assert offset is not None
                if start <= offset < stop:
                    records.append((offset, message.value() or b""))
                self._position = offset + 1
                deadline = time.monotonic() + READ_SECONDS
            if time.monotonic() > deadline:
                self.close()
                raise LogUnavailable(
                    f"{_name(self._address)} does not send the records from {self._position} on "
                    f"({self._errors.last or 'no answer'})"
                )
        return records

    def close(self) -> None:
        """Disconnect; it may be used again."""
        for consumer in (self._consumer, self._probe):
            if consumer is not None:
                consumer.close()
        self._consumer = self._probe = None
        self._position = -1

    def _watermarks(self) -> tuple[int, int]:
        from confluent_kafka import KafkaException, TopicPartition

        if self._probe is None:
            probe = self._client({"fetch.message.max.bytes": 4096, "fetch.wait.max.ms": 10})
            _check_topic(probe, self._address, self._errors)
            self._probe = probe
        try:
            place = TopicPartition(self._address.topic, 0)
            low, high = self._probe.get_watermark_offsets(place, timeout=CONNECT_SECONDS)
        except (KafkaException, TypeError) as error:  # None when it takes too long
            reason = self._errors.reason(error) if isinstance(error, KafkaException) else "timeout"
            self.close()
            raise LogUnavailable(f"{_name(self._address)} does not answer ({reason})") from None
        return int(low), int(high)

    def _fetched_end(self, offset: int) -> int:
        from confluent_kafka import TopicPartition

        assert self._probe is not None
        place = TopicPartition(self._address.topic, 0, offset)
        self._probe.assign([place])
        self._probe.poll(1.0)
        known = self._probe.get_watermark_offsets(place, cached=True)
        self._probe.unassign()
        return int(known[1]) if known else 0

    def _at(self, start: int) -> Consumer:
        from confluent_kafka import TopicPartition

        if self._consumer is None:
            self._consumer = self._client({"queued.max.messages.kbytes": 32_768})
        if self._position != start:
            self._consumer.assign([TopicPartition(self._address.topic, 0, start)])
            self._position = start
        return self._consumer

    def _client(self, more: Mapping[str, Any]) -> Consumer:
        options = {
            "group.id": "signalbox-log",  # a name is needed, no group is joined
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
        }
        client: Consumer = _client("Consumer", self._address, self._errors, options | dict(more))
        return client


def _client(kind: str, address: KafkaAddress, errors: Errors, options: Mapping[str, Any]) -> Any:
    try:
        import confluent_kafka
    except ImportError:
        raise LogError(
            "SIGNALBOX_LOG_URL names Kafka, whose package is not installed. "
            'Run: pip install "signalbox[kafka]"'
        ) from None
    settings = {**options, **client_settings(address.servers, address.options, errors)}
    try:
        return getattr(confluent_kafka, kind)(settings)
    except confluent_kafka.KafkaException as error:
        raise LogError(f"SIGNALBOX_LOG_URL: {error.args[0].str()}") from None


def _check_topic(client: Producer | Consumer, address: KafkaAddress, errors: Errors) -> None:
    from confluent_kafka import KafkaException

    # Asked for all topics: asked for one, a broker may create it, with any number of partitions.
    ask = partial(client.list_topics, timeout=CONNECT_SECONDS)
    try:
        topic = ask().topics.get(address.topic)
    except KafkaException as error:
        raise LogUnavailable(f"{_name(address)} does not answer ({errors.reason(error)})") from None
    if topic is None or topic.error:
        raise LogError(
            f"There is no {_name(address)}. Create it with exactly one partition, "
            "cleanup.policy=delete and a retention that outlasts any stop of the loads."
        )
    if len(topic.partitions) != 1:
        raise LogError(
            f"{_name(address)} has {len(topic.partitions)} partitions. The event log needs exactly "
            "one, because an offset is a position in it. Name another topic in SIGNALBOX_LOG_URL."
        )


def _name(address: KafkaAddress) -> str:
    return f"Kafka topic {address.topic} at {address.servers}"
