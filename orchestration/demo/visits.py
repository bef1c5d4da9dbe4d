"""What a person does in one visit, as a list of moments. History and live traffic both use it."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from orchestration.demo import catalogue
from orchestration.demo.catalogue import Product
from orchestration.demo.people import DAY, Customer, Device

SITE = "https://lumenloop.example"


class Moment(NamedTuple):
    """One message before it has an id. `device` None: the company's server sent it."""

    at: int
    kind: str
    name: str
    body: dict[str, Any]
    device: Device | None
    known: bool
    path: str


@dataclass(slots=True)
class Memory:
    """What carries over from one visit of a person to the next.

    `tag` goes into the ids of orders and carts, so that two runs never give the same id twice.
    """

    tag: str
    signed_in: set[str] = field(default_factory=set)
    features: list[str] = field(default_factory=list)
    cart_id: str | None = None
    cart: dict[str, int] = field(default_factory=dict)
    carts: int = 0
    orders: int = 0
    grouped: bool = False


class Visit:
    """Writes one visit down; the clock moves on by some seconds with each thing done."""

    def __init__(
        self, customer: Customer, memory: Memory, device: Device, at: int, rng: random.Random
    ) -> None:
        self.customer = customer
        self.memory = memory
        self.device = device
        self.at = at
        self.rng = rng
        self.path = "/"
        self.moments: list[Moment] = []
        if device.shared:
            # On the family tablet the last one signed out, so everybody starts as a stranger.
            memory.signed_in.discard(device.anonymous_id)

    @property
    def known(self) -> bool:
        return self.device.anonymous_id in self.memory.signed_in

    def _note(self, kind: str, name: str, body: dict[str, Any]) -> None:
        self.moments.append(Moment(self.at, kind, name, body, self.device, self.known, self.path))
        self.at += self.rng.randint(4_000, 75_000)

    def page(self, path: str, title: str, referrer: str | None = None) -> None:
        self.path = path
        body = {"path": path, "title": title, "url": SITE + path}
        if referrer:
            body["referrer"] = referrer
        self._note("page", title, body)

    def sign_in(self, method: str | None = None) -> None:
        """Log in: from here on the device's messages carry the user id."""
        self.memory.signed_in.add(self.device.anonymous_id)
        self._note("identify", "", traits_of(self.customer, self.at))
        self._note(
            "track",
            "Logged In",
            {"method": method or self.rng.choice(("password", "password", "google", "link"))},
        )
        company = self.customer.company
        if company and (not self.memory.grouped or self.rng.random() < 0.15):
            self.memory.grouped = True
            self._note("group", company.id, group_traits(self.customer))

    def view(self, product: Product) -> None:
        self.path = f"/products/{product.id}"
        self._note(
            "track",
            "Product Viewed",
            {
                "product_id": product.id,
                "name": product.name,
                "category": product.category,
                "price": catalogue.price_in(product, self.customer.place.currency),
                "currency": self.customer.place.currency,
            },
        )

    def add_to_cart(self, product: Product, quantity: int = 1) -> None:
        if self.memory.cart_id is None:
            self.memory.carts += 1
            self.memory.cart_id = f"cart_{self._number()}_{self.memory.carts}"
        self.memory.cart[product.id] = self.memory.cart.get(product.id, 0) + quantity
        self._cart_updated()

    def empty_cart(self) -> None:
        self.memory.cart.clear()
        self._cart_updated()
        self.memory.cart_id = None

    def _cart_updated(self) -> None:
        self.path = "/cart"
        items, total = self._items()
        body = {
            "cart_id": self.memory.cart_id,
            "items": items,
            "total": total,
            "currency": self.customer.place.currency,
        }
        self._note("track", "Cart Updated", body)

    def buy(self, coupon: str | None = None) -> None:
        """Pay for what is in the cart; a stranger has to sign in first."""
        if not self.known:
            self.path = "/login"
            self.sign_in()
        self.path = "/checkout"
        items, total = self._items()
        self.memory.orders += 1
        body: dict[str, Any] = {
            "order_id": f"LL-{self._number()}-{self.memory.orders}",
            "total": round(total * 0.88, 2) if coupon else total,
            "currency": self.customer.place.currency,
            "items": items,
        }
        if coupon:
            body["coupon"] = coupon
        self._note("track", "Purchase Completed", body)
        self.memory.cart.clear()
        self.memory.cart_id = None

    def use_feature(self, feature: str) -> None:
        self.memory.features.append(feature)
        body = {"feature": feature, "plan": self.customer.plan}
        self._note("track", "Feature First Used", body)

    def _items(self) -> tuple[list[dict[str, Any]], float]:
        items: list[dict[str, Any]] = []
        total = 0.0
        for product_id, quantity in self.memory.cart.items():
            product = catalogue.PRODUCTS[product_id]
            price = catalogue.price_in(product, self.customer.place.currency)
            total += price * quantity
            items.append(
                {
                    "product_id": product.id,
                    "name": product.name,
                    "category": product.category,
                    "quantity": quantity,
                    "price": price,
                }
            )
        return items, round(total, 2)

    def _number(self) -> str:
        prefix = "v" if self.customer.persona == "passer_by" else ""
        return f"{prefix}{self.customer.number:05d}{self.memory.tag}"


def traits_of(customer: Customer, at: int) -> dict[str, Any]:
    """What `identify` says about a person at that time."""
    withdrawn = customer.marketing_withdrawn_at
    granted = customer.marketing and (withdrawn is None or at < withdrawn)
    traits: dict[str, Any] = {
        "email": customer.email,
        "name": customer.name,
        "plan": plan_at(customer, at),
        "timezone": customer.place.timezone,
        "consent": {"marketing": granted, "sales": customer.sales},
        "created_at": iso(customer.joined_at),
    }
    if customer.phone:
        traits["phone"] = customer.phone
    if customer.company:
        traits["company"] = customer.company.name
    return traits


def plan_at(customer: Customer, at: int) -> str:
    """Those who stay after the trial pay from then on."""
    if customer.trial_ends_at is None or at < customer.trial_ends_at:
        return customer.plan
    return customer.company.plan if customer.company else "plus"


def group_traits(customer: Customer) -> dict[str, Any]:
    """What `group` says about a person's company and their role there."""
    company = customer.company
    if company is None:
        raise ValueError(f"{customer.user_id} belongs to no company")
    return {
        "name": company.name,
        "industry": company.industry,
        "employees": company.employees,
        "plan": company.plan,
        "mrr": company.mrr,
        "role": customer.role or "member",
    }


def iso(at: int) -> str:
    """Milliseconds since 1970 as RFC 3339 in UTC."""
    seconds, millis = divmod(at, 1000)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{millis:03d}Z"


def some_products(rng: random.Random, customer: Customer, count: int) -> list[Product]:
    """Products the person likes to look at: mostly from their favourite categories."""
    found = []
    for _ in range(count):
        liked = customer.favourites and rng.random() < 0.7
        category = rng.choice(customer.favourites if liked else catalogue.CATEGORIES)
        found.append(rng.choice(catalogue.BY_CATEGORY[category]))
    return found


def shop(visit: Visit, *, eager: float, coupon: str | None = None, campaign: bool = False) -> None:
    """Look around in the shop; with probability `eager` fill a cart, and pay or leave it."""
    rng, customer, memory = visit.rng, visit.customer, visit.memory
    if campaign:
        visit.page("/collections/new", "New this week", "https://mail.example/")
    elif rng.random() < 0.5:
        visit.page("/", "Lumen & Loop", rng.choice((None, "https://search.example/")))
    else:
        category = rng.choice(customer.favourites or catalogue.CATEGORIES)
        visit.page(f"/collections/{category}", category.capitalize())
    stranger = customer.persona == "passer_by"
    if not stranger and not visit.known and rng.random() < 0.45:
        visit.path = "/login"
        visit.sign_in()
    if memory.cart and not stranger and rng.random() < 0.3:
        # They came back for what they had left in the cart.
        visit.page("/cart", "Your cart")
        visit.buy(coupon)
        return
    if memory.cart and rng.random() < 0.15:
        visit.empty_cart()
    seen = some_products(rng, customer, rng.randint(1, 4))
    for product in seen:
        visit.view(product)
    if rng.random() >= eager:
        if rng.random() < 0.12:
            visit.page("/pricing", "Plans and prices")
        return
    anchor = rng.choice(seen)
    visit.add_to_cart(anchor, rng.choice((1, 1, 1, 2)))
    for product_id in anchor.complements:
        if rng.random() < 0.4:
            visit.add_to_cart(catalogue.PRODUCTS[product_id])
    if not stranger and rng.random() >= customer.abandons:
        visit.page("/checkout", "Checkout")
        visit.buy(coupon)


def work(visit: Visit, *, engaged: float = 1.0) -> None:
    """Use the app; `engaged` (0 to 1) shortens the visit and keeps from new features."""
    rng, memory = visit.rng, visit.memory
    visit.path = "/login"
    if not visit.known or rng.random() < 0.5:
        visit.sign_in()
    for path, title in rng.sample(catalogue.APP_PAGES, max(1, round(rng.randint(1, 5) * engaged))):
        visit.page(path, title)
        left = [f for f in catalogue.FEATURES if f not in memory.features]
        if left and rng.random() < 0.2 * engaged:
            visit.use_feature(rng.choice(left[:4]))
    if rng.random() < 0.03:
        visit.page("/pricing", "Plans and prices")


def say_goodbye(visit: Visit) -> None:
    """A short last look at the prices and at the page where one cancels."""
    if not visit.known and visit.rng.random() < 0.7:
        visit.path = "/login"
        visit.sign_in()
    visit.page("/pricing", "Plans and prices")
    visit.page("/account", "Your account")
    visit.page("/account/cancel", "Cancel your plan")


def choose_device(rng: random.Random, customer: Customer) -> Device:
    """Most visits come from the first device."""
    weights = [4, 2, 1, 1][: len(customer.devices)]
    return rng.choices(customer.devices, weights)[0]


def near_the_end(customer: Customer, at: int) -> bool:
    """Whether the person is within ten days of leaving for good."""
    return customer.churned_at is not None and customer.churned_at - at < 10 * DAY
