"""How well churn is foretold on real purchases: `python -m benchmarks.churn FILE`.

    python -m benchmarks.churn online_retail.parquet [--as-of 2011-06-01,2011-09-10] [--json]

FILE is the public data set "Online Retail" of the UCI Machine Learning Repository
(https://doi.org/10.24432/C5BW33, CC BY 4.0) as CSV or Parquet with the columns that
ingestion/mappings/online_retail.yaml names. It is imported, loaded, and judged by what
`signalbox evaluate churn` writes; beside it stand what one number alone would say, and gradient
boosting trained on the same rows of churn_training_set.
"""

from __future__ import annotations

import os
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import support
from orchestration import ingest, lake, warehouse
from orchestration.learning import evaluation, points, registry
from orchestration.scratch import Scratch
from orchestration.settings import ROOT, Settings, load_settings

AS_OF = "2011-05-01,2011-06-01,2011-07-01,2011-08-01,2011-09-10"
HORIZON = 90
NAIVE = {
    "recency": "days_since_last_purchase",
    "frequency": "-purchases_lifetime",
    "money": "-revenue_lifetime",
}
MAPPING = ROOT / "ingestion" / "mappings" / "online_retail.yaml"


def fill(settings: Settings, file: Path) -> None:
    ingest.import_file(settings, file, MAPPING, "import")
    with lake.writer(settings, "benchmark"):
        warehouse.ensure(settings)
        ingest.loader(settings).load()


def measure(settings: Settings, as_of: date, out: Path) -> dict[str, Any]:
    """One day: our measures, and those of the others on the same customers."""
    seen: dict[str, registry.TrainingSet] = {}

    def look(step: str, scratch: Scratch) -> None:
        # Looking up the outcome leaves the day itself, with its features, in churn_training_set.
        with scratch.connect() as connection:
            seen[step] = registry.training_set(connection)

    result = evaluation.evaluate(settings, as_of, HORIZON, out, inspect=look)
    assert result.metrics is not None, result.notes
    training, asked = seen["scored"], seen["outcome"]
    found: dict[str, Any] = {
        "as_of": as_of.isoformat(),
        "customers": result.metrics["customers_judged"],
        "left": result.metrics["left_share"],
        "signalbox": {
            name: result.metrics[name] for name in ("auc", "calibration_error", "log_loss")
        },
        "gradient_boosting": boosted(training, asked),
    }
    for name, feature in NAIVE.items():
        values = asked.features[:, asked.names.index(feature.removeprefix("-"))]
        found[f"{name}_auc"] = auc(asked.churned, -values if feature.startswith("-") else values)
    return found


def boosted(training: registry.TrainingSet, asked: registry.TrainingSet) -> dict[str, float]:
    from sklearn.ensemble import HistGradientBoostingClassifier

    model = HistGradientBoostingClassifier(
        max_iter=150, learning_rate=0.05, max_leaf_nodes=15, min_samples_leaf=40, random_state=0
    )
    # It cannot take a feature that is always unknown, such as email in a shop that sends none.
    known = ~np.isnan(training.features).all(axis=0)
    model.fit(training.features[:, known], training.churned)
    measured = points.measures(asked.churned, model.predict_proba(asked.features[:, known])[:, 1])
    return {name: measured[name] for name in ("auc", "calibration_error", "log_loss")}


def auc(churned: Any, values: Any) -> float:
    from sklearn.metrics import roc_auc_score

    return round(float(roc_auc_score(churned, np.nan_to_num(values))), 4)


def main() -> None:
    parser = support.parser(__doc__)
    parser.add_argument("file", type=Path, help="Online Retail, CSV or Parquet")
    parser.add_argument("--as-of", default=AS_OF, help="days, by commas")
    arguments = parser.parse_args()
    home = support.new_home()
    os.environ["SIGNALBOX_HOME"] = str(home)  # dbt asks the environment
    settings = load_settings()
    fill(settings, arguments.file)
    found = [
        measure(settings, date.fromisoformat(day), home / "out.parquet")
        for day in arguments.as_of.split(",")
    ]
    if arguments.json:
        support.print_json({"benchmark": "churn", "horizon_days": HORIZON, "days": found})
        return
    support.print_table(
        f"No purchase in the {HORIZON} days from a day on, foretold the day before: AUC "
        "(calibration error)",
        ["as of", "customers", "left", "signalbox", "boosting", "frequency", "money", "recency"],
        [
            (
                one["as_of"],
                f"{one['customers']:,}",
                f"{one['left']:.1%}",
                *(
                    f"{one[who]['auc']:.3f} ({one[who]['calibration_error']:.3f})"
                    for who in ("signalbox", "gradient_boosting")
                ),
                *(f"{one[f'{name}_auc']:.3f}" for name in ("frequency", "money", "recency")),
            )
            for one in found
        ],
        caption="Data: Online Retail, UCI Machine Learning Repository, CC BY 4.0",
    )


if __name__ == "__main__":
    main()
