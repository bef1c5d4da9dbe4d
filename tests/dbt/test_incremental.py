"""Promise 9: whatever the deliveries, each incremental model equals a full refresh by the row."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from dbt_streams import NOW, arrivals, stream, with_splits
from dbt_warehouse import Message, Warehouse

STEADY = ["--exclude", "config.materialized:view", "tag:daily", "tag:after_sync"]


def incremental_models(results: Any) -> list[str]:
    return sorted(
        result.node.name
        for result in results.results
        if result.node.resource_type == "model" and result.node.config.materialized == "incremental"
    )


def snapshot(warehouse: Warehouse, models: list[str]) -> dict[str, list[tuple[Any, ...]]]:
    return {model: warehouse.table(model) for model in models}


def assert_equal_to_full_refresh(warehouse: Warehouse, models: list[str], as_of: Any) -> None:
    built = snapshot(warehouse, models)
    warehouse.dbt("run", "--full-refresh", *STEADY, as_of=as_of)
    refreshed = snapshot(warehouse, models)
    for model in models:
        extra = [row for row in built[model] if row not in refreshed[model]]
        missing = [row for row in refreshed[model] if row not in built[model]]
        assert not extra and not missing, (
            f"{model}: {len(extra)} rows too many, {len(missing)} missing\n"
            f"{warehouse.columns(model)}\n{extra[:3]}\n{missing[:3]}"
        )
        assert len(built[model]) == len(refreshed[model]), f"{model} repeats rows"
    assert any(built[model] for model in models)


@pytest.mark.long
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_many_small_loads_equal_one_full_refresh(warehouse: Warehouse, seed: int) -> None:
    deliveries = arrivals(seed, with_splits(seed, stream(seed)), batches=6)
    warehouse.load(deliveries[0])
    warehouse.dbt("seed")
    models = incremental_models(warehouse.dbt("run", "--exclude", "tag:after_sync", as_of=NOW))
    for delivery in deliveries[1:]:
        warehouse.load(delivery)
        warehouse.dbt("run", *STEADY, as_of=NOW)
    assert_equal_to_full_refresh(warehouse, models, NOW)


@pytest.mark.long
@pytest.mark.parametrize("seed", [4, 5])
def test_micro_batches_equal_one_full_refresh(warehouse: Warehouse, seed: int) -> None:
    """They read from memory what they made themselves, and not what a build made that left out
    some models, which then have more to read than the batch has made.
    """
    deliveries = arrivals(seed, with_splits(seed, stream(seed)), batches=5)
    warehouse.load(deliveries[0])
    warehouse.dbt("seed")
    models = incremental_models(warehouse.dbt("run", "--exclude", "tag:after_sync", as_of=NOW))
    left_out = [[], [], ["sessions", "customers"], ["customer_timeline+", "customers"], []]
    for place, delivery in enumerate(deliveries[1:], start=1):
        warehouse.load(delivery)
        warehouse.batch("run", *STEADY, *left_out[place], as_of=NOW)
    assert_equal_to_full_refresh(warehouse, models, NOW)


@pytest.mark.long
@pytest.mark.parametrize("seed", [11, 12])
def test_equal_while_time_passes(warehouse: Warehouse, seed: int) -> None:
    """Days roll, carts fall due between builds, and the last build has no new event at all."""
    deliveries = arrivals(seed, with_splits(seed, stream(seed, days=9)), batches=4)
    moments = [NOW + timedelta(minutes=minutes) for minutes in (0, 7, 41, 60 * 13, 60 * 45)]
    warehouse.load(deliveries[0])
    warehouse.dbt("seed")
    first = warehouse.dbt("run", "--exclude", "tag:after_sync", as_of=moments[0])
    models = incremental_models(first)
    for moment, delivery in zip(moments[1:], [*deliveries[1:], []], strict=True):
        warehouse.load(delivery)
        warehouse.dbt("run", *STEADY, as_of=moment)
    assert_equal_to_full_refresh(warehouse, models, moments[-1])


@pytest.mark.long
def test_repeated_load_and_repeated_run_change_nothing(warehouse: Warehouse) -> None:
    """A load that was killed after its commit writes its rows again; a run may start twice."""
    first, second = arrivals(5, stream(5, size=120), batches=2)
    warehouse.load(first)
    warehouse.dbt("seed")
    models = incremental_models(warehouse.dbt("run", "--exclude", "tag:after_sync", as_of=NOW))
    warehouse.load(second)
    warehouse.dbt("run", *STEADY, as_of=NOW)
    built = snapshot(warehouse, models)

    rows = warehouse.query("select * from raw.events where log_seq >= 100")
    warehouse.load_rows(rows)
    warehouse.dbt("run", *STEADY, as_of=NOW)
    # As after a run that died before it could note how far it came.
    with warehouse.connect() as connection:
        connection.execute("update main.build_watermarks set log_seq = 80")
    warehouse.dbt("run", *STEADY, as_of=NOW)
    assert snapshot(warehouse, models) == built


@pytest.mark.long
def test_a_run_of_part_of_the_project_leaves_no_gap(warehouse: Warehouse) -> None:
    """Building a model without what stands above it must not make it skip those events later."""
    first, second, third = arrivals(6, stream(6, size=150), batches=3)
    warehouse.load(first)
    warehouse.dbt("seed")
    models = incremental_models(warehouse.dbt("run", "--exclude", "tag:after_sync", as_of=NOW))
    warehouse.load(second)
    warehouse.dbt("run", "--select", "stg_events", "sessions", "customer_features_daily", as_of=NOW)
    warehouse.load(third)
    warehouse.dbt("run", "--select", "stg_events", "identity_edges", "customer_timeline", as_of=NOW)
    warehouse.dbt("run", *STEADY, as_of=NOW)
    assert_equal_to_full_refresh(warehouse, models, NOW)


@pytest.mark.long
def test_identity_does_not_depend_on_the_order_of_arrival(warehouse: Warehouse) -> None:
    """The same messages in another order give the same customers under the same names."""
    messages = with_splits(8, stream(8))
    warehouse.load(messages)
    warehouse.dbt("seed")
    identity = ["--select", "+identity_map"]
    warehouse.dbt("run", *identity, as_of=NOW)
    names = "select id_key, customer_id from main.identity_map order by id_key"
    in_order = warehouse.query(names)
    warehouse.query("delete from raw.events")
    warehouse.load(arrivals(8, messages, batches=1)[0])
    warehouse.dbt("run", "--full-refresh", *identity, as_of=NOW)
    assert warehouse.query(names) == in_order
    merged = "select count(*) from main.identity_map where customer_id <> solo_customer_id"
    shared = "select count(*) from main.identity_map where is_shared"
    split = "select count(*) from main.identity_splits where is_split"
    undone = "select count(*) from main.identity_splits where not is_split"
    assert warehouse.query(merged)[0][0] > 0
    assert warehouse.query(shared)[0][0] > 0
    assert warehouse.query(split)[0][0] > 0
    assert warehouse.query(undone)[0][0] > 0


@pytest.mark.long
def test_a_split_parts_one_customer_and_touches_nobody_else(warehouse: Warehouse) -> None:
    """Ann and Ben, who share a tablet, part; undone, they are one again under the same name."""

    def said(event: str, minutes: int) -> Message:
        at = NOW - timedelta(minutes=minutes)
        body = {"properties": {"id": "anonymous:tablet", "other_id": "user:ben"}}
        return Message("track", at, f"s{minutes}", None, None, event, body, source="signalbox")

    def seen(hours: int, user: str | None, device: str, event: str = "Logged In") -> Message:
        at = NOW - timedelta(hours=hours)
        return Message("track", at, f"m{hours}", user, device, event, {"properties": {}})

    def parts() -> dict[str, str]:
        rows = warehouse.query("select id_value, customer_id from main.identity_map")
        return {str(name): str(customer) for name, customer in rows}

    def steps(customer: str) -> int:
        query = f"select count(*) from main.customer_timeline where customer_id = '{customer}'"
        return int(warehouse.query(query)[0][0])

    aside = [seen(90 + number, f"user-{number}", f"phone-{number}") for number in range(5)]
    # An email of two is still one person's: ann, ben and the tablet are one customer.
    shared = [
        Message("identify", NOW - timedelta(hours=50), "i1", "ann", "laptop", None,
                {"traits": {"email": "home@example.com"}}),
        Message("identify", NOW - timedelta(hours=40), "i2", "ben", "tablet", None,
                {"traits": {"email": "home@example.com"}}),
        seen(30, None, "tablet"), seen(20, "ben", "tablet"), seen(10, "ann", "laptop"),
    ]  # fmt: skip
    warehouse.load([*aside, *shared])
    warehouse.dbt("seed")
    models = incremental_models(warehouse.dbt("run", "--exclude", "tag:after_sync", as_of=NOW))
    before = parts()
    assert before["ann"] == before["ben"] == before["tablet"]
    whole = steps(before["ann"])

    warehouse.load([said("Identity Split", 9)])
    untouched = "select * from main.identity_map where id_value like '%-%' order by all"
    others = warehouse.query(untouched)
    warehouse.dbt("run", *STEADY, as_of=NOW)
    after = parts()
    # The part with the id that named the customer keeps its name.
    assert after["ann"] == before["ann"] == after["ben"]
    assert after["tablet"] != before["ann"]
    assert steps(after["tablet"]) == 1 and steps(after["ann"]) == whole - 1
    assert warehouse.query(untouched) == others
    newest = warehouse.next_seq - 1
    touched = f"select count(*) from main.identity_map where changed_seq = {newest}"
    assert warehouse.query(touched)[0][0] == 5, "the ids of the one customer, and no other"

    warehouse.load([said("Identity Split Undone", 5)])
    warehouse.dbt("run", *STEADY, as_of=NOW)
    assert parts() == before
    assert steps(before["ann"]) == whole
    assert_equal_to_full_refresh(warehouse, models, NOW)
