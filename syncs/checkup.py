"""Whether the destinations' credentials work: a harmless call to each, side by side."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from syncs import destinations
from syncs.destinations import Destination, Sandbox
from syncs.http import Http
from syncs.results import Fatal, SyncError, Target, mask

#: Seconds to connect, and between two bytes of an answer.
TIMEOUTS = (3.0, 5.0)

State = Literal["ok", "wrong"]


@dataclass(frozen=True)
class Finding:
    """What is known of one destination, or of one of its objects with credentials of its own."""

    name: str
    state: State
    result: str
    api_version: str
    sandbox: bool = False


def check_all(
    sandbox: Sandbox, *, env_file: Path | None, offline: bool = False, seconds: float = 10.0
) -> list[Finding]:
    """One finding per destination and set of credentials, by name. Never raises for one of them.

    No call takes longer than `seconds`; `offline` makes none.
    """
    findings: dict[str, Finding] = {}
    calls: list[tuple[str, Destination, Target[object]]] = []
    for name, destination, object_name in logins():
        try:
            target = destinations.resolve(destination, sandbox, env_file=env_file)
        except Fatal as error:
            findings[name] = Finding(name, "wrong", str(error), destination.api_version)
            continue
        if target.sandbox or offline:
            words = "no credentials set: the sandbox" if target.sandbox else "credentials are set"
            findings[name] = Finding(name, "ok", words, destination.api_version, target.sandbox)
        else:
            calls.append((name, destination, replace(target, object=object_name)))
    return [*sorted([*findings.values(), *_called(calls, seconds)], key=lambda found: found.name)]


def logins() -> list[tuple[str, Destination, str]]:
    """Every destination, and every object that needs other credentials than its destination."""
    found = []
    for name in destinations.available():
        destination = destinations.load(name)
        found.append((name, destination, ""))
        for object_name in sorted(destination.variants):
            variant = destination.of(object_name)
            if variant.credentials != destination.credentials:
                found.append((f"{name} {object_name}", variant, object_name))
    return found


def _called(calls: list[tuple[str, Destination, Target[object]]], seconds: float) -> list[Finding]:
    answers: dict[str, Finding] = {}
    http = Http(timeouts=TIMEOUTS)

    def call(name: str, destination: Destination, target: Target[object]) -> None:
        answers[name] = _call(name, destination, target, http)

    # Daemons: one that never answers must not hold up the end of the program.
    threads = [threading.Thread(target=call, args=each, daemon=True) for each in calls]
    for thread in threads:
        thread.start()
    end = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    silent = f"no answer within {seconds:.0f} s"
    return [
        answers.get(name) or Finding(name, "wrong", silent, destination.api_version)
        for name, destination, _ in calls
    ]


def _call(name: str, destination: Destination, target: Target[object], http: Http) -> Finding:
    state: State = "ok"
    try:
        words = destination.check(target, http)
    except SyncError as error:
        state, words = "wrong", str(error)
    except Exception as error:
        # Its text may hold anything, so only its kind is told.
        state, words = "wrong", f"the check failed: {type(error).__name__}"
    for secret in destinations.secrets(target):
        words = words.replace(secret, "‹secret›") if secret else words
    return Finding(name, state, mask(words) if state == "wrong" else words, destination.api_version)
