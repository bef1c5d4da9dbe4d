"""What a signal foretells: `meta.outcome` in its YAML."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

_SPAN = re.compile(r"(\d+)\s*([hd])")
_UNITS = {"h": "hours", "d": "days"}
_FORM = (
    "outcome: {event: Subscription Cancelled, silence: 30d, within: 45d}; event or silence or both"
)


class OutcomeError(Exception):
    """An outcome is not declared as it should be; the message says how."""


@dataclass(frozen=True)
class Outcome:
    """An event of the customer, or so long without any activity, within a time after the signal.

    A silence happens at the moment when it has lasted that long.
    """

    within: timedelta
    event: str | None = None
    silence: timedelta | None = None

    def __str__(self) -> str:
        ways = [self.event] if self.event else []
        ways += [f"silence of {_said(self.silence)}"] if self.silence else []
        return f"{' or '.join(ways)} within {_said(self.within)}"


def span(text: str) -> timedelta:
    """`7d`, `12h`. Raises OutcomeError."""
    found = _SPAN.fullmatch(str(text).strip())
    if not found or not int(found[1]):
        raise OutcomeError(f"{text} is not a span of time; write 7d or 12h")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def of(node: Mapping[str, Any]) -> Outcome | None:
    """The outcome that a model of dbt's manifest names, if it names one.

    Raises:
        OutcomeError: it is not declared as it should be.
    """
    declared = node["config"].get("meta", {}).get("outcome")
    if declared is None:
        return None
    try:
        if not isinstance(declared, dict) or not {*declared} <= {"event", "silence", "within"}:
            raise OutcomeError("its keys are event, silence and within")
        if not declared.get("event") and not declared.get("silence"):
            raise OutcomeError("it names neither an event nor a silence")
        if "within" not in declared:
            raise OutcomeError("within is missing")
        return Outcome(
            span(declared["within"]),
            declared.get("event"),
            span(declared["silence"]) if declared.get("silence") else None,
        )
    except OutcomeError as error:
        raise OutcomeError(f"{node['name']}: meta.outcome: {error}. Write {_FORM}.") from None


def _said(length: timedelta | None) -> str:
    assert length is not None
    hours = round(length.total_seconds() / 3600)
    return f"{hours // 24} days" if hours % 24 == 0 else f"{hours} hours"
