"""Random event streams of a small crowd that visits, signs in on devices, buys and merges."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from dbt_warehouse import Message

NOW = datetime(2026, 3, 20, 12, 0, tzinfo=UTC)


def stream(seed: int, size: int = 220, days: float = 40, *, records: bool = True) -> list[Message]:
    """Messages in order of time, ending just before NOW; the same seed gives the same stream.

    With `records`, of CRM and help desk, more of the people turn out to be one.
    """
    rnd = random.Random(seed)
    people = 9
    messages = [
        _message(rnd, NOW - timedelta(days=rnd.uniform(0, days) ** 1.5 / days**0.5), people, number)
        for number in range(size)
    ]
    if records:
        _tell_of_records(random.Random(seed), messages, people)
    return sorted(messages, key=lambda message: message.at)


def _tell_of_records(rnd: random.Random, messages: list[Message], people: int) -> None:
    """Give some messages ids of CRM and help desk, and let records of these name ids themselves."""
    for number, message in enumerate(list(messages)):
        if rnd.random() > 0.12:
            continue
        person = rnd.randrange(people)
        mailbox = f"Person{rnd.choice([person, person, (person + 1) % people])}@Example.com"
        user = f"user-{rnd.choice([person, person, person, rnd.randrange(people)])}"
        ids = [("email", mailbox), ("user_id", user), ("crm_contact_id", f"{person % 7}")]
        ids += [("support_user_id", str(rnd.randrange(5))), ("shoe_size", "43")]
        some = [{"type": kind, "id": value} for kind, value in rnd.sample(ids, rnd.choice([1, 2]))]
        if message.type == "track" and rnd.random() < 0.5:
            body = {**message.body, "context": {"externalIds": some}}
            messages[number] = replace(message, body=body)
            continue
        kind = rnd.choice(["crm_contact", "support_user"])
        body = {"properties": {"id_kind": kind, "id_value": f"{rnd.randrange(12)}"}}
        body |= {"context": {"externalIds": some}}
        link = ("track", message.at, f"l{number}", None, None, "Identity Linked", body, "signalbox")
        messages.append(Message(*link))


def arrivals(seed: int, messages: list[Message], batches: int) -> list[list[Message]]:
    """Batches as a network delivers them: late, shuffled, repeated within and across batches."""
    rnd = random.Random(seed)
    delivered: list[list[Message]] = [[] for _ in range(batches)]
    for position, message in enumerate(messages):
        batch = position * batches // len(messages)
        if rnd.random() < 0.15:
            batch = rnd.randrange(batch, batches)
        delivered[batch].append(message)
        if rnd.random() < 0.1:
            delivered[rnd.randrange(batch, batches)].append(message)
    for batch_of_messages in delivered:
        rnd.shuffle(batch_of_messages)
    return delivered


def with_splits(seed: int, messages: list[Message], splits: int = 12) -> list[Message]:
    """The same messages, with ids split by hand and some of the splits undone in between."""
    rnd = random.Random(seed)
    people = 9
    pairs: list[tuple[str, str]] = []
    found = []
    for number in range(splits):
        person = rnd.randrange(people)
        near = [f"user:user-{(person + 1) % people}", f"email:person{person}@example.com"]
        near += [f"anonymous:device-{person}", f"anonymous:device-{90 + person}"]
        undone = bool(pairs) and rnd.random() < 0.3
        pair = rnd.choice(pairs) if undone else (f"user:user-{person}", rnd.choice(near))
        pairs.append(pair)
        properties = {"id": pair[0], "other_id": pair[1], "reason": "two people"}
        at = rnd.choice(messages).at + timedelta(seconds=1)
        event = "Identity Split Undone" if undone else "Identity Split"
        body = {"properties": properties}
        found.append(
            Message("track", at, f"s{number}", None, None, event, body, source="signalbox")
        )
    return sorted([*messages, *found], key=lambda message: message.at)


def _message(rnd: random.Random, at: datetime, people: int, number: int) -> Message:
    person = rnd.randrange(people)
    device = f"device-{rnd.choice([person, person, person, (person + 1) % people, 90 + person])}"
    user = f"user-{person}"
    anonymous: str | None = device if rnd.random() < 0.85 else None
    known = rnd.random() < 0.6 or anonymous is None
    kind = rnd.choices(
        ["browse", "cart", "buy", "login", "identify", "alias", "ticket", "group", "page", "mail",
         "card", "bill"],
        [5, 4, 3, 4, 2, 0.6, 1, 0.5, 3, 2, 4, 1],
    )[0]  # fmt: skip

    def track(event: str, properties: dict[str, Any]) -> Message:
        sender = user if known else None
        return Message(
            "track", at, f"m{number}", sender, anonymous, event, {"properties": properties}
        )

    item = {"product_id": f"p{rnd.randrange(6)}", "quantity": rnd.randint(1, 3), "price": 9.99}
    if kind == "browse":
        return track("Product Viewed", {"product_id": item["product_id"], "category": "lamps"})
    if kind == "card":
        payment = {"transaction_id": f"x{number}", "card_id": f"card-{person % 3}"}
        payment |= {
            "amount": rnd.randint(-500, 90000) / 100,
            "currency": rnd.choice(["EUR", "USD"]),
        }
        payment |= {"category": rnd.choice("ab"), "country": rnd.choice(["DE", "PE"])}
        payment |= {"lat": rnd.uniform(-60, 60), "lon": rnd.uniform(-180, 180)}
        payment |= {"status": rnd.choice(["approved", "approved", "declined"])}
        return track("Card Transaction", payment)
    if kind == "bill":
        invoice = {"invoice_id": f"in-{person}-{rnd.randrange(3)}", "amount": 9, "currency": "EUR"}
        return track(rnd.choice(["Payment Failed", "Payment Succeeded"]), invoice)
    if kind == "cart":
        items = [] if rnd.random() < 0.2 else [item]
        total = {"cart_id": f"cart-{person}", "items": items, "total": 9.99, "currency": "EUR"}
        return track("Cart Updated", total)
    if kind == "buy":
        order = {"order_id": f"o{number}", "total": rnd.randint(1, 9999) / 100, "currency": "EUR"}
        return track("Purchase Completed", order | {"items": [item]})
    if kind == "login":
        return Message("track", at, f"m{number}", user, anonymous, "Logged In", {"properties": {}})
    if kind == "ticket":
        return track("Support Ticket Opened", {"ticket_id": f"t{number}", "subject": "Help"})
    if kind == "mail":
        return track(rnd.choice(["Email Opened", "Email Clicked"]), {"campaign": "spring"})
    if kind == "page":
        path = rnd.choice(["/", "/pricing", "/account/cancel", "/collections/lamps"])
        body = {"properties": {"path": path}, "context": {"userAgent": "Mozilla/5.0 (iPhone)"}}
        return Message("page", at, f"m{number}", user if known else None, anonymous, None, body)
    if kind == "alias":
        other = rnd.choice([f"device-{90 + person}", f"user-{rnd.randrange(people)}"])
        return Message("alias", at, f"m{number}", user, None, None, {"previousId": other})
    if kind == "group":
        body = {"groupId": f"account-{person % 3}", "traits": {"name": "Acme", "role": "member"}}
        return Message("group", at, f"m{number}", user, anonymous, None, body)
    mailbox = rnd.choice([person, person, (person + 1) % people])
    traits: dict[str, Any] = {"email": f" Person{mailbox}@Example.com", "name": f"Person {person}"}
    if rnd.random() < 0.5:
        traits["consent"] = {"marketing": rnd.random() < 0.5}
    if rnd.random() < 0.1:
        traits["email"] = "test@example.com"
    sender = user if known else None
    return Message("identify", at, f"m{number}", sender, anonymous, None, {"traits": traits})
