"""Dagster's storage on the embedded Postgres, and its files under `SIGNALBOX_HOME`.

Named in dagster.yaml. These classes only fill in what a static file cannot know: where Postgres
listens and where home is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager
from dagster._core.storage.root import LocalArtifactStorage
from dagster._serdes import ConfigurableClassData
from dagster_postgres import DagsterPostgresStorage

from orchestration import postgres
from orchestration.settings import load_settings


class Storage(DagsterPostgresStorage):  # type: ignore[misc]
    """Runs, events and schedules in the database `signalbox_dagster`."""

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> Storage:
        url = postgres.start(load_settings()).dagster
        return cls(postgres_url=url, inst_data=inst_data)

    # The parts are reached through this class alone; without these the base class would describe
    # them to other processes by a URL that our configuration does not hold.
    @property
    def event_storage_data(self) -> None:
        return None

    @property
    def run_storage_data(self) -> None:
        return None

    @property
    def schedule_storage_data(self) -> None:
        return None


class ComputeLogs(LocalComputeLogManager):
    """stdout and stderr of steps, in `<home>/dagster/logs`."""

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> ComputeLogs:
        return cls(base_dir=str(load_settings().home / "dagster" / "logs"), inst_data=inst_data)


class Artifacts(LocalArtifactStorage):
    """Dagster's local files, in `<home>/dagster`."""

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> Artifacts:
        return cls(base_dir=str(load_settings().home / "dagster"), inst_data=inst_data)
