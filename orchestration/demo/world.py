"""The simulated company as a whole: history, the hidden truth, and what other systems know."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson

from orchestration.demo import history, people
from orchestration.demo.errors import SimulatorError
from orchestration.demo.people import DAY, Company, Customer
from orchestration.demo.visits import SITE, Moment, iso

DAYS = 90
PROGRESS_EVERY = 2000
PASSERS_BY_SHARE = 0.3
BROKEN_SHARE = 0.004
DUPLICATE_SHARE = 0.002
WEB_LIBRARY = {"name": "analytics.js", "version": "2.1.0"}
SERVER_LIBRARY = {"name": "analytics-python", "version": "2.3.2"}


class World:
    """Lumen & Loop with `customers` people, as it stands at `end`.

    The same seed, number of customers and end give the same messages, byte for byte, in every
    process and on every machine. Who the people are (ids, names, devices, personas) does not
    depend on `end`; dates do. `start_ms` and `end_ms` bound the window, in ms since 1970.

    Raises SimulatorError if `end` has no time zone or there are no customers.
    """

    def __init__(self, seed: int, customers: int = 3000, *, end: datetime) -> None:
        if end.tzinfo is None:
            raise SimulatorError("World(end=...) needs a time zone, for example datetime.now(UTC)")
        if customers < 1:
            raise SimulatorError(f"World(customers={customers}): it takes at least one customer")
        self.seed = seed
        self.end = end.astimezone(UTC)
        self.end_ms = int(self.end.timestamp()) * 1000
        self.start_ms = self.end_ms - DAYS * DAY
        members = int(customers * people.BUSINESS_SHARE)
        self.companies: list[Company] = people.make_companies(
            seed, members, self.start_ms, self.end_ms
        )
        self.customers: list[Customer] = [
            people.make_customer(seed, number, self.companies, self.start_ms, self.end_ms)
            for number in range(customers)
        ]
        people.share_households(seed, self.customers)
        self.passers_by: list[Customer] = [
            people.make_passer_by(seed, number)
            for number in range(int(customers * PASSERS_BY_SHARE))
        ]

    @cached_property
    def _owners(self) -> dict[str, list[str]]:
        owners: dict[str, list[str]] = {}
        for customer in self.customers:
            for device in customer.devices:
                owners.setdefault(device.anonymous_id, []).append(customer.user_id)
        return owners

    def history(self, days: int = DAYS) -> Iterator[dict[str, Any]]:
        """Segment-spec messages of the last `days` (1 to 90), ordered by timestamp.

        A few are broken on purpose and labelled so in `context.simulator.broken` (missing_field,
        wrong_type or unknown_event); a few come twice with the same messageId.

        Raises SimulatorError if `days` is out of range.
        """
        if not 1 <= days <= DAYS:
            raise SimulatorError(f"history(days={days}): choose 1 to {DAYS} days")
        since = self.end_ms - days * DAY
        timeline: list[tuple[int, int, int, Customer, Moment]] = []
        for rank, person in enumerate((*self.customers, *self.passers_by)):
            lived, _ = history.live_through(self.seed, person, self.start_ms, self.end_ms)
            timeline += [
                (moment.at, rank, index, person, moment)
                for index, moment in enumerate(lived)
                if moment.at >= since
            ]
        # (time, rank, index) is unique, so people and moments are never compared.
        timeline.sort(key=lambda entry: entry[:3])
        chance = people.rng_for(self.seed, "accidents")
        for _, rank, index, person, moment in timeline:
            message = to_message(people.stable_uuid(self.seed, rank, index), person, moment)
            yield message
            if chance.random() < DUPLICATE_SHARE:
                yield message
            if chance.random() < BROKEN_SHARE:
                kind = chance.choice(tuple(_BREAKS))
                yield _broken(people.stable_uuid(self.seed, rank, index, kind), message, kind)

    def write_history(
        self, path: Path, days: int = DAYS, progress: Callable[[int], None] | None = None
    ) -> int:
        """Write `history(days)` to `path` as gzipped JSON lines, what `signalbox import` reads.

        `progress` is called now and then with the messages written so far. The file appears under
        its name only when it is whole, and has the same bytes every time. Returns the number of
        messages.
        """
        written = 0
        draft = path.with_name(path.name + ".new")
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            draft.open("wb") as file,
            # No name and no time in the header: it would differ from run to run.
            gzip.GzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as archive,
        ):
            for message in self.history(days):
                archive.write(orjson.dumps(message) + b"\n")
                written += 1
                if progress is not None and written % PROGRESS_EVERY == 0:
                    progress(written)
        draft.replace(path)
        return written

    def truth(self) -> list[dict[str, Any]]:
        """One row per customer with what no model is told; for judging scores and identity.

        `churned_at` may lie after `end`: that person is on the way out. One-timers and trials
        that were not converted count as churned.
        """
        return [self._truth_of(customer) for customer in self.customers]

    def _truth_of(self, customer: Customer) -> dict[str, Any]:
        devices = [device.anonymous_id for device in customer.devices]
        household = {
            owner
            for device in devices
            for owner in self._owners[device]
            if owner != customer.user_id
        }
        away_from, away_until = customer.away or (None, None)
        return {
            "user_id": customer.user_id,
            "email": customer.email,
            "name": customer.name,
            "persona": customer.persona,
            "company_id": customer.company.id if customer.company else None,
            "plan": customer.plan,
            "joined_at": iso(customer.joined_at),
            "declines_at": _maybe(customer.declines_at),
            "churned_at": _maybe(customer.churned_at),
            "away_from": _maybe(away_from),
            "away_until": _maybe(away_until),
            "trial_ends_at": _maybe(customer.trial_ends_at),
            "abandons_cart": round(customer.abandons, 3),
            "marketing_consent": customer.marketing and customer.marketing_withdrawn_at is None,
            "sales_consent": customer.sales,
            "card_stolen_at": _maybe(customer.card_stolen_at),
            "in_crm": customer.in_crm,
            "anonymous_ids": devices,
            "household": sorted(household),
        }

    def crm_contacts(self) -> list[dict[str, str]]:
        """Contact properties (HubSpot's names) of the people whom sales entered in the CRM."""
        contacts = []
        for customer in self.customers:
            if not customer.in_crm or customer.joined_at >= self.end_ms:
                continue
            contact = {
                "email": customer.email,
                "user_id": customer.user_id,
                "firstname": customer.first_name,
                "lastname": customer.last_name,
                "lifecyclestage": "customer" if customer.uses_app else "lead",
            }
            if customer.phone:
                contact["phone"] = customer.phone
            if customer.company:
                contact["company"] = customer.company.name
            contacts.append(contact)
        return contacts

    def support_tickets(self) -> list[dict[str, str]]:
        """The helpdesk's tickets of the window, oldest first; times are RFC 3339 in UTC."""
        rows = [
            (ticket.at, ticket.id, customer, ticket)
            for customer in self.customers
            for ticket in customer.tickets
        ]
        rows.sort(key=lambda row: row[:2])
        return [
            {
                "ticket_id": ticket.id,
                "requester_email": customer.email,
                "requester_user_id": customer.user_id,
                "subject": ticket.subject,
                "status": ticket.status,
                "priority": ticket.priority,
                "channel": ticket.channel,
                "created_at": iso(ticket.at),
                "updated_at": iso(ticket.updated_at),
            }
            for _, _, customer, ticket in rows
        ]


def to_message(message_id: str, person: Customer, moment: Moment) -> dict[str, Any]:
    """A moment as a message of Segment's spec."""
    at = iso(moment.at)
    message: dict[str, Any] = {"type": moment.kind, "messageId": message_id}
    if moment.known:
        message["userId"] = person.user_id
    if moment.device is not None:
        message["anonymousId"] = moment.device.anonymous_id
    if moment.kind == "track":
        message["event"] = moment.name
        message["properties"] = moment.body
    elif moment.kind == "page":
        message["name"] = moment.name
        message["properties"] = moment.body
    elif moment.kind == "group":
        message["groupId"] = moment.name
        message["traits"] = moment.body
    else:
        message["traits"] = moment.body
    message["context"] = context_of(person, moment)
    message["timestamp"] = at
    message["originalTimestamp"] = at
    return message


def context_of(person: Customer, moment: Moment) -> dict[str, Any]:
    """`context` of a moment: the browser's, or the server's where no device was involved."""
    device = moment.device
    if device is None:
        return {"library": SERVER_LIBRARY}
    return {
        "ip": device.ip,
        "userAgent": device.user_agent,
        "locale": person.place.locale,
        "timezone": person.place.timezone,
        "page": {"path": moment.path, "url": SITE + moment.path},
        "library": WEB_LIBRARY,
    }


def _maybe(at: int | None) -> str | None:
    return None if at is None else iso(at)


_BREAKS: dict[str, tuple[str, dict[str, Any]]] = {
    "missing_field": ("Purchase Completed", {"currency": "EUR", "total": 19.0}),
    "wrong_type": (
        "Cart Updated",
        {"cart_id": 17, "items": "none", "total": "a lot", "currency": "EUR"},
    ),
    "unknown_event": ("Wishlist Shared", {"channel": "chat"}),
}


def _broken(message_id: str, message: dict[str, Any], kind: str) -> dict[str, Any]:
    """A message such as a careless release would send beside the good one."""
    event, properties = _BREAKS[kind]
    broken = {key: message[key] for key in ("userId", "anonymousId") if key in message}
    return {
        "type": "track",
        "messageId": message_id,
        **broken,
        "event": event,
        "properties": dict(properties),
        "context": {**message["context"], "simulator": {"broken": kind}},
        "timestamp": message["timestamp"],
        "originalTimestamp": message["originalTimestamp"],
    }
