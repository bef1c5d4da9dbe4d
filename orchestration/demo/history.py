"""Ninety days of one person's life, as moments in the order they happened."""

from __future__ import annotations

import random
from collections.abc import Callable

from orchestration.demo import catalogue
from orchestration.demo.people import DAY, HOUR, Customer, rng_for
from orchestration.demo.visits import (
    Memory,
    Moment,
    Visit,
    choose_device,
    iso,
    near_the_end,
    plan_at,
    say_goodbye,
    shop,
    traits_of,
    work,
)

# Share of a day's visits that begin in each local hour, 0 to 23.
_EVENING = (2, 1, 0, 0, 0, 1, 3, 5, 6, 6, 6, 6, 7, 6, 5, 5, 6, 8, 10, 12, 14, 13, 8, 4)
_OFFICE = (0, 0, 0, 0, 0, 0, 1, 5, 12, 14, 13, 11, 7, 10, 13, 12, 9, 6, 3, 2, 2, 1, 1, 0)
_HOURS = range(24)
# Monday to Sunday.
_PRIVATE_WEEK = (0.9, 0.9, 0.9, 0.95, 1.05, 1.3, 1.2)
_OFFICE_WEEK = (1.35, 1.45, 1.4, 1.3, 1.15, 0.15, 0.15)

NEWSLETTER_HOUR = 8 * HOUR
PROMO_EVERY_DAYS = 21


def weekday(day: int) -> int:
    """Monday is 0; `day` counts from 1 January 1970, a Thursday."""
    return (day + 3) % 7


def is_promo(day: int) -> bool:
    """Every third Friday and the two days after it the shop gives coupons."""
    return (day - 1) % PROMO_EVERY_DAYS in (0, 1, 2)


def campaigns(start: int, end: int) -> list[tuple[int, str]]:
    """(sent at, name) of every mailing in the window: weekly letters and promotions."""
    sent = []
    for day in range(start // DAY, end // DAY + 1):
        if weekday(day) == 1:
            sent.append((day * DAY + NEWSLETTER_HOUR, f"newsletter-{day}"))
        if is_promo(day) and not is_promo(day - 1):
            sent.append((day * DAY + NEWSLETTER_HOUR, f"promo-{day}"))
    return [(at, name) for at, name in sent if start <= at < end]


def interest(customer: Customer, day: int) -> float:
    """How much of their usual rate a person visits on that day."""
    noon = day * DAY + 12 * HOUR
    week = _OFFICE_WEEK if customer.company else _PRIVATE_WEEK
    level = week[weekday(day)]
    if customer.persona == "bargain_hunter":
        return level * (9.0 if is_promo(day) else 0.6)
    if customer.declines_at is not None and noon > customer.declines_at:
        assert customer.churned_at is not None
        left = (customer.churned_at - noon) / (customer.churned_at - customer.declines_at)
        level *= max(0.12, left * 0.8)
    if customer.trial_ends_at is not None and noon > customer.trial_ends_at:
        level *= 0.6
    return level


def live_through(
    seed: int, customer: Customer, start: int, end: int
) -> tuple[list[Moment], Memory]:
    """Everything about one person in [start, end), ordered by time, and what they remember."""
    rng = rng_for(seed, "history", customer.persona == "passer_by", customer.number)
    memory = Memory(tag="")
    found: list[Moment] = []
    if customer.persona == "passer_by":
        _wander(customer, memory, rng, start, end, found)
    else:
        if customer.joined_at < start:
            memory.features = list(catalogue.FEATURES[: rng.randint(2, 6)])
        _discover(customer, memory, rng, found)
        if customer.away is not None:
            _come_back(customer, memory, rng, found)
        _visit_daily(customer, memory, rng, start, end, found)
        _read_mail(customer, memory, rng, start, end, found)
        found.sort(key=_by_time)
    quit_at = customer.churned_at if customer.churned_at is not None else end
    found = [m for m in found if start <= m.at < end and m.at < quit_at]
    found += [m for m in _from_the_server(customer, rng, start, end) if start <= m.at < end]
    found.sort(key=_by_time)
    return found, memory


def _by_time(moment: Moment) -> int:
    return moment.at


def _wander(
    customer: Customer, memory: Memory, rng: random.Random, start: int, end: int, out: list[Moment]
) -> None:
    at = rng.randint(start, end)
    for _ in range(rng.choice((1, 1, 2))):
        visit = Visit(customer, memory, customer.devices[0], at, rng)
        shop(visit, eager=0.12)
        out += visit.moments
        at += rng.randint(HOUR, 4 * DAY)


def _discover(customer: Customer, memory: Memory, rng: random.Random, out: list[Moment]) -> None:
    """The day they sign up, and the anonymous looks around before it."""
    # The first device is where they were strangers; the account is made there as well.
    device = customer.devices[0]
    at = customer.joined_at
    visit = Visit(customer, memory, device, at, rng)
    visit.page("/signup", "Create an account")
    visit.sign_in("password")
    if customer.persona == "trial":
        visit.page("/app", "Home")
        visit.use_feature(catalogue.FEATURES[0])
    elif customer.persona == "one_timer":
        shop(visit, eager=1.0)
        if memory.cart:
            visit.buy()
    else:
        shop(visit, eager=0.5)
    out += visit.moments
    memory.signed_in.clear()
    for _ in range(rng.randint(0, 3)):
        before = Visit(customer, memory, device, at - rng.randint(HOUR, 8 * DAY), rng)
        before.page("/", "Lumen & Loop", "https://search.example/")
        for category in customer.favourites[:2]:
            before.view(rng.choice(catalogue.BY_CATEGORY[category]))
        if customer.uses_app:
            before.page("/pricing", "Plans and prices")
        out += before.moments
    memory.signed_in.add(device.anonymous_id)


def _come_back(customer: Customer, memory: Memory, rng: random.Random, out: list[Moment]) -> None:
    """The first visit after the absence begins with a login."""
    assert customer.away is not None
    at = customer.away[1] + rng.randint(0, 3 * HOUR)
    visit = Visit(customer, memory, customer.devices[0], at, rng)
    visit.path = "/login"
    visit.sign_in()
    shop(visit, eager=0.3)
    out += visit.moments


def _visit_daily(
    customer: Customer, memory: Memory, rng: random.Random, start: int, end: int, out: list[Moment]
) -> None:
    hours = _OFFICE if customer.company else _EVENING
    offset = customer.place.offset
    goodbyes = 0
    first = max(start, customer.joined_at) // DAY
    for day in range(first, end // DAY + 1):
        expected = customer.visits_per_day * interest(customer, day)
        leaving = near_the_end(customer, day * DAY)
        if customer.says_goodbye and leaving and goodbyes < 2:
            expected = max(expected, 0.35)
        count = int(expected) + (rng.random() < expected % 1)
        for _ in range(count):
            hour = rng.choices(_HOURS, hours)[0] - offset
            at = day * DAY + hour * HOUR + rng.randrange(HOUR)
            if not customer.present(at) or at <= customer.joined_at:
                continue
            visit = Visit(customer, memory, choose_device(rng, customer), at, rng)
            if visit.known and rng.random() < 0.06:
                memory.signed_in.discard(visit.device.anonymous_id)  # the cookie ran out
            if customer.says_goodbye and leaving and rng.random() < 0.7:
                say_goodbye(visit)
                goodbyes += 1
            else:
                ordinary(visit, day)
            out += visit.moments


def ordinary(visit: Visit, day: int) -> None:
    """Fill a visit with what this person usually does: work in the app, or shop."""
    customer, rng = visit.customer, visit.rng
    declining = customer.declines_at is not None and visit.at > customer.declines_at
    app_share = 0.0
    if customer.uses_app:
        app_share = 0.75 if customer.company or customer.persona == "trial" else 0.4
    if rng.random() < app_share:
        work(visit, engaged=0.4 if declining else 1.0)
        return
    bargain = customer.persona == "bargain_hunter"
    coupon = rng.choice(catalogue.COUPONS) if is_promo(day) and rng.random() < 0.6 else None
    eager = 0.12 if declining else 0.5 if bargain else 0.28
    shop(visit, eager=eager, coupon=coupon)


def _read_mail(
    customer: Customer, memory: Memory, rng: random.Random, start: int, end: int, out: list[Moment]
) -> None:
    for sent, name in campaigns(start, end):
        opened = sent + int(rng.lognormvariate(1.2, 0.9) * HOUR)
        withdrawn = customer.marketing_withdrawn_at
        wanted = customer.marketing and (withdrawn is None or sent < withdrawn)
        likes = customer.opens_email * (0.35 if near_the_end(customer, opened) else 1.0)
        if not wanted or not customer.present(opened) or rng.random() >= likes:
            continue
        body = {"campaign": name, "email": customer.email}
        out.append(Moment(opened, "track", "Email Opened", body, None, True, ""))
        if rng.random() < 0.25:
            clicked = opened + rng.randint(5_000, 90_000)
            link = "https://lumenloop.example/collections/new"
            out.append(
                Moment(clicked, "track", "Email Clicked", {**body, "link": link}, None, True, "")
            )
            device = choose_device(rng, customer)
            visit = Visit(customer, memory, device, clicked + rng.randint(1_000, 4_000), rng)
            shop(visit, eager=0.3, campaign=True)
            out += visit.moments


def _from_the_server(customer: Customer, rng: random.Random, start: int, end: int) -> list[Moment]:
    """What the company's own systems report: tickets, subscriptions, cards, changed consent."""
    found: list[Moment] = []

    def say(at: int, name: str, body: dict[str, object]) -> None:
        found.append(Moment(at, "track", name, body, None, True, ""))

    for ticket in customer.tickets:
        body: dict[str, object] = {
            "ticket_id": ticket.id,
            "subject": ticket.subject,
            "priority": ticket.priority,
            "channel": ticket.channel,
        }
        say(ticket.at, "Support Ticket Opened", body)
    _subscription(customer, rng, start, end, say)
    if customer.has_card:
        _card(customer, rng, start, end, say)
    withdrawn = customer.marketing_withdrawn_at
    if withdrawn is not None and customer.present(withdrawn):
        traits = traits_of(customer, withdrawn)
        found.append(Moment(withdrawn, "identify", "", traits, None, True, ""))
        name = "Unsubscribed" if customer.number % 2 else "Email Marked as Spam"
        say(withdrawn, name, {"email": customer.email})
    if customer.marketing:
        _bounces(customer, start, end, say)
    return found


def _bounces(
    customer: Customer, start: int, end: int, say: Callable[[int, str, dict[str, object]], None]
) -> None:
    """A mailbox that is full while its owner is away, and one that is closed for good."""
    for sent, name in campaigns(start, end):
        away = customer.away is not None and customer.away[0] <= sent < customer.away[1]
        gone = customer.churned_at is not None and sent > customer.churned_at + 20 * DAY
        if away or (gone and customer.number % 3 == 0):
            kind = "hard" if gone else "soft"
            body: dict[str, object] = {"campaign_name": name, "bounce_type": kind}
            say(sent, "Email Bounced", {**body, "email": customer.email})
            return


def subscription_expiring(customer: Customer, at: int, expires_at: int) -> dict[str, object]:
    """Properties of "Subscription Expiring" for this person."""
    plan = plan_at(customer, at)
    mrr = catalogue.PLANS[plan].mrr
    return {
        "subscription_id": f"sub_{customer.number:05d}",
        "plan": plan,
        "expires_at": iso(expires_at),
        "mrr": mrr,
    }


def _subscription(
    customer: Customer,
    rng: random.Random,
    start: int,
    end: int,
    say: Callable[[int, str, dict[str, object]], None],
) -> None:
    if customer.trial_ends_at is not None:
        expiries = [customer.trial_ends_at]
        notice = 3 * DAY
    elif customer.uses_app:
        # Most renew by themselves. Of those who leave, most let the term run out.
        expiries = []
        notice = 7 * DAY
        if customer.churned_at is not None and rng.random() < 0.7:
            expiries.append(customer.churned_at + rng.randint(-DAY, 5 * DAY))
        elif customer.churned_at is None and rng.random() < 0.08:
            expiries.append(rng.randint(start, end + 7 * DAY))
    else:
        return
    for expires in expiries:
        at = expires - notice
        if at > customer.joined_at:
            say(at, "Subscription Expiring", subscription_expiring(customer, at, expires))


def payment_failed(customer: Customer, invoice: str, at: int) -> dict[str, object]:
    """Properties of "Payment Failed" for this person's subscription; it is tried again."""
    return {
        "invoice_id": invoice,
        "subscription_id": f"sub_{customer.number:05d}",
        "amount": catalogue.PLANS[plan_at(customer, at)].mrr,
        "currency": "EUR",
        "attempt": 1,
        "next_attempt_at": iso(at + 3 * DAY),
        "billing_reason": "subscription_cycle",
    }


def card_payment(
    customer: Customer,
    rng: random.Random,
    transaction: str,
    shop: tuple[str, str, float],
    where: catalogue.Place,
    status: str = "approved",
) -> dict[str, object]:
    """Properties of "Card Transaction": `shop` is name, category and typical amount."""
    name, category, typical = shop
    return {
        "transaction_id": transaction,
        "card_id": f"card_{customer.number:05d}",
        "amount": round(typical * rng.lognormvariate(0, 0.35), 2),
        "currency": customer.place.currency,
        "merchant": name,
        "category": category,
        "country": where.country,
        "lat": round(where.lat + rng.uniform(-0.04, 0.04), 4),
        "lon": round(where.lon + rng.uniform(-0.04, 0.04), 4),
        "status": status,
    }


def _card(
    customer: Customer,
    rng: random.Random,
    start: int,
    end: int,
    say: Callable[[int, str, dict[str, object]], None],
) -> None:
    place = customer.place
    count = 0

    def pay(at: int, shop: tuple[str, str, float], where: catalogue.Place, status: str) -> None:
        nonlocal count
        count += 1
        number = f"tx_{customer.number:05d}_{count}"
        say(at, "Card Transaction", card_payment(customer, rng, number, shop, where, status))

    for day in range(start // DAY, end // DAY + 1):
        if rng.random() < 0.3:
            at = day * DAY + rng.randint(7 - place.offset, 21 - place.offset) * HOUR
            at += rng.randrange(HOUR)
            if customer.present(at):
                status = "declined" if rng.random() < 0.02 else "approved"
                pay(at, rng.choice(catalogue.MERCHANTS), place, status)
    if customer.card_stolen_at is not None:
        # The owner pays at home; minutes later the copy is used on another continent.
        at = customer.card_stolen_at
        pay(at, catalogue.MERCHANTS[0], place, "approved")
        far = rng.choice(catalogue.FAR_PLACES)
        for shop_visited in catalogue.FRAUD_MERCHANTS:
            at += rng.randint(4, 15) * 60_000
            pay(at, shop_visited, far, "approved")
