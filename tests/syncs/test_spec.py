from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from syncs.spec import SpecError, find, load_specs

MESSAGE_COLUMNS = ["customer_id", "trigger_id", "fired_at", "expires_at", "channel", "words"]


def manifest(name: str, sync: Any, columns: list[str]) -> dict[str, Any]:
    node = {
        "resource_type": "model",
        "name": name,
        "unique_id": f"model.signalbox.{name}",
        "relation_name": f'"lake"."main"."{name}"',
        "columns": {column: {"name": column} for column in columns},
        "config": {"meta": {"sync": sync}},
        "description": "One row per customer.",
    }
    other = {"resource_type": "model", "name": "customers", "config": {}, "columns": {}}
    return {"nodes": {"a": node, "b": other, "c": {"resource_type": "test", "name": "sync_x"}}}


def contacts(**changes: Any) -> dict[str, Any]:
    sync = {"destination": "hubspot", "object": "contacts", "mode": "upsert", "key": "email"}
    merged = {key: value for key, value in (sync | changes).items() if value is not None}
    return manifest("sync_hubspot__health", merged, ["email", "score", "customer_id"])


def alerts(columns: list[str] = MESSAGE_COLUMNS, **changes: Any) -> dict[str, Any]:
    sync = {"destination": "slack", "object": "message", "mode": "message", "key": "trigger_id",
            "template": "churn_risk_rose"}  # fmt: skip
    return manifest("sync_slack__alert", sync | changes, columns)


def test_a_sync_is_read_from_its_model() -> None:
    (spec,) = load_specs(contacts(consent="sales", max_change_ratio=0.2))
    assert spec.name == "hubspot__health"
    assert spec.relation == '"lake"."main"."sync_hubspot__health"'
    assert spec.fields == ("email", "score")
    assert (spec.policies.consent, spec.max_change_ratio) == ("sales", 0.2)
    (message,) = load_specs(alerts(expires_after="2h"))
    assert message.policies.expires_after == timedelta(hours=2)
    assert find([spec, message], "sync_slack__alert") is message
    with pytest.raises(SpecError, match="hubspot__health"):
        find([spec], "nothing")


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        (contacts(colour="red"), "colour: unknown key; allowed are destination, object"),
        (contacts(destination="salesfroce"), "destination: no destination 'salesfroce'"),
        (contacts(destination="slack"), "is called sync_slack__"),
        (contacts(object="deals"), "object: 'deals' .* allowed: companies, contacts"),
        (contacts(mode="mirror"), "mode: 'mirror' is not a mode of hubspot; allowed: upsert"),
        (contacts(mode="message"), "mode: 'message' .* allowed: upsert, update_only"),
        (contacts(key="mail"), "key: 'mail' is not a column; columns: email, score"),
        (contacts(key=None), "key: missing"),
        (contacts(max_change_ratio=2), "max_change_ratio: a number above 0 and up to 1"),
        (contacts(max_change_ratio="a fifth"), "max_change_ratio: must be a number"),
        (contacts(template="churn_risk_rose"), "template: only messages"),
        (contacts(expires_after="2h"), "expires_after: .* for messages only"),
        (alerts(expires_after="soon"), "expires_after: a number and s, m, h or d"),
        (alerts(template="nothing"), "template: no syncs/templates/nothing.j2; there are"),
        (alerts(columns=["trigger_id", "channel"]), "needs customer_id, expires_at, fired_at"),
        (alerts(columns=MESSAGE_COLUMNS[:4]), "columns: slack in mode message needs channel"),
        (manifest("sync_hubspot__x", None, []), "config.meta.sync"),
        (manifest("sync_hubspot__x", {"destination": "hubspot", "mode": "upsert", "key": "k"}, []),
         "columns: list the model's columns"),
    ],
)  # fmt: skip
def test_wrong_declarations_say_model_key_and_what_is_allowed(
    declared: dict[str, Any], words: str
) -> None:
    with pytest.raises(SpecError, match=words) as caught:
        load_specs(declared)
    assert str(caught.value).startswith("sync_")
