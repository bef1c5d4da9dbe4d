"""The documents cannot drift: what exists is named where a newcomer looks for it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import typer

from ingestion import sources
from orchestration.cli import app
from orchestration.settings import ROOT, Settings
from syncs import destinations

README = (ROOT / "README.md").read_text()
ENV_EXAMPLE = (ROOT / ".env.example").read_text()


def commands(group: typer.Typer, prefix: str = "signalbox") -> list[tuple[str, str]]:
    found = []
    for command in group.registered_commands:
        if not command.hidden:
            name = command.name or (command.callback.__name__ if command.callback else "")
            found.append((f"{prefix} {name}", command.callback.__doc__ or ""))
    for nested in group.registered_groups:
        assert nested.typer_instance is not None
        found += commands(nested.typer_instance, f"{prefix} {nested.name}")
    return found


@pytest.mark.parametrize(("command", "help_text"), commands(app))
def test_every_command_has_an_example_and_stands_in_the_readme(
    command: str, help_text: str
) -> None:
    assert "Example:" in help_text
    assert f"`{command}" in README


def test_every_setting_is_explained() -> None:
    for name in Settings.model_fields:
        assert f"SIGNALBOX_{name.upper()}=" in ENV_EXAMPLE


@pytest.mark.parametrize("name", destinations.available())
def test_every_destinations_settings_are_explained(name: str) -> None:
    settings = destinations.load(name).settings
    prefix = settings.model_config.get("env_prefix", "")
    for field in settings.model_fields:
        assert f"{prefix}{field}".upper() + "=" in ENV_EXAMPLE


@pytest.mark.parametrize("name", sources.available())
def test_every_sources_settings_are_explained(name: str) -> None:
    source = sources.load(name)
    for field in source.settings.model_fields:
        assert sources.variable(source, field) + "=" in ENV_EXAMPLE
    if not isinstance(source, sources.RefreshSource):
        assert f"`{name}`" in README


def test_every_contract_stands_in_the_readme() -> None:
    for path in (ROOT / "ingestion" / "contracts").glob("*.json"):
        title = json.loads(path.read_text())["title"]
        assert title in re.sub(r"\s+", " ", README)


def test_links_in_the_documents_lead_somewhere() -> None:
    for document in (ROOT / "README.md", *ROOT.glob("benchmarks/*.md"), *ROOT.glob("docs/**/*.md")):
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            if not target.startswith("http"):
                assert (document.parent / Path(target)).exists(), f"{document}: {target}"


def test_no_file_names_a_package_registry() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock
    assert "--hash=sha256:" in lock
