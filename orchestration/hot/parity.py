"""A day's two lanes side by side: what the ledger says was acted on, and what the models say."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from orchestration import dbt, lake, postgres
from orchestration.hot import project as projects
from orchestration.settings import Settings


@dataclass(frozen=True)
class Action:
    """A message of a hot sync, as the ledger has it, and the signals that it is made from."""

    sync: str
    signals: tuple[str, ...]
    customer_id: str
    trigger_id: str
    fired_at: datetime

    def __str__(self) -> str:
        signals = " or ".join(self.signals)
        return (
            f"{self.sync} to {self.customer_id} for {signals} {self.trigger_id}, "
            f"fired {self.fired_at:%Y-%m-%d %H:%M:%S} UTC"
        )


@dataclass
class Comparison:
    """Messages of the hot syncs whose signal fired within a span of time.

    `not_derived` were sent by the hot lane for a trigger that the warehouse does not have now, as
    happens when an event that came late took the reason away; `missed` the micro-batch had to send:
    the lane was down, or only a new day made them due.
    """

    hot: int = 0
    batch: int = 0
    not_derived: list[Action] = field(default_factory=list)
    missed: list[Action] = field(default_factory=list)

    @property
    def differences(self) -> list[str]:
        """One sentence each, the serious ones first."""
        return [
            f"Sent by the hot lane, and the warehouse has no such signal (now): {action}"
            for action in self.not_derived
        ] + [f"Sent by the micro-batch, not by the hot lane: {action}" for action in self.missed]

    @property
    def summary(self) -> str:
        """How the lanes compare, and what to do if they differ."""
        if not self.hot + self.batch:
            return "No signal that runs hot was acted on."
        told = f"The hot lane acted on {self.hot:,} signals, the micro-batch on {self.batch:,}."
        if self.missed:
            told += (
                " The latter are no error: the lane was down or behind, or a new day made them due."
            )
        if self.not_derived:
            told += (
                f" {len(self.not_derived):,} of the hot lane's do not follow from what the "
                "warehouse knows today. Either an event that came late took the reason away "
                "(signalbox customer ID shows it), or an edit changed the signal, or its SQL reads "
                "across customers: then take its tag hot away."
            )
        elif self.hot:
            told += " The warehouse derives every one of the hot lane's."
        return told


def compare(settings: Settings, since: datetime, until: datetime) -> Comparison:
    """Compare the lanes for signals that fired from `since` on and before `until`."""
    import psycopg2

    found = Comparison()
    project = projects.load(settings)
    specs = [spec for spec in projects.specs(project, dbt.manifest(settings)) if spec.is_message]
    signals = {spec.name: tuple(project.signals_of(spec.model)) for spec in specs}
    connection = psycopg2.connect(postgres.start(settings).ledger)
    try:
        with connection.cursor() as cursor:
            cursor.execute(
                "select sync, lane, customer_id, trigger_id, event_at at time zone 'UTC'"
                " from actions"
                " where sync = any(%s) and event_at >= %s and event_at < %s"
                " and state <> 'expired' and policy is distinct from 'ledger_began'"
                " order by sync, event_at, action_key",
                (list(signals), since, until),
            )
            actions = cursor.fetchall()
    finally:
        connection.close()
    triggers = sorted({trigger for *_, trigger, _ in actions})
    with lake.connect(settings) as warehouse:
        # Whenever it fired by now: a late event may have moved it over midnight.
        derived = {
            (signal, str(trigger))
            for signal in set().union(*signals.values())
            for (trigger,) in warehouse.execute(
                f"select trigger_id from {signal} where trigger_id in (select unnest(?))",
                [triggers],
            ).fetchall()
        }
    for sync, lane, customer, trigger, fired_at in actions:
        action = Action(sync, signals[sync], customer, trigger, fired_at)
        if lane != "hot":
            found.batch += 1
            found.missed.append(action)
            continue
        found.hot += 1
        # By trigger alone: the customer may have another name by now.
        if not any((signal, trigger) in derived for signal in action.signals):
            found.not_derived.append(action)
    return found
