"""The simulated company: deterministic, true to its own truth, and alive over real HTTP."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import subprocess
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from orchestration.demo import (
    DemoState,
    LiveTraffic,
    SimulatorError,
    World,
    catalogue,
    live,
    seed_sandbox,
    stories,
)

ROOT = Path(__file__).parents[2]
END = datetime(2026, 11, 23, 14, tzinfo=UTC)
Message = dict[str, Any]

# What a company's systems may still report about somebody who is gone.
PASSIVE = {"Subscription Expiring", "Email Bounced"}


def digest(world: World) -> str:
    sha = hashlib.sha256()
    for message in world.history():
        sha.update(json.dumps(message).encode())
    return sha.hexdigest()


@pytest.fixture(scope="module")
def world() -> World:
    return World(7, 400, end=END)


@pytest.fixture(scope="module")
def messages(world: World) -> list[Message]:
    return list(world.history())


@pytest.fixture(scope="module")
def good(messages: list[Message]) -> list[Message]:
    return [m for m in messages if "simulator" not in m["context"]]


def test_the_same_seed_gives_the_same_bytes_in_another_process() -> None:
    script = (
        "from tests.orchestration.test_simulator import *\n"
        "sys.stdout.write(digest(World(3, 60, end=END)))"
    )
    other = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert other.stdout == digest(World(3, 60, end=END)) != digest(World(4, 60, end=END))


def test_people_do_not_depend_on_the_end() -> None:
    one, later = (World(7, 80, end=END + timedelta(days=days)) for days in (0, 12))
    for a, b in zip(one.customers, later.customers, strict=True):
        assert (a.user_id, a.email, a.persona) == (b.user_id, b.email, b.persona)
        assert a.devices == b.devices


def test_history_is_ordered_and_inside_the_window(messages: list[Message]) -> None:
    times = [datetime.fromisoformat(m["timestamp"]) for m in messages]
    assert times == sorted(times)
    assert END - timedelta(days=90) <= times[0] and times[-1] < END


def test_fewer_days_are_the_end_of_the_whole(world: World, good: list[Message]) -> None:
    since = END - timedelta(days=10)
    last = [m["messageId"] for m in world.history(10) if "simulator" not in m["context"]]
    whole = [m["messageId"] for m in good if datetime.fromisoformat(m["timestamp"]) >= since]
    assert set(last) == set(whole)


def test_the_file_is_what_import_reads_and_the_same_every_time(tmp_path: Path) -> None:
    world = World(7, 60, end=END)
    messages = list(world.history())
    seen: list[int] = []
    one, other = tmp_path / "a" / "history.jsonl.gz", tmp_path / "other.jsonl.gz"
    assert world.write_history(one, progress=seen.append) == len(messages)
    assert seen == sorted(seen) and seen
    with gzip.open(one, "rt", encoding="utf-8") as file:
        assert [json.loads(line) for line in file] == messages
    world.write_history(other)
    assert one.read_bytes() == other.read_bytes()


def test_a_few_messages_are_broken_and_a_few_come_twice(messages: list[Message]) -> None:
    broken = Counter(m["context"].get("simulator", {}).get("broken") for m in messages)
    assert set(broken) == {None, "missing_field", "wrong_type", "unknown_event"}
    assert 0.001 < 1 - broken[None] / len(messages) < 0.01
    by_id = defaultdict(set)
    for message in messages:
        by_id[message["messageId"]].add(json.dumps(message))
    repeated = len(messages) - len(by_id)
    assert 0.0005 < repeated / len(messages) < 0.006
    assert all(len(forms) == 1 for forms in by_id.values())


def contracts() -> dict[str, tuple[int, Any]]:
    newest: dict[str, tuple[int, Any]] = {}
    for path in (ROOT / "ingestion" / "contracts").glob("*.json"):
        schema = json.loads(path.read_text("utf-8"))
        version = schema["x-version"]
        if version > newest.get(schema["title"], (0, None))[0]:
            validator = jsonschema_rs.validator_for(schema, validate_formats=True)
            newest[schema["title"]] = (version, validator)
    return newest


#: Sent by the payment provider's webhook, which the simulated company does not have.
FROM_BILLING = {
    "Subscription Started",
    "Subscription Updated",
    "Subscription Cancelled",
    "Payment Succeeded",
    "Payment Failed",
}


def test_exactly_the_broken_messages_break_their_contract(messages: list[Message]) -> None:
    validators = {title: validator for title, (_, validator) in contracts().items()}
    seen = set()
    for message in messages:
        assert message["type"] in {"track", "page", "identify", "group"}
        assert message.get("userId") or message.get("anonymousId")
        if message["type"] in ("identify", "group"):
            continue
        event = message.get("event", "Page Viewed")
        seen.add(event)
        validator = validators.get(event)
        valid = validator is not None and validator.is_valid(message["properties"])
        assert valid == ("simulator" not in message["context"]), message
    assert seen - {"Wishlist Shared"} == set(validators) - FROM_BILLING


def test_nobody_acts_after_they_have_churned_or_while_they_are_away(
    world: World, good: list[Message]
) -> None:
    truth = {row["user_id"]: row for row in world.truth()}
    own = {
        row["anonymous_ids"][0]: row for row in world.truth() if row["anonymous_ids"]
    }  # the first device is never shared
    for message in good:
        row = truth.get(message.get("userId", "")) or own.get(message.get("anonymousId", ""))
        if row is None or message.get("event") in PASSIVE:
            continue
        at = message["timestamp"]
        assert row["churned_at"] is None or at < row["churned_at"], message
        if row["away_from"]:
            # A visit that began before the absence may last some minutes into it.
            begins = datetime.fromisoformat(row["away_from"]) + timedelta(hours=1)
            inside = begins.isoformat() <= at.replace("Z", "+00:00") < row["away_until"]
            assert not inside or message.get("event") == "Email Clicked", message


def test_those_who_return_log_in_when_they_are_back(world: World, good: list[Message]) -> None:
    logins = defaultdict(list)
    for message in good:
        if message.get("event") == "Logged In":
            logins[message["userId"]].append(message["timestamp"])
    returning = [row for row in world.truth() if row["persona"] == "returning"]
    assert len(returning) > 10
    for row in returning:
        assert row["away_from"] < row["away_until"] <= logins[row["user_id"]][-1]


def test_every_persona_is_there_in_its_share(world: World) -> None:
    rows = World(11, 2000, end=END).truth()
    shares = {p: n / len(rows) for p, n in Counter(row["persona"] for row in rows).items()}
    assert set(shares) == {
        "loyal",
        "drifting",
        "returning",
        "bargain_hunter",
        "trial",
        "one_timer",
    }
    assert 0.28 < shares["loyal"] < 0.45
    assert 0.12 < shares["drifting"] < 0.25
    assert min(shares.values()) > 0.06
    assert {row["user_id"] for row in rows if row["household"]}
    assert any(row["card_stolen_at"] for row in rows)
    ending = [row for row in rows if row["persona"] == "drifting"]
    assert {row["churned_at"] > END.isoformat() for row in ending} == {True, False}
    for row in rows:
        for other in row["household"]:
            mate = rows[int(other.removeprefix("u_"))]
            assert row["user_id"] in mate["household"]


def test_strangers_become_known_on_the_same_device(world: World, good: list[Message]) -> None:
    first_seen: dict[str, str] = {}
    identified: dict[str, set[str]] = defaultdict(set)
    for message in good:
        device = message.get("anonymousId")
        if device is None:
            continue
        first_seen.setdefault(device, message.get("userId", ""))
        if message["type"] == "identify":
            identified[device].add(message["userId"])
    became = [d for d, user in first_seen.items() if not user and identified[d]]
    assert len(became) > 20
    truth = {row["user_id"]: row for row in world.truth()}
    for device, users in identified.items():
        for user in users:
            assert device in truth[user]["anonymous_ids"]
            assert users <= {user, *truth[user]["household"]}
    assert any(len(users) == 2 for users in identified.values())


def test_leavers_say_goodbye_and_complements_sell_together(good: list[Message]) -> None:
    together = alone = 0
    for message in good:
        if message.get("event") != "Purchase Completed":
            continue
        ids = [item["product_id"] for item in message["properties"]["items"]]
        assert ids
        linked = any(b in catalogue.PRODUCTS[a].complements for a in ids for b in ids if a != b)
        together += linked
        alone += len(ids) > 1 and not linked
    assert together > 2 * alone
    paths = Counter(m["properties"]["path"] for m in good if m["type"] == "page")
    assert paths["/account/cancel"] > 5 and paths["/pricing"] > 50


def test_what_crm_and_helpdesk_know_agrees_with_the_history(
    world: World, good: list[Message]
) -> None:
    people = {customer.email: customer for customer in world.customers}
    contacts = world.crm_contacts()
    assert 0 < len(contacts) < len(people)
    assert len({c["email"] for c in contacts}) == len(contacts)
    assert all(people[c["email"]].in_crm for c in contacts)
    tickets = {t["ticket_id"]: t for t in world.support_tickets()}
    opened = {
        m["properties"]["ticket_id"]: m for m in good if m.get("event") == "Support Ticket Opened"
    }
    assert set(tickets) == set(opened)
    for ticket_id, ticket in tickets.items():
        assert opened[ticket_id]["userId"] == people[ticket["requester_email"]].user_id
        assert ticket["created_at"] == opened[ticket_id]["timestamp"] <= ticket["updated_at"]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: World(7, 10, end=datetime(2026, 1, 1)), "time zone"),
        (lambda: World(7, 0, end=END), "at least one"),
        (lambda: next(World(7, 5, end=END).history(91)), "1 to 90"),
    ],
)
def test_impossible_worlds_are_refused_in_words(make: Any, says: str) -> None:
    with pytest.raises(SimulatorError, match=says):
        make()


class Recorder(ThreadingHTTPServer):
    """Stands where the collector or the sandbox would, and keeps what it is sent."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[tuple[str, str, Message]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def batches(self) -> list[Message]:
        return [m for path, _, body in self.requests if path == "/v1/batch" for m in body["batch"]]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert isinstance(self.server, Recorder)
        self.server.requests.append((self.path, self.headers["Authorization"], body))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    server = Recorder()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def play(path: Path, url: str, **options: Any) -> LiveTraffic:
    state = DemoState.open(path, seed=7, customers=400, now=END)
    traffic = LiveTraffic(state.world(), url, "wk_demo", state=state, **options)
    traffic.run(threading.Event(), seconds=0.5)
    return traffic


def test_live_traffic_through_the_real_sdk(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "STORY_STEP_SECONDS", 0.02)
    path = tmp_path / "demo.json"
    first = play(path, recorder.url, rate=60, story_every=0.6)
    received = recorder.batches()
    assert len(received) == first.sent and first.failed == 0
    expected_key = "Basic " + base64.b64encode(b"wk_demo:").decode()
    assert {key for _, key, _ in recorder.requests} == {expected_key}

    validators = {title: validator for title, (_, validator) in contracts().items()}
    for message in received:
        if message["type"] in ("track", "page"):
            contract = validators[message.get("event", "Page Viewed")]
            assert contract.is_valid(message["properties"]), message

    assert [entry.story for entry in first.story_log] == list(stories.KINDS)
    by_story = {entry.story: entry for entry in first.story_log}
    for entry in first.story_log:
        assert entry.started_at and entry.triggered_at
        assert entry.started_at <= entry.triggered_at

    def of(user_id: str) -> list[Message]:
        return [m for m in received if m.get("userId") == user_id]

    leaving = by_story["leaving"]
    assert leaving.expects.keys() == {"hubspot", "slack", "webhook"}
    events = {m.get("event") or m["properties"]["path"] for m in of(leaving.user_id)}
    assert events == {
        "/pricing",
        "/account/cancel",
        "Subscription Expiring",
        "Support Ticket Opened",
    }
    cart = by_story["cart"]
    assert cart.expects == {"smtp_email": (cart.email,)}
    assert of(cart.user_id)[-1]["event"] == "Cart Updated"
    assert of(by_story["ticket"].user_id)[-1]["event"] == "Support Ticket Opened"
    assert of(by_story["purchase"].user_id)[-1]["event"] == "Purchase Completed"
    at_home, abroad = (m["properties"] for m in of(by_story["fraud"].user_id))
    assert at_home["card_id"] == abroad["card_id"] and at_home["country"] != abroad["country"]
    assert by_story["fraud"].expects["webhook"] == (abroad["transaction_id"],)
    assert f"{abroad['amount']:,.2f}" in by_story["fraud"].expects["twilio"][0]
    assert of(by_story["bill"].user_id)[-1]["event"] == "Payment Failed"
    looks = [m["properties"] for m in of(by_story["browse"].user_id) if "event" in m]
    assert [look["product_id"] for look in looks] == [by_story["browse"].details["product_id"]] * 4
    merge = by_story["merge"]
    device = [m for m in received if m.get("anonymousId") == merge.details["anonymous_id"]]
    assert device[0].get("userId") is None
    assert {m.get("userId") for m in device} == {None, merge.user_id}

    # A restart goes on: other people, other ids of every kind.
    second = play(path, recorder.url, rate=60, story_every=0.6)
    later = recorder.batches()[len(received) :]
    assert {e.user_id for e in first.story_log}.isdisjoint(e.user_id for e in second.story_log)
    assert not {m["messageId"] for m in received} & {m["messageId"] for m in later}
    for key in ("order_id", "ticket_id", "transaction_id", "invoice_id"):
        ids = [m["properties"][key] for m in received + later if key in m.get("properties", {})]
        assert len(ids) == len(set(ids))
    assert second.state.run == 2


def test_a_story_that_has_used_everyone_is_told_no_more(recorder: Recorder, tmp_path: Path) -> None:
    path = tmp_path / "demo.json"
    state = DemoState.open(path, seed=7, customers=400, now=END)
    state.told = dict.fromkeys(stories.KINDS, 10_000)
    state.save()
    traffic = play(path, recorder.url, rate=20)
    assert traffic.story_log == []
    assert recorder.batches()


def test_a_collector_that_is_down_is_counted_not_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "FLUSH_SECONDS", 0.2)
    monkeypatch.setattr(live, "STORY_STEP_SECONDS", 0.01)
    traffic = play(tmp_path / "demo.json", "http://127.0.0.1:9", rate=20)
    assert traffic.failed == traffic.queued > 0
    assert traffic.last_error


def test_the_cast_are_in_one_role_each_and_fit_it(world: World) -> None:
    roles = stories.casting(world)
    everyone = [c.user_id for cast in roles.values() for c in cast]
    assert len(everyone) == len(set(everyone))
    assert all(len(roles[kind]) >= 5 for kind in stories.KINDS)
    contacts = {c["email"] for c in world.crm_contacts()}
    assert all(c.email in contacts and c.sales for c in roles["leaving"])
    assert all(c.marketing for c in roles["cart"] + roles["browse"])
    assert all(c.has_card and c.phone for c in roles["fraud"])


def test_nobody_plays_whose_address_was_never_told(world: World, good: list[Message]) -> None:
    told = {message["userId"] for message in good if message["type"] == "identify"}
    cast = [c for c in stories.casting(world)["ordinary"] if c.persona != "passer_by"]
    playing = {c.user_id for c in cast if stories.can_play(world, "cart", c)}
    assert playing == {c.user_id for c in cast} & told
    assert 0 < len(playing) < len(cast)


def test_a_cards_own_habits_precede_its_story(world: World, good: list[Message]) -> None:
    payments = defaultdict(list)
    for message in good:
        if message.get("event") == "Card Transaction":
            payments[message["userId"]].append(message["properties"])
    for customer in stories.casting(world)["fraud"]:
        habits = payments[customer.user_id]
        assert len(habits) >= 10
        assert {payment["country"] for payment in habits} == {customer.place.country}
        assert max(payment["amount"] for payment in habits) < 300


def test_state_survives_and_refuses_what_it_cannot_read(tmp_path: Path) -> None:
    path = tmp_path / "home" / "demo.json"
    state = DemoState.open(path, seed=5, customers=30, now=END)
    assert [state.claim("cart"), state.claim("cart"), state.start_run()] == [0, 1, 1]
    again = DemoState.open(path, seed=9, customers=99, now=END + timedelta(days=3))
    assert again == state and again.end == END
    with pytest.raises(SimulatorError, match="another state file"):
        LiveTraffic(World(6, 30, end=END), "http://127.0.0.1:9", "wk", state=again)
    path.write_text('{"seed": 7}')
    with pytest.raises(SimulatorError, match="delete it"):
        DemoState.open(path)


def test_the_sandbox_is_seeded_through_the_vendors_apis(recorder: Recorder) -> None:
    world = World(7, 150, end=END)
    sent = seed_sandbox(world, recorder.url)
    assert sent == {
        "contacts": len(world.crm_contacts()),
        "tickets": len(world.support_tickets()),
    }
    assert {key for _, key, _ in recorder.requests} == {"Bearer sandbox"}
    bodies = defaultdict(list)
    for path, _, body in recorder.requests:
        bodies[path].append(body)
    batches = bodies["/hubspot/crm/v3/objects/contacts/batch/upsert"]
    assert all(len(batch["inputs"]) <= 100 for batch in batches)
    assert sum(len(batch["inputs"]) for batch in batches) == sent["contacts"]
    assert len(bodies["/support/api/v2/tickets"]) == sent["tickets"]


def test_a_missing_sandbox_is_named(world: World) -> None:
    with pytest.raises(SimulatorError, match="signalbox sandbox"):
        seed_sandbox(world, "http://127.0.0.1:9")
