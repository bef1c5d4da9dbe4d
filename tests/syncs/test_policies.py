"""Policies against a plain, slow reference that shares no line with them.

The property test judges ten thousand actions in an ordinary run: 500 worlds, each with a queue of
20. SIGNALBOX_TEST_WORLDS=5000 makes it ten times as many.
"""

from __future__ import annotations

import functools
import hashlib
import os
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import duckdb
import pytest
import pytz
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from syncs.policies import (
    STEP_BACK,
    Cap,
    Facts,
    Holdout,
    Policies,
    PolicyError,
    QuietHours,
    Sent,
    Verdict,
    judge,
    parse,
    parse_cap,
    time_zone,
)

# Every kind of clock: half and quarter hours, half-hour and two-hour changes, the south, none, a
# change at midnight, a country that skipped a day, one that changes for Ramadan.
ZONES = [
    "UTC", "Europe/Berlin", "Europe/London", "Europe/Lisbon", "America/New_York",
    "America/Los_Angeles", "America/St_Johns", "America/Sao_Paulo", "America/Havana",
    "America/Caracas", "Australia/Lord_Howe", "Australia/Adelaide", "Pacific/Chatham",
    "Pacific/Apia", "Pacific/Kiritimati", "Asia/Kathmandu", "Asia/Tehran", "Asia/Kolkata",
    "Asia/Beirut", "Asia/Pyongyang", "Africa/Casablanca", "Africa/Cairo", "Antarctica/Troll",
    "Atlantic/Azores",
]  # fmt: skip
WORLDS = int(os.environ.get("SIGNALBOX_TEST_WORLDS", "500"))
CUSTOMERS = ["ann", "bob", "cem", "dot", "eve", "fay"]


def changes_of_clocks() -> list[datetime]:
    """Moments at which some zone's clocks change; years that every copy of the database knows."""
    moments = set()
    for name in ZONES:
        known = getattr(pytz.timezone(name), "_utc_transition_times", [])
        moments |= {moment for moment in known if 2009 <= moment.year < 2024}
    return [moment.replace(tzinfo=UTC) for moment in sorted(moments)]


@dataclass(frozen=True)
class Due:
    action_key: str
    customer_id: str | None
    expires_at: datetime | None


@dataclass(frozen=True)
class World:
    policies: Policies
    due: list[Due]
    facts: Facts
    now: datetime


# The reference


@functools.cache
def quiet_minutes(begin: time, end: time) -> set[int]:
    """The quiet minutes of a day, counted from midnight."""
    minute, last = begin.hour * 60 + begin.minute, end.hour * 60 + end.minute
    quiet = set()
    while minute != last:
        quiet.add(minute)
        minute = (minute + 1) % 1440
    return quiet


def is_quiet(begin: time, end: time, name: str, moment: datetime) -> bool:
    clock = moment.astimezone(pytz.timezone(name))
    return clock.hour * 60 + clock.minute in quiet_minutes(begin, end)


@functools.cache
def quiet_until(begin: time, end: time, name: str, moment: datetime) -> datetime:
    moment = moment.replace(second=0, microsecond=0)
    while is_quiet(begin, end, name, moment):
        moment += timedelta(minutes=1)
    return moment


def expected(world: World) -> list[tuple[str, str, str, datetime | None]]:
    """(action, state, policy, until) of each action; sent ones have the state `sent`."""
    policies, facts, now = world.policies, world.facts, world.now
    log = [(who, sent) for who, past in facts.messages.items() for sent in past]
    found: list[tuple[str, str, str, datetime | None]] = []
    for action in world.due:
        key, who = action.action_key, action.customer_id

        def count(window: timedelta, of_ours: bool, who: Any = who) -> int:
            total = 0
            for other, sent in log:
                if other == who and now - sent.at < window:
                    total += sent.own if of_ours else sent.left
            return total

        zone = facts.time_zones.get(who, facts.time_zone).key
        night = policies.quiet_hours
        cap = facts.channel_cap
        room = cap.count - count(cap.window, False) if cap else 99
        digest = int(hashlib.sha256(f"g:{who}".encode()).hexdigest(), 16) / 2**256
        if action.expires_at and now >= action.expires_at:
            found.append((key, "expired", "expiry", None))
        elif policies.consent and who not in facts.consented:
            found.append((key, "suppressed", "consent", None))
        elif key in facts.listed:
            found.append((key, "suppressed", "suppression_list", None))
        elif night and is_quiet(night.begin, night.end, zone, now):
            morning = quiet_until(night.begin, night.end, zone, now)
            late = action.expires_at is not None and action.expires_at <= morning
            found.append((key, "expired" if late else "later", "quiet_hours",
                          None if late else morning))  # fmt: skip
        elif (policies.cap and count(policies.cap.window, True) >= policies.cap.count) or room <= 0:
            found.append((key, "suppressed", "cap", None))
        elif room - facts.ahead.get(who, 0) <= 0:
            found.append((key, "later", "priority", now + timedelta(minutes=1)))
        elif policies.holdout and digest < policies.holdout.share:
            log.append((who, Sent(now, own=True, left=False)))
            found.append((key, "suppressed", "holdout", None))
        else:
            log.append((who, Sent(now, own=True, left=True)))
            found.append((key, "sent", "", None))
    return found


# Worlds

HOURS = st.integers(-30, 30).map(lambda hours: timedelta(hours=hours))
CAPS = st.builds(Cap, st.integers(1, 3), st.sampled_from([1, 6, 24, 168]).map(
    lambda hours: timedelta(hours=hours)))  # fmt: skip
CLOCK = st.builds(time, st.integers(0, 23), st.sampled_from([0, 1, 15, 30, 59]))
QUIET = st.tuples(CLOCK, CLOCK).filter(lambda t: t[0] != t[1]).map(lambda t: QuietHours(*t))
NOW = st.one_of(
    st.builds(lambda change, by: change + by, st.sampled_from(changes_of_clocks()),
              st.integers(-26 * 3600, 26 * 3600).map(lambda s: timedelta(seconds=s))),
    st.datetimes(datetime(2010, 1, 1), datetime(2023, 12, 31), timezones=st.just(UTC)),
)  # fmt: skip


@st.composite
def worlds(draw: Any) -> World:
    now = draw(NOW)
    policies = Policies(
        consent=draw(st.sampled_from([None, None, "marketing"])),
        cap=draw(st.none() | CAPS),
        quiet_hours=draw(st.none() | QUIET),
        holdout=draw(st.none() | st.floats(0.01, 0.9).map(lambda share: Holdout(share, "g"))),
        priority=draw(st.integers(0, 2)),
    )
    lifetimes = st.none() | st.sampled_from([-1, 0, 1, 60, 3600, 9 * 3600, 86400])
    due = [
        Due(str(number), customer, None if seconds is None else now + timedelta(seconds=seconds))
        for number, (customer, seconds) in enumerate(
            draw(st.lists(st.tuples(st.sampled_from(CUSTOMERS), lifetimes), min_size=20,
                          max_size=20))
        )
    ]  # fmt: skip
    ages = st.sampled_from([0, 1, 3599, 3600, 3601, 21600, 86399, 86400, 86401, 604800])
    sent = st.builds(lambda age, own, left: Sent(now - timedelta(seconds=age), own, left),
                     ages, st.booleans(), st.booleans())  # fmt: skip
    facts = Facts(
        consented=frozenset(draw(st.sets(st.sampled_from(CUSTOMERS)))),
        listed={
            action.action_key: "bounced" for action in due if draw(st.integers(0, 9)) == 0
        },
        time_zones={
            customer: ZoneInfo(draw(st.sampled_from(ZONES))) for customer in CUSTOMERS[:4]
        },
        time_zone=ZoneInfo(draw(st.sampled_from(ZONES))),
        messages={customer: draw(st.lists(sent, max_size=4)) for customer in CUSTOMERS},
        ahead={customer: draw(st.integers(0, 2)) for customer in CUSTOMERS[1:]},
        channel_cap=draw(st.none() | CAPS),
    )  # fmt: skip
    return World(policies, due, facts, now)


@settings(max_examples=WORLDS, deadline=None, suppress_health_check=list(HealthCheck))
@given(worlds())
def test_judge_agrees_with_the_reference(world: World) -> None:
    verdicts = judge(world.policies, world.due, world.facts, world.now)
    told = []
    for action in world.due:
        verdict = verdicts.get(action.action_key)
        told.append(
            (action.action_key, verdict.state, verdict.policy, verdict.until)
            if verdict
            else (action.action_key, "sent", "", None)
        )
    assert told == expected(world)


@settings(max_examples=400, deadline=None)
@given(QUIET, st.sampled_from(ZONES), NOW)
def test_quiet_hours_end_when_the_clock_on_the_wall_says_so(
    quiet: QuietHours, zone: str, now: datetime
) -> None:
    over = quiet.over_at(now, ZoneInfo(zone))
    if not is_quiet(quiet.begin, quiet.end, zone, now):
        assert over == now
    else:
        assert over == quiet_until(quiet.begin, quiet.end, zone, now)


@pytest.mark.parametrize(
    ("zone", "quiet", "now", "over"),
    [
        # Berlin, 31 March 2019: at 02:00 it is 03:00, so 02:30 never comes.
        ("Europe/Berlin", "21:00-02:30", "2019-03-31T00:10Z", "2019-03-31T01:00Z"),
        # 27 October 2019: 02:30 comes twice, and between the two it is quiet again.
        ("Europe/Berlin", "21:00-02:30", "2019-10-27T00:10Z", "2019-10-27T00:30Z"),
        ("Europe/Berlin", "21:00-02:30", "2019-10-27T01:10Z", "2019-10-27T01:30Z"),
        ("Europe/Berlin", "21:00-08:00", "2019-03-30T21:00Z", "2019-03-31T06:00Z"),
        ("Europe/Berlin", "21:00-08:00", "2019-10-26T21:00Z", "2019-10-27T07:00Z"),
        # Samoa left out 30 December 2011: one second after the 29th comes the 31st.
        ("Pacific/Apia", "21:00-08:00", "2011-12-30T08:00Z", "2011-12-30T18:00Z"),
        ("America/Sao_Paulo", "23:00-00:30", "2018-11-04T02:30Z", "2018-11-04T03:00Z"),
    ],
)
def test_quiet_hours_where_clocks_change(zone: str, quiet: str, now: str, over: str) -> None:
    policies = parse({"quiet_hours": quiet}, "s", is_message=True, columns=["customer_id"])
    assert policies.quiet_hours is not None
    moment = datetime.fromisoformat(now)
    assert policies.quiet_hours.over_at(moment, ZoneInfo(zone)) == datetime.fromisoformat(over)


def test_a_message_that_would_expire_in_the_night_says_so() -> None:
    policies = Policies(quiet_hours=QuietHours(time(21), time(8)))
    now = datetime(2026, 1, 1, 22, tzinfo=UTC)
    (late, early) = (Due("a", "c", now + timedelta(hours=10)), Due("b", "c", now + timedelta(11)))
    verdicts = judge(policies, [late, early], Facts(), now)
    assert verdicts["a"] == Verdict(
        "expired", "quiet_hours", "would expire within the quiet hours 21:00-08:00 in UTC"
    )
    assert verdicts["b"].until == now + timedelta(hours=10)
    assert timedelta(minutes=1) == STEP_BACK


def test_a_holdout_is_a_fixed_share_and_sql_finds_the_same() -> None:
    customers = [f"cus_{number}" for number in range(100_000)]
    small, large, other = Holdout(0.05, "g"), Holdout(0.2, "g"), Holdout(0.05, "h")
    held = {customer for customer in customers if small.holds(customer)}
    # Four standard deviations of a fair draw: a wrong share is seen, chance is not.
    assert abs(len(held) / 100_000 - 0.05) < 4 * (0.05 * 0.95 / 100_000) ** 0.5
    assert held < {customer for customer in customers if large.holds(customer)}
    both = sum(other.holds(customer) for customer in held)
    assert abs(both / len(held) - 0.05) < 4 * (0.05 * 0.95 / len(held)) ** 0.5
    rows = duckdb.execute(
        "select 'cus_' || range as customer_id from range(100000)"
        " where substr(sha256('g:' || customer_id), 1, 8) < $threshold",
        {"threshold": small.threshold},
    ).fetchall()
    assert {row[0] for row in rows} == held
    # Written down: who is held out today is held out after every update of this software.
    assert [c for c in customers[:60] if small.holds(c)] == HELD


HELD = ["cus_12"]


def test_the_forms_of_a_policy() -> None:
    forms = ("1/day", "3/week", "2/6h", "2 / 36 hours", "5/7d")
    read = [str(parse_cap(text)) for text in forms]
    assert read == ["1/day", "3/week", "2/6 hours", "2/36 hours", "5/week"]
    declared = {"cap": "1/day", "quiet_hours": "21:00 - 08:00", "holdout": "2.5 %",
                "holdout_group": "lifecycle", "outcome": "Purchase Completed",
                "outcome_window": "3d", "priority": 5, "expires_after": "2h"}  # fmt: skip
    policies = parse(declared, "slack__x", is_message=True, columns=["customer_id"])
    assert policies.holdout == Holdout(0.025, "lifecycle")
    assert policies.outcome_window == timedelta(days=3)
    assert str(policies.quiet_hours) == "21:00-08:00" and policies.priority == 5


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ({"cap": "daily"}, "cap: a number of messages and a span, like 1/day"),
        ({"cap": "0/day"}, "0 would send nothing"),
        ({"quiet_hours": "9pm-8am"}, "quiet_hours: two times of the day, like 21:00-08:00"),
        ({"quiet_hours": "24:00-08:00"}, "quiet_hours: two times"),
        ({"quiet_hours": "08:00-08:00"}, "they begin when they end"),
        ({"holdout": "5"}, "holdout: a share above 0 % and below 100 %"),
        ({"holdout": "100%"}, "below 100 %"),
        ({"outcome": "Purchase Completed"}, "outcome: means nothing without holdout"),
        ({"holdout": "5%", "outcome_window": "7d"}, "outcome_window: means nothing without"),
        ({"holdout": "5%", "outcome": "X", "outcome_window": "week"}, "outcome_window: a number"),
        ({"expires_after": "0h"}, "expires_after: a number"),
        ({"consent": "sales"}, "consent: needs the column customer_id"),
    ],
)
def test_a_wrong_policy_says_what_is_allowed(declared: dict[str, Any], words: str) -> None:
    columns = [] if "consent" in declared else ["customer_id"]
    with pytest.raises(PolicyError, match=words):
        parse(declared, "s", is_message=True, columns=columns)


@pytest.mark.parametrize("name", ["cap", "quiet_hours", "holdout", "expires_after"])
def test_fields_of_a_record_know_consent_and_priority_only(name: str) -> None:
    with pytest.raises(PolicyError, match=f"{name}: .*for messages only"):
        parse({name: "1/day"}, "s", is_message=False, columns=["customer_id"])
    assert parse({"priority": 5}, "s", is_message=False, columns=[]).priority == 5


@pytest.mark.parametrize("name", ["Mars/Phobos", "", "../../etc/passwd", "Europe/ Berlin", "\0"])
def test_a_time_zone_that_is_none(name: str) -> None:
    assert time_zone(name) is None
