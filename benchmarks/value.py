"""The customer value model against published figures: `python -m benchmarks.value FILE`.

    python -m benchmarks.value CDNOW_sample.txt [--json]

FILE is the CDNOW sample that Fader and Hardie publish with their papers
(https://www.brucehardie.com/datasets/): master id, id, day, CDs, dollars. Fitted to the purchases
until 1997-09-30, in weeks, and judged by those of the 39 weeks after. Published for BG/NBD: Fader,
Hardie and Lee, "Counting Your Customers" the Easy Way (2005).
"""

from __future__ import annotations

from collections import defaultdict
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import support
from orchestration.learning.value_model import BgNbd, Purchases, fit_bg_nbd, fit_gamma_gamma

CALIBRATION_ENDS = date(1997, 9, 30)
WEEKS_AHEAD = 39.0
PUBLISHED = {
    "r": 0.243,
    "alpha": 4.414,
    "a": 0.793,
    "b": 2.426,
    "log_likelihood": -9582.4,
    "expected_purchases": 1653.0,
    "correlation": 0.626,
    "mean_absolute_error": 0.785,
}


def read(file: Path) -> tuple[Purchases, Any, Any, Any]:
    """Customers (n,): purchases, mean value a day, days with a purchase after, value after."""
    value: dict[str, dict[date, float]] = defaultdict(lambda: defaultdict(float))
    for line in file.read_text().splitlines():
        if fields := line.split():
            _, customer, day, _, dollars = fields
            when = date(int(day[:4]), int(day[4:6]), int(day[6:]))
            value[customer][when] += float(dollars)
    rows = []
    for spent in value.values():
        before = sorted(day for day in spent if day <= CALIBRATION_ENDS)
        after = [day for day in spent if 0 < (day - CALIBRATION_ENDS).days <= WEEKS_AHEAD * 7]
        rows.append(
            (
                len(before) - 1,
                (before[-1] - before[0]).days / 7,
                (CALIBRATION_ENDS - before[0]).days / 7,
                sum(spent[day] for day in before) / len(before),
                len(after),
                sum(spent[day] for day in after),
            )
        )
    x, last_at, observed, mean, later, value_later = np.array(rows, float).T
    return Purchases(x, last_at, observed), mean, later, value_later


def measure(file: Path) -> dict[str, float]:
    from sklearn.metrics import roc_auc_score

    past, mean, later, value_later = read(file)
    model: BgNbd = fit_bg_nbd(past)
    money = fit_gamma_gamma(past.repeats + 1, mean)
    expected = model.expected_purchases(past, WEEKS_AHEAD)
    expected_value = expected * money.expected_value(past.repeats + 1, mean)
    silent = later == 0
    pace = past.repeats / np.maximum(past.observed, 1) * WEEKS_AHEAD
    return {
        "customers": len(past),
        **vars(model),
        "log_likelihood": float(model.log_likelihood(past).sum()),
        "expected_purchases": float(expected.sum()),
        "actual_purchases": float(later.sum()),
        "correlation": float(np.corrcoef(expected, later)[0, 1]),
        "mean_absolute_error": float(np.abs(expected - later).mean()),
        "mean_absolute_error_at_the_same_pace": float(np.abs(pace - later).mean()),
        "no_repeat_share": float(silent.mean()),
        "no_repeat_auc": float(roc_auc_score(silent, -expected)),
        "no_repeat_auc_recency": float(roc_auc_score(silent, past.observed - past.last_at)),
        "no_repeat_auc_frequency": float(roc_auc_score(silent, -past.repeats)),
        "expected_value": float(expected_value.sum()),
        "actual_value": float(value_later.sum()),
        "value_correlation": float(np.corrcoef(expected_value, value_later)[0, 1]),
    }


def main() -> None:
    parser = support.parser(__doc__)
    parser.add_argument("file", type=Path, help="CDNOW_sample.txt")
    arguments = parser.parse_args()
    found = measure(arguments.file)
    if arguments.json:
        support.print_json({"benchmark": "value", **found, "published": PUBLISHED})
        return
    support.print_table(
        f"BG/NBD and Gamma-Gamma on {found['customers']:,.0f} customers of CDNOW",
        ["", "here", "published"],
        [
            (name, f"{number:,.3f}", f"{PUBLISHED[name]:,.3f}" if name in PUBLISHED else "")
            for name, number in found.items()
            if name != "customers"
        ],
    )


if __name__ == "__main__":
    main()
