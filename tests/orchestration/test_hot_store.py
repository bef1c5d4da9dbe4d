"""The store of the hot lane against a plain dictionary."""

from __future__ import annotations

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from orchestration.hot.store import Store

SCHEMA = {"id_hash": pl.Int64, "event_hash": pl.Int64, "event": pl.String}
IDS = st.integers(0, 6)

steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.lists(st.tuples(IDS, st.integers(0, 300)), max_size=60)),
        st.tuples(st.just("drop"), st.sets(IDS, max_size=2)),
    ),
    max_size=12,
)


@given(steps)
def test_it_holds_what_a_dictionary_would(steps: list[tuple[str, list[tuple[int, int]]]]) -> None:
    store = Store(pl.DataFrame(schema=SCHEMA))
    model: dict[int, tuple[int, str]] = {}
    for what, given_ in steps:
        if what == "add":
            rows = [(id_hash, event, f"event {event}") for id_hash, event in given_]
            store.add(pl.DataFrame(rows, schema=SCHEMA, orient="row"))
            for id_hash, event, name in rows:
                model.setdefault(event, (id_hash, name))
        else:
            store.drop(given_)
            model = {key: row for key, row in model.items() if row[0] not in given_}
        assert store.rows == len(model)
        for ids in ([], [0], [1, 2, 99], range(7)):
            expected = {(row[0], key, row[1]) for key, row in model.items() if row[0] in ids}
            found = store.of(ids)
            assert set(found.rows()) == expected
            assert found.height == len(expected)
            assert found.schema == SCHEMA
