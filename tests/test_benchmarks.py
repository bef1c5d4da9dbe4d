"""The benchmark of syncs measures what it says: every row once, then the changed ones alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys


def test_a_small_run_counts_right() -> None:
    command = [sys.executable, "-m", "benchmarks.syncs", "--customers", "2000", "--json"]
    env = {k: v for k, v in os.environ.items() if not k.startswith("SIGNALBOX_")}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    sent = {row["what"]: row["rows"] for row in json.loads(done.stdout)["rows"]}
    assert sent == {
        "naive full push, 100 a request": 2000,
        "ours: first sync, every row is new": 2000,
        "… of which requests and their outcomes": 2000,
        "ours: plan, nothing changed": 0,
        "ours: plan, 1 % changed": 0,
        "ours: plan and send, 1 % changed": 20,
    }
