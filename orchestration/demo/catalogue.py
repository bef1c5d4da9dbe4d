"""What Lumen & Loop sells and says: products, plans, features, campaigns, pages.

Lumen is the shop (lamps, bulbs, switches, sensors); Loop is the app that schedules the light and
is sold as a subscription. Complements are what people buy together; a good "also bought" finds
them again.
"""

from __future__ import annotations

from typing import NamedTuple


class Product(NamedTuple):
    """One article of the shop; `price` is in euros."""

    id: str
    name: str
    category: str
    price: float
    complements: tuple[str, ...]


class Plan(NamedTuple):
    """One plan of the app; `mrr` is what one subscription brings a month, in euros."""

    name: str
    mrr: float


class Place(NamedTuple):
    """Where a customer lives. The UTC offset is the standard one, in hours, all year."""

    city: str
    country: str
    timezone: str
    offset: int
    currency: str
    locale: str
    lat: float
    lon: float


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _product(row: str) -> Product:
    product_id, name, category, price, complements = (part.strip() for part in row.split("|"))
    return Product(product_id, name, category, float(price), tuple(complements.split()))


_PRODUCTS = """
hub-one      | Loop Hub One              | hubs     | 79  | bulb-e27 bulb-gu10 switch-duo plug-smart
hub-pro      | Loop Hub Pro              | hubs     | 149 | strip-5m sensor-lux switch-quad bulb-e27
bulb-e27     | Tunable Bulb E27          | bulbs    | 19  | lamp-arc lamp-dot switch-duo
bulb-e14     | Tunable Bulb E14          | bulbs    | 17  | lamp-mini lamp-bed
bulb-gu10    | Tunable Spot GU10         | bulbs    | 18  | track-2m switch-quad
bulb-globe   | Globe Filament Bulb       | bulbs    | 24  | lamp-pend cord-linen
bulb-grow    | Grow Bulb                 | bulbs    | 29  | lamp-plant sensor-soil
strip-2m     | Light Strip 2 m           | strips   | 39  | clip-set hub-one
strip-5m     | Light Strip 5 m           | strips   | 69  | clip-set strip-ext hub-pro
strip-ext    | Strip Extension 1 m       | strips   | 15  | clip-set strip-5m
strip-out    | Outdoor Strip 5 m         | strips   | 89  | box-weather sensor-move
lamp-arc     | Arc Floor Lamp            | lamps    | 189 | bulb-e27 switch-duo
lamp-dot     | Dot Table Lamp            | lamps    | 79  | bulb-e27
lamp-mini    | Mini Clip Lamp            | lamps    | 39  | bulb-e14
lamp-bed     | Bedside Lamp              | lamps    | 59  | bulb-e14 switch-duo
lamp-pend    | Linen Pendant             | lamps    | 129 | bulb-globe cord-linen
lamp-plant   | Plant Shelf Lamp          | lamps    | 99  | bulb-grow sensor-soil
lamp-desk    | Task Desk Lamp            | lamps    | 119 | mat-desk switch-duo
track-2m     | Ceiling Track 2 m         | lamps    | 139 | bulb-gu10 switch-quad
switch-duo   | Wireless Switch Duo       | controls | 35  | bulb-e27 hub-one
switch-quad  | Wireless Switch Quad      | controls | 49  | bulb-gu10 hub-pro
dial-one     | Dimmer Dial               | controls | 45  | lamp-desk lamp-arc
plug-smart   | Metering Plug             | controls | 29  | sensor-lux hub-one
sensor-move  | Motion Sensor             | sensors  | 32  | hub-one strip-out
sensor-lux   | Daylight Sensor           | sensors  | 38  | hub-pro plug-smart
sensor-soil  | Soil Sensor               | sensors  | 27  | lamp-plant bulb-grow
sensor-door  | Door Sensor               | sensors  | 25  | sensor-move
clip-set     | Mounting Clips (20)       | parts    | 9   | strip-2m strip-5m
cord-linen   | Linen Cord 3 m            | parts    | 22  | lamp-pend bulb-globe
box-weather  | Weatherproof Box          | parts    | 19  | strip-out
mat-desk     | Felt Desk Mat             | parts    | 34  | lamp-desk
batt-cr      | Coin Cells (10)           | parts    | 8   | switch-duo sensor-door
panel-quiet  | Quiet Light Panel         | office   | 349 | panel-mount hub-pro
panel-mount  | Panel Ceiling Mount       | office   | 49  | panel-quiet
booth-light  | Call Booth Light          | office   | 219 | sensor-move switch-duo
sign-free    | Desk Free Sign            | office   | 89  | hub-pro sensor-move
"""

PRODUCTS: dict[str, Product] = {
    product.id: product for product in map(_product, _PRODUCTS.strip().splitlines())
}
CATEGORIES: tuple[str, ...] = tuple(dict.fromkeys(p.category for p in PRODUCTS.values()))
BY_CATEGORY: dict[str, tuple[Product, ...]] = {
    category: tuple(p for p in PRODUCTS.values() if p.category == category)
    for category in CATEGORIES
}

PLANS: dict[str, Plan] = {
    plan.name: plan
    for plan in (
        Plan("free", 0.0),
        Plan("trial", 0.0),
        Plan("plus", 9.0),
        Plan("team", 49.0),
        Plan("business", 199.0),
    )
}

FEATURES = (
    "scenes",
    "schedules",
    "sunrise alarm",
    "energy report",
    "rooms",
    "sharing",
    "away mode",
    "api keys",
    "floor plans",
    "desk booking",
)
APP_PAGES = (
    ("/app", "Home"),
    ("/app/scenes", "Scenes"),
    ("/app/schedules", "Schedules"),
    ("/app/energy", "Energy report"),
    ("/app/rooms", "Rooms"),
    ("/app/settings", "Settings"),
)

CURRENCY_RATES = {"EUR": 1.0, "USD": 1.1, "GBP": 0.87}
PLACES = (
    Place("Berlin", "DE", "Europe/Berlin", 1, "EUR", "de-DE", 52.52, 13.40),
    Place("Munich", "DE", "Europe/Berlin", 1, "EUR", "de-DE", 48.14, 11.58),
    Place("Paris", "FR", "Europe/Paris", 1, "EUR", "fr-FR", 48.86, 2.35),
    Place("Lyon", "FR", "Europe/Paris", 1, "EUR", "fr-FR", 45.76, 4.84),
    Place("Madrid", "ES", "Europe/Madrid", 1, "EUR", "es-ES", 40.42, -3.70),
    Place("Amsterdam", "NL", "Europe/Amsterdam", 1, "EUR", "nl-NL", 52.37, 4.90),
    Place("Milan", "IT", "Europe/Rome", 1, "EUR", "it-IT", 45.46, 9.19),
    Place("London", "GB", "Europe/London", 0, "GBP", "en-GB", 51.51, -0.13),
    Place("Leeds", "GB", "Europe/London", 0, "GBP", "en-GB", 53.80, -1.55),
    Place("New York", "US", "America/New_York", -5, "USD", "en-US", 40.71, -74.01),
    Place("Chicago", "US", "America/Chicago", -6, "USD", "en-US", 41.88, -87.63),
    Place("Seattle", "US", "America/Los_Angeles", -8, "USD", "en-US", 47.61, -122.33),
)
FAR_PLACES = (
    Place("Lagos", "NG", "Africa/Lagos", 1, "USD", "en-NG", 6.52, 3.38),
    Place("Jakarta", "ID", "Asia/Jakarta", 7, "USD", "id-ID", -6.21, 106.85),
    Place("Lima", "PE", "America/Lima", -5, "USD", "es-PE", -12.05, -77.04),
)

MERCHANTS = (
    ("Corner Bakery", "food", 9.0),
    ("Green Grocer", "groceries", 42.0),
    ("City Transit", "transport", 3.5),
    ("Paper & Ink", "books", 18.0),
    ("North Fuel", "fuel", 55.0),
    ("Blue Cinema", "leisure", 24.0),
)
FRAUD_MERCHANTS = (
    ("Giftcards Direct", "gift cards", 480.0),
    ("Gold Kiosk", "jewellery", 930.0),
    ("Phone Depot", "electronics", 760.0),
)

TICKET_SUBJECTS = {
    "low": ("How do I rename a room?", "Where is my invoice?", "Question about a lamp's size"),
    "normal": (
        "Parcel has not arrived",
        "Schedule ran an hour late",
        "Switch does not pair",
        "Please change my address",
    ),
    "high": (
        "Hub is offline every evening",
        "Charged twice for one order",
        "Lights do not follow the schedule any more",
    ),
    "urgent": (
        "I want to cancel",
        "Whole office without light control",
        "Refund has not come for weeks",
    ),
}
TICKET_CHANNELS = ("email", "chat", "phone")

COUPONS = ("GLOW10", "LOOP15", "DUSK20")

COMPANY_FIRST = _words(
    "Alder Amber Beacon Birch Cedar Cobalt Copper Delta Ember Fern Granite Harbor Indigo Juniper "
    "Kestrel Linden Maple Nimbus Orchard Pebble Quarry River Sable Tidal Umber Violet Willow Zephyr"
)
COMPANY_SECOND = _words(
    "Analytics Architects Bakery Clinic Consulting Design Dental Films Foods Freight Labs Legal "
    "Logistics Media Partners Press Robotics School Software Studio Textiles Travel"
)
INDUSTRIES = ("architecture", "education", "health", "hospitality", "media", "retail", "software")
ROLES = ("admin", "facility manager", "member", "finance")

FIRST_NAMES = _words(
    "Ada Adil Aiko Alba Amara Anton Arjun Astrid Ayla Bela Bruno Camille Carla Chidi Clara Daan "
    "Dalia Dario Diego Edda Elif Emeka Emil Enzo Esra Fatima Felix Femke Gianni Greta Hana Hugo "
    "Ida Ines Ingrid Ivan Jonas Juno Kaito Karim Lara Leila Liam Lina Luca Maeve Malik Marta Mei "
    "Milan Mina Nadia Nils Noor Olga Omar Pablo Petra Priya Rafael Rosa Ruben Sana Selma Sofia "
    "Stefan Tariq Tess Theo Uma Vera Viktor Wanda Yara Yusuf Zoe"
)
LAST_NAMES = _words(
    "Abel Adeyemi Ahmed Alvarez Andersen Arslan Bakker Banerjee Becker Bianchi Blom Carter Castro "
    "Chen Costa Dahl Demir Diallo Dubois Eriksen Evans Farouk Ferrari Fischer Fontaine Garcia "
    "Gupta Haddad Hansen Hoffmann Hughes Ibrahim Ito Jansen Johnson Kaya Keller Khan Kim Kowalski "
    "Lambert Larsen Lehmann Lopez Marino Martin Mendes Meyer Moreau Nakamura Nguyen Novak Okafor "
    "Olsen Osei Park Patel Pereira Petit Quinn Rahman Reyes Ricci Romero Rossi Roy Santos Sato "
    "Schmidt Silva Singh Suzuki Tanaka Turner Vargas Visser Vogel Walker Weber Winkler Wong Yilmaz"
)

USER_AGENTS = {
    "laptop": (
        "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
        "Chrome/131.0.0.0 Safari/537.36",
        "Mozilla/5.0 (Macintosh; Intel Mac OS X 14_5) AppleWebKit/605.1.15 (KHTML, like Gecko) "
        "Version/17.5 Safari/605.1.15",
        "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    ),
    "phone": (
        "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 "
        "(KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1",
        "Mozilla/5.0 (Linux; Android 14; Pixel 8) AppleWebKit/537.36 (KHTML, like Gecko) "
        "Chrome/131.0.0.0 Mobile Safari/537.36",
    ),
    "tablet": (
        "Mozilla/5.0 (iPad; CPU OS 17_5 like Mac OS X) AppleWebKit/605.1.15 "
        "(KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1",
    ),
}


def price_in(product: Product, currency: str) -> float:
    """The shop's price of `product` in `currency`, two decimals."""
    return round(product.price * CURRENCY_RATES[currency], 2)
