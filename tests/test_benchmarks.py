"""The benchmarks measure what they say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any


def ran(name: str, *args: str) -> Any:
    command = [sys.executable, "-m", f"benchmarks.{name}", *args, "--json"]
    env = {k: v for k, v in os.environ.items() if not k.startswith("SIGNALBOX_")}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_row_is_synced_once_and_then_the_changed_ones_alone() -> None:
    sent = {row["what"]: row["rows"] for row in ran("syncs", "--customers", "2000")["rows"]}
    assert sent == {
        "naive full push, 100 a request": 2000,
        "ours: first sync, every row is new": 2000,
        "… of which requests and their outcomes": 2000,
        "ours: plan, nothing changed": 0,
        "ours: plan, 1 % changed": 0,
        "ours: plan and send, 1 % changed": 20,
    }


def test_identity_is_built_of_the_pairs_that_were_asked_for() -> None:
    (found,) = ran("identity", "--pairs", "3000", "--rounds", "2")["by_pairs"]
    # A user for every three devices, fewer customers than users by the merges, and new devices.
    assert found["ids"] > 4000 and 700 < found["customers"] < 1000
    assert found["largest"] >= 8


def test_a_rule_by_hand_finds_the_payments_that_the_schedule_says() -> None:
    options = ("--only", "plain", "--rates", "200", "--seconds", "3", "--drain", "3000")
    paced, at_once = ran("hot_peers", *options, "--every", "20")
    assert paced["actions"] > 20 and at_once["actions"] > 100
    assert paced["missing"] == at_once["missing"] == 0


def test_micro_batches_on_a_history_leave_each_event_in_the_timeline_once() -> None:
    sizes = ["--events", "3000", "--customers", "200", "--batch", "50", "--rounds", "1"]
    (found,) = ran("scale", *sizes)["by_events"]
    # The history, within one visit for each customer, and two batches.
    assert 2800 < found["timeline_events"] - 2 * 50 < 3200
    assert found["timeline_customers"] >= 200
    assert {"load", "customer_timeline", "segment_membership", "tests"} <= set(found["batch_s"])
    assert set(found["lookback_batch_s"]) >= {"lookback_timeline", "lookback_features"}
