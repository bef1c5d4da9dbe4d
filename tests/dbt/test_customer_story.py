"""One customer's story from the models: found by any id, as it was known at any moment."""

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
    # It happened on her tablet long ago, and came with the identify that named her there.
    Message("page", days_ago(19.5), "6", None, "tablet", received=days_ago(1.5),
            body={"properties": {"path": "/hubs"}}),
    Message("identify", days_ago(1), "7", "ada", "tablet",
            body={"traits": {"name": "Ada Lovelace"}}),
]  # fmt: skip


def test_a_story_is_found_by_any_id_and_told_as_of_any_moment(warehouse: Warehouse) -> None:
    warehouse.load(MESSAGES)
    without = ("--exclude-resource-type", "test", "unit_test", "--exclude", "tag:after_sync")
    warehouse.dbt("build", *without, as_of=NOW)
    known = {name: warehouse.inline(f"{{{{ {call} }}}}") for name, call in customer.MACROS.items()}
    with warehouse.connect() as connection:

        def find(known_by: str) -> customer.Found:
            found = customer.find(connection, known_by)
            assert found is not None, known_by
            return found

        ada = find("ada")
        for known_by in ("phone", "ada@example.com", "ADA@example.com", ada.customer_id):
            assert find(known_by).customer_id == ada.customer_id
        assert customer.find(connection, "eve") is None

        now = customer.story(connection, ada, NOW)
        assert [event["step"] for event in now["events"]] == [1, 2, 3, 4, 5, 6]
        assert now["events"][4]["properties"]["ticket_id"] == "t_1"
        assert {one["kind"] for one in now["ids"]} == {"user", "email", "anonymous"}
        assert {one["signal"] for one in now["signals"]} == {
            "login_after_absence",
            "support_ticket_opened",
        }
        assert now["score"]["reason_1"]
        assert now["actions"] == []  # the ledger's results were never brought in
        as_known = customer.story(connection, ada, NOW, known)
        assert as_known.pop("as_known") and not now.pop("as_known")
        assert as_known == now

        then = customer.story(connection, ada, days_ago(11), known)
        assert [event["event"] for event in then["events"]] == ["Page Viewed", None, "Logged In"]
        assert then["customer"]["name"] == "Ada \x1b[31mByron"
        assert then["score"]["as_of_date"] == days_ago(11).date()
        assert (then["received_later"], then["apart"]) == (1, [])

        in_hindsight = customer.story(connection, ada, days_ago(11))
        assert [event["step"] for event in in_hindsight["events"]] == [1, 2, 3, 4]
        assert in_hindsight["customer"]["name"] == "Ada Lovelace"
        assert in_hindsight["received_later"] == 1

        # Her page was known a while before it was known to be hers.
        apart = customer.story(connection, ada, days_ago(1.25), known)
        assert [event["step"] for event in apart["events"]] == [1, 2, 3, 4]
        assert apart["apart"] == ["anonymous:tablet"]
        tablet = customer.story(connection, find("tablet"), days_ago(1.25), known)
        assert [event["page_path"] for event in tablet["events"]] == ["/hubs"]
        assert tablet["customer_id"] != ada.customer_id

        before = customer.story(connection, ada, days_ago(15), known)
        assert [one["kind"] for one in before["ids"]] == ["anonymous"]
        assert before["merges"] == [] and len(before["events"]) == 1
        assert before["customer"]["is_identified"] is False
        nothing = customer.story(connection, ada, days_ago(30), known)
        assert (nothing["ids"], nothing["events"], nothing["customer"]) == ([], [], {})

    with console.capture() as captured:
        _print_head(now)
        _print_visits(now, limit=3)
    shown = captured.get()
    assert "It does not [bold]work" in shown and "3 earlier events" in shown
    assert "\x1b[31m" not in shown
    assert shown.index("Logged In") < shown.index("⚡ support_ticket_opened")
