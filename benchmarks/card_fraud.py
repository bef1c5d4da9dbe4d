"""How well the rules of card fraud find it, against others: `python -m benchmarks.card_fraud FILE`.

    python -m benchmarks.card_fraud card_transactions.parquet [--split 2023-08-27] [--fit] [--json]

FILE is a Parquet file of card payments made by the Sparkov generator
(https://github.com/namebrandon/Sparkov_Data_Generation, MIT): trans_num, trans_at, card_id,
category, merchant, amount, merchant_lat, merchant_long, is_fraud. The score is the one of
`card_fraud_scores`, computed by dbt on a DuckDB file. Only payments from `--split` on are judged;
gradient boosting learns from those before it, and so did the points in card_fraud_rules.csv: with
--fit they are fitted again. Needs scikit-learn.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import support
from orchestration.settings import DBT_PROJECT

RAW = """
create table main.customer_timeline as
select
    card_id as customer_id, trans_num || card_id as event_id, 'Card Transaction' as event,
    trans_at::timestamp at time zone 'UTC' as event_at,
    row_number() over (partition by card_id order by trans_at, trans_num) as event_number,
    json_object(
        -- The generator gives a number to payments of different cards.
        'transaction_id', trans_num || card_id, 'card_id', card_id, 'amount', round(amount, 2),
        'currency', 'USD', 'category', category, 'merchant', merchant,
        'lat', merchant_lat, 'lon', merchant_long
    )::varchar as properties
from read_parquet($file);
create table main.identity_map as select distinct customer_id from main.customer_timeline;
create table main.truth as
select trans_num || card_id as transaction_id, is_fraud from read_parquet($file);
"""
FEATURES = (
    "amount", "history_payments", "usual_high", "spent_24h", "payments_1h", "travel_km",
    "amount_to_usual_high", "spent_24h_to_usual", "other_categories_pct", "other_hours_pct",
)  # fmt: skip
ALARM = 0.5  # card_fraud_from
# What anybody would write first, each counting the same.
PLAIN_RULES = """
    (amount > 500)::int + (amount_to_usual_high > 2)::int + (payments_1h >= 3)::int
    + (spent_24h_to_usual > 4)::int
"""


def main() -> None:
    parser = support.parser(__doc__)
    parser.add_argument("file", type=Path, help="Parquet file of card payments")
    parser.add_argument("--split", default="2023-08-27", help="judge payments from this day on")
    parser.add_argument("--fit", action="store_true", help="fit the points on the time before")
    options = parser.parse_args()
    if not options.file.exists():
        sys.exit(f"{options.file} does not exist; make one with the Sparkov generator (see --help)")
    try:
        import sklearn  # noqa: F401
    except ModuleNotFoundError:
        sys.exit("this benchmark compares with scikit-learn: pip install scikit-learn")
    database = support.new_home() / "cards.duckdb"
    build(database, options.file)
    payments = read(database)
    before, after = parts(payments, options.split)
    result = {
        "payments": len(payments["fraud"]),
        "judged": len(after["fraud"]),
        "frauds_judged": sum(after["fraud"]),
        "days_judged": len(set(after["day"])),
        "methods": judge(before, after),
        "alerts": alerts(after),
    }
    if options.fit:
        result["points"] = fit(before)
    if options.json:
        support.print_json(result)
        return
    show(result)


def build(database: Path, file: Path) -> None:
    """The model card_fraud_scores over the payments of the file, by dbt."""
    import duckdb
    from dbt.cli.main import dbtRunner

    with duckdb.connect(str(database)) as connection:
        connection.execute("set timezone = 'UTC'")
        connection.execute(RAW.replace("$file", "'" + str(file).replace("'", "''") + "'"))
    os.environ["SIGNALBOX_DBT_TEST_DB"] = str(database)
    where = ["--project-dir", str(DBT_PROJECT), "--profiles-dir", str(DBT_PROJECT)]
    where += ["--target", "test", "--target-path", str(database.parent / "target"), "--quiet"]
    where += ["--log-path", str(database.parent / "logs")]
    for command in ("seed", "run"):
        select = "card_fraud_rules" if command == "seed" else "card_fraud_scores"
        done = dbtRunner().invoke([command, "--select", select, *where])
        if not done.success:
            sys.exit(f"dbt {command} failed: {done.exception or done.result}")


def read(database: Path) -> dict[str, list[Any]]:
    """Scored payments in order of time, as columns."""
    import duckdb

    columns = ", ".join(f"scores.{name}::double as {name}" for name in FEATURES)
    with duckdb.connect(str(database)) as connection:
        connection.execute("set timezone = 'UTC'")
        table = connection.execute(
            f"select {columns}, fraud_score, is_alert, scores.customer_id as card, "
            f"coalesce({PLAIN_RULES}, 0) as plain, (paid_at::date)::varchar as day, "
            "truth.is_fraud::int as fraud "
            "from main.card_fraud_scores as scores "
            "join main.truth on scores.transaction_id = truth.transaction_id order by paid_at"
        ).to_arrow_table()
    return dict(table.to_pydict())


def parts(
    payments: dict[str, list[Any]], split: str
) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    """What came before the day, and from it on."""
    place = next((i for i, day in enumerate(payments["day"]) if day >= split), 0)
    if not 0 < place < len(payments["day"]):
        sys.exit(f"--split {split}: the file has no payments on both sides of that day")
    return (
        {name: values[:place] for name, values in payments.items()},
        {name: values[place:] for name, values in payments.items()},
    )


def judge(before: dict[str, list[Any]], after: dict[str, list[Any]]) -> dict[str, dict[str, float]]:
    """AUC, average precision, and precision and recall with as many flags as our alarm raises."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import average_precision_score, roc_auc_score

    boosting = HistGradientBoostingClassifier(max_iter=200, learning_rate=0.05, random_state=0)
    boosting.fit(matrix(before), before["fraud"])
    scores: dict[str, Sequence[float]] = {
        "amount alone": after["amount"],
        "plain rules": after["plain"],
        "card_fraud_scores": after["fraud_score"],
        "gradient boosting": boosting.predict_proba(matrix(after))[:, 1].tolist(),
    }
    flags = sum(score >= ALARM for score in after["fraud_score"])
    days = len(set(after["day"]))
    result = {}
    for name, values in scores.items():
        order = sorted(range(len(values)), key=lambda i: values[i], reverse=True)[:flags]
        found = sum(after["fraud"][i] for i in order)
        result[name] = {
            "auc": round(float(roc_auc_score(after["fraud"], values)), 3),
            "average_precision": round(float(average_precision_score(after["fraud"], values)), 3),
            "flags_per_day": round(flags / days, 1),
            "precision": round(found / flags, 3),
            "recall": round(found / sum(after["fraud"]), 3),
        }
    return result


def matrix(payments: dict[str, list[Any]]) -> Any:
    import numpy

    columns = [numpy.array(payments[name], dtype=float) for name in FEATURES]
    return numpy.stack(columns, axis=1)


def alerts(after: dict[str, list[Any]]) -> dict[str, float]:
    """The signal itself: one alert per card and episode. A card is robbed on days with fraud."""
    rows = list(zip(after["card"], after["day"], after["fraud"], after["is_alert"], strict=True))
    raised = [(card, day, fraud) for card, day, fraud, alert in rows if alert]
    robbed = {(card, day) for card, day, fraud, _ in rows if fraud}
    cards = {card for card, _ in robbed}
    return {
        "alerts": len(raised),
        "alerts_per_day": round(len(raised) / len(set(after["day"])), 2),
        "precision": round(sum(fraud for _, _, fraud in raised) / max(1, len(raised)), 3),
        "cards_robbed": len(cards),
        "cards_caught": len(cards & {card for card, _, fraud in raised if fraud}),
    }


def fit(before: dict[str, list[Any]]) -> dict[str, float]:
    """Points by logistic regression, of the rules that the file has something to say about."""
    import csv

    import numpy
    from sklearn.linear_model import LogisticRegression

    with (DBT_PROJECT / "seeds" / "card_fraud_rules.csv").open() as file:
        rules = [row for row in csv.DictReader(file) if row["feature"] in FEATURES]
    ramps = []
    for rule in rules:
        start, full = float(rule["starts_at"]), float(rule["full_at"])
        values = numpy.array(before[rule["feature"]], dtype=float)
        ramps.append(numpy.clip((numpy.nan_to_num(values) - start) / (full - start), 0, 1))
    model = LogisticRegression(C=10, max_iter=500)
    model.fit(numpy.stack(ramps, axis=1), before["fraud"])
    points = {
        rule["rule"]: round(float(w), 1) for rule, w in zip(rules, model.coef_[0], strict=True)
    }
    return points | {"baseline": round(float(model.intercept_[0]), 1)}


def show(result: dict[str, Any]) -> None:
    support.print_table(
        f"{result['judged']:,} payments in {result['days_judged']} days, "
        f"{result['frauds_judged']} of them fraud",
        ("method", "AUC", "average precision", "flags a day", "precision", "recall"),
        [(name, *map(str, figures.values())) for name, figures in result["methods"].items()],
    )
    support.print_table("Alerts of the signal", ("", ""), texts(result["alerts"]))
    if "points" in result:
        support.print_table("Points", ("rule", "points"), texts(result["points"]))


def texts(figures: dict[str, float]) -> list[tuple[str, str]]:
    return [(name.replace("_", " "), str(figure)) for name, figure in figures.items()]


if __name__ == "__main__":
    main()
