"""Who may be sent what, and when: the policies of a sync, judged at the moment of sending.

An action is judged in this order, and the first policy that objects decides:

1. expiry: it is too late → expired
2. consent: the customer did not grant the purpose → suppressed
3. suppression_list: the address or the customer is on the list → suppressed
4. quiet_hours: it is night where the customer is → later, at the end of the quiet hours; expired
   where that would be too late
5. cap: the customer has had as many messages as the sync or the channel allows → suppressed.
   priority: the channel has room left, but messages of higher priority are due that need it →
   later, a minute on, when they have left or have been held back themselves
6. holdout: the customer belongs to the group that gets none, for comparison → suppressed

The holdout comes last, so that both groups consist of those who would have been sent the message,
from the moment on at which they would have been.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from typing import Any, Literal, NamedTuple, Protocol
from zoneinfo import ZoneInfo

import msgspec

#: The keys of `config.meta.sync` that are read here, and what YAML must make of their values.
KEYS: dict[str, type] = {
    "consent": str,
    "cap": str,
    "quiet_hours": str,
    "expires_after": str,
    "holdout": str,
    "holdout_group": str,
    "priority": int,
    "outcome": str,
    "outcome_window": str,
}

#: How long a message waits for one of higher priority before it is judged again.
STEP_BACK = timedelta(minutes=1)

OUTCOME_WINDOW = timedelta(days=7)

UTC_ZONE = ZoneInfo("UTC")

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_DURATION = re.compile(r"(\d+)\s*([smhd])")
_CAP = re.compile(r"(\d+)\s*/\s*(\d+)?\s*(?:([mhdw])|(minute|hour|day|week)s?)")
_QUIET = re.compile(r"([01]\d|2[0-3]):([0-5]\d)\s*-\s*([01]\d|2[0-3]):([0-5]\d)")
_SHARE = re.compile(r"(\d+(?:\.\d+)?)\s*%")


class PolicyError(ValueError):
    """A policy is declared wrongly; the message names the key and what is allowed."""


class Cap(msgspec.Struct, frozen=True):
    """At most `count` messages in any span of `window`."""

    count: int
    window: timedelta

    def __str__(self) -> str:
        seconds = int(self.window.total_seconds())
        for unit in ("weeks", "days", "hours"):
            length = int(timedelta(**{unit: 1}).total_seconds())
            if seconds % length == 0:
                number = seconds // length
                return f"{self.count}/{unit[:-1] if number == 1 else f'{number} {unit}'}"
        return f"{self.count}/{seconds // 60} minutes"


class QuietHours(msgspec.Struct, frozen=True):
    """From `begin` up to `end` by the clock on the customer's wall, also over midnight."""

    begin: time
    end: time

    def __str__(self) -> str:
        return f"{self.begin:%H:%M}-{self.end:%H:%M}"

    def cover(self, moment: datetime, zone: ZoneInfo) -> bool:
        """Whether the wall clock in `zone` stands within the quiet hours at `moment`."""
        clock = moment.astimezone(zone).time()
        if self.begin < self.end:
            return self.begin <= clock < self.end
        return clock >= self.begin or clock < self.end

    def over_at(self, moment: datetime, zone: ZoneInfo) -> datetime:
        """The first moment, from `moment` on, outside the quiet hours; in UTC.

        Where clocks are put forward over the end, that is the moment of the change. Where they
        are put back into the quiet hours, it is quiet again until the end comes once more.
        """
        moment = moment.astimezone(UTC)
        while self.cover(moment, zone):
            clock = moment.astimezone(zone)
            end = datetime.combine(clock.date(), self.end)
            now = clock.replace(tzinfo=None)
            left = end - now if end > now else end - now + timedelta(days=1)
            moment = _change_of_clocks(moment, moment + left, zone) or moment + left
        return moment


class Holdout(msgspec.Struct, frozen=True):
    """The share of customers that gets nothing from the syncs of `group`."""

    share: float
    group: str

    @property
    def threshold(self) -> str:
        """Eight hexadecimal digits; a customer whose digest sorts before them is held out."""
        return f"{min(round(self.share * 2**32), 2**32 - 1):08x}"

    def holds(self, customer_id: str) -> bool:
        """Whether the customer is held out: always the same for the same group and share.

        In SQL: `substr(sha256(group || ':' || customer_id), 1, 8) < threshold`. A larger share
        keeps those who were held out before.
        """
        digest = hashlib.sha256(f"{self.group}:{customer_id}".encode()).hexdigest()
        return digest[:8] < self.threshold


class Policies(msgspec.Struct, frozen=True, kw_only=True):
    """What `config.meta.sync` says of when not to send. Unset: no such limit.

    `channel` is the destination's (email, sms); channels have a suppression list and may have a
    cap over all their syncs. `address` is the column with the recipient's address.
    """

    consent: str | None = None
    cap: Cap | None = None
    quiet_hours: QuietHours | None = None
    expires_after: timedelta | None = None
    holdout: Holdout | None = None
    priority: int = 0
    outcome: str | None = None
    outcome_window: timedelta = OUTCOME_WINDOW
    channel: str | None = None
    address: str | None = None


def parse(
    declared: Mapping[str, Any],
    sync: str,
    *,
    is_message: bool,
    columns: Sequence[str],
    channel: str | None = None,
    address: str | None = None,
) -> Policies:
    """The policies of `config.meta.sync` of the sync called `sync`; keys of others are ignored.

    Raises PolicyError for the first one that is wrong.
    """
    for name in KEYS:
        if name in declared and name not in _FOR_ROWS and not is_message:
            form = f"{_FORMS[name]}, " if name in _FORMS else ""
            raise PolicyError(f"{name}: {form}for messages only")
    if "consent" in declared and "customer_id" not in columns:
        raise PolicyError("consent: needs the column customer_id to know who consented")
    for name, needs in (
        ("holdout_group", "holdout"),
        ("outcome", "holdout"),
        ("outcome_window", "outcome"),
    ):
        if name in declared and needs not in declared:
            raise PolicyError(f"{name}: means nothing without {needs}")
    holdout = None
    if "holdout" in declared:
        holdout = Holdout(_share(declared["holdout"]), declared.get("holdout_group", sync))
    return Policies(
        consent=declared.get("consent"),
        cap=parse_cap(declared["cap"]) if "cap" in declared else None,
        quiet_hours=_quiet_hours(declared["quiet_hours"]) if "quiet_hours" in declared else None,
        expires_after=_duration("expires_after", declared),
        holdout=holdout,
        priority=declared.get("priority", 0),
        outcome=declared.get("outcome"),
        outcome_window=_duration("outcome_window", declared) or OUTCOME_WINDOW,
        channel=channel if is_message else None,
        address=address if is_message and address in columns else None,
    )


#: What rows of a state have, too.
_FOR_ROWS = ("consent", "priority")

_FORMS = {
    "expires_after": "a number and s, m, h or d (like 2h)",
    "outcome_window": "a number and s, m, h or d (like 7d)",
    "cap": "a number of messages and a span, like 1/day, 3/week or 2/6 hours",
    "quiet_hours": "two times of the day, like 21:00-08:00",
    "holdout": "a share above 0 % and below 100 %, like 5%",
}


def parse_cap(text: str) -> Cap:
    """`1/day`, `3/week`, `2/6h`. Raises PolicyError."""
    match = _CAP.fullmatch(text.strip())
    if match is None:
        raise PolicyError(f"cap: {_FORMS['cap']}, not {text!r}")
    count, number = int(match[1]), int(match[2] or 1)
    if not count or not number:
        raise PolicyError(f"cap: {_FORMS['cap']}; 0 would send nothing: remove the sync instead")
    unit = match[3] or match[4][0]
    return Cap(count, timedelta(**{_UNITS[unit]: number}))


def _quiet_hours(text: str) -> QuietHours:
    match = _QUIET.fullmatch(text.strip())
    if match is None:
        raise PolicyError(f"quiet_hours: {_FORMS['quiet_hours']}, not {text!r}")
    begin, end = time(int(match[1]), int(match[2])), time(int(match[3]), int(match[4]))
    if begin == end:
        raise PolicyError("quiet_hours: they begin when they end; leave them out or move one")
    return QuietHours(begin, end)


def _share(text: str) -> float:
    match = _SHARE.fullmatch(text.strip())
    share = float(match[1]) / 100 if match else 0.0
    if not 0 < share < 1:
        raise PolicyError(f"holdout: {_FORMS['holdout']}, not {text!r}")
    return share


def _duration(name: str, declared: Mapping[str, Any]) -> timedelta | None:
    if name not in declared:
        return None
    match = _DURATION.fullmatch(declared[name].strip())
    if match is None or int(match[1]) == 0:
        raise PolicyError(f"{name}: {_FORMS[name]}, for messages only")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


class Due(Protocol):
    """What is judged: the parts of a ledger's action that policies look at."""

    @property
    def action_key(self) -> str: ...
    @property
    def customer_id(self) -> str | None: ...
    @property
    def expires_at(self) -> datetime | None: ...


class Sent(NamedTuple):
    """An earlier message to a customer: `own` of the same sync, `left` false if held out."""

    at: datetime
    own: bool = True
    left: bool = True


class Verdict(NamedTuple):
    """Why an action is not sent now. `until`: for later, when it is judged again."""

    state: Literal["expired", "suppressed", "later"]
    policy: str
    reason: str
    until: datetime | None = None


@dataclass(frozen=True)
class Facts:
    """What is known about the customers of a batch at the moment of sending.

    `consented`: customers who granted the sync's purpose. `listed`: action key → why its recipient
    is on the suppression list. `time_zones`: customer → zone; `time_zone` is that of all others.
    `messages`: customer → what was sent before by this sync and on its channel. `ahead`: customer
    → messages of higher priority that are due on the channel.
    """

    consented: frozenset[str] = frozenset()
    listed: Mapping[str, str] = field(default_factory=dict)
    time_zones: Mapping[str, ZoneInfo] = field(default_factory=dict)
    time_zone: ZoneInfo = UTC_ZONE
    messages: Mapping[str, Sequence[Sent]] = field(default_factory=dict)
    ahead: Mapping[str, int] = field(default_factory=dict)
    channel_cap: Cap | None = None


def judge(
    policies: Policies, due: Sequence[Due], facts: Facts, now: datetime
) -> dict[str, Verdict]:
    """Which of the due actions of one sync must not be sent now, by action key, and why.

    Pure: the same arguments give the same verdicts. Actions are judged in the order given, and
    one that is let through counts for the caps of those after it.
    """
    verdicts: dict[str, Verdict] = {}
    earlier: dict[str, list[Sent]] = {}
    for action in due:
        customer = action.customer_id or ""
        if customer not in earlier:
            earlier[customer] = list(facts.messages.get(customer, ()))
        verdict = (
            _expiry(action, now)
            or _permission(policies, action, facts)
            or _quiet(policies, action, facts, now)
            or _room(policies, customer, earlier[customer], facts, now)
            or _held(policies, customer)
        )
        if verdict is not None:
            verdicts[action.action_key] = verdict
        if verdict is None or verdict.policy == "holdout":
            earlier[customer].append(Sent(now, own=True, left=verdict is None))
    return verdicts


def _expiry(action: Due, now: datetime) -> Verdict | None:
    if action.expires_at is None or action.expires_at > now:
        return None
    return Verdict("expired", "expiry", "expired before it was sent")


def _permission(policies: Policies, action: Due, facts: Facts) -> Verdict | None:
    if policies.consent is not None and action.customer_id not in facts.consented:
        return Verdict("suppressed", "consent", f"no consent for {policies.consent}")
    if action.action_key in facts.listed:
        reason = f"on the suppression list: {facts.listed[action.action_key]}"
        return Verdict("suppressed", "suppression_list", reason)
    return None


def _quiet(policies: Policies, action: Due, facts: Facts, now: datetime) -> Verdict | None:
    quiet = policies.quiet_hours
    zone = facts.time_zones.get(action.customer_id or "", facts.time_zone)
    if quiet is None or not quiet.cover(now, zone):
        return None
    over = quiet.over_at(now, zone)
    hours = f"quiet hours {quiet} in {zone.key}"
    if action.expires_at is not None and action.expires_at <= over:
        return Verdict("expired", "quiet_hours", f"would expire within the {hours}")
    return Verdict("later", "quiet_hours", hours, over)


def _room(
    policies: Policies, customer: str, earlier: Sequence[Sent], facts: Facts, now: datetime
) -> Verdict | None:
    cap = policies.cap
    if cap is not None and _count(earlier, now - cap.window, own=True) >= cap.count:
        return Verdict("suppressed", "cap", f"cap of {cap} reached")
    cap = facts.channel_cap
    if cap is None:
        return None
    room = cap.count - _count(earlier, now - cap.window, own=False)
    if room <= 0:
        return Verdict("suppressed", "cap", f"cap of {cap} on {policies.channel} reached")
    if room <= facts.ahead.get(customer, 0):
        return Verdict("later", "priority", "more urgent messages go first", now + STEP_BACK)
    return None


def _held(policies: Policies, customer: str) -> Verdict | None:
    if policies.holdout is None or not policies.holdout.holds(customer):
        return None
    return Verdict("suppressed", "holdout", f"in the holdout of {policies.holdout.group}")


def _count(earlier: Sequence[Sent], since: datetime, *, own: bool) -> int:
    # Held out counts for the sync's own cap, so that both groups start equally often.
    return sum(1 for sent in earlier if sent.at > since and (sent.own if own else sent.left))


def history_needed(policies: Policies, channel_cap: Cap | None) -> timedelta | None:
    """How far back the caps look; None when there is none."""
    windows = [cap.window for cap in (policies.cap, channel_cap) if cap is not None]
    return max(windows, default=None)


@functools.lru_cache(maxsize=1024)
def time_zone(name: str) -> ZoneInfo | None:
    """The IANA time zone of that name; None when there is none."""
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, LookupError):  # customers send all kinds of names
        return None


def _change_of_clocks(begin: datetime, end: datetime, zone: ZoneInfo) -> datetime | None:
    """When within (begin, end] the zone's offset changes, to the second; None if it does not.

    The span is a day at most, and no zone changes its clocks twice within one.
    """

    def offset(moment: datetime) -> timedelta | None:
        return moment.astimezone(zone).utcoffset()

    before = offset(begin)
    if offset(end) == before:
        return None
    low, high = 0, int((end - begin).total_seconds()) + 1
    while high - low > 1:
        middle = (low + high) // 2
        if offset(begin + timedelta(seconds=middle)) == before:
            low = middle
        else:
            high = middle
    moment = begin + timedelta(seconds=high)
    return min(moment, end).replace(microsecond=0)
