"""Short scenes for the live demo, each about a customer who has not been used before.

A scene is written so that what it causes can be told from ordinary traffic and waited for.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from orchestration.demo import catalogue, history
from orchestration.demo.people import DAY, Customer, make_devices, rng_for
from orchestration.demo.visits import Memory, Moment, Visit, some_products
from orchestration.demo.world import World

KINDS = ("leaving", "cart", "ticket", "merge", "purchase", "fraud", "bill", "browse")
RECENT_DAYS = 7
# Whoever has no card and does not leave plays in one of these, in turn.
_TURNS = (
    *("cart", "ticket", "ordinary", "merge", "cart"),
    *("purchase", "ordinary", "bill", "browse", "browse"),
)
_MARKETING = ("cart", "browse")  # what these stories cause asks for consent


@dataclass(slots=True)
class StoryEntry:
    """What was done to whom, and what should come of it.

    `started_at` is when the first event was handed to the SDK, `triggered_at` when the one that
    causes the effects was; None before that. `expects` maps a destination to texts of which at
    least one is in the effect that the destination reports.
    """

    story: str
    number: int
    user_id: str
    email: str
    name: str
    started_at: datetime | None = None
    triggered_at: datetime | None = None
    expects: dict[str, tuple[str, ...]] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)


class Scene(NamedTuple):
    """A story's moments, in order; the last one is the trigger."""

    moments: list[Moment]
    expects: dict[str, tuple[str, ...]]
    details: dict[str, Any]


def casting(world: World) -> dict[str, list[Customer]]:
    """Who may play in which story, in order; nobody is in two lists.

    "ordinary" are those left for the traffic between the stories.
    """
    end = world.end_ms
    roles: dict[str, list[Customer]] = {kind: [] for kind in (*KINDS, "ordinary")}
    people = [c for c in world.customers if c.churned_at is None and c.present(end - 10 * DAY)]
    people = [c for c in people if c.present(end) and c.trial_ends_at is None]
    rng_for(world.seed, "casting").shuffle(people)
    for turn, customer in enumerate(people):
        loyal = customer.persona == "loyal" and customer.uses_app
        if loyal and customer.in_crm and customer.sales and turn % 5:
            roles["leaving"].append(customer)
            continue
        # Fraud stands out from habits, and the habits must be there.
        settled = customer.joined_at < end - 60 * DAY and customer.away is None
        untouched = customer.has_card and customer.card_stolen_at is None
        if untouched and settled and customer.phone:
            roles["fraud"].append(customer)
            continue
        role = _TURNS[turn % len(_TURNS)]
        consents = customer.marketing and customer.marketing_withdrawn_at is None
        if (role in _MARKETING and not consents) or (role == "bill" and not customer.uses_app):
            role = "ordinary"
        roles[role].append(customer)
    return roles


def can_play(world: World, kind: str, customer: Customer) -> bool:
    """Whether the person's own history lets the story end as expected.

    Every story ends in a message to them or about them, so an identify must have told their
    address; and only a customer who is content can be seen to change their mind.
    """
    lived, _ = history.live_through(world.seed, customer, world.start_ms, world.end_ms)
    if not any(moment.kind == "identify" for moment in lived):
        return False
    return kind != "leaving" or _is_content(world, customer, lived)


def _is_content(world: World, customer: Customer, lived: list[Moment]) -> bool:
    """Whether the person was there in the last week and gave no sign of leaving."""
    end = world.end_ms
    if any(m.name == "Subscription Expiring" and m.at > end - 30 * DAY for m in lived):
        return False
    if any(ticket.at > end - 30 * DAY for ticket in customer.tickets):
        return False
    return any(m.device is not None and m.known and m.at > end - RECENT_DAYS * DAY for m in lived)


def write(world: World, kind: str, customer: Customer, tag: str, at: int) -> Scene:
    """The scene `kind` for this person beginning at `at`; `tag` makes its ids unique."""
    rng = rng_for(world.seed, "story", kind, tag, customer.number)
    return _SCENES[kind](world, customer, Memory(tag=tag), at, rng)


def _server(at: int, name: str, body: dict[str, Any]) -> Moment:
    return Moment(at, "track", name, body, None, True, "")


def _known_visit(customer: Customer, memory: Memory, at: int, rng: random.Random) -> Visit:
    own = next(device for device in customer.devices if not device.shared)
    memory.signed_in.add(own.anonymous_id)
    return Visit(customer, memory, own, at, rng)


def _ticket(customer: Customer, memory: Memory, at: int, priority: str, subject: str) -> Moment:
    body = {
        "ticket_id": f"t_{customer.number:05d}_{memory.tag}",
        "subject": subject,
        "priority": priority,
        "channel": "chat",
    }
    return _server(at, "Support Ticket Opened", body)


def _leaving(
    world: World, customer: Customer, memory: Memory, at: int, rng: random.Random
) -> Scene:
    visit = _known_visit(customer, memory, at, rng)
    visit.page("/pricing", "Plans and prices")
    visit.page("/account/cancel", "Cancel your plan")
    expiring = history.subscription_expiring(customer, at, at + 3 * DAY)
    ticket = _ticket(customer, memory, at, "urgent", "I want to cancel")
    moments = [*visit.moments, _server(at, "Subscription Expiring", expiring), ticket]
    who = (customer.email, customer.name)
    ticket_id = ticket.body["ticket_id"]
    return Scene(
        moments,
        {"hubspot": (customer.email,), "slack": who, "webhook": (ticket_id,)},
        {"ticket_id": ticket_id, "subscription_id": expiring["subscription_id"]},
    )


def _cart(world: World, customer: Customer, memory: Memory, at: int, rng: random.Random) -> Scene:
    visit = _known_visit(customer, memory, at, rng)
    product = some_products(rng, customer, 1)[0]
    visit.page(f"/collections/{product.category}", product.category.capitalize())
    visit.view(product)
    visit.add_to_cart(product)
    visit.add_to_cart(catalogue.PRODUCTS[product.complements[0]])
    return Scene(visit.moments, {"smtp_email": (customer.email,)}, {"cart_id": memory.cart_id})


def _support(
    world: World, customer: Customer, memory: Memory, at: int, rng: random.Random
) -> Scene:
    priority = rng.choice(("normal", "high"))
    subject = rng.choice(catalogue.TICKET_SUBJECTS[priority])
    ticket = _ticket(customer, memory, at, priority, subject)
    ticket_id = ticket.body["ticket_id"]
    return Scene([ticket], {"webhook": (ticket_id,)}, {"ticket_id": ticket_id})


def _merge(world: World, customer: Customer, memory: Memory, at: int, rng: random.Random) -> Scene:
    """A known person on a machine nobody has seen: a stranger until they log in."""
    device = make_devices(rng, world.seed, f"{customer.user_id}/{memory.tag}", 1)[0]
    visit = Visit(customer, memory, device, at, rng)
    visit.page("/", "Lumen & Loop", "https://search.example/")
    for product in some_products(rng, customer, 3):
        visit.view(product)
    visit.path = "/login"
    visit.sign_in("link")
    moments = [moment for moment in visit.moments if moment.kind != "group"]
    return Scene(moments, {}, {"anonymous_id": device.anonymous_id})


def _purchase(
    world: World, customer: Customer, memory: Memory, at: int, rng: random.Random
) -> Scene:
    visit = _known_visit(customer, memory, at, rng)
    product = some_products(rng, customer, 1)[0]
    visit.view(product)
    visit.add_to_cart(product)
    visit.add_to_cart(catalogue.PRODUCTS[product.complements[-1]])
    visit.buy()
    last = visit.moments[-1].body
    return Scene(visit.moments, {}, {"order_id": last["order_id"], "total": last["total"]})


def _fraud(world: World, customer: Customer, memory: Memory, at: int, rng: random.Random) -> Scene:
    """The owner pays at home; a minute later the card's copy buys on another continent."""
    far = rng.choice(catalogue.FAR_PLACES)
    ids = [f"tx_{customer.number:05d}_{memory.tag}_{copy}" for copy in (0, 1)]
    home = history.card_payment(customer, rng, ids[0], catalogue.MERCHANTS[0], customer.place)
    away = history.card_payment(customer, rng, ids[1], rng.choice(catalogue.FRAUD_MERCHANTS), far)
    moments = [
        _server(at, "Card Transaction", home),
        _server(at, "Card Transaction", away),
    ]
    spent = f"{away['amount']:,.2f} {away['currency']}"
    return Scene(
        moments,
        {"webhook": (ids[1],), "twilio": (spent,)},
        {"transaction_id": ids[1], "card_id": away["card_id"]},
    )


def _bill(world: World, customer: Customer, memory: Memory, at: int, rng: random.Random) -> Scene:
    invoice = history.payment_failed(customer, f"in_{customer.number:05d}_{memory.tag}", at)
    failed = _server(at, "Payment Failed", invoice)
    return Scene([failed], {"smtp_email": (customer.email,)}, {"invoice_id": invoice["invoice_id"]})


def _browse(world: World, customer: Customer, memory: Memory, at: int, rng: random.Random) -> Scene:
    """Four looks at one product; it is something that others buy with something else."""
    visit = _known_visit(customer, memory, at, rng)
    product = catalogue.PRODUCTS[rng.choice(("hub-one", "bulb-e27", "lamp-dot", "lamp-arc"))]
    for _ in range(4):
        visit.page(f"/collections/{product.category}", product.category.capitalize())
        visit.view(product)
    return Scene(
        visit.moments,
        # The audience hears of a hash; the mail's address tells who it is.
        {"smtp_email": (customer.email,), "meta_audiences": (_sha256(customer.email),)},
        {"product_id": product.id},
    )


def _sha256(address: str) -> str:
    return hashlib.sha256(address.encode()).hexdigest()


_SCENES: dict[str, Callable[[World, Customer, Memory, int, random.Random], Scene]] = {
    "leaving": _leaving,
    "cart": _cart,
    "ticket": _support,
    "merge": _merge,
    "purchase": _purchase,
    "fraud": _fraud,
    "bill": _bill,
    "browse": _browse,
}
