from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from ingestion.importer import BATCH_MESSAGES, ImportFailed, import_file
from ingestion.log import EventLog, LogReader
from ingestion.log_server import LogServer
from ingestion.mapping import read_mapping

MAPPINGS = Path(__file__).parents[2] / "ingestion" / "mappings"


def message(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "type": "track",
        "event": "Logged In",
        "messageId": f"m{number}",
        "userId": f"u{number}",
        "timestamp": "2024-05-06T07:08:09.123Z",
        "sentAt": "2024-05-06T07:08:19.123Z",
        "properties": {},
        **changes,
    }


def write_lines(path: Path, messages: list[Any]) -> Path:
    lines = [m if isinstance(m, str) else json.dumps(m) for m in messages]
    data = "\n".join(lines).encode() + b"\n"
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def logged(log_dir: Path) -> list[dict[str, Any]]:
    reader = LogReader(log_dir)
    return [json.loads(data) for _, data in reader.read(0, reader.end())]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_json_lines(tmp_path: Path, name: str) -> None:
    path = write_lines(
        tmp_path / name,
        [
            message(1),
            message(2, originalTimestamp="2024-05-06T07:08:10Z"),
            "",
            message(3, timestamp=None, messageId=None),
            "{torn",
            message(4, event="Purchase Completed", properties={"total": 3}),
            message(5, event="Never Heard Of"),
        ],
    )
    before = datetime.now(UTC)
    shares: list[tuple[int, float]] = []
    result = import_file(
        path, tmp_path / "log", source="web", progress=lambda n, share: shares.append((n, share))
    )
    assert (result.messages, result.accepted, result.quarantined) == (6, 3, 3)
    assert (result.first_seq, result.next_seq) == (0, 6)
    assert result.reasons == {"invalid_json": 1, "missing_field": 1, "unknown_event": 1}
    assert shares == [(6, 1.0)]
    records = logged(tmp_path / "log")
    # The clock of the client was 10 s behind when it sent, which no longer matters.
    assert records[0]["timestamp"] == "2024-05-06T07:08:09.123000Z"
    # An archive's corrected time counts, not the client's own.
    assert records[1]["timestamp"] == "2024-05-06T07:08:09.123000Z"
    assert records[1]["original_timestamp"] == "2024-05-06T07:08:10.000000Z"
    assert {record["source"] for record in records} == {"web"}
    received = datetime.fromisoformat(records[0]["received_at"])
    assert before <= received <= datetime.now(UTC)
    assert records[2]["message_id_generated"]
    assert records[3]["payload"] == "{torn"

    again = import_file(path, tmp_path / "log", source="web", unknown_events="allow")
    assert (again.first_seq, again.next_seq, again.quarantined) == (6, 12, 2)
    ids = [record["message_id"] for record in logged(tmp_path / "log")]
    assert ids[:6] == ids[6:]


def test_many_lines_go_in_batches(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.ndjson", [message(n) for n in range(BATCH_MESSAGES + 1)])
    shares: list[tuple[int, float]] = []
    import_file(path, tmp_path / "log", source="web", progress=lambda *done: shares.append(done))
    assert [count for count, _ in shares] == [BATCH_MESSAGES, BATCH_MESSAGES + 1]
    assert 0 < shares[0][1] <= shares[1][1] == 1.0


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"name,total\nAda,3\n", r"line 1, column 1.*"),
        (b'[\n{"type": "track"}]', "line 1, column 2"),
        (b'[{"type": "track"}]', r"line 1 is not a JSON object. .*jq -c"),
        (b"\x89PNG\r\n", "not a file of JSON lines"),
        (
            gzip.compress(json.dumps(message(1)).encode() * 9, mtime=0)[:-12],
            "damaged or incomplete",
        ),
    ],
)
def test_wrong_files_are_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(ImportFailed, match=problem):
        import_file(path, tmp_path / "log", source="web")


def test_what_cannot_be_opened_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ImportFailed, match="No such file"):
        import_file(tmp_path / "none.jsonl", tmp_path / "log", source="web")
    with pytest.raises(ImportFailed, match="Give a mapping"):
        import_file(tmp_path / "a.csv", tmp_path / "log", source="web")
    path = write_lines(tmp_path / "a.jsonl", [message(1)])
    with (
        EventLog(tmp_path / "log"),
        pytest.raises(ImportFailed, match="Another process owns the event log"),
    ):
        import_file(path, tmp_path / "log", source="web")


def test_a_file_is_imported_while_the_collector_runs(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [message(number) for number in range(5)])
    with EventLog(tmp_path / "log") as log, LogServer(log, tmp_path / "log"):
        log.append([b"the collector's"])
        result = import_file(path, tmp_path / "log", source="web")
        assert (result.first_seq, result.next_seq) == (1, 6)
        assert log.append([b"the collector's"]) == range(6, 7)


INVOICES = {
    "invoice_no": ["1001", "1002", "1001", "C1003", "1004", "1005"],
    "stock_code": ["b", "c", "a", "a", "a", "a"],
    "description": [None, "CUP", "POT", "POT", "POT", "POT"],
    "quantity": [2, 1, 3, -3, 1, 1],
    "unit_price": [1.25, 9.0, 0.1, 0.1, 0.1, 0.0],
    "invoice_date": [
        datetime(2011, 7, 1, 9, 30),
        datetime(2011, 1, 1, 9, 30),
        datetime(2011, 7, 1, 9, 30),
        datetime(2011, 7, 2),
        datetime(2011, 7, 3),
        datetime(2011, 7, 4),
    ],
    "customer_id": [7, 8, 7, 7, None, 9],
    "country": ["France"] * 6,
}


@pytest.mark.parametrize("kind", ["parquet", "csv", "csv.gz"])
def test_shipped_mapping_makes_orders_of_invoice_lines(tmp_path: Path, kind: str) -> None:
    frame, path = pl.DataFrame(INVOICES), tmp_path / f"retail.{kind}"
    if kind == "parquet":
        frame.write_parquet(path)
    else:
        text = frame.write_csv().encode()
        path.write_bytes(gzip.compress(text) if kind == "csv.gz" else text)
    mapping = MAPPINGS / "online_retail.yaml"
    result = import_file(path, tmp_path / "log", source="shop", mapping=mapping)
    assert (result.messages, result.quarantined) == (2, 0)
    assert (result.rows, result.rows_dropped) == (6, 3)
    january, july = logged(tmp_path / "log")
    assert january["timestamp"] == "2011-01-01T09:30:00.000000Z"
    assert july["timestamp"] == "2011-07-01T08:30:00.000000Z"  # London was on summer time
    assert (july["event"], july["event_version"], july["user_id"]) == ("Purchase Completed", 1, "7")
    assert july["message_id"] == "online-retail-1001"
    assert json.loads(july["payload"])["properties"] == {
        "order_id": "1001",
        "total": 2.8,
        "currency": "GBP",
        "items": [
            {"product_id": "a", "name": "POT", "quantity": 3, "price": 0.1},
            {"product_id": "b", "quantity": 2, "price": 1.25},
        ],
    }
    import_file(path, tmp_path / "log", source="shop", mapping=mapping)
    first, second = logged(tmp_path / "log")[1:4:2]
    assert {**first, "received_at": 0, "sent_at": 0} == {**second, "received_at": 0, "sent_at": 0}


def test_group_ids_do_not_depend_on_row_order(tmp_path: Path) -> None:
    mapping = tmp_path / "m.yaml"
    mapping.write_text(
        "event: Purchase Completed\n"
        "group_by: [customer_id, cast(invoice_date as date)]\n"
        "user_id: customer_id\n"
        "timestamp: max(invoice_date)\n"
        "properties: {order_id: min(invoice_no), total: sum(quantity), currency: \"'GBP'\"}\n"
    )
    frame = pl.DataFrame(INVOICES)
    for name, rows in (("a.parquet", frame), ("b.parquet", frame.reverse())):
        rows.write_parquet(tmp_path / name)
        import_file(tmp_path / name, tmp_path / "log", source="shop", mapping=mapping)
    ids = [(r["message_id"], r["original_timestamp"]) for r in logged(tmp_path / "log")]
    assert len(ids) == 10
    assert ids[:5] == ids[5:]
    assert len(set(ids)) == 5


def test_identify_from_csv(tmp_path: Path) -> None:
    (tmp_path / "people.csv").write_text("id,mail,joined\n1,a@example.com,2024-01-02\n2,,\n")
    mapping = tmp_path / "people.yaml"
    mapping.write_text(
        "type: identify\nuser_id: id\ntimestamp: joined\n"
        "constants: {consent: {marketing: true}}\ntraits: {email: mail}\n"
    )
    import_file(tmp_path / "people.csv", tmp_path / "log", source="crm", mapping=mapping)
    records = [json.loads(record["payload"]) for record in logged(tmp_path / "log")]
    assert [record["traits"] for record in records] == [
        {"email": "a@example.com", "consent": {"marketing": True}},
        {"consent": {"marketing": True}},
    ]
    assert records[0]["timestamp"] == "2024-01-02T00:00:00.000000Z"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("timestamp: [", "not usable"),
        ("event: X\nuser_id: a\n", "missing required field `timestamp`"),
        ("timestamp: b\nevent: X\nuser_id: a\nfilter: x\n", "unknown field `filter`"),
        ("timestamp: b\nuser_id: a\n", "need an event"),
        ("timestamp: b\nevent: X\n", "neither user_id nor anonymous_id"),
        ("timestamp: b\nevent: X\nuser_id: a\ntraits: {x: a}\n", "have no traits"),
        ("timestamp: b\nevent: X\nuser_id: a\nproperties: {x: [{y: a}]}\n", "needs group_by"),
        ("timestamp: b\nevent: X\nuser_id: nothing\n", '"nothing" not found'),
        ("timestamp: a\nevent: X\nuser_id: a\n", "Conversion Error.*oops"),
        ("timestamp: b\nevent: X\nuser_id: a\ntimezone: Mars/Base\n", "Mars/Base"),
        ("timestamp: b\nevent: X\nuser_id: a +\n", "Parser Error"),
    ],
)
def test_wrong_mappings_are_refused(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "a.csv").write_text("a,b\noops,2024-01-01\n")
    mapping = tmp_path / "m.yaml"
    mapping.write_text(text)
    with pytest.raises(ImportFailed, match=problem):
        import_file(tmp_path / "a.csv", tmp_path / "log", source="web", mapping=mapping)
    assert LogReader(tmp_path / "log").end() == 0


def test_a_broken_csv_names_its_line(tmp_path: Path) -> None:
    mapping = tmp_path / "m.yaml"
    mapping.write_text("timestamp: b\nevent: Logged In\nuser_id: a\n")
    good = "a,b\n" + "1,2024-01-01\n" * 500
    for bad, problem in (
        (good + '"open,2024\n', "line 502: unexpected end of data"),
        (good + "1,2,3\n", "line 502 has 3 columns, the first line 2"),
        ("", "it is empty"),
    ):
        (tmp_path / "a.csv").write_text(bad)
        with pytest.raises(ImportFailed, match=problem):
            import_file(tmp_path / "a.csv", tmp_path / "log", source="web", mapping=mapping)


def test_a_row_without_time_is_quarantined(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a;b\n1;2024-01-01\n2;\n")
    mapping = tmp_path / "m.yaml"
    mapping.write_text("timestamp: b\nevent: Logged In\nuser_id: a\ndelimiter: ';'\n")
    result = import_file(tmp_path / "a.csv", tmp_path / "log", source="web", mapping=mapping)
    assert (result.accepted, result.reasons) == (1, {"invalid_timestamp": 1})


def test_what_is_no_table_is_said_so(tmp_path: Path) -> None:
    mapping = tmp_path / "m.yaml"
    mapping.write_text("timestamp: b\nevent: Logged In\nuser_id: a\n")
    (tmp_path / "b.xlsx").write_text("")
    with pytest.raises(ImportFailed, match="does not exist"):
        import_file(tmp_path / "b.csv", tmp_path / "log", source="web", mapping=mapping)
    with pytest.raises(ImportFailed, match="neither"):
        import_file(tmp_path / "b.xlsx", tmp_path / "log", source="web", mapping=mapping)


@pytest.mark.parametrize("path", sorted(MAPPINGS.iterdir()), ids=lambda path: path.name)
def test_shipped_mappings_parse(path: Path) -> None:
    read_mapping(path)
