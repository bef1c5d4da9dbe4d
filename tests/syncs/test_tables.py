"""The destinations that are tables and files: what is in them afterwards, and what they refuse."""

from __future__ import annotations

import csv
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from syncs_cases import csv_file as file_case
from syncs_cases import in_app as app_case
from syncs_cases import postgres as table_case

from syncs import destinations
from syncs.destinations import Sandbox, aim, sandbox_target
from syncs.destinations.csv_file import cell
from syncs.http import Http
from syncs.results import Fatal, Rejected, Retryable, Row, RowResult, Target


def target(name: str, case: Any, place: Sandbox, mode: str = "upsert", **settings: Any) -> Any:
    found = sandbox_target(destinations.load(name), place)
    found = aim(found, object_name=case.OBJECT, key=case.KEY, mode=mode)
    return destinations.replace(found, settings=found.settings.model_copy(update=settings))


def push(aimed: Target[Any], rows: list[Row]) -> list[str]:
    results: list[RowResult] = destinations.load(aimed.destination).push(rows, aimed, Http())
    return [result.outcome for result in results]


def query(url: str, statement: str) -> list[tuple[Any, ...]]:
    connection = psycopg2.connect(url)
    with connection, connection.cursor() as cursor:
        cursor.execute(statement)
        rows = cursor.fetchall() if cursor.description else []
    connection.close()
    return rows


@pytest.fixture
def url(new_database: Callable[[], str]) -> str:
    return new_database()


def leaving(row: Row) -> Row:
    return destinations.replace(row, leave=True)


def test_rows_of_a_table_come_change_and_go(url: str) -> None:
    aimed = target("postgres", table_case, Sandbox(postgres=url), mode="mirror")
    assert push(aimed, table_case.ROWS) == ["delivered"] * 2
    assert push(aimed, table_case.ROWS) == ["delivered"] * 2
    types = query(url, "select column_name, data_type from information_schema.columns"
                       " where table_schema = 'crm' order by ordinal_position")  # fmt: skip
    assert types == [
        ("email", "text"), ("score", "double precision"), ("vip", "boolean"), ("seats", "bigint")
    ]  # fmt: skip
    fields = {"email": "a@x.example", "score": 0.75, "vip": True, "plan": "pro"}
    assert push(aimed, [Row("k3", "a@x.example", fields)]) == ["delivered"]
    assert push(aimed, [leaving(table_case.ROWS[1])]) == ["delivered"]
    people = query(url, "select email, score, vip, seats, plan from crm.people")
    assert people == [("a@x.example", 0.75, True, 3, "pro")]


def test_update_only_leaves_strangers_out(url: str) -> None:
    query(
        url,
        "create schema crm;"
        "create table crm.people (email text primary key, score real, vip boolean, seats int);"
        "insert into crm.people values ('b@x.example')",
    )
    aimed = target("postgres", table_case, Sandbox(postgres=url), mode="update_only")
    assert push(aimed, table_case.ROWS) == ["rejected", "delivered"]
    assert query(url, "select email, vip from crm.people") == [("b@x.example", False)]


def test_what_is_missing_is_said_with_what_to_run(url: str) -> None:
    aimed = target("postgres", table_case, Sandbox(postgres=url), create_tables=False)
    asked = []
    for _ in range(3):
        with pytest.raises(Fatal, match="; run: ") as caught:
            push(aimed, table_case.ROWS)
        statements = str(caught.value).partition("; run: ")[2]
        asked.append(statements)
        # A person may leave out the key; then that is what is missing next.
        query(url, statements.replace(" primary key", "").replace(', "vip" boolean', ""))
    assert [text.split()[0] for text in asked] == ["create", "alter", "create"]
    assert "unique index" in asked[2]
    assert push(aimed, table_case.ROWS) == ["delivered"] * 2


def test_a_table_refuses_rows_and_nothing_of_them_is_told(url: str) -> None:
    query(url, "create schema crm; create table crm.people (email text primary key, score real,"
               " vip boolean, seats int check (seats < 3))")  # fmt: skip
    aimed = target("postgres", table_case, Sandbox(postgres=url))
    with pytest.raises(Rejected, match="violates check constraint") as caught:
        push(aimed, table_case.ROWS)
    assert "a@x.example" not in str(caught.value)
    assert query(url, "select * from crm.people") == []
    assert push(aimed, table_case.ROWS[1:]) == ["delivered"]


@pytest.mark.parametrize("name", ["postgres", "in_app"])
def test_a_server_that_is_not_there_or_refuses(name: str, url: str) -> None:
    case = table_case if name == "postgres" else app_case
    secret = "hunter22"
    for bad, error in (
        (f"postgresql://me:{secret}@127.0.0.1:1/x", Retryable),
        (f"postgresql://me:{secret}@[bad", Fatal),
        (url.replace("/test_", "/no_test_"), Fatal),
    ):
        with pytest.raises(error) as caught:
            push(target(name, case, Sandbox(postgres=bad)), case.ROWS)
        assert type(caught.value) is error and secret not in str(caught.value)


def test_a_feed_holds_each_message_once(url: str) -> None:
    aimed = target("in_app", app_case, Sandbox(postgres=url), mode="message")
    nobody = destinations.replace(app_case.ROWS[0], action_key="k2", fields={"user_id": None})
    for _ in range(2):
        assert push(aimed, [*app_case.ROWS, nobody]) == ["delivered", "rejected"]
    (row,) = query(url, "select action_key, user_id, feed, title, body, html, data, read_at"
                        " from signalbox_in_app")  # fmt: skip
    assert row == ("k1", "u1", "news", "Hello", "plain", "<p>rich</p>", {"user_id": "u1"}, None)
    assert "is there" in destinations.load("in_app").check(aimed, Http())


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_file_is_kept_by_key(tmp_path: Path) -> None:
    aimed = target("csv_file", file_case, Sandbox(directory=str(tmp_path)), mode="mirror")
    assert push(aimed, file_case.ROWS) == ["delivered"] * 2
    rest = {"email": "b@x.example", "name": 'Bo, "B"\nO', "score": ""}
    assert read(tmp_path / "people.csv") == [
        {"email": "a@x.example", "name": "'=1+1", "score": "-0.5"}, rest
    ]  # fmt: skip
    push(aimed, [Row("k3", "a@x.example", {"email": "a@x.example", "plan": "pro"})])
    assert read(tmp_path / "people.csv") == [
        {"email": "a@x.example", "name": "'=1+1", "score": "-0.5", "plan": "pro"},
        rest | {"plan": ""},
    ]
    push(aimed, [leaving(file_case.ROWS[0])])
    assert [line["email"] for line in read(tmp_path / "people.csv")] == ["b@x.example"]
    assert {path.name for path in tmp_path.iterdir()} == {"people.csv", ".people.lock"}
    formula = Row("k4", "=A1", {"email": "=A1", "name": "x", "score": 1})
    push(aimed, [formula])
    push(aimed, [formula])
    push(aimed, [leaving(formula)])
    assert len(read(tmp_path / "people.csv")) == 1


def test_a_file_that_two_write_at_once_loses_nothing(tmp_path: Path) -> None:
    aimed = target("csv_file", file_case, Sandbox(directory=str(tmp_path)))

    def write(worker: int) -> None:
        for number in range(20):
            email = f"{worker}-{number}@x.example"
            push(aimed, [Row(email, email, {"email": email})])

    workers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(read(tmp_path / "people.csv")) == 80


@pytest.mark.parametrize("text", ["=1+1", "+1", "-cmd", "@SUM(A1)", "\t=1", "\r=1", "＝1"])
def test_formulas_are_neutralised(text: str) -> None:
    assert cell(text) == f"'{text}"


@pytest.mark.parametrize(
    ("value", "text"), [(-1.5, "-1.5"), ("-12.50", "-12.50"), (None, ""), (True, "true"), (1, "1")]
)
def test_other_cells_stay_as_they_are(value: Any, text: str) -> None:
    assert cell(value) == text


def test_a_file_has_a_plain_name_in_its_folder(tmp_path: Path) -> None:
    for name in ("../people", "a/b", ".hidden", ""):
        aimed = target("csv_file", file_case, Sandbox(directory=str(tmp_path / "in")))
        with pytest.raises(Fatal, match="a file's name"):
            push(destinations.replace(aimed, object=name), file_case.ROWS)
    (tmp_path / "file").touch()
    aimed = target("csv_file", file_case, Sandbox(directory=str(tmp_path / "file")))
    with pytest.raises(Fatal, match="cannot be written"):
        push(aimed, file_case.ROWS)
