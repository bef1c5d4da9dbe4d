"""What a backtest's firings come to: how many, for whom, beside which others, and how good."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from orchestration.backtest.outcome import Outcome

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

# A customer who was not here for so long is nobody whom a signal could have been about.
PRESENT = timedelta(days=30)
NEAR = timedelta(days=7)  # signals of one customer within this are about one thing
DAILY_UP_TO = timedelta(days=31)

# Who is known to be one customer by now counts as one.
FIRINGS = """
create temporary table firings as
select coalesce(ids.customer_id, kept.customer_id) as customer_id, trigger_id,
    min(fired_at) as fired_at, min(acted_at) as acted_at, bool_or(is_counted) as is_counted
from backtest_firings as kept
left join identity_map as ids on kept.customer_id = ids.solo_customer_id
group by all
"""
OCCURRENCES = """
create temporary table occurrences as
with activity as (
    select customer_id, event_at, lead(event_at) over (
        partition by customer_id order by event_number) as next_at
    from customer_timeline where is_activity
)
select customer_id, event_at as happened_at from customer_timeline where event = $event
union all
select customer_id, event_at + $silence as happened_at from activity
where coalesce(next_at, $until) > event_at + $silence
"""
JUDGED = """
create temporary table judged as
select firings.customer_id, trigger_id, acted_at, acted_at + $within <= $until as is_known,
    min(occurrences.happened_at) as outcome_at
from firings left join occurrences
    on firings.customer_id = occurrences.customer_id
    and occurrences.happened_at > acted_at and occurrences.happened_at <= acted_at + $within
where is_counted
group by all
"""
PRECISION = """
select count(*), count(outcome_at),
    quantile_cont(epoch(outcome_at) - epoch(acted_at), [0.25, 0.5, 0.75])
        filter (outcome_at is not null)
from judged where is_known
"""
RECALL = """
select count(*), count(*) filter (exists (
    select 1 from firings where firings.customer_id = occurrences.customer_id
    and acted_at < happened_at and acted_at >= happened_at - $within
)) from occurrences where happened_at > $since and happened_at <= $until
"""
# Any customer who was here lately, at the moments of the builds: what one would be right with
# who picked without a signal.
BASE = """
with moments as (select unnest($moments) as moment),
present as (
    select distinct moment, customer_id from moments inner join customer_timeline
        on event_at < moment and event_at >= moment - $present and is_activity
    where customer_id in (select customer_id from identity_map where is_identified)
)
select count(*), count(*) filter (exists (
    select 1 from occurrences where occurrences.customer_id = present.customer_id
    and happened_at > moment and happened_at <= moment + $within
)) from present
"""
PERIODS = """
select cast(date_trunc($unit, acted_at) as date) as period, count(*) as fired,
    count(distinct customer_id) as customers,
    count(*) filter (is_known and outcome_at is not null) as followed,
    count(*) filter (not is_known) as not_yet_known
from judged group by period order by period
"""
SEGMENTS = """
select coalesce(segment, 'none') as segment, count(*) as fired,
    count(distinct judged.customer_id) as customers
from judged
left join (
    select solo_customer_id, members.* exclude (customer_id)
    from lake.main.segment_membership as members
    inner join lake.main.identity_map as ids on members.customer_id = ids.customer_id
) as members on judged.customer_id = members.solo_customer_id
    and cast(acted_at as date) >= entered_at
    and cast(acted_at as date) < coalesce(exited_at, date '9999-12-31')
group by all order by fired desc, segment
"""
OTHERS = """
with others as (
    select coalesce(here.customer_id, told.customer_id) as customer_id, signal, fired_at
    from lake.main.signals as told
    left join identity_map as here on told.customer_id = here.solo_customer_id
    where signal <> $signal
)
select signal, count(distinct (judged.customer_id, judged.trigger_id)) as fired
from judged inner join others on judged.customer_id = others.customer_id
    and fired_at between acted_at - $near and acted_at + $near
group by signal order by fired desc, signal
"""
BUILT = """
select count(*) from lake.main.signals
where signal = $signal and fired_at >= $since and fired_at < $until
"""
# Rows that the history of today has, and that were not there to act on at the time.
HINDSIGHT = """
select count(*) from {signal} as today
where fired_at >= $since and fired_at < $until and not exists (
    select 1 from firings where firings.customer_id = today.customer_id
    and firings.trigger_id = today.trigger_id and is_counted
)
"""
EXAMPLES = """
select customer_id, (
        select first(id_key order by kind_rank, id_key) from identity_map
        where identity_map.customer_id = judged.customer_id
    ) as known_by, acted_at as fired_at, is_known, outcome_at
from judged order by acted_at desc, customer_id limit 5
"""


@dataclass(frozen=True)
class Quality:
    """How well the signal preceded its outcome.

    Attributes:
        known: firings whose window lies in the data; the others are not judged.
        followed: those of them that the outcome followed.
        precision: followed through known; None without any.
        outcomes: how often the outcome came, of whomever, since the beginning.
        foretold: those of them that a firing preceded, within the window.
        recall: foretold through outcomes; None without any.
        base_rate: the share of customers seen within 30 days whom the outcome reached within the
            window, over the moments of the builds; None where no window is over.
        lift: precision through base rate.
        lead_days: 25 %, 50 % and 75 % of the days from firing to outcome.
    """

    outcome: str
    known: int
    followed: int
    precision: float | None
    outcomes: int
    foretold: int
    recall: float | None
    base_rate: float | None
    lift: float | None
    lead_days: list[float] | None


@dataclass(frozen=True)
class Backtest:
    """What `signalbox backtest` reports. `unit` is the length of a period: day or week."""

    signal: str
    since: datetime
    until: datetime
    step_days: float
    builds: int
    fired: int
    customers: int
    built: int | None
    hindsight: int
    unit: str
    periods: list[dict[str, Any]]
    segments: list[dict[str, Any]]
    overlap: list[dict[str, Any]]
    examples: list[dict[str, Any]]
    quality: Quality | None
    notes: list[str]


def read(
    connection: DuckDBPyConnection,
    signal: str,
    goal: Outcome | None,
    cuts: Sequence[datetime],
    step: timedelta,
    notes: Sequence[str],
) -> Backtest:
    """The figures, from `backtest_firings` and the models as of the last of the moments."""
    since, until = cuts[0], cuts[-1]
    window = {"since": since, "until": until}
    within = goal.within if goal else timedelta(0)
    connection.execute(FIRINGS)
    connection.execute(
        OCCURRENCES,
        {
            "event": goal.event if goal else None,
            "silence": goal.silence if goal else None,
            "until": until,
        },
    )
    connection.execute(JUDGED, {"within": within, "until": until})
    unit = "day" if until - since <= DAILY_UP_TO else "week"
    fired, customers = _one(
        connection, "select count(*), count(distinct customer_id) from judged", {}
    )
    built = _built(connection, BUILT, {"signal": signal, **window})
    return Backtest(
        signal=signal,
        since=since,
        until=until,
        step_days=step / timedelta(days=1),
        builds=len(cuts),
        fired=fired,
        customers=customers,
        built=built[0]["count_star()"] if built is not None else None,
        hindsight=_one(connection, HINDSIGHT.format(signal=signal), window)[0],
        unit=unit,
        periods=_without_gaps(_rows(connection, PERIODS, {"unit": unit}), unit, since, until),
        segments=_built(connection, SEGMENTS, {}) or [],
        overlap=_built(connection, OTHERS, {"signal": signal, "near": NEAR}) or [],
        examples=_rows(connection, EXAMPLES, {}),
        quality=_quality(connection, goal, cuts) if goal else None,
        notes=list(notes),
    )


def _quality(connection: DuckDBPyConnection, goal: Outcome, cuts: Sequence[datetime]) -> Quality:
    since, until, within = cuts[0], cuts[-1], goal.within
    known, followed, lead = _one(connection, PRECISION, {})
    outcomes, foretold = _one(
        connection, RECALL, {"since": since, "until": until, "within": within}
    )
    moments = [cut for cut in cuts if cut + within <= until]
    present, reached = (0, 0)
    if moments:
        lately = goal.silence or PRESENT
        present, reached = _one(
            connection, BASE, {"moments": moments, "present": lately, "within": within}
        )
    precision, base_rate = _share(followed, known), _share(reached, present)
    return Quality(
        outcome=str(goal),
        known=known,
        followed=followed,
        precision=precision,
        outcomes=outcomes,
        foretold=foretold,
        recall=_share(foretold, outcomes),
        base_rate=base_rate,
        lift=round(precision / base_rate, 2) if precision is not None and base_rate else None,
        lead_days=[round(seconds / 86_400, 2) for seconds in lead] if lead else None,
    )


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


def _without_gaps(
    periods: list[dict[str, Any]], unit: str, since: datetime, until: datetime
) -> list[dict[str, Any]]:
    """A row for each period, also for those without a firing."""
    step = timedelta(days=7 if unit == "week" else 1)
    day = since.date() - timedelta(days=since.weekday() if unit == "week" else 0)
    found: dict[date, dict[str, Any]] = {row["period"]: row for row in periods}
    filled = []
    while day <= (until - timedelta(microseconds=1)).date():
        none = {"period": day, "fired": 0, "customers": 0, "followed": 0, "not_yet_known": 0}
        filled.append(found.get(day, none))
        day += step
    return filled


def _rows(
    connection: DuckDBPyConnection, query: str, values: dict[str, Any]
) -> list[dict[str, Any]]:
    result = connection.execute(query, values)
    assert result.description is not None
    names = [name for name, *_ in result.description]
    return [dict(zip(names, row, strict=True)) for row in result.fetchall()]


def _built(
    connection: DuckDBPyConnection, query: str, values: dict[str, Any]
) -> list[dict[str, Any]] | None:
    """Rows of a query on the lake's models; None where those were never built."""
    import duckdb

    try:
        return _rows(connection, query, values)
    except (duckdb.CatalogException, duckdb.BinderException):
        return None


def _one(connection: DuckDBPyConnection, query: str, values: dict[str, Any]) -> tuple[Any, ...]:
    row = connection.execute(query, values).fetchone()
    assert row is not None
    return row
