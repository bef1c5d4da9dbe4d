"""What identity would be with the rules as edited and the messages not yet built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from orchestration import identity_pending, warehouse
from orchestration.identity import IdentityError, rows
from orchestration.scratch import Scratch
from orchestration.settings import Settings

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

BUILD = ("build", "--exclude-resource-type", "test", "unit_test", "--select", "+identity_map")

# Ids with their customer as built (old) and as it would be (new); null where there is none.
COMPARED = """
create temporary table compared as
select coalesce(now.id_key, later.id_key) as id_key, now.customer_id as old, now.is_shared as was,
    later.customer_id as new, later.is_shared as becomes
from lake.main.identity_map as now
full outer join identity_map as later on now.id_key = later.id_key
"""
COUNTED = """
with moves as (
    select distinct old, new from compared where old is not null and new is not null
),
joining as (select new from moves group by new having count(*) > 1),
parting as (select old from moves group by old having count(*) > 1)
select
    (select count(distinct old) from compared) as customers_now,
    (select count(distinct new) from compared) as customers_then,
    (select count(distinct old) from moves semi join joining using (new)) as merging,
    (select count(*) from joining) as merging_into,
    (select count(*) from parting) as splitting,
    (select count(distinct new) from moves semi join parting using (old)) as splitting_into,
    (select count(distinct old) from moves
        where new in (from joining) or old in (from parting)) as affected,
    (select count(*) from compared where old is null) as new_ids,
    (select count(*) from compared where new is null) as ids_left_out,
    (select count(*) from compared where becomes and not coalesce(was, false)) as ids_now_shared,
    (select count(*) from compared where was and not coalesce(becomes, false)) as ids_shared_no_more
"""
LARGEST = """
select customer_id, canonical_id_key as named_by, component_size as ids from {relation}
order by component_size desc, canonical_id_key limit 1
"""
# The edges that would join customers who are apart.
JOINS = """
select edges.id_key, edges.other_id_key, edges.evidence, edges.event_at,
    one.old as customer_id, other.old as other_customer_id, one.new as into_customer_id
from identity_edges as edges
inner join compared as one on edges.id_key = one.id_key
inner join compared as other on edges.other_id_key = other.id_key
where one.old <> other.old and one.new = other.new
order by edges.log_seq, edges.id_key, edges.other_id_key limit $limit
"""
# Of customers who would come apart: what each part is called, and by how many ids it is known.
PARTS = """
select old as customer_id, new as into_customer_id, count(*) as ids,
    min(id_key) as for_example
from compared
where old in (
    select old from compared where new is not null group by old having count(distinct new) > 1
) and new is not null
group by all order by old, ids desc, new limit $limit
"""
RULES = """
select {columns} from (from {one} except from {other}) order by all
"""


@dataclass(frozen=True)
class Preview:
    """What would change; counts of customers and ids, `joins` and `parts` as examples."""

    pending_events: int
    rules_added: list[str]
    rules_removed: list[str]
    counts: dict[str, int]
    largest_now: dict[str, Any] | None
    largest_then: dict[str, Any] | None
    joins: list[dict[str, Any]] = field(default_factory=list)
    parts: list[dict[str, Any]] = field(default_factory=list)


def preview(
    settings: Settings,
    *,
    examples: int = 10,
    on_step: Callable[[str], object] = lambda _: None,
) -> Preview:
    """Build identity anew beside the lake, and compare.

    It takes the project's seed identity_rules as its file stands, the lake's events, and those that
    stand in the log and are not loaded yet. The lake is only read; the time is that of a full
    refresh of the identity models.

    Args:
        settings: which home.
        examples: how many joins and parts to name.
        on_step: told in words what is done now.

    Raises:
        IdentityError: identity was never built.
        DbtFailed: with dbt's words.
    """
    import duckdb

    warehouse.ensure(settings)
    with Scratch(settings) as scratch:
        on_step("reading what is not built yet")
        scratch.show_with(identity_pending.events(settings))
        on_step("building identity beside the lake")
        scratch.dbt(*BUILD, as_of=datetime.now(UTC))
        on_step("comparing")
        with scratch.connect() as connection:
            try:
                connection.execute(COMPARED)
            except duckdb.CatalogException:
                raise IdentityError(
                    "Identity was never built, so there is nothing to compare with; run "
                    "signalbox build."
                ) from None
            return _compare(connection, examples)


def _compare(connection: DuckDBPyConnection, examples: int) -> Preview:
    def rules(one: str, other: str) -> list[str]:
        columns = "concat_ws(',', rule, id_kind, value, limit_to)"
        found = connection.execute(RULES.format(columns=columns, one=one, other=other))
        return [str(rule) for (rule,) in found.fetchall()]

    def largest(relation: str) -> dict[str, Any] | None:
        return next(iter(rows(connection, LARGEST.format(relation=relation))), None)

    here, there = "identity_rules", "lake.main.identity_rules"
    built = "select coalesce(max(log_seq), -1) from lake.main.stg_events"
    pending = connection.execute(
        f"select count(*) from stg_events where log_seq > ({built})"
    ).fetchone()
    assert pending is not None
    return Preview(
        pending_events=int(pending[0]),
        rules_added=rules(here, there),
        rules_removed=rules(there, here),
        counts=rows(connection, COUNTED)[0],
        largest_now=largest("lake.main.identity_map"),
        largest_then=largest("identity_map"),
        joins=rows(connection, JOINS, {"limit": examples}),
        parts=rows(connection, PARTS, {"limit": examples}),
    )
