"""Builds a signal again and again as of moments of the past, and keeps what it fired at each.

No leak is possible by construction: at each moment the file that dbt builds in holds the events
up to that moment and nothing else, numbered as if each had arrived when it happened. What a later
build would say of that time is not asked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from orchestration import dbt, warehouse
from orchestration.backtest import figures, outcome
from orchestration.backtest.outcome import Outcome
from orchestration.scratch import Scratch
from orchestration.settings import Settings

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

# So many builds, about, where no step is given: a week apart in a quarter.
STEPS = 13
DAY = timedelta(days=1)
RUN = ("run", "--select")
SEEDED = ("build", "--exclude-resource-type", "test", "unit_test", "--select")

FIRINGS = """
create table backtest_firings (
    customer_id varchar, trigger_id varchar, fired_at timestamptz, acted_at timestamptz,
    is_counted boolean
)
"""
# Known under whatever id the customer had then. What comes to light late counts from then on, and
# not at all when it is too old to act on.
KEEP = """
insert into backtest_firings
select customer_id, trigger_id, fired_at,
    case when fired_at >= $previous or not $counts then fired_at else $cut end,
    $counts and (fired_at >= $previous or expires_at > $cut)
from {signal} as present
where fired_at < $cut and not exists (
    select 1 from backtest_firings as kept
    inner join identity_map on kept.customer_id = identity_map.solo_customer_id
    where identity_map.customer_id = present.customer_id and kept.trigger_id = present.trigger_id
)
"""


class BacktestError(Exception):
    """The signal cannot be tried on these data; the message says why."""


def backtest(
    settings: Settings,
    signal: str,
    *,
    since: datetime | None = None,
    step: timedelta | None = None,
    judged_by: Outcome | None = None,
    on_step: Callable[[str, int, int], object] = lambda *_: None,
) -> figures.Backtest:
    """Run the signal's SQL of the working tree over the lake's history, as of each moment.

    The lake is only read.

    Args:
        settings: which lake.
        signal: name of a model in models/signals.
        since: from when on firings count, a midnight; 90 days before the newest event if unset.
        step: whole days from one build to the next; about 13 builds in all if unset.
        judged_by: in place of the outcome that the model names.
        on_step: told what is built, the number of the build, and how many there will be.

    Raises:
        BacktestError: there is no such signal, or nothing happened since then.
        OutcomeError: the model's outcome is not declared as it should be.
        DbtFailed: the SQL does not compile or run, in dbt's words.
    """
    warehouse.ensure(settings)
    node = _signal(dbt.manifest(settings), signal)
    goal = judged_by or outcome.of(node)
    with Scratch(settings) as scratch:
        with scratch.connect() as connection:
            first, until = _history(connection)
            since = since or max(_midnight(first) + DAY, _midnight(until) - 90 * DAY)
            if not first < since < until:
                raise BacktestError(
                    f"The events run from {first:%Y-%m-%d} to {until:%Y-%m-%d}: --since must be a "
                    f"day after the first and before the last, and {since:%Y-%m-%d} is not."
                )
            notes = _take_what_was_learned(connection, since, _sees_learned(settings, node))
        scratch.copy_in_order()
        step = step or max(1, math.ceil((until - since) / DAY / STEPS)) * DAY
        cuts = list(_cuts(since, until, step))
        chosen = (f"+{signal}", "+customer_timeline")
        previous = since
        for number, cut in enumerate(cuts):
            on_step(f"as of {cut:%Y-%m-%d}", number, len(cuts))
            scratch.show_in_order(before=cut)
            # The last moment before: a day that has not begun is no day to look from.
            evening = cut - timedelta(microseconds=1)
            scratch.dbt(*(RUN if number else SEEDED), *chosen, as_of=evening)
            with scratch.connect() as connection:
                if not number:
                    connection.execute(FIRINGS)
                connection.execute(
                    KEEP.format(signal=signal),
                    {"previous": previous, "cut": cut, "counts": number > 0},
                )
            previous = cut
        with scratch.connect() as connection:
            return figures.read(connection, signal, goal, cuts, step, notes)


def _signal(manifest: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    signals = {
        node["name"]: node
        for node in manifest["nodes"].values()
        if node["resource_type"] == "model"
        and node["fqn"][1] == "signals"
        and "trigger_id" in node["columns"]
        and node["name"] != "signals"
    }
    if name not in signals:
        raise BacktestError(f"There is no signal {name}; there are: {', '.join(sorted(signals))}.")
    found: Mapping[str, Any] = signals[name]
    return found


def _history(connection: DuckDBPyConnection) -> tuple[datetime, datetime]:
    """When the first event happened, and the second after the last; clocks that are ahead aside."""
    row = connection.execute(
        "select min(timestamp), max(timestamp) from lake.raw.events where timestamp <= now()"
    ).fetchone()
    assert row is not None
    if row[0] is None:
        raise BacktestError("The lake holds no events: signalbox import FILE, then signalbox load.")
    return row[0].astimezone(UTC), row[1].astimezone(UTC).replace(microsecond=0) + timedelta(
        seconds=1
    )


def _midnight(moment: datetime) -> datetime:
    return moment.replace(hour=0, minute=0, second=0, microsecond=0)


def _cuts(since: datetime, until: datetime, step: timedelta) -> Iterator[datetime]:
    while since < until:
        yield since
        since += step
    yield until


def _sees_learned(settings: Settings, node: Mapping[str, Any]) -> bool:
    """Whether a model looks, at whatever distance, at what training has learned."""
    manifest = dbt.manifest(settings)
    todo, seen = [node["unique_id"]], set()
    while todo:
        unique_id = todo.pop()
        if unique_id in seen:
            continue
        seen.add(unique_id)
        todo += manifest["parent_map"].get(unique_id, [])
    return any(unique_id.startswith("source.signalbox.learned.") for unique_id in seen)


def _take_what_was_learned(
    connection: DuckDBPyConnection, since: datetime, matters: bool
) -> list[str]:
    """Let the champions score that were trained by then; returns notes for the reader.

    A later one has seen what it would foretell, so that until then the rules score.
    """
    if not matters or not _is_built(connection, "model_registry"):
        return []
    for table in ("model_registry", "churn_model_points"):
        connection.execute(
            f"create table evaluation.evaluation.{table} as select * from lake.main.{table}"
            + (" where is_champion and trained_at < $since" if table == "model_registry" else ""),
            {"since": since} if table == "model_registry" else None,
        )
    late = connection.execute(
        "select version from lake.main.model_registry"
        " where model = 'churn' and is_champion and trained_at >= $since",
        {"since": since},
    ).fetchone()
    if late is None:
        return []
    return [
        f"Version {late[0]} of the churn model was trained after {since:%Y-%m-%d} and has seen "
        "what it would foretell here: the rules of churn_rules score instead."
    ]


def _is_built(connection: DuckDBPyConnection, table: str) -> bool:
    return (
        connection.execute(
            "select 1 from duckdb_tables() where database_name = 'lake' and schema_name = 'main'"
            " and table_name = $table",
            {"table": table},
        ).fetchone()
        is not None
    )
