"""A user's mistakes end in one clear message and exit code 1, never in a traceback."""

from __future__ import annotations

import gzip
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long


def run(home: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "orchestration.cli", *args],
        env=os.environ | {"SIGNALBOX_HOME": str(home), **env},
        capture_output=True,
        text=True,
        timeout=120,
    )


CASES = {
    "a write key without a name": (["status"], {"SIGNALBOX_WRITE_KEYS": "abc"}, "name=value"),
    "a port that is no number": (["status"], {"SIGNALBOX_DAGSTER_PORT": "x"}, "DAGSTER_PORT"),
    "a Postgres that is not there": (
        ["status"],
        {"SIGNALBOX_POSTGRES_URL": "postgresql://u:hunter2@127.0.0.1:9/postgres"},
        "SIGNALBOX_POSTGRES_URL",
    ),
    "a file that is not there": (["import", "no-such.jsonl"], {}, "no-such.jsonl"),
    "a table without a mapping": (["import", "orders.csv"], {}, "mapping"),
    "wrong SQL": (["sql", "select * from nowhere"], {}, "nowhere"),
    "a mapping with a misspelt key": (
        ["import", "orders.csv", "--mapping", "mapping.yaml"],
        {},
        "user_id",
    ),
    "SQL before anything was built": (["sql", "select * from customers"], {}, "signalbox build"),
    "no SQL at all": (["sql", ""], {}, "no query"),
    "a time that is none": (["build", "--as-of", "yesterday"], {}, "2011-12-10"),
    "a time to come": (["build", "--as-of", "2999-01-01"], {}, "yet to come"),
    "a replay that sets nothing": (["quarantine", "replay", "--set", "total"], {}, "assignment"),
    "a draft of nothing": (["contracts", "infer", "no-such.jsonl"], {}, "no-such.jsonl"),
    "a day that is none": (
        ["evaluate", "churn", "--as-of", "soon", "--out", "o.parquet"],
        {},
        "2011-09-10",
    ),
    "a horizon that is none": (
        ["evaluate", "churn", "--as-of", "2011-09-10", "--horizon", "3w", "--out", "o.parquet"],
        {},
        "90d",
    ),
    "a folder that is not there": (
        ["evaluate", "churn", "--as-of", "2011-09-10", "--out", "no/o.parquet"],
        {},
        "--out",
    ),
    "evaluation of an empty lake": (
        ["evaluate", "churn", "--as-of", "2011-09-10", "--out", "o.parquet"],
        {},
        "signalbox import",
    ),
    "training before anything was built": (["train", "churn"], {}, "signalbox build"),
    "SQL that writes": (["sql", "drop table raw.events"], {}, "read"),
    "a sync that does not exist": (["sync", "salesforce__everything"], {}, "hubspot__"),
    "errors of a sync that does not exist": (["sync", "errors", "nothing"], {}, "hubspot__"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_message_says_what_to_do(
    home: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    args, env, said = CASES[name]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "orders.csv").write_text("order,total\n1,2\n")
    (tmp_path / "mapping.yaml").write_text("event: Ordered\ntimestamp: now()\nuserid: order\n")
    done = run(home, *args, **env)
    assert done.returncode == 1, done.stdout + done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert "hunter2" not in done.stderr


def test_a_truncated_archive_says_where_it_ends(home: Path, tmp_path: Path) -> None:
    line = b'{"type":"identify","userId":"u1","messageId":"m1"}\n'
    whole = gzip.compress(line * 5000)
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    done = run(home, "import", str(tmp_path / "cut.jsonl.gz"))
    assert done.returncode == 1
    assert "cut.jsonl.gz" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_is_named(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run(home, "collect", SIGNALBOX_COLLECTOR_PORT=port)
    assert done.returncode == 1
    assert port in done.stderr
    assert "Traceback" not in done.stderr


def test_half_of_a_destinations_credentials_is_refused(home: Path) -> None:
    done = run(home, "doctor", SIGNALBOX_WEBHOOK_BASE_URL="https://hooks.example.com")
    assert done.returncode == 1
    assert "SIGNALBOX_WEBHOOK_SECRET" in done.stdout


def test_the_demo_does_not_touch_a_real_account(home: Path) -> None:
    done = run(home, "demo", SIGNALBOX_HUBSPOT_TOKEN="pat-real")
    assert done.returncode == 1
    assert "Credentials are set for hubspot" in done.stderr


def test_a_wide_row_is_listed_column_by_column(home: Path) -> None:
    wide = "select " + ", ".join(f"repeat('x', 20) as column_{n}" for n in range(20))
    shown = run(home, "sql", wide).stdout
    assert "row 1" in shown
    assert all(
        ["column_" + str(n), "x" * 20] in map(str.split, shown.splitlines()) for n in range(20)
    )
    assert "row 1" not in run(home, "sql", "select 1 as a, 2 as b").stdout
