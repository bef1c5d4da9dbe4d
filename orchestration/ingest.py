"""Wires the ingestion room to this home: collector, contracts, log, loads."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from orchestration import postgres
from orchestration.settings import Settings

if TYPE_CHECKING:
    from ingestion.destination import Lake
    from ingestion.importer import ImportResult
    from ingestion.load import Loader


def serve_collector(settings: Settings) -> None:
    """Accept events until SIGTERM or SIGINT."""
    from ingestion.collector import run
    from ingestion.request import SourcePolicy

    policies = settings.unknown_events
    run(
        settings.log_dir,
        {
            key: SourcePolicy(name, policies.get(name, policies.get("*", "quarantine")))
            for name, key in settings.write_keys.items()
        },
        host=settings.host,
        port=settings.collector_port,
    )


def loader(settings: Settings) -> Loader:
    """The process's loader; kept, because its first load pays for imports and attaching."""
    return _loader(settings.home, settings.lake_path, postgres.start(settings).lake)


@lru_cache(maxsize=2)
def _loader(home: Path, lake_path: str, catalog_url: str) -> Loader:
    from ingestion.load import Loader

    return Loader(catalog_url, lake_path, home / "log", home / "dlt")


def load_crm(settings: Settings) -> int:
    """Read the CRM's contacts into the raw layer; returns how many there are."""
    from ingestion.sources.crm import load_crm as load

    url = settings.crm_url or f"{settings.sandbox_url}/hubspot"
    token = settings.crm_token.get_secret_value() if settings.crm_token else "sandbox"
    return load(_lake(settings), url, token).rows


def load_support(settings: Settings) -> int:
    """Read new and changed tickets into the raw layer; returns how many were read."""
    from ingestion.sources.support import load_support as load

    url = settings.support_url or f"{settings.sandbox_url}/support"
    token = settings.support_token.get_secret_value() if settings.support_token else "sandbox"
    return load(_lake(settings), url, token).rows


def import_file(
    settings: Settings,
    file: Path,
    mapping: Path | None,
    source: str,
    on_progress: Callable[[int, float], None] | None = None,
) -> ImportResult:
    """Put a file of past events into the event log; `on_progress` gets messages and share done."""
    from ingestion.importer import import_file as run

    return run(file, settings.log_dir, source=source, mapping=mapping, progress=on_progress)


def contract_problems() -> list[dict[str, str]]:
    """What is wrong with the contract files, as `{file, problem}`."""
    from ingestion.contract import lint

    return [{"file": problem.file, "problem": problem.message} for problem in lint()]


def check_contracts() -> str | tuple[str, str]:
    """One line on the contract files; a pair with "wrong" if there is something to mend."""
    from ingestion.contract import CONTRACTS

    problems = contract_problems()
    if problems:
        return "wrong", f"{len(problems)} problems; see signalbox contracts check"
    return f"{len(list(CONTRACTS.glob('*.json')))} contracts are valid and documented"


def _lake(settings: Settings) -> Lake:
    from ingestion.destination import Lake

    return Lake(postgres.start(settings).lake, settings.lake_path, settings.home / "dlt")
