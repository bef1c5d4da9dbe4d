"""What a signal's SQL, as it stands in the working tree, would have done in the past."""

from __future__ import annotations

from orchestration.backtest.figures import Backtest, Quality
from orchestration.backtest.outcome import Outcome
from orchestration.backtest.replay import BacktestError, backtest

__all__ = ["Backtest", "BacktestError", "Outcome", "Quality", "backtest"]
