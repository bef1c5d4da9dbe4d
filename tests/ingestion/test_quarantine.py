"""Replays: the same door, the same identity, once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from lakes import query

from ingestion import quarantine
from ingestion.contract import Contracts, read_contract
from ingestion.destination import Lake
from ingestion.envelope import Arrival, encode_record, to_record
from ingestion.load import Loader
from ingestion.log import EventLog
from ingestion.quarantine import Filter, Fix, Quarantined, QuarantineError, Replay
from ingestion.request import SourcePolicy

RECEIVED = datetime(2026, 3, 1, 12, 0, 10, 250_000, tzinfo=UTC)
SENT = datetime(2026, 3, 1, 13, 0, 10, tzinfo=UTC)  # by a clock one hour ahead
CONTRACTS = Contracts.load()
TOTAL = "properties.total = try_cast(payload->>'$.properties.total' as double)"
GOOD = {"order_id": "A-1", "total": 5, "currency": "EUR"}


def purchase(id: str | None, **changes: Any) -> dict[str, Any]:
    return {
        "type": "track",
        "event": "Purchase Completed",
        "userId": "u1",
        **({"messageId": id} if id else {}),
        "timestamp": "2026-03-01T14:00:05+01:00",
        "properties": {**GOOD, **changes},
    }


class Room:
    """A log, a lake and the collector's door between them."""

    def __init__(self, lake: Lake, directory: Path) -> None:
        self.lake = lake
        self.log = EventLog(directory)
        self.loader = Loader(lake.catalog_url, lake.data_path, directory, lake.pipelines_dir)
        self.loader.ensure_tables()

    def receive(self, *messages: Any, source: str = "web") -> None:
        arrival = Arrival(source, RECEIVED, SENT)
        raws = [m if isinstance(m, bytes) else json.dumps(m).encode() for m in messages]
        self.log.append([encode_record(to_record(raw, arrival, CONTRACTS)) for raw in raws])
        self.loader.load()

    def replay(self, *assignments: str, load: bool = True, **options: Any) -> Replay:
        """As `signalbox quarantine replay` does it; without `load` killed before it could load."""
        contracts = options.pop("contracts", CONTRACTS)
        dry_run = options.pop("dry_run", False)
        policy = options.pop("policy", SourcePolicy)
        self.loader.load()
        with self.lake.connect() as connection:
            connection.execute("use lake")
            result = quarantine.replay(
                connection,
                None if dry_run else self.log,
                Filter(**options),
                contracts=contracts,
                policy=policy,
                assignments=assignments,
            )
        if load:
            self.loader.load()
        return result

    def events(self) -> list[tuple[Any, ...]]:
        return query(self.lake, "select message_id, replayed_from from raw.events order by log_seq")


@pytest.fixture
def room(lake: Lake, tmp_path: Path) -> Iterator[Room]:
    made = Room(lake, tmp_path / "log")
    yield made
    made.loader.close()
    made.log.close()


def test_a_replay_is_the_event_that_it_should_have_been(room: Room) -> None:
    room.receive(purchase("good"), purchase("bad", total="59.80", note="1.50"))
    tried = room.replay(TOTAL, dry_run=True)
    assert (tried.messages, tried.passed, tried.first_seq) == (1, 1, None)
    (sample,) = tried.samples
    assert json.loads(sample.before)["properties"]["total"] == "59.80"
    assert json.loads(sample.after)["properties"]["total"] == 59.8
    assert room.events() == [("good", None)]

    done = room.replay(TOTAL)
    assert (done.messages, done.passed, done.first_seq, done.next_seq) == (1, 1, 2, 3)
    good, bad = query(
        room.lake,
        "select source, type, event, event_version, user_id, timestamp, original_timestamp, "
        "sent_at, received_at, violation_reason, replayed_from, payload "
        "from raw.events order by log_seq",
    )
    assert bad[:10] == good[:10]
    assert bad[8] == RECEIVED
    assert bad[10] == 1
    assert json.loads(bad[11])["properties"] == {**GOOD, "total": 59.8, "note": "1.50"}


def test_a_message_is_replayed_once(room: Room) -> None:
    # The producer tried again, so two records stand for one message; another has no id of its own.
    room.receive(purchase("m", total="1"), purchase("m", total="1"), purchase(None, total="2"))
    ids = query(room.lake, "select message_id from raw.quarantine order by log_seq")
    killed = room.replay(TOTAL, load=False)
    assert (killed.messages, killed.passed) == (2, 2)
    for _ in range(2):
        assert room.replay(TOTAL).messages == 0
    assert room.events() == [("m", 0), (ids[2][0], 2)]
    with room.lake.connect() as connection:
        connection.execute("use lake")
        (group,) = quarantine.groups(connection, Filter())
    assert (group.messages, group.replayed, group.waiting) == (3, 3, 0)


def test_a_replay_that_dies_half_way_goes_on_where_it_stopped(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def append(records: Any) -> range:
        if room.log.end() == 6:
            raise Killed
        return EventLog.append(room.log, records)

    room.receive(*(purchase(f"m{number}", total="1") for number in range(5)))
    monkeypatch.setattr(quarantine, "BATCH_MESSAGES", 1)
    monkeypatch.setattr(room.log, "append", append)
    with pytest.raises(Killed):
        room.replay(TOTAL)
    monkeypatch.undo()
    assert room.replay(TOTAL).passed == 4
    assert room.events() == [(f"m{number}", number) for number in range(5)]


def test_a_new_version_of_the_contract_lets_messages_through(room: Room, tmp_path: Path) -> None:
    room.receive(purchase("m", total="free"), purchase("n", currency=None))
    schema = dict(CONTRACTS.versions("Purchase Completed")[0].schema)
    schema["x-version"] = 2
    fields = dict(schema["properties"])
    fields["total"] = {**fields["total"], "type": ["number", "string"]}
    path = tmp_path / "purchase_completed.v2.json"
    path.write_text(json.dumps({**schema, "properties": fields}))
    contracts = Contracts([*CONTRACTS.all, read_contract(path)])
    result = room.replay(contracts=contracts)
    assert (result.passed, result.refused) == (1, {"missing_field": 1})
    assert query(room.lake, "select message_id, event_version from raw.events") == [("m", 2)]
    assert room.replay(contracts=contracts).refused == {"missing_field": 1}


def test_the_policies_of_now_decide(room: Room) -> None:
    room.receive({**purchase("m"), "event": "Sock Lost"})
    assert room.replay().passed == 0
    assert room.replay(policy=lambda name: SourcePolicy(name, "allow")).passed == 1
    (row,) = query(room.lake, "select event, violation_reason from raw.events")
    assert row == ("Sock Lost", "unknown_event")


def test_filters_choose_and_count(room: Room) -> None:
    room.receive(purchase("a", total="x"), purchase("b", total=None), b"{", b'{"userId":"\xff"}')
    room.receive(purchase("c", total="x"), source="app")
    with room.lake.connect() as connection:
        connection.execute("use lake")

        def ids(**wanted: Any) -> list[str]:
            return [m.message_id for m in quarantine.find(connection, Filter(**wanted), 9)]

        assert ids(reason="wrong_type") == ["c", "a"]
        assert ids(reason="wrong_type", source="app") == ["c"]
        assert ids(event="Purchase Completed", version=1) == ["c", "b", "a"]
        assert ids(id="1") == ["b"] and ids(id="b") == ["b"]
        assert ids(since=datetime(2026, 3, 2, tzinfo=UTC)) == []
        found = quarantine.groups(connection, Filter(event="Purchase Completed"))
    assert [(g.reason, g.version, g.source, g.messages, g.sample.message_id) for g in found] == [
        ("missing_field", 1, "web", 1, "b"),
        ("wrong_type", 1, "app", 1, "c"),
        ("wrong_type", 1, "web", 1, "a"),
    ]
    # What is no JSON has no fields to mend, and what was no UTF-8 is not passed on in silence.
    assert room.replay(reason="invalid_text").refused == {"invalid_text": 1}
    result = room.replay(TOTAL, "type = 'track'", "event = 'Logged In'")
    assert result.refused["invalid_json"] == 1


def test_a_lake_of_an_older_version_gets_the_new_columns(lake: Lake, tmp_path: Path) -> None:
    added = ("violation_reason", "violation_detail", "replayed_from", "replayed_at")
    room = Room(lake, tmp_path / "log")
    room.receive(purchase("old"))
    with lake.connect() as connection:
        for column in added:
            connection.execute(f"alter table lake.raw.events drop column {column}")
    room.loader.close()
    room.loader.ensure_tables()
    room.receive(purchase("m", total="1"))
    assert room.replay(TOTAL).passed == 1
    assert room.events() == [("old", None), ("m", 1)]
    room.loader.close()
    room.log.close()


def quarantined(payload: Any) -> Quarantined:
    text = payload if isinstance(payload, str) else json.dumps(payload)
    return Quarantined(
        1, "web", "m", False, "track", "Old", 1, "wrong_type", "d", None, RECEIVED, text
    )


@pytest.mark.parametrize(
    ("assignments", "after"),
    [
        (["event = 'New'"], {"event": "New", "properties": {"a": "1", "n": 1.50}}),
        (["properties.a = null"], {"event": "Old", "properties": {"n": 1.50}}),
        (
            ["context.protocols.event_version = (payload->'$.properties.a')::int"],
            {
                "event": "Old",
                "properties": {"a": "1", "n": 1.50},
                "context": {"protocols": {"event_version": 1}},
            },
        ),
        # Both see the message as it was.
        (
            [
                "properties.a = payload->'$.properties.n'",
                "properties.n = payload->'$.properties.a'",
            ],
            {"event": "Old", "properties": {"a": 1.50, "n": "1"}},
        ),
        (
            ["properties = {'when': received_at, 'from': source || '-' || type} -- all of them"],
            {
                "event": "Old",
                "properties": {"when": "2026-03-01 12:00:10.25+00", "from": "web-track"},
            },
        ),
    ],
)
def test_an_assignment_changes_one_place(assignments: list[str], after: dict[str, Any]) -> None:
    row = quarantined({"event": "Old", "properties": {"a": "1", "n": 1.50}})
    with Fix(assignments) as fix:
        (changed,) = fix.apply([row])
    assert isinstance(changed, str) and json.loads(changed) == after


def test_what_is_not_assigned_stays_as_it_was_written() -> None:
    with Fix(["properties.b = 2"]) as fix:
        changed = fix.apply([quarantined('{"properties":{"a":1.50,"big":123456789012345678901}}')])
    assert changed == ['{"properties":{"a":1.50,"big":123456789012345678901,"b":2}}']


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("properties.total", "is not an assignment"),
        ("total == 1", "is not an assignment"),
        ("messageId = 'x'", "keeps its identity"),
        ("event = nonsense", "nonsense"),
        ("event = (select content from read_text('/etc/passwd'))", "Permission Error"),
        ("event = 1); attach 'x.db'; select (1", "--set"),
        ("event = unnest([1, 2])", "one value for each"),
        ("event = cast(payload->>'$.secret' as integer)", "try_cast"),
        ("event = strptime(payload->>'$.secret', '%Y')", "%Y"),
        ("event = json_extract(payload->>'$.secret', '$.a')", "--set"),
    ],
)
def test_an_assignment_that_cannot_be(assignment: str, said: str) -> None:
    with pytest.raises(QuarantineError) as raised, Fix([assignment]) as fix:
        fix.apply([quarantined({"secret": "hunter2"})])
    assert said in str(raised.value)
    assert "hunter2" not in str(raised.value)
