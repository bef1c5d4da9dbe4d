"""Which models read across customers: a slice holds few of them, and the result would be another.

A mean of all carts, a rank among everybody or the most viewed product come out differently over
three customers than over three million, and nothing would fail. It shows in the SQL: a window
without `partition by`, an aggregate without `group by`, a group without a customer, a limit.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlglot.expressions import Expr

#: Columns of whose value all rows belong to one customer.
CUSTOMER_KEYS = frozenset({"customer_id", "id_key"})
#: What the latest day or the first row of all is asked by, as in `max(as_of_date)`.
_SAME_FOR_ALL = ("Max", "Min")
ADVICE = (
    "give what is about everybody a model of its own, without customer_id, and join that: the lane "
    "takes it as the last build left it"
)


def reason(sql: str, models: Collection[str]) -> str | None:
    """Why this SQL cannot run over some customers only, as the end of a sentence; None if it can.

    Only what reads `models`, those that the lane runs, counts: what it copies is all there.
    """
    from sqlglot import exp, parse_one
    from sqlglot.errors import SqlglotError

    try:
        tree = parse_one(sql, dialect="duckdb")
    except SqlglotError:
        return None  # DuckDB knows more of its own words, and says so itself
    steps = {cte.alias_or_name: cte.this for cte in tree.find_all(exp.CTE)}
    for select in tree.find_all(exp.Select):
        if not _reads(select, steps, models):
            continue
        if found := _across(select):
            return f"{found}, and the lane runs a few customers at a time; {ADVICE}"
    return None


def _reads(
    select: Expr,
    steps: dict[str, Expr],
    models: Collection[str],
    seen: frozenset[str] = frozenset(),
) -> bool:
    """Whether a query reads one of these models, through its steps too."""
    from sqlglot import exp

    for table in select.find_all(exp.Table):
        if not table.db and table.name in steps:
            inner = table.name not in seen and _reads(
                steps[table.name], steps, models, seen | {table.name}
            )
            if inner:
                return True
        elif table.name in models:
            return True
    return False


def _across(select: Expr) -> str | None:
    """What of this query, without those inside it, looks at several customers."""
    from sqlglot import exp

    def own(kind: type[Expr]) -> list[Expr]:
        return [one for one in select.find_all(kind) if one.find_ancestor(exp.Select) is select]

    if select.args.get("limit"):
        return "has a limit, which leaves out some customers"
    for window in own(exp.Window):
        if not window.args.get("partition_by"):
            return f"has a window over all rows ({_short(window.this)})"
    group = select.args.get("group")
    if group is None:
        totals = [
            one
            for one in own(exp.AggFunc)
            if not one.find_ancestor(exp.Window) and type(one).__name__ not in _SAME_FOR_ALL
        ]
        return (
            f"sums up all rows ({_short(totals[0])})" if totals and not _asks_of(select) else None
        )
    chosen = {str(place): one for place, one in enumerate(select.expressions, 1)}
    keys = [chosen.get(key.sql(), key) for key in group.expressions]
    named = {column.name for key in keys for column in key.find_all(exp.Column)}
    named |= {key.alias_or_name for key in keys}
    if keys and not CUSTOMER_KEYS & named:
        return f"groups by {', '.join(map(_short, keys))} and not by customer_id as well"
    return None


def _asks_of(select: Expr) -> bool:
    """Whether a subquery is about the row that it stands in, by a column from outside."""
    from sqlglot import exp

    where = select.args.get("where")
    sources = {table.alias_or_name for table in select.find_all(exp.Table)}
    return where is not None and any(
        column.table and column.table not in sources for column in where.find_all(exp.Column)
    )


def _short(expression: Expr) -> str:
    text = expression.sql(dialect="duckdb").lower()
    return text if len(text) <= 60 else f"{text[:57]}..."
