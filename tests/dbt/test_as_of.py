"""The macros that tell a past state as it was known, against builds of what was known then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from dbt_streams import NOW, arrivals, stream, with_splits
from dbt_warehouse import Warehouse

BUILD = ("run", "--select", "+customer_timeline", "+customers")
IDENTITY = (
    "id_key, id_kind, id_value, customer_id, canonical_id_key, kind_rank, first_event_at,"
    " first_mentioned_at, is_shared, is_identified, component_size"
)


def told(warehouse: Warehouse, call: str) -> Callable[..., str]:
    """SQL of one of the macros, of a moment and, where it asks for one, an id."""
    sql = warehouse.inline("{{ " + call + " }}")

    def of(moment: datetime, id_key: str = "") -> str:
        text = sql.replace("@moment", f"timestamptz '{moment.isoformat()}'")
        return f"({text.replace('@id_key', repr(id_key))})"

    return of


@pytest.mark.long
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_as_of_a_moment_is_a_build_of_what_had_arrived(
    warehouse: Warehouse, tmp_path: Path, seed: int
) -> None:
    """Late, shuffled, repeated, with merges, shared devices, splits and splits undone between."""
    deliveries = [
        [replace(message, received=NOW + timedelta(hours=number)) for message in delivery]
        for number, delivery in enumerate(
            arrivals(seed, with_splits(seed, stream(seed), splits=25), batches=4)
        )
    ]
    (tmp_path / "then").mkdir()
    then = Warehouse(tmp_path / "then")
    for here in (warehouse, then):
        here.dbt("seed")
    for delivery in deliveries:
        warehouse.load(delivery)
    warehouse.dbt(*BUILD, as_of=NOW)

    timeline = told(warehouse, "timeline_as_of('@moment')")
    timeline_of_one = told(warehouse, "timeline_as_of('@moment', '@id_key')")
    identity = told(warehouse, "identity_as_of('@moment')")
    traits = told(warehouse, "customers_as_of('@moment')")
    # When a row was built is a matter of the table.
    names = ", ".join(set(warehouse.columns("customer_timeline")) - {"changed_seq"})
    customers = []
    for number, delivery in enumerate(deliveries):
        then.load(delivery)
        then.dbt(*BUILD, as_of=NOW)
        moment = NOW + timedelta(hours=number, minutes=30)
        for sql, columns, table in (
            (timeline(moment), names, "customer_timeline"),
            (identity(moment), IDENTITY, "identity_map"),
            (traits(moment), "*", "customers"),
        ):
            assert warehouse.query(f"select {columns} from {sql} order by all") == then.query(
                f"select {columns} from {table} order by all"
            )
        customers.append(then.query("select id_key, customer_id from identity_map order by all"))
        for id_key, customer in customers[-1][::5]:
            one = timeline_of_one(moment, id_key)
            assert warehouse.query(f"select {names} from {one} order by all") == then.query(
                f"select {names} from customer_timeline where customer_id = '{customer}'"
                " order by all"
            )
    assert then.table("customer_timeline") == warehouse.table("customer_timeline")
    before, after = dict(customers[0]), dict(customers[-1])
    assert any(after[one] != customer for one, customer in before.items()), "nobody merged"
    assert warehouse.query(f"from {timeline(NOW - timedelta(hours=1))}") == []


def test_what_was_in_quarantine_is_known_from_its_replay_on(warehouse: Warehouse) -> None:
    messages = stream(4, size=20)
    warehouse.load([replace(message, received=NOW) for message in messages])
    replayed = NOW + timedelta(hours=2)
    with warehouse.connect() as connection:
        connection.execute(
            "update raw.events set replayed_at = ? where log_seq = (select max(log_seq)"
            " from raw.events)", [replayed],
        )  # fmt: skip
    warehouse.dbt("seed")
    warehouse.dbt(*BUILD, as_of=NOW)
    timeline = told(warehouse, "timeline_as_of('@moment')")
    counts = [
        len(warehouse.query(f"from {timeline(moment)}"))
        for moment in (NOW + timedelta(hours=1), replayed)
    ]
    assert counts == [19, 20]
