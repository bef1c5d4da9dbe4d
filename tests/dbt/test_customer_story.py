"""One customer's story from the models: found by any id, and as it stood at any moment."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from dbt_streams import NOW
from dbt_warehouse import Message, Warehouse

from orchestration import customer
from orchestration.cli.console import console
from orchestration.cli.customer import _print_head, _print_visits


def days_ago(days: float) -> Any:
    return NOW - timedelta(days=days)


MESSAGES = [
    Message("page", days_ago(20), "1", None, "phone", body={"properties": {"path": "/lamps"}}),
    Message("identify", days_ago(12), "2", "ada", "phone",
            body={"traits": {"email": "Ada@Example.com", "name": "Ada \x1b[31mByron"}}),
    Message("track", days_ago(12), "3", "ada", "phone", "Logged In", {"properties": {}}),
    Message("track", days_ago(3), "4", "ada", None, "Support Ticket Opened",
            {"properties": {"ticket_id": "t_1", "subject": "It does not [bold]work"}}),
    Message("track", days_ago(2), "5", "bob", None, "Logged In", {"properties": {}}),
]  # fmt: skip


def test_a_story_is_found_by_any_id_and_told_as_of_any_moment(warehouse: Warehouse) -> None:
    warehouse.load(MESSAGES)
    without = ("--exclude-resource-type", "test", "unit_test", "--exclude", "tag:after_sync")
    warehouse.dbt("build", *without, as_of=NOW)
    with warehouse.connect() as connection:
        found = {
            customer.find(connection, known_by)
            for known_by in ("ada", "phone", "ada@example.com", "ADA@example.com")
        }
        assert len(found) == 1
        ada = found.pop()
        assert ada is not None and customer.find(connection, ada) == ada
        assert customer.find(connection, "eve") is None

        now = customer.story(connection, ada, NOW)
        assert [event["step"] for event in now["events"]] == [1, 2, 3, 4]
        assert now["events"][3]["properties"]["ticket_id"] == "t_1"
        assert {one["kind"] for one in now["ids"]} == {"user", "email", "anonymous"}
        assert [one["signal"] for one in now["signals"]] == [
            "login_after_absence",
            "support_ticket_opened",
        ]
        assert now["score"]["reason_1"]
        assert now["actions"] == []  # the ledger's results were never brought in

        then = customer.story(connection, ada, days_ago(11))
        assert [event["event"] for event in then["events"]] == ["Page Viewed", None, "Logged In"]
        assert [one["signal"] for one in then["signals"]] == ["login_after_absence"]
        assert then["score"]["as_of_date"] == days_ago(11).date()
        assert then["received_later"] == 0
        before = customer.story(connection, ada, days_ago(15))
        assert [one["kind"] for one in before["ids"]] == ["anonymous"]
        assert before["merges"] == [] and len(before["events"]) == 1
        assert customer.story(connection, ada, days_ago(30))["ids"] == []

    with console.capture() as captured:
        _print_head(now)
        _print_visits(now, limit=3)
    shown = captured.get()
    assert "It does not [bold]work" in shown and "1 earlier events" in shown
    assert "\x1b[31m" not in shown
    assert shown.index("Logged In") < shown.index("⚡ support_ticket_opened")
