"""The store of the hot lane against a plain dictionary."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestration.hot.store import Store

SCHEMA = pa.schema({"id_hash": pa.int64(), "event_hash": pa.int64(), "event": pa.string()})
IDS = st.integers(0, 6)

steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.lists(st.tuples(IDS, st.integers(0, 300)), max_size=60)),
        st.tuples(st.just("drop"), st.sets(IDS, max_size=2)),
    ),
    max_size=12,
)


@given(steps, st.sampled_from([20, 50_000]))
@settings(deadline=None)
def test_it_holds_what_a_dictionary_would(
    steps: list[tuple[str, list[tuple[int, int]]]], whole_rows: int
) -> None:
    store = Store(SCHEMA.empty_table(), whole_rows=whole_rows)
    model: dict[int, tuple[int, str]] = {}
    for what, given_ in steps:
        if what == "add":
            rows = [(id_hash, event, f"event {event}") for id_hash, event in given_]
            named = [dict(zip(SCHEMA.names, row, strict=True)) for row in rows]
            store.add(pa.Table.from_pylist(named, schema=SCHEMA))
            for id_hash, event, name in rows:
                model.setdefault(event, (id_hash, name))
        else:
            store.drop(given_)
            model = {key: row for key, row in model.items() if row[0] not in given_}
        assert store.rows == len(model)
        for ids in ([], [0], [1, 2, 99], range(7)):
            expected = {(row[0], key, row[1]) for key, row in model.items() if row[0] in ids}
            found = store.of(ids)
            assert {tuple(row.values()) for row in found.to_pylist()} == expected
            assert found.num_rows == len(expected)
            assert found.schema == SCHEMA
