"""Faults on demand: each kind, what it leaves behind, and when it ends."""

from __future__ import annotations

from collections import Counter

import pytest
import requests

from syncs.sandbox.faults import Fault, FaultBoard

from .conftest import Client


@pytest.mark.parametrize("status", ["429", "500"])
def test_refusals_come_in_the_vendors_words(sandbox: Client, status: str) -> None:
    assert sandbox.fault(path="/hubspot", kind=status, count=1, retry_after=7).status_code == 201
    refused = sandbox.upsert({"ada@example.com": {}})
    assert refused.status_code == int(status)
    assert refused.json()["status"] == "error"
    assert refused.headers.get("retry-after") == ("7" if status == "429" else None)
    assert sandbox.effects() == []
    assert sandbox.upsert({"ada@example.com": {}}).status_code == 200
    assert sandbox.get("/sandbox/faults").json() == []


def test_reject_rows(sandbox: Client) -> None:
    sandbox.fault(path="/", kind="reject_rows", match="ada")
    answer = sandbox.upsert({"ada@example.com": {}, "alan@example.com": {}})
    assert answer.status_code == 207
    assert answer.json()["errors"][0]["context"]["id"] == ["ada@example.com"]
    assert sandbox.slack(channel="#ada", text="hi").json()["error"] == "channel_not_found"
    assert sandbox.ticket("ada@example.com").status_code == 422
    assert sandbox.webhook("x", b'{"email": "ada@example.com"}', "msg_1").status_code == 422
    assert [effect["key"] for effect in sandbox.effects()] == ["alan@example.com"]


def test_hang_is_silence_and_then_an_answer(sandbox: Client) -> None:
    sandbox.fault(path="/slack", kind="hang", seconds=0.3, count=1)
    answer = sandbox.slack(channel="#cs", text="hi")
    assert answer.json()["ok"]
    assert answer.elapsed.total_seconds() >= 0.3


def test_hang_does_nothing_if_the_client_gives_up(sandbox: Client) -> None:
    sandbox.fault(path="/hubspot", kind="hang", seconds=60, count=1)
    with pytest.raises(requests.Timeout):
        sandbox.upsert({"ada@example.com": {}}, timeout=0.3)
    assert sandbox.upsert({"alan@example.com": {}}).status_code == 200
    assert [effect["key"] for effect in sandbox.effects()] == ["alan@example.com"]


def test_disconnect_happens_before_the_effect(sandbox: Client) -> None:
    sandbox.fault(path="/slack", kind="disconnect", count=1)
    with pytest.raises(requests.ConnectionError):
        sandbox.slack(channel="#cs", text="hi")
    assert sandbox.effects() == []
    assert sandbox.stats()["slack"]["answers"] == {"cut": 1}


def test_timeout_after_effect(sandbox: Client) -> None:
    sandbox.fault(path="/slack", kind="timeout_after_effect", count=1)
    sandbox.fault(path="/slack", kind="timeout_after_effect", seconds=60, count=1)
    with pytest.raises(requests.ConnectionError):
        sandbox.slack(channel="#cs", text="one")
    with pytest.raises(requests.Timeout):
        sandbox.post(
            "/slack/api/chat.postMessage", json={"channel": "#cs", "text": "two"}, timeout=0.3
        )
    assert [effect["detail"]["text"] for effect in sandbox.effects()] == ["one", "two"]


def test_paths_are_whole_segments() -> None:
    board = FaultBoard()
    board.add(Fault(kind="500", path="/slack/api"))
    assert board.draw("/slack/api/chat.postMessage") is not None
    assert board.draw("/slack/apiary") is None
    assert board.draw("/hubspot") is None


def test_chaos_is_the_same_for_the_same_seed() -> None:
    def play(seed: int) -> list[str | None]:
        board = FaultBoard()
        board.add(Fault(kind="chaos", seed=seed, rate=0.5))
        drawn = (board.draw("/hubspot") for _ in range(200))
        return [fault and fault.kind for fault in drawn]

    assert play(1) == play(1) != play(2)
    counts = Counter(play(1))
    assert set(counts) == {None, "429", "500", "hang", "timeout_after_effect", "disconnect"}


def test_chaos_over_http_ends_when_switched_off(sandbox: Client) -> None:
    chaos = sandbox.fault(path="/hubspot", kind="chaos", rate=1.0, seed=3).json()
    outcomes = set()
    for _ in range(6):
        try:
            outcomes.add(sandbox.upsert({"ada@example.com": {}}).status_code)
        except requests.ConnectionError:
            outcomes.add(0)
    assert len(outcomes) > 1
    removed = sandbox.call("DELETE", f"/sandbox/faults/{chaos['id']}").json()
    assert removed == {"removed": 1}
    assert sandbox.upsert({"ada@example.com": {}}).status_code == 200


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "earthquake"},
        {"kind": "429", "path": "hubspot"},
        {"kind": "429", "count": 0},
        {"kind": "reject_rows"},
        {"kind": "chaos", "rate": 2},
        {"kind": "429", "retryafter": 1},
    ],
)
def test_a_fault_that_makes_no_sense_is_refused(sandbox: Client, fault: dict[str, object]) -> None:
    answer = sandbox.fault(**fault)
    assert answer.status_code == 400
    assert answer.json()["error"]


def test_changes_ask_for_json(sandbox: Client) -> None:
    form = sandbox.post("/sandbox/faults", data={"kind": "500"})
    assert form.status_code == 415
