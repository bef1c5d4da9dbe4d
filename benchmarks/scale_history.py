"""A synthetic company's events as records of the event log; part of `benchmarks.scale`.

Made by DuckDB, because ten million events would take Python minutes. Customers visit unevenly
(lognormal: the busiest tenth brings two fifths of all events), on one to four devices, in visits of
six steps over `DAYS` days. Nine in ten sign in, in most visits at the first step and in some never;
one in fifty went by a second user id until an alias joined the two; one in eight thousand shares a
device with strangers.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

DAYS = 120
STEPS = 6  # of a visit
ROWS_AT_ONCE = 20_000

# A number from 0 to 1 that looks like chance and is the same at each run.
_LOTTERY = "(hash({0}) % 1000003) / 1000003.0"
_WEIGHT = f"""exp(sqrt(-2 * ln(greatest({_LOTTERY.format("(c, 'w')")}, 1e-6)))
    * cos(2 * pi() * {_LOTTERY.format("(c, 'v')")}))"""

_EVENTS = f"""
select
    c,
    n,
    visit,
    step,
    kind,
    device,
    {{began}} + to_microseconds(cast(1e6 * (
        visit_second + step * 45 + 40 * {_LOTTERY.format("(c, n, 'seconds')")}
    ) as bigint)) as moment
from (
    select
        c,
        n,
        visit,
        step,
        {_LOTTERY.format("(c, visit, 'when')")} * {{seconds}} as visit_second,
        {_LOTTERY.format("(c, n, 'kind')")} as kind,
        case
            when c % 8000 = 7 and visit % 3 = 0 then 'shop-' || (c // 80000)
            else c || '-' || cast(hash((c, visit, 'device')) % (1 + c % 4) as varchar)
        end as device
    from drawn
)
"""

_MESSAGES = """
select
    *,
    c % 10 <> 9 and (step > 0 or visit % 3 > 0) and visit % 7 <> 6 as is_known,
    case
        when c % 50 = 3 and step = 5 and visit % 20 = 19 then 'alias'
        when kind < 0.34 or (step = 0 and visit % 2 = 1) then 'page'
        when kind < 0.36 then 'identify'
        else 'track'
    end as type,
    case
        when kind < 0.66 then 'Product Viewed'
        when kind < 0.73 then 'Cart Updated'
        when kind < 0.77 then 'Purchase Completed'
        when kind < 0.86 then 'Logged In'
        when kind < 0.92 then 'Feature Used'
        when kind < 0.96 then 'Card Transaction'
        when kind < 0.98 then 'Email Opened'
        when kind < 0.99 then 'Email Clicked'
        when kind < 0.996 then 'Search Performed'
        else 'Support Ticket Opened'
    end as track_event,
    'p_' || cast(hash((c, n, 'product')) % 2000 as varchar) as product,
    10 + hash((c, n, 'price')) % 9000 / 100.0 as price
from events
"""

_RECORDS = """
select encode(cast(to_json({
    'kind': 'event',
    'source': 'web',
    'message_id': md5('{prefix}' || c || '-' || n),
    'type': type,
    'event': case when type = 'track' then track_event end,
    'user_id': case
        when is_known and c % 50 = 3 and visit % 2 = 1 then 'v' || c
        when is_known or type = 'alias' then 'u' || c
    end,
    'anonymous_id': 'd-' || device,
    'timestamp': strftime(moment, '%Y-%m-%dT%H:%M:%S.%fZ'),
    'sent_at': strftime(moment, '%Y-%m-%dT%H:%M:%S.%fZ'),
    'received_at': strftime(moment + interval 1 second, '%Y-%m-%dT%H:%M:%S.%fZ'),
    'payload': cast(to_json({
        'type': type,
        'context': {
            'library': {'name': 'analytics.js', 'version': 'next-1.84.0'},
            'userAgent': case when hash(device) % 3 = 0
                then 'Mozilla/5.0 (iPhone; CPU iPhone OS 19_1 like Mac OS X) Mobile/15E148'
                else 'Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/140.0.0.0'
            end,
            'ip': '198.51.100.' || cast(hash(device) % 254 as varchar),
            'timezone': 'Europe/Berlin',
            'page': {'path': '/shop', 'url': 'https://shop.example/shop'}
        },
        'previousId': case when type = 'alias' then 'v' || c end,
        'traits': case when type = 'identify' then to_json({
            'email': 'c' || c || '@example.com',
            'name': 'Customer ' || c,
            'plan': ['free', 'team', 'business'][1 + c % 3],
            'consent': {'marketing': c % 2 = 0}
        }) end,
        'properties': case
            when type = 'page' then to_json({'path': case
                when kind < 0.01 then '/account/cancel'
                when kind < 0.05 then '/pricing'
                when kind < 0.12 then '/app/home'
                when kind < 0.24 then '/collections/' || cast(hash(product) % 40 as varchar)
                else '/products/' || product
            end, 'title': 'A page of the shop'})
            when type <> 'track' then null
            when track_event = 'Product Viewed' then to_json({
                'product_id': product, 'name': 'Product ' || product, 'price': price,
                'category': cast(hash(product) % 40 as varchar), 'currency': 'EUR'})
            when track_event = 'Cart Updated' then to_json({
                'cart_id': 'cart-' || c, 'currency': 'EUR', 'total': price,
                'items': [{'product_id': product, 'quantity': 1, 'price': price}]})
            when track_event = 'Purchase Completed' then to_json({
                'order_id': 'o-' || c || '-' || n, 'currency': 'EUR', 'total': price,
                'items': [{'product_id': product, 'quantity': 1, 'price': price}]})
            when track_event = 'Card Transaction' then to_json({
                'transaction_id': 't-' || c || '-' || n, 'card_id': 'card-' || c,
                'amount': price, 'currency': 'EUR', 'merchant': 'Kiosk', 'country': 'DE',
                'category': ['food', 'travel', 'home'][1 + cast(hash(product) % 3 as integer)],
                'lat': 52.5, 'lon': 13.4, 'status': 'approved'})
            when track_event = 'Feature Used' then to_json({'feature': 'reports'})
            when track_event = 'Support Ticket Opened' then to_json({
                'ticket_id': 'k-' || c || '-' || n, 'subject': 'Help'})
            else to_json({'campaign': 'spring', 'method': 'password'})
        end
    }) as varchar)
}) as varchar)) as record
from messages
"""


def history(events: int, customers: int, until: datetime) -> Iterator[list[bytes]]:
    """About `events` records in order of their time, the last just before `until`, in parts."""
    more = max(0.0, events / STEPS - customers)  # visits, after the first of each
    prepare = f"""
    create table weights as select c, {_WEIGHT} as weight from range({customers}) as people (c);
    create table visitors as
    select c, 1 + round(weight * {more} / sum(weight) over ())::bigint as visits from weights;
    create view drawn as
    select c, visit, step, visit * {STEPS} + step as n
    from (select c, unnest(range(visits)) as visit from visitors)
    cross join range({STEPS}) as s (step);
    """
    yield from _records(prepare, until, DAYS * 86_400 - 600, DAYS * 86_400, "h")


def batch(number: int, events: int, customers: int, until: datetime) -> list[bytes]:
    """The records of one micro-batch: events of these seconds, of customers as they come."""
    first = 10**6 + number * events
    prepare = f"""
    create table weights as select c, {_WEIGHT} as weight from range({customers}) as people (c);
    create table spans as
    select c, sum(weight) over (order by c) / sum(weight) over () as upto from weights;
    create view drawn as
    select c, n, n as visit, n % {STEPS} as step
    from (
        select {first} + i as n, {_LOTTERY.format(f"({first} + i, 'who')")} as place
        from range({events}) as s (i)
    ) asof join spans on place <= upto
    """
    (found,) = _records(prepare, until, 1.0, 400, f"b{number}-")
    return found


def _records(
    prepare: str, until: datetime, spread: float, back: float, prefix: str
) -> Iterator[list[bytes]]:
    """Records of what is `drawn`, over `spread` seconds from `back` seconds before the end on."""
    import duckdb

    began = f"(timestamp '{until.astimezone(UTC):%Y-%m-%d %H:%M:%S}' - to_seconds({back}))"
    with duckdb.connect(config={"memory_limit": "6GB"}) as made:
        made.execute("set timezone = 'UTC'; set enable_progress_bar = false")
        made.execute(prepare)
        # Sorted while they are numbers; the texts are made on their way out.
        events = _EVENTS.format(began=began, seconds=spread)
        made.execute(f"create table events as {events} order by moment")
        query = f"with messages as ({_MESSAGES}) " + _RECORDS.replace("{prefix}", prefix)
        reader: Any = made.execute(query).to_arrow_reader(ROWS_AT_ONCE)
        for part in reader:
            yield part.column(0).to_pylist()
