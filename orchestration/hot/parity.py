"""A day's two lanes side by side: what the ledger says was acted on, and what the models say."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from orchestration import dbt, lake, postgres
from orchestration.hot import project as projects
from orchestration.settings import Settings


@dataclass
class Comparison:
    """Messages of the hot syncs whose signal fired within a span of time.

    `not_derived` were sent by the hot lane for a trigger that the warehouse does not have now, as
    happens when an event that came late took the reason away; `missed` the micro-batch had to send:
    the lane was down, or only a new day made them due.
    """

    hot: int = 0
    batch: int = 0
    not_derived: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)

    @property
    def differences(self) -> list[str]:
        """One line each, the serious ones first."""
        return [f"not derived: {line}" for line in self.not_derived] + [
            f"by the micro-batch: {line}" for line in self.missed
        ]


def compare(settings: Settings, since: datetime, until: datetime) -> Comparison:
    """Compare the lanes for signals that fired from `since` on and before `until`."""
    import psycopg2

    found = Comparison()
    project = projects.load(settings)
    specs = [spec for spec in projects.specs(project, dbt.manifest(settings)) if spec.is_message]
    connection = psycopg2.connect(postgres.start(settings).ledger)
    try:
        with connection.cursor() as cursor:
            cursor.execute(
                "select sync, lane, customer_id, trigger_id from actions"
                " where sync = any(%s) and event_at >= %s and event_at < %s"
                " and state <> 'expired' and policy is distinct from 'ledger_began'"
                " order by sync, event_at, action_key",
                ([spec.name for spec in specs], since, until),
            )
            actions = cursor.fetchall()
    finally:
        connection.close()
    with lake.connect(settings) as warehouse:
        for spec in specs:
            triggers: set[str] = set()
            for signal in project.signals_of(spec.model):
                rows = warehouse.execute(
                    f"select trigger_id from {signal} where fired_at >= ? and fired_at < ?",
                    [since, until],
                ).fetchall()
                triggers |= {str(row[0]) for row in rows}
            for sync, lane, customer, trigger in actions:
                if sync != spec.name:
                    continue
                line = f"{sync} {customer} {trigger}"
                if lane == "hot":
                    found.hot += 1
                    # By trigger alone: the customer may have another name by now.
                    if trigger not in triggers:
                        found.not_derived.append(line)
                else:
                    found.batch += 1
                    found.missed.append(line)
    return found
