"""The whole HTTP surface fuzzed for minutes: no 500, and nothing that the description denies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from collector_process import REPRESENTATIVE, fuzz, start, stop

# The number of examples bounds the work; the time is for a machine that does much else.
pytestmark = pytest.mark.timeout(2400)

EXAMPLES_PER_KILL = 2
EXAMPLES_OF_OTHER_NAMES = 4


def test_http(chaos: Any, tmp_path: Path) -> None:
    server = start(tmp_path / "log")
    try:
        many = EXAMPLES_PER_KILL * chaos.kills
        for option, examples in (("--include", many), ("--exclude", EXAMPLES_OF_OTHER_NAMES)):
            chosen = (f"{option}-path-regex", REPRESENTATIVE)
            said = fuzz(server, *chosen, examples=examples, seed=chaos.seed)
            assert "No issues found" in said
    finally:
        assert stop(server) == 0
