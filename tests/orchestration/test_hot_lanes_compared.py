"""What is said of a day's two lanes. That they agree is tested with real processes, in e2e."""

from __future__ import annotations

from datetime import datetime

from orchestration.hot.parity import Action, Comparison

FREEZE = Action(
    "webhook__card_freeze", ("card_fraud",), "cus_1", "e_7", datetime(2026, 3, 1, 9, 30, 5)
)


def test_a_day_on_which_both_agree_is_told_as_such() -> None:
    assert Comparison().summary == "No signal that runs hot was acted on."
    agreed = Comparison(hot=3)
    assert agreed.differences == []
    assert "derives every one" in agreed.summary


def test_differences_are_sentences_that_name_all_one_needs_to_look() -> None:
    found = Comparison(hot=2, batch=1, not_derived=[FREEZE], missed=[FREEZE])
    serious, harmless = found.differences
    assert serious.endswith(
        "webhook__card_freeze to cus_1 for card_fraud e_7, fired 2026-03-01 09:30:05 UTC"
    )
    assert "the warehouse has no such signal" in serious
    assert harmless.startswith("Sent by the micro-batch, not by the hot lane")
    assert "1 of the hot lane's do not follow" in found.summary
    assert "derives every one" not in found.summary
