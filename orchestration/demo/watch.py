"""Follows what the live stories cause: matches the sandbox's effects with what was expected."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import requests

from orchestration.demo.stories import StoryEntry


@dataclass(frozen=True)
class Happening:
    """An expected effect that arrived: which story, where, and how long after its last event.

    Of an effect that came before the last event it is not known which one caused it: `seconds` are
    from the first.
    """

    entry: StoryEntry
    destination: str
    seconds: float
    summary: str


class StoryWatch:
    """Reads the sandbox's effects from where they stand now, and pairs them with stories.

    Every effect counts once per story and destination, from the story's first event on: a score
    may rise, and the vendor act, before the event that the story ends with.
    """

    def __init__(self, sandbox_url: str) -> None:
        self._url = f"{sandbox_url}/sandbox/effects"
        self._since = 0
        self._session = requests.Session()
        self._effects: list[dict[str, Any]] = []
        self._seen: set[tuple[str, int, str]] = set()
        self.happenings: list[Happening] = []
        for _ in self._read():
            pass  # what was there before the first story is not ours

    def poll(self, stories: Sequence[StoryEntry]) -> list[Happening]:
        """What has newly happened for these stories."""
        self._effects += self._read()
        new: list[Happening] = []
        for entry in stories:
            for destination, texts in entry.expects.items():
                identity = (entry.story, entry.number, destination)
                began, ended = entry.started_at, entry.triggered_at
                if identity in self._seen or began is None or ended is None:
                    continue
                effect = self._find(destination, texts, began)
                if effect is not None:
                    self._seen.add(identity)
                    acted = _moment(effect)
                    seconds = (acted - (ended if acted >= ended else began)).total_seconds()
                    new.append(Happening(entry, destination, seconds, effect["summary"]))
        self.happenings += new
        return new

    def missing(self, stories: Sequence[StoryEntry]) -> list[tuple[StoryEntry, str]]:
        """Expected effects of these stories that have not happened yet."""
        return [
            (entry, destination)
            for entry in stories
            for destination in entry.expects
            if (entry.story, entry.number, destination) not in self._seen
        ]

    def _find(
        self, destination: str, texts: tuple[str, ...], after: datetime
    ) -> dict[str, Any] | None:
        for effect in self._effects:
            if effect["destination"] == destination and _moment(effect) >= after:
                text = json.dumps(effect, ensure_ascii=False)
                if any(wanted in text for wanted in texts):
                    return effect
        return None

    def _read(self) -> Iterator[dict[str, Any]]:
        while True:
            try:
                answer = self._session.get(
                    self._url, params={"since": self._since, "limit": 500}, timeout=10
                )
            except (requests.ConnectionError, requests.Timeout):
                # It is started again, or closed the connection while this machine stood still.
                return  # the next poll asks for the same
            answer.raise_for_status()
            effects: list[dict[str, Any]] = answer.json()
            if not effects:
                return
            self._since = effects[-1]["seq"]
            yield from effects


def _moment(effect: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(effect["at"])
