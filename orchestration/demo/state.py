"""What a demo remembers from one start to the next, in one small JSON file."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from orchestration.demo.errors import SimulatorError
from orchestration.demo.world import World


@dataclass(slots=True)
class DemoState:
    """Which world is played, how often it was started, and how many of each story were told.

    Saved before a story is told: after a crash a story may be missing, never told twice.
    """

    path: Path
    seed: int
    customers: int
    end: datetime
    run: int = 0
    told: dict[str, int] = field(default_factory=dict)

    @classmethod
    def open(
        cls, path: Path, *, seed: int = 7, customers: int = 3000, now: datetime | None = None
    ) -> DemoState:
        """Read the file, or start a new one whose history ends at `now` (default: the clock).

        What the file says wins over the arguments, so a second start plays the same world.
        Raises SimulatorError if the file cannot be understood.
        """
        if not path.exists():
            moment = (now or datetime.now(UTC)).replace(microsecond=0)
            state = cls(path, seed, customers, moment)
            state.save()
            return state
        try:
            saved = json.loads(path.read_text("utf-8"))
            return cls(
                path=path,
                seed=int(saved["seed"]),
                customers=int(saved["customers"]),
                end=datetime.fromisoformat(saved["end"]),
                run=int(saved["run"]),
                told={str(story): int(count) for story, count in saved["told"].items()},
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            raise SimulatorError(
                f"{path} is not a demo state: delete it together with the demo's home and "
                "start the demo again"
            ) from None

    def world(self) -> World:
        """The world this state belongs to."""
        return World(self.seed, self.customers, end=self.end)

    def start_run(self) -> int:
        """Count one more start; returns its number, 1 for the first."""
        self.run += 1
        self.save()
        return self.run

    def claim(self, story: str) -> int:
        """The number of the next telling of `story`, from 0; never given again."""
        number = self.told.get(story, 0)
        self.told[story] = number + 1
        self.save()
        return number

    def save(self) -> None:
        """Replace the file in one step."""
        saved = asdict(self)
        del saved["path"]
        saved["end"] = self.end.isoformat()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_name(self.path.name + ".new")
        with draft.open("w", encoding="utf-8") as file:
            json.dump(saved, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self.path)
