"""Which models run hot, which are copied, and why others are refused."""

from __future__ import annotations

from typing import Any

import pytest

from orchestration.hot.project import HotError, assemble, choose

BASE = {
    "stg_events": [],
    "identity_mentions": ["stg_events"],
    "identity_edges": ["identity_mentions"],
    "identity_split_events": ["stg_events"],
    "identity_map": ["identity_mentions", "identity_edges", "identity_split_events"],
    "customer_consents": ["identity_map"],
    "suppressions": ["identity_map"],
    "customers": ["identity_map"],
}


def model(name: str, *parents: str, **changes: Any) -> dict[str, Any]:
    config = {"materialized": "view", "tags": [], "meta": {}} | changes.pop("config", {})
    node = {
        "unique_id": f"model.signalbox.{name}",
        "name": name,
        "resource_type": "model",
        "language": "sql",
        "config": config,
        "columns": {name: {} for name in ("customer_id", "trigger_id", "fired_at", "expires_at")},
        "depends_on": {"nodes": [_full(parent) for parent in parents]},
    }
    return node | changes


def _full(name: str) -> str:
    return name if "." in name else f"model.signalbox.{name}"


def manifest(*nodes: dict[str, Any]) -> dict[str, Any]:
    base = [model(name, *parents) for name, parents in BASE.items()]
    base[0]["depends_on"]["nodes"] = ["source.signalbox.raw.events"]
    return {"nodes": {node["unique_id"]: node for node in [*base, *nodes]}}


HOT = {"tags": ["hot"]}


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        (model("s", "customers", config=HOT, language="python"), "Python"),
        (model("s", "customers", config=HOT | {"materialized": "snapshot"}), "materialized as"),
        (
            model("s", config=HOT | {"incremental_strategy": "microbatch"}),
            "by event time (microbatch)",
        ),
        (model("s", "source.signalbox.ledger.actions", config=HOT), "written after the fact"),
        (model("s", "customers", config=HOT, columns={"product_id": {}}), "no column customer_id"),
        (model("s", "customers", config=HOT | {"materialized": "table"}), "rebuilt as a whole"),
        (model("s", "customers", config=HOT, columns={"customer_id": {}}), "without trigger_id"),
    ],
)
def test_a_model_that_cannot_run_hot_is_refused_with_the_reason(
    node: dict[str, Any], reason: str
) -> None:
    other = model("fine", "customers", config=HOT)
    choice = choose(manifest(node, other))
    assert choice.signals == ("fine",), "the other signals go on"
    assert reason in choice.refused["s"]
    assert "s" not in choice.run


def test_what_needs_a_refused_model_names_it() -> None:
    broken = model("broken", "customers", language="python")
    choice = choose(manifest(broken, model("s", "broken", config=HOT)))
    assert choice.refused["s"].startswith("needs broken, which is written in Python")


def test_what_is_not_of_one_customer_is_copied() -> None:
    nodes = [
        model("tickets", "source.signalbox.raw.support_tickets"),
        model("popular", "customers", columns={"product_id": {}}),
        model("daily", "customers", config={"materialized": "table"}),
        model("s", "tickets", "popular", "daily", config=HOT),
    ]
    choice = choose(manifest(*nodes))
    assert set(choice.copies) == {"tickets", "popular", "daily"}
    made = assemble(manifest(*nodes), choice, dict.fromkeys(choice.run, "select 1"), "f")
    names = [one.name for one in made.models]
    assert names.index("daily") < names.index("s")
    assert [one.name for one in made.models if one.is_copy] == ["daily", "popular", "tickets"]
    assert made.signals_of("s") == []
    smaller = made.without("popular", "is too large")
    assert smaller.signals == () and smaller.refused["s"] == "needs popular, which is too large"


def test_what_reads_across_customers_is_refused_with_what_needs_it() -> None:
    nodes = manifest(
        model("ranked", "customers"),
        model("s", "ranked", config=HOT),
        model("fine", "customers", config=HOT),
    )
    choice = choose(nodes)
    sql = dict.fromkeys(choice.run, "select customer_id from memory.hot.customers")
    sql["ranked"] = "select rank() over (order by revenue) as place from memory.hot.customers"
    project = assemble(nodes, choice, sql, "f")
    assert project.signals == ("fine",)
    assert project.refused["s"].startswith("needs ranked, which has a window over all rows (rank()")


def test_without_its_own_models_the_lane_says_what_it_lacks() -> None:
    nodes = manifest(model("s", "customers", config=HOT))
    del nodes["nodes"]["model.signalbox.suppressions"]
    with pytest.raises(HotError, match="without the model suppressions"):
        choose(nodes)


def test_what_an_event_of_a_signal_needs_at_once() -> None:
    ticket = model("ticket", "customers", config=HOT | {"meta": {"fires_on": ["Ticket Opened"]}})
    paid = model("paid", "customers", config=HOT | {"meta": {"fires_on": ["Paid", "Refunded"]}})
    browsed = model("spells", "stg_events"), model("browsed", "spells", config=HOT)
    choice = choose(nodes := manifest(ticket, paid, *browsed))
    project = assemble(nodes, choice, dict.fromkeys(choice.run, "select 1"), "")
    assert project.urgent_events == {"Ticket Opened", "Paid", "Refunded"}
    assert project.models_at(["Ticket Opened"]) == {*BASE, "ticket"}
    assert project.models_at(["Ticket Opened", "Paid"]) == {*BASE, "ticket", "paid"}
    assert project.urgent_models == {*BASE, "ticket", "paid"}
    assert project.quick_models > {*BASE, "ticket", "paid", "spells", "browsed"}


def test_events_of_a_signal_are_a_list_of_names() -> None:
    wrong = model("ticket", "customers", config=HOT | {"meta": {"fires_on": "Ticket Opened"}})
    choice = choose(nodes := manifest(wrong))
    with pytest.raises(HotError, match=r"fires_on of ticket .* list of event names"):
        assemble(nodes, choice, {}, "")
