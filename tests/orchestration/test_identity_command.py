"""The commands `signalbox identity merges | split | preview`, on a home of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ingestion.request import SourcePolicy
from ingestion.reserved import SourceReserved
from orchestration import dbt, lake
from orchestration.cli import app
from orchestration.settings import Settings, load_settings

HOME, FLAT = {"email": "home@example.com"}, {"email": "flat@example.com"}
MESSAGES = [
    {"type": "identify", "userId": "ann", "anonymousId": "laptop", "traits": HOME},
    {"type": "identify", "userId": "ben", "anonymousId": "tablet", "traits": HOME},
    {"type": "identify", "userId": "ben", "anonymousId": "phone", "traits": {}},
    # The kiosk was ben's, as an alias said, and eve uses it: it is nobody's.
    {"type": "alias", "userId": "ben", "previousId": "kiosk"},
    {"type": "identify", "userId": "eve", "anonymousId": "kiosk", "traits": {}},
    # Two reasons for one customer.
    {"type": "identify", "userId": "yan", "anonymousId": "pad", "traits": FLAT},
    {"type": "identify", "userId": "zoe", "anonymousId": "web", "traits": FLAT},
    {"type": "alias", "userId": "yan", "previousId": "zoe"},
]


@pytest.fixture
def signalbox(settings: Settings) -> Any:
    def run(*args: str, fails: bool = False) -> Any:
        done = CliRunner().invoke(app, [*args, "--json"])
        if fails:
            assert done.exception is not None
            return str(done.exception)
        assert done.exit_code == 0, done.output + repr(done.exception)
        return json.loads(done.stdout)

    return run


def build(signalbox: Any, settings: Settings) -> None:
    signalbox("load")
    with lake.writer(settings, "test"):
        without = ("--exclude-resource-type", "test", "unit_test")
        dbt.invoke(["build", "--select", "+identity_merges", *without], settings)


def test_a_customer_is_looked_at_and_parted(
    tmp_path: Path, settings: Settings, signalbox: Any
) -> None:
    file = tmp_path / "messages.jsonl"
    lines = [json.dumps({"messageId": f"m{n}"} | message) for n, message in enumerate(MESSAGES)]
    file.write_text("\n".join(lines))
    signalbox("import", str(file))
    build(signalbox, settings)

    reasons = {
        row["merged_id_key"]: row["reason"] for row in signalbox("identity", "merges")["merges"]
    }
    assert "identify call" in reasons["user:ben"] and "anonymous:kiosk" not in reasons
    assert signalbox("identity", "merges", "eve")["merges"] == []

    mailbox = ("user:ben", "home@example.com")
    for ends, why in (
        (("nobody", "ann"), "no id that the models know"),
        (("ann", "ann"), "one id"),
        (("ann", "kiosk"), "anonymous:kiosk or user:kiosk"),
        (("ann", "user:eve"), "two customers already"),
        (("anonymous:kiosk", "user:eve"), "joins nobody"),
        (("ann", "phone"), "user:ann – email:home@example.com – user:ben – anonymous:phone"),
        ((*mailbox, "--undo"), "not split"),
    ):
        assert why in signalbox("identity", "split", *ends, fails=True)
    connected = signalbox("identity", "split", "user:yan", "user:zoe", "--dry-run")
    assert connected["path"] == ["user:yan", "email:flat@example.com", "user:zoe"]
    assert connected["log_seq"] is None and len(connected["after"]) == 1

    done = signalbox("identity", "split", *mailbox, "--reason", "a family's mailbox")
    # As if the file of the rules had been edited since the lake was built.
    with lake.writer(settings, "test"), lake.connect(settings, read_only=False) as connection:
        connection.execute(
            "update identity_rules set limit_to = 1"
            " where rule = 'limit' and id_kind = 'email' and value = 'user'"
        )
    found = signalbox("identity", "preview")
    assert found["pending_events"] == 1
    assert found["rules_added"] == ["limit,email,user,3"]
    assert found["rules_removed"] == ["limit,email,user,1"]
    counts = found["counts"]
    assert (counts["splitting"], counts["splitting_into"], counts["merging"]) == (1, 2, 0)
    assert {part["ids"] for part in found["parts"]} == {3, 4}
    assert found["largest_now"]["ids"] == 7 and found["largest_then"]["named_by"] != "user:ann"

    # What was shown before is what comes.
    build(signalbox, settings)
    with lake.connect(settings) as connection:
        parts: dict[str, set[str]] = {}
        rows = connection.execute("select customer_id, id_key from identity_map").fetchall()
    for customer, one in rows:
        parts.setdefault(customer, set()).add(one)
    assert len(done["after"]) == 2
    for part in done["after"]:
        assert parts[part["customer_id"]] == set(part["ids"])
    assert done["before"][0]["customer_id"] in {part["customer_id"] for part in done["after"]}
    (split,) = signalbox("identity", "merges", "ann")["splits"]
    assert split["reason"] == "a family's mailbox"
    assert "split already" in signalbox("identity", "split", *mailbox, fails=True)

    # Before the next build each further split is judged by those before it.
    undone = signalbox("identity", "split", *mailbox, "--undo")
    assert "not split" in signalbox("identity", "split", *mailbox, "--undo", fails=True)
    signalbox("load")
    phone = ("user:ben", "anonymous:phone")
    parted = signalbox("identity", "split", *phone)
    assert parted["before"] == undone["after"]
    assert [len(part["ids"]) for part in parted["after"]] == [6, 1]
    assert "split already" in signalbox("identity", "split", *phone, fails=True)
    again = signalbox("identity", "split", *mailbox)
    assert again["before"] == [part for part in parted["after"] if len(part["ids"]) == 6]
    build(signalbox, settings)
    with lake.connect(settings) as connection:
        named = connection.execute(
            "select customer_id from identity_map where id_key = any($ids) group by all",
            {"ids": again["after"][1]["ids"]},
        ).fetchall()
        alone = connection.execute(
            "select component_size from identity_map where id_key = 'anonymous:phone'"
        ).fetchone()
    assert named == [(again["after"][1]["customer_id"],)] and alone == (1,)
    joined = signalbox("identity", "split", *mailbox, "--undo", "--dry-run")
    assert (len(joined["before"]), len(joined["after"])) == (2, 1)


def test_no_producer_can_be_named_like_signalbox(
    signalbox: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "signalbox"
    with pytest.raises(SourceReserved):
        SourcePolicy(name)
    file = tmp_path / "forged.jsonl"
    file.write_text(json.dumps({"type": "track", "event": "Identity Split", "userId": "u"}))
    assert "Signalbox's own" in signalbox("import", str(file), "--source", name, fails=True)
    monkeypatch.setenv("SIGNALBOX_WRITE_KEYS", f"web=wk_1,{name}=wk_2")
    load_settings.cache_clear()
    assert "SIGNALBOX_* settings" in signalbox("status", fails=True)
