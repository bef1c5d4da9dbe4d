"""Bad days by name, and what lies in tables and files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psycopg2
import pytest
import requests

from syncs.sandbox.faults import SCENARIOS, FaultBoard, scenario
from syncs.sandbox.server import background

from .conftest import Client


@pytest.mark.parametrize(
    ("name", "kinds", "refused"),
    [
        ("timeouts", {None, "timeout_after_effect", "hang"}, (0, 0)),
        ("storm", {None, "429", "500"}, (0, 0)),
        ("half", {None}, (400, 600)),
        ("chaos", {None, "429", "500", "hang", "timeout_after_effect", "disconnect"}, (5, 50)),
    ],
)
def test_scenarios_are_what_they_say(
    name: str, kinds: set[str | None], refused: tuple[int, int]
) -> None:
    board = FaultBoard()
    board.add(scenario(name, seed=1))
    drawn = Counter(fault and fault.kind for fault in (board.draw("/x") for _ in range(500)))
    assert set(drawn) == kinds
    assert refused[0] <= sum(board.rejects("/x", "key") for _ in range(1000)) <= refused[1]


def test_a_scenario_is_switched_on_over_http(sandbox: Client) -> None:
    assert sandbox.post("/sandbox/scenarios/earthquake", json={}).status_code == 400
    assert sandbox.post("/sandbox/scenarios/half", data="{}").status_code == 415
    active = sandbox.post("/sandbox/scenarios/half", json={"seed": 2, "path": "/hubspot"}).json()
    assert (active["rows"], active["path"]) == (SCENARIOS["half"].rows, "/hubspot")
    emails = {f"p{n}@example.com": {} for n in range(40)}
    body = sandbox.upsert(emails).json()
    assert 10 < len(body["results"]) < 30
    assert len(body["results"]) + len(body["errors"]) == 40
    assert len(sandbox.effects()) == len(body["results"])


def test_tables_and_files_are_shown(tmp_path: Path, new_database: Callable[[], str]) -> None:
    url, files = new_database(), tmp_path / "files"
    files.mkdir()
    (files / "people.csv").write_text("email,name\n" + "a@x.example,A\n" * 29 + "b@x.example,\n")
    connection = psycopg2.connect(url)
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "create table told (created_at timestamptz, body text);"
            "insert into told values ('2026-01-01', 'old'), ('2026-01-02', 'new')"
        )
    connection.close()
    with background(tmp_path / "sandbox", postgres=url, files=str(files)) as address:
        table, file = requests.get(f"{address.url}/sandbox/holdings", timeout=20).json()
    assert (table["name"], table["rows"], table["last"][0][1]) == ("told", 2, "new")
    assert (file["name"], file["rows"], len(file["last"])) == ("people.csv", 30, 20)
    assert (file["columns"], file["last"][0]) == (["email", "name"], ["b@x.example", ""])


def test_where_nothing_is_held_nothing_is_shown(sandbox: Client) -> None:
    assert sandbox.get("/sandbox/holdings").json() == []
