"""Which of the sandbox's effects count as what a story of the demo caused."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from orchestration.demo import StoryEntry
from orchestration.demo.watch import StoryWatch

BEGAN = datetime(2026, 1, 10, 8, tzinfo=UTC)


class Effects:
    """A sandbox that says of its effects what `GET /sandbox/effects` says."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.away = False
        self.list: list[dict[str, Any]] = []

    def add(self, destination: str, summary: str, seconds: float) -> None:
        at = BEGAN + timedelta(seconds=seconds)
        self.list.append(
            {
                "seq": len(self.list) + 1,
                "destination": destination,
                "at": at.isoformat(),
                "summary": summary,
            }
        )


@pytest.fixture
def effects() -> Iterator[Effects]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if found.away:
                self.connection.close()
                return
            since = int(parse_qs(urlsplit(self.path).query)["since"][0])
            body = json.dumps([one for one in found.list if one["seq"] > since]).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = Effects(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield found
    server.shutdown()
    server.server_close()
    thread.join()


def leaving(triggered: float | None = 1.2) -> StoryEntry:
    return StoryEntry(
        story="leaving",
        number=0,
        user_id="u_1",
        email="ada@example.com",
        name="Ada",
        started_at=BEGAN,
        triggered_at=None if triggered is None else BEGAN + timedelta(seconds=triggered),
        expects={"slack": ("ada@example.com", "Ada"), "webhook": ("t_1",)},
    )


def test_an_alert_that_an_earlier_event_of_the_story_raised_counts(effects: Effects) -> None:
    watch = StoryWatch(effects.url)
    effects.add("slack", "Churn risk rose: Ada", 0.9)
    effects.add("webhook", "t_1", 1.5)
    happened = watch.poll([leaving()])
    # What came before the last event is timed from the first: it is not known which one it was.
    assert [(one.destination, round(one.seconds, 3)) for one in happened] == [
        ("slack", 0.9),
        ("webhook", 0.3),
    ]
    assert not watch.missing([leaving()])


def test_what_was_sent_before_the_story_began_does_not_count(effects: Effects) -> None:
    watch = StoryWatch(effects.url)
    effects.add("slack", "Churn risk rose: Ada", -0.1)
    effects.add("webhook", "t_2", 1.5)
    assert not watch.poll([leaving()])
    assert len(watch.missing([leaving()])) == 2


def test_a_story_is_judged_when_it_is_told_to_its_end(effects: Effects) -> None:
    watch = StoryWatch(effects.url)
    effects.add("slack", "Churn risk rose: Ada", 0.9)
    assert not watch.poll([leaving(triggered=None)])
    assert [one.destination for one in watch.poll([leaving()])] == ["slack"]
    assert not watch.poll([leaving()]), "an effect counts once"


def test_what_a_sandbox_that_was_away_has_not_told_is_told_by_the_next_poll(
    effects: Effects,
) -> None:
    watch = StoryWatch(effects.url)
    effects.add("slack", "Churn risk rose: Ada", 1.4)
    effects.away = True
    assert not watch.poll([leaving()])
    effects.away = False
    assert [one.destination for one in watch.poll([leaving()])] == ["slack"]
