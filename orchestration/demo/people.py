"""The people of the simulated company and what is true about each: the known truth.

Everything about a person follows from (seed, number) alone, apart from dates, which hang on the
end of the window. All times here are integers: milliseconds since 1970 in UTC.
"""

from __future__ import annotations

import hashlib
import random
import uuid
from dataclasses import dataclass, field

from orchestration.demo import catalogue
from orchestration.demo.catalogue import Place

HOUR = 3_600_000
DAY = 24 * HOUR

CONSUMER_PERSONAS = {
    "loyal": 0.26,
    "drifting": 0.16,
    "returning": 0.10,
    "bargain_hunter": 0.20,
    "trial": 0.12,
    "one_timer": 0.16,
}
BUSINESS_PERSONAS = {"loyal": 0.58, "drifting": 0.12, "returning": 0.10, "trial": 0.20}
BUSINESS_SHARE = 0.35
LEAVING_COMPANY_SHARE = 0.12
TRIAL_DAYS = 14


@dataclass(frozen=True, slots=True)
class Device:
    """A browser with its cookie. A household's device is in two people's lists."""

    anonymous_id: str
    user_agent: str
    ip: str
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Company:
    """A business customer; its members are `Customer`s that point here."""

    id: str
    name: str
    domain: str
    industry: str
    employees: int
    plan: str
    mrr: float
    place: Place
    leaving_at: int | None


@dataclass(frozen=True, slots=True)
class Ticket:
    """A support ticket as the helpdesk knows it."""

    id: str
    at: int
    subject: str
    priority: str
    channel: str
    status: str
    updated_at: int


@dataclass(slots=True)
class Customer:
    """One person with a hidden life. `None` in a date means that it never happens."""

    number: int
    user_id: str
    email: str
    first_name: str
    last_name: str
    phone: str | None
    place: Place
    persona: str
    company: Company | None
    role: str | None
    plan: str
    visits_per_day: float
    joined_at: int
    declines_at: int | None = None
    churned_at: int | None = None
    away: tuple[int, int] | None = None
    trial_ends_at: int | None = None
    abandons: float = 0.6
    opens_email: float = 0.3
    marketing: bool = True
    sales: bool = True
    marketing_withdrawn_at: int | None = None
    in_crm: bool = False
    says_goodbye: bool = False
    has_card: bool = False
    card_stolen_at: int | None = None
    favourites: tuple[str, ...] = ()
    devices: list[Device] = field(default_factory=list)
    tickets: list[Ticket] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.first_name} {self.last_name}"

    @property
    def uses_app(self) -> bool:
        return self.plan != "free"

    def present(self, at: int) -> bool:
        """Whether the person does anything at all at that time."""
        if at < self.joined_at or (self.churned_at is not None and at >= self.churned_at):
            return False
        return not (self.away and self.away[0] <= at < self.away[1])


def rng_for(*parts: object) -> random.Random:
    """A generator that depends on `parts` only: the same in every process and on every machine."""
    return random.Random("|".join(map(str, parts)))  # noqa: S311 (a simulation, not a secret)


def stable_uuid(*parts: object) -> str:
    """A UUID (version 5 in form) that depends on `parts` only."""
    digest = hashlib.blake2b("|".join(map(str, parts)).encode(), digest_size=16).digest()
    return str(uuid.UUID(bytes=digest, version=5))


def _pick(rng: random.Random, shares: dict[str, float]) -> str:
    return rng.choices(list(shares), list(shares.values()))[0]


def make_devices(rng: random.Random, seed: int, owner: str, count: int) -> list[Device]:
    """`count` fresh devices of `owner`; addresses come from the ranges kept for documentation."""
    devices = []
    home = f"{rng.choice(('192.0.2', '198.51.100', '203.0.113'))}.{rng.randint(1, 254)}"
    for index, kind in enumerate(rng.sample(("laptop", "phone", "tablet"), count)):
        agent = rng.choice(catalogue.USER_AGENTS[kind])
        devices.append(Device(stable_uuid(seed, "device", owner, index), agent, home))
    return devices


def make_companies(seed: int, members: int, start: int, end: int) -> list[Company]:
    """Companies for about `members` people, four to a company."""
    companies = []
    for number in range(max(1, members // 4)):
        rng = rng_for(seed, "company", number)
        name = f"{rng.choice(catalogue.COMPANY_FIRST)} {rng.choice(catalogue.COMPANY_SECOND)}"
        plan = rng.choice(("team", "team", "business"))
        employees = rng.randint(4, 40) if plan == "team" else rng.randint(40, 600)
        leaving = None
        if rng.random() < LEAVING_COMPANY_SHARE:
            leaving = rng.randint(start + 20 * DAY, end + 14 * DAY)
        companies.append(
            Company(
                id=f"c_{number:04d}",
                name=name,
                domain=f"{name.lower().replace(' ', '-')}-{number}.example",
                industry=rng.choice(catalogue.INDUSTRIES),
                employees=employees,
                plan=plan,
                mrr=catalogue.PLANS[plan].mrr,
                place=rng.choice(catalogue.PLACES),
                leaving_at=leaving,
            )
        )
    return companies


def make_customer(
    seed: int, number: int, companies: list[Company], start: int, end: int
) -> Customer:
    """Person `number`, with a persona and the dates of their life inside (start, end)."""
    rng = rng_for(seed, "customer", number)
    company = rng.choice(companies) if rng.random() < BUSINESS_SHARE else None
    first, last = rng.choice(catalogue.FIRST_NAMES), rng.choice(catalogue.LAST_NAMES)
    place = company.place if company else rng.choice(catalogue.PLACES)
    domain = company.domain if company else rng.choice(("example.com", "example.net"))
    if company and company.leaving_at is not None:
        persona = "drifting"
    else:
        persona = _pick(rng, BUSINESS_PERSONAS if company else CONSUMER_PERSONAS)
    customer = Customer(
        number=number,
        user_id=f"u_{number:05d}",
        email=f"{first}.{last}.{number}@{domain}".lower(),
        first_name=first,
        last_name=last,
        phone=f"+1 202 555 01{rng.randint(0, 99):02d}" if rng.random() < 0.5 else None,
        place=place,
        persona=persona,
        company=company,
        role=rng.choice(catalogue.ROLES) if company else None,
        plan=_plan(rng, persona, company),
        visits_per_day=_visit_rate(rng, persona, company is not None),
        joined_at=0,
        abandons=min(0.95, max(0.1, rng.gauss(0.75 if persona == "bargain_hunter" else 0.5, 0.18))),
        opens_email=min(0.9, rng.betavariate(2, 4) * (1.5 if persona == "bargain_hunter" else 1)),
        marketing=rng.random() < 0.82,
        sales=rng.random() < (0.92 if company else 0.75),
        in_crm=rng.random() < (0.95 if company else 0.55),
        says_goodbye=persona == "drifting" and rng.random() < 0.6,
        has_card=rng.random() < 0.15,
        favourites=tuple(rng.sample(catalogue.CATEGORIES[:-1], 2))
        + (("office",) if company else ()),
    )
    _live(customer, rng, start, end)
    customer.devices = make_devices(rng, seed, customer.user_id, rng.choice((1, 1, 2, 2, 2, 3)))
    if customer.marketing and rng.random() < 0.03:
        customer.marketing_withdrawn_at = rng.randint(start, end)
    if customer.has_card and rng.random() < 0.05:
        stolen = rng.randint(start + 5 * DAY, end - DAY)
        customer.card_stolen_at = stolen if customer.present(stolen) else None
    customer.tickets = _tickets(rng_for(seed, "tickets", number), customer, start, end)
    return customer


def _plan(rng: random.Random, persona: str, company: Company | None) -> str:
    if persona == "trial":
        return "trial"
    if company:
        return company.plan
    paying = {"loyal": 0.5, "drifting": 0.5, "returning": 0.3}.get(persona, 0.08)
    return "plus" if rng.random() < paying else "free"


def _visit_rate(rng: random.Random, persona: str, business: bool) -> float:
    typical = {
        "loyal": 0.15,
        "drifting": 0.17,
        "returning": 0.15,
        "bargain_hunter": 0.06,
        "trial": 0.28,
        "one_timer": 0.0,
    }[persona]
    if business:
        typical *= 1.35
    return min(1.5, typical * rng.lognormvariate(0.0, 0.4))


def _live(customer: Customer, rng: random.Random, start: int, end: int) -> None:
    """Draw the dates that the persona calls for."""
    window = end - start
    persona = customer.persona
    if persona in ("trial", "one_timer"):
        customer.joined_at = rng.randint(start + DAY, end - DAY)
    elif rng.random() < 0.85:
        customer.joined_at = start - rng.randint(5 * DAY, 700 * DAY)
    else:
        customer.joined_at = rng.randint(start + DAY, start + window // 3)

    if persona == "drifting":
        earliest = max(start, customer.joined_at) + 15 * DAY
        leaving = customer.company.leaving_at if customer.company else None
        if leaving is not None:
            customer.churned_at = max(earliest, leaving + rng.randint(-6 * DAY, 6 * DAY))
        else:
            customer.churned_at = rng.randint(earliest, end + 21 * DAY)
        customer.declines_at = customer.churned_at - rng.randint(12 * DAY, 28 * DAY)
    elif persona == "returning":
        back = rng.randint(end - 20 * DAY, end - 2 * DAY)
        gone = back - rng.randint(31 * DAY, 55 * DAY)
        customer.away = (max(gone, customer.joined_at + 2 * DAY), back)
    elif persona == "trial":
        customer.trial_ends_at = customer.joined_at + TRIAL_DAYS * DAY
        if rng.random() < 0.6:
            customer.churned_at = customer.joined_at + rng.randint(6 * DAY, TRIAL_DAYS * DAY)
    elif persona == "one_timer":
        customer.churned_at = customer.joined_at + rng.randint(HOUR, 6 * DAY)


def _tickets(rng: random.Random, customer: Customer, start: int, end: int) -> list[Ticket]:
    """Tickets in the window: anyone may ask something; those who leave complain before."""
    planned: list[tuple[int, str]] = []
    for _ in range(rng.choices((0, 1, 2), (80, 17, 3))[0]):
        priority = rng.choice(("low", "normal", "normal"))
        planned.append((rng.randint(start, end), priority))
    if customer.declines_at is not None and customer.churned_at is not None:
        for _ in range(2):
            if rng.random() < 0.4:
                at = rng.randint(customer.declines_at, customer.churned_at)
                planned.append((at, rng.choice(("normal", "high", "high", "urgent"))))
    tickets = []
    for index, (at, priority) in enumerate(sorted(planned)):
        if not (start <= at < end and customer.present(at)):
            continue
        updated = min(end, at + rng.randint(HOUR, 9 * DAY))
        open_still = rng.random() < 0.85 if end - at < 5 * DAY else rng.random() < 0.08
        tickets.append(
            Ticket(
                id=f"t_{customer.number:05d}_{index}",
                at=at,
                subject=rng.choice(catalogue.TICKET_SUBJECTS[priority]),
                priority=priority,
                channel=rng.choice(catalogue.TICKET_CHANNELS),
                status=rng.choice(("open", "pending")) if open_still else "solved",
                updated_at=updated,
            )
        )
    return tickets


def make_passer_by(seed: int, number: int) -> Customer:
    """A visitor who never says who they are: one device, a visit or two."""
    rng = rng_for(seed, "passer_by", number)
    owner = f"passer_by_{number:05d}"
    return Customer(
        number=number,
        user_id=owner,
        email="",
        first_name="",
        last_name="",
        phone=None,
        place=rng.choice(catalogue.PLACES),
        persona="passer_by",
        company=None,
        role=None,
        plan="free",
        visits_per_day=0.0,
        joined_at=0,
        favourites=tuple(rng.sample(catalogue.CATEGORIES, 2)),
        devices=make_devices(rng, seed, owner, 1),
    )


def share_households(seed: int, customers: list[Customer]) -> None:
    """Give some pairs of private customers one device in common."""
    rng = rng_for(seed, "households")
    private = [c for c in customers if c.company is None]
    for one, other in zip(private[::2], private[1::2], strict=False):
        if rng.random() < 0.06:
            base = one.devices[-1]
            tablet = Device(
                stable_uuid(seed, "household", one.number), base.user_agent, base.ip, shared=True
            )
            one.devices.append(tablet)
            other.devices.append(tablet)
