"""The policies of one sync with the facts they need: what they say of what is due."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from syncs import policies
from syncs.claims import Action, LookBack
from syncs.facts import ReadFacts, Recipient, needs_facts
from syncs.policies import Cap, Facts, Verdict
from syncs.results import SyncError
from syncs.spec import SyncSpec

#: Seconds for which facts of the warehouse serve.
FRESH = 5.0


class Paused(SyncError):
    """A rule that decides about sending cannot be read, so nothing is sent."""


@dataclass
class Rules:
    """The policies of one sync, and where the facts that they need come from.

    The warehouse is asked for many recipients at once, those who are `next` too: what it said
    serves for FRESH seconds. It is itself as old as its last build.
    """

    spec: SyncSpec
    facts: ReadFacts | None
    channel_caps: Mapping[str, Cap]
    next: Callable[[], Sequence[Recipient]] = tuple
    _kept: Facts = field(default_factory=Facts)
    _known: frozenset[str] = frozenset()
    _read_at: float = -math.inf

    def judge(
        self, due: Sequence[Action], look_back: LookBack, now: datetime
    ) -> dict[str, Verdict]:
        """The verdicts on what is due. Raises Paused when a fact that decides cannot be read.

        Who leaves an audience is asked nothing: that is what a withdrawn consent leads to.
        """
        due = [action for action in due if not action.leave]
        if not due:
            return {}
        cap = self.channel_caps.get(self.spec.policies.channel or "")
        address = self.spec.policies.address
        facts = self._fresh(
            [
                Recipient(
                    action.action_key,
                    action.customer_id,
                    str(action.payload.get(address) or "") if address else None,
                )
                for action in due
            ]
        )
        window = policies.history_needed(self.spec.policies, cap)
        if window is not None:
            # After the warehouse was asked: from here on other processes may have to wait.
            past = look_back(now - window)
            facts = replace(facts, messages=past.messages, ahead=past.ahead, channel_cap=cap)
        return policies.judge(self.spec.policies, due, facts, now)

    def _fresh(self, recipients: Sequence[Recipient]) -> Facts:
        keys = frozenset(recipient.action_key for recipient in recipients)
        if not needs_facts(self.spec.policies):
            return self._kept
        if not keys <= self._known or time.monotonic() - self._read_at > FRESH:
            asked = {recipient.action_key: recipient for recipient in (*self.next(), *recipients)}
            self._read_at = time.monotonic()
            self._kept = self.read(list(asked.values()))
            self._known = frozenset(asked)
        return self._kept

    def read(self, recipients: Sequence[Recipient]) -> Facts:
        if not needs_facts(self.spec.policies) or not recipients:
            return Facts()
        if self.facts is None:
            raise Paused(f"{self.spec.name} has policies, and what they need cannot be read")
        try:
            return self.facts(self.spec.policies, recipients)
        except Exception as error:
            raise Paused(
                f"consent, suppression list or time zones cannot be read ({type(error).__name__}); "
                "nothing is sent (are the models built? signalbox build)"
            ) from None
