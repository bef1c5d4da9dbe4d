"""What may wait lets the hot lane go first."""

from __future__ import annotations

import os
from pathlib import Path

from orchestration.priority import NICENESS
from orchestration.supervisor import Process, Supervisor


def test_a_process_that_goes_second_and_its_children_are_nice(tmp_path: Path) -> None:
    said = tmp_path / "said"
    said.touch()
    command = ["sh", "-c", f"nice >> {said}; sleep 60"]
    for place, second in enumerate((False, True), start=1):
        supervisor = Supervisor(tmp_path / "log", lambda _: None)
        supervisor.start(
            Process(
                "child",
                command,
                ready=lambda place=place: len(said.read_text().split()) == place,  # type: ignore[misc]
                second=second,
            )
        )
        supervisor.stop()
    assert said.read_text().split() == [str(os.nice(0)), str(NICENESS)]
