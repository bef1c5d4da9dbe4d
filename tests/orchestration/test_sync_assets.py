"""The syncs' assets while somebody edits the project, on a real ledger."""

from __future__ import annotations

import copy

from dagster import AssetKey, materialize

from orchestration import dbt, warehouse
from orchestration.assets.syncs import build_sync_assets
from orchestration.settings import Settings


def test_a_run_does_what_its_process_knows_and_no_edit_breaks_it(settings: Settings) -> None:
    warehouse.ensure(settings)
    loaded = copy.deepcopy(dbt.manifest(settings))
    nodes = loaded["nodes"]
    # Since this process read the project one sync was added to it, and one removed.
    del nodes["model.signalbox.sync_webhook__card_freeze"]
    gone = copy.deepcopy(nodes["model.signalbox.sync_twilio__card_frozen"])
    gone |= {"name": "sync_twilio__gone", "unique_id": "model.signalbox.sync_twilio__gone"}
    nodes[gone["unique_id"]] = gone
    for unique_id, node in list(nodes.items()):
        kept = {"sync_twilio__card_frozen", "sync_twilio__gone"}
        if node["name"].startswith("sync_") and node["name"] not in kept:
            del nodes[unique_id]

    result = materialize([build_sync_assets(loaded)], raise_on_error=False)
    told = {one.asset_key for one in result.asset_materializations_for_node("syncs")}
    assert {AssetKey(["twilio", "card_frozen"]), AssetKey(["twilio", "gone"])} <= told
    assert AssetKey(["webhook", "card_freeze"]) not in told
    (failure,) = (event for event in result.all_events if event.is_step_failure)
    assert "twilio__card_frozen" in str(failure.event_specific_data), "its view is not built"
