"""A plan is kept while its tables change, so what it says must not depend on what stood there."""

from __future__ import annotations

import duckdb
import pyarrow as pa

from orchestration.hot.plans import Plans


def test_a_kept_plan_sees_rows_beyond_all_that_stood_there_when_it_was_made() -> None:
    with duckdb.connect() as connection:
        plans = Plans(connection)
        connection.execute("create table t as select range as i from range(50)")
        questions = {
            "select count(*) from t where i > 100": [(0,)],
            "select min(i), max(i), count(*) from t": [(0, 49, 50)],
            "select count(*) from t inner join t as u using (i) where i >= 100": [(0,)],
        }
        for question, answer in questions.items():
            assert plans.run(question, 1).fetchall() == answer
        connection.execute("delete from t")
        connection.execute("insert into t select 1000000000 + range from range(200)")
        answers = [plans.run(question, 1).fetchall() for question in questions]
        assert answers == [[(200,)], [(1_000_000_000, 1_000_000_199, 200)], [(200,)]]


def test_rows_are_those_shown_last_whatever_their_types() -> None:
    with duckdb.connect() as connection:
        plans = Plans(connection)
        connection.execute("create table t (i bigint, name varchar)")
        for kind in (pa.int64(), pa.int64(), pa.int32(), pa.int64()):
            for rows in (2, 0, 1):
                given = pa.table({"name": ["x"] * rows, "i": pa.array(range(rows), kind)})
                plans.replace("t", given)
                assert connection.execute("from t").fetchall() == [(i, "x") for i in range(rows)]
