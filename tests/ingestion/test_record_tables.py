"""Reading records all at once must tell exactly what reading each by itself tells."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestion import record_tables
from ingestion.contract import Contracts
from ingestion.envelope import Arrival, encode_record, to_record

CONTRACTS = Contracts.load()
ARRIVAL = Arrival("web", datetime(2026, 3, 1, 12, 0, tzinfo=UTC))

TEXTS = st.one_of(
    st.text(max_size=8), st.sampled_from(["NaN", "null", "", "\u2028", "a\nb", '"', "\\", "2026"])
)
MESSAGES = st.fixed_dictionaries(
    {"type": st.sampled_from(["track", "identify", "page", "wrong"])},
    optional={
        "messageId": TEXTS,
        "userId": st.one_of(TEXTS, st.integers(-(2**63), 2**63)),
        "event": TEXTS,
        "timestamp": st.one_of(st.datetimes().map(datetime.isoformat), TEXTS),
        "properties": st.dictionaries(
            TEXTS, st.one_of(TEXTS, st.floats(allow_nan=False)), max_size=3
        ),
    },
)


def numbered(records: list[bytes]) -> list[tuple[int, bytes]]:
    return list(enumerate(records, start=7))


def rows(tables: tuple[Any, Any]) -> list[list[dict[str, Any]]]:
    return [table.to_pylist() for table in tables]


@settings(max_examples=150, deadline=None)
@given(st.lists(MESSAGES, min_size=1, max_size=12))
def test_the_quick_way_tells_the_same(messages: list[dict[str, Any]]) -> None:
    records = numbered(
        [encode_record(to_record(json.dumps(m).encode(), ARRIVAL, CONTRACTS)) for m in messages]
    )
    quick = record_tables._all_at_once(records)
    slow = record_tables._one_by_one(records)
    assert rows(quick) == rows(slow)
    assert [t.schema for t in quick] == [t.schema for t in slow]
    assert sum(table.num_rows for table in quick) == len(records)


GOOD = msgspec.json.encode({"kind": "event", "source": "web", "message_id": "m1", "payload": "{}"})


@pytest.mark.parametrize(
    "odd",
    [
        b"not json",
        b'{"kind": "tomorrow", "source": "web"}',
        b'{"kind": "event",\n"source": "web"}',
        b'{"kind": "event", "message_id": 7}',
        b'{"kind": "event"} {"kind": "event"}',
        b'{"source": "web"}',
        b'{"kind": "event", "message_id": "\xff"}',
        b'{"kind": "event", "received_at": "yesterday", "later": {"a": [1]}}',
    ],
)
def test_an_odd_record_costs_its_neighbours_nothing(odd: bytes) -> None:
    records = numbered([GOOD, odd, GOOD])
    events, quarantine = record_tables.split(records)
    assert rows((events, quarantine)) == rows(record_tables._one_by_one(records))
    found = sorted([*events["log_seq"].to_pylist(), *quarantine["log_seq"].to_pylist()])
    assert found == [7, 8, 9]
    assert {7, 9} <= set(events["log_seq"].to_pylist())
