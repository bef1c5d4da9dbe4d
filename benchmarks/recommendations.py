"""How often recommendations name what is bought next: `python -m benchmarks.recommendations FILE`.

    python -m benchmarks.recommendations online_retail.parquet [--json]

FILE is the public data set "Online Retail" of the UCI Machine Learning Repository
(https://doi.org/10.24432/C5BW33, CC BY 4.0) as CSV or Parquet. The last basket of each customer
with three or more is left out of the import; product_affinity and customer_recommendations are
built on the rest. Recall at k is the share of a left-out basket among the first k recommendations,
averaged over customers; a hit is a basket of which at least one product is among them. For new
products only what the customer had not bought before counts.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import support
from orchestration import ingest, lake, warehouse
from orchestration.scratch import Scratch
from orchestration.settings import ROOT, Settings, load_settings

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

MAPPING = ROOT / "ingestion" / "mappings" / "online_retail.yaml"
AS_OF = datetime(2011, 12, 10, tzinfo=UTC)
BUILD = ("build", "--exclude-resource-type", "test", "unit_test", "--select")
BASKETS = """
create table lines as
select invoice_no, stock_code as product_id, customer_id::integer::varchar as customer,
    max(invoice_date) as bought_at
from {file}
where customer_id is not null and invoice_no not like 'C%' and quantity > 0 and unit_price > 0
group by all;
create table baskets as
select invoice_no, customer,
    row_number() over (partition by customer order by max(bought_at) desc, invoice_no desc)
        as place,
    count(*) over (partition by customer) as baskets
from lines group by invoice_no, customer;
create table held_out as
select customer, product_id from lines inner join baskets using (invoice_no, customer)
where baskets >= 3 and place = 1;
create table kept as
select customer, product_id, bought_at, invoice_no
from lines inner join baskets using (invoice_no, customer)
where not (baskets >= 3 and place = 1);
"""
# Each ranks products for the customers of held_out; `place` runs from 1.
RANKINGS = {
    "popularity": """
        select customer, product_id,
            row_number() over (partition by customer order by orders desc, product_id) as place
        from (select distinct customer from held_out)
        cross join (select product_id, count(*) as orders from kept group by product_id
            order by orders desc, product_id limit 20)
    """,
    "popularity, new products": """
        select customer, product_id,
            row_number() over (partition by customer order by orders desc, product_id) as place
        from (select distinct customer from held_out)
        cross join (select product_id, count(*) as orders from kept group by product_id)
        anti join (select distinct customer, product_id from kept) using (customer, product_id)
    """,
    "own most frequent": """
        select customer, product_id, row_number() over (partition by customer
            order by count(*) desc, max(bought_at) desc, product_id) as place
        from kept group by customer, product_id
    """,
}
RECALL = """
with wanted as ({wanted}),
sizes as (select customer, count(*) as size from wanted group by customer),
found as (
    select customer, count(*) filter (place <= 10) as at_10, count(*) as at_20
    from ranked inner join wanted using (customer, product_id) where place <= 20
    group by customer
)
select count(*), avg(coalesce(at_10, 0) / size), avg(coalesce(at_20, 0) / size),
    avg(cast(coalesce(at_10, 0) > 0 as integer)), avg(cast(coalesce(at_20, 0) > 0 as integer))
from sizes left join found using (customer)
"""
ALL = "select customer, product_id from held_out"
NEW = f"{ALL} anti join kept using (customer, product_id)"


def recommend(scratch: Scratch, connection: DuckDBPyConnection, *args: str, rebuy: bool) -> None:
    """Build, and take the recommendations as the table `ranked` of the benchmark's connection."""
    variables = {"recommendations_rebuy": rebuy, "recommendations_per_customer": 20}
    scratch.dbt(*args, as_of=AS_OF, **variables)
    with scratch.connect() as source:
        rows = source.execute(
            "select id_value as customer, product_id, place from customer_recommendations"
            " inner join identity_map using (customer_id) where id_kind = 'user'"
        ).to_arrow_table()
    connection.register("rows", rows)
    connection.execute("create or replace table ranked as select * from rows")
    connection.unregister("rows")


def judge(connection: DuckDBPyConnection, wanted: str) -> dict[str, float]:
    row = connection.execute(RECALL.format(wanted=wanted)).fetchone()
    assert row is not None
    names = ("customers", "recall_at_10", "recall_at_20", "hit_at_10", "hit_at_20")
    return {name: round(float(value), 4) for name, value in zip(names, row, strict=True)}


def measure(settings: Settings, file: Path) -> dict[str, Any]:
    import duckdb

    connection = duckdb.connect()
    connection.execute(BASKETS.format(file=f"'{file}'"))
    kept = settings.home / "kept.parquet"
    connection.execute(
        f"copy (select source.* from '{file}' as source where invoice_no not in (select invoice_no"
        f" from baskets where baskets >= 3 and place = 1)) to '{kept}' (format parquet)"
    )
    found: dict[str, Any] = {}
    for name, ranking in RANKINGS.items():
        connection.execute(f"create or replace table ranked as {ranking}")
        found[name] = judge(connection, NEW if "new" in name else ALL)
    ingest.import_file(settings, kept, MAPPING, "import")
    with lake.writer(settings, "benchmark"):
        warehouse.ensure(settings)
        ingest.loader(settings).load()
    with Scratch(settings) as scratch:
        scratch.show(before=AS_OF)
        recommend(scratch, connection, *BUILD, "+customer_recommendations", rebuy=False)
        found["signalbox, new products"] = judge(connection, NEW)
        again = ("run", "--select", "customer_recommendations")
        recommend(scratch, connection, *again, rebuy=True)
        found["signalbox with recommendations_rebuy"] = judge(connection, ALL)
        with scratch.connect() as source:
            row = source.execute(
                "select count(*), count(distinct product_id) from product_affinity"
            ).fetchone()
    assert row is not None
    return {"rules": row[0], "products_with_rules": row[1], "rankings": found}


def main() -> None:
    parser = support.parser(__doc__)
    parser.add_argument("file", type=Path, help="Online Retail, CSV or Parquet")
    arguments = parser.parse_args()
    os.environ["SIGNALBOX_HOME"] = str(support.new_home())  # dbt asks the environment
    found = measure(load_settings(), arguments.file)
    if arguments.json:
        support.print_json({"benchmark": "recommendations", **found})
        return
    support.print_table(
        "The last basket of customers with three or more",
        ["", "customers", "recall at 10", "at 20", "hit at 10", "at 20"],
        [
            (
                name,
                f"{one['customers']:,.0f}",
                *(f"{value:.3f}" for value in list(one.values())[1:]),
            )
            for name, one in found["rankings"].items()
        ],
        caption=f"{found['rules']:,} rules for {found['products_with_rules']:,} products. "
        "Data: Online Retail, UCI Machine Learning Repository, CC BY 4.0",
    )


if __name__ == "__main__":
    main()
