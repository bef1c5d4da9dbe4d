"""Which SQL reads across customers, so that some of them alone would come out differently."""

from __future__ import annotations

import pytest

from orchestration.hot.across import reason

RUN = {"customer_timeline", "customers"}
TIMELINE = "memory.hot.customer_timeline"


@pytest.mark.parametrize(
    ("sql", "word"),
    [
        (f"select customer_id, percent_rank() over (order by total) from {TIMELINE}", "window"),
        (f"with u as (select avg(total) as a from {TIMELINE}) select * from u", "avg(total)"),
        (f"select product_id, count(*) as n from {TIMELINE} group by 1", "groups by product_id"),
        (f"select customer_id from {TIMELINE} order by total desc limit 10", "limit"),
        (
            f"with e as (select * from {TIMELINE}), w as (select * from e) select sum(t) from w",
            "sum(t)",
        ),
    ],
)
def test_what_looks_at_everybody_is_named(sql: str, word: str) -> None:
    found = reason(sql, RUN)
    assert found is not None and word in found and "without customer_id" in found


@pytest.mark.parametrize(
    "sql",
    [
        f"select customer_id, sum(total) from {TIMELINE} group by 1",
        f"select max(total) over (partition by customer_id) from {TIMELINE}",
        f"select (select count(*) from {TIMELINE} as t where t.customer_id = c.customer_id)"
        " from memory.hot.customers as c",
        f"select customer_id from {TIMELINE} where day = (select max(day) from {TIMELINE})",
        # The lane has all of what it copies.
        "select product_id, row_number() over (order by views) from memory.hot.popular limit 3",
        "no sql at all",
    ],
)
def test_what_follows_from_one_customer_is_let_in(sql: str) -> None:
    assert reason(sql, RUN) is None
