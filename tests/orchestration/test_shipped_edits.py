"""When an edit of the project counts as shipped, with real files."""

from __future__ import annotations

import os
import time
from hashlib import sha256
from pathlib import Path

import pytest

from orchestration import dbt
from orchestration.edits import Built, EditRefused, Edits
from orchestration.settings import Settings


class Desk:
    """An analyst's project, and what was built of it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.now = folder, 1_000.0
        self.built: dict[str, Built] = {}
        self.objection: str | None = None
        for name in ("models/signals", "macros", "seeds", "models/ops"):
            (folder / name).mkdir(parents=True)
        self.save("dbt_project.yml", "")
        self.save("models/signals/risk.sql", "select 1")
        self.edits = Edits(
            folder, lambda: self.built, lambda: self.objection, lambda: self.text("models")
        )

    def text(self, part: str) -> str:
        return "".join(path.read_text() for path in sorted((self.folder / part).rglob("*.*")))

    def save(self, name: str, text: str) -> None:
        self.now += 10
        (self.folder / name).write_text(text)
        os.utime(self.folder / name, (self.now, self.now))

    def shipped(self) -> bool:
        """As of the second look: during the first somebody may still be saving."""
        return self.edits.shipped() or self.edits.shipped()


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_a_model_has_shipped_when_it_was_built_after_it_was_saved(desk: Desk) -> None:
    assert not desk.shipped()
    desk.save("models/signals/risk.sql", "select 2")
    desk.built["risk"] = Built(desk.now - 5)
    assert not desk.shipped(), "the build before the edit says nothing of it"
    desk.built["risk"] = Built(desk.now + 1)
    assert desk.shipped()
    assert not desk.shipped(), "once is enough"


def test_a_new_model_waits_for_its_first_build_and_a_tag_for_nothing(desk: Desk) -> None:
    desk.save("models/signals/new.sql", "select 3")
    assert not desk.shipped()
    desk.built["new"] = Built(desk.now + 1)
    assert desk.shipped()
    desk.save("models/signals/signals.yml", "tags: [hot]")
    assert desk.shipped()
    (desk.folder / "models/signals/new.sql").unlink()
    assert desk.shipped(), "who removes a model builds nothing"


def test_a_micro_batch_that_builds_the_old_text_ships_nothing(desk: Desk) -> None:
    old, new = (sha256(f"select {number}".encode()).hexdigest() for number in (1, 2))
    desk.save("models/signals/risk.sql", "select 2\n")
    desk.built["risk"] = Built(desk.now + 100, old)
    assert not desk.shipped()
    desk.built["risk"] = Built(desk.now + 100, new)
    assert desk.shipped()


def test_what_is_still_being_saved_waits(desk: Desk) -> None:
    desk.save("models/signals/signals.yml", "tags: [")
    assert not desk.edits.shipped()
    desk.save("models/signals/signals.yml", "tags: [hot]")
    assert not desk.edits.shipped()
    assert desk.edits.shipped()


def test_a_broken_edit_is_told_once_and_mended_taken(desk: Desk) -> None:
    desk.objection = "signals.yml: expected a list"
    desk.save("models/signals/signals.yml", "tags: [")
    with pytest.raises(EditRefused, match="expected a list"):
        desk.shipped()
    assert not desk.shipped()
    desk.objection = None
    desk.save("models/signals/signals.yml", "tags: [hot]")
    assert desk.shipped()


def test_an_edit_that_changes_nothing_disturbs_nobody(desk: Desk) -> None:
    desk.save("seeds/notes.csv", "a")
    assert not desk.shipped()


def test_a_draft_is_not_in_force_where_the_project_is_pinned(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = dbt.manifest_path(settings).stat().st_mtime_ns
    monkeypatch.setattr(dbt, "_pinned", None)
    monkeypatch.setattr(dbt, "_warm", None)
    dbt.pin(settings)
    monkeypatch.setattr(dbt, "project_mtime", lambda: time.time() + 60)  # somebody saves
    pinned = dbt.manifest_path(settings)
    assert pinned.read_bytes() == (dbt.target_dir(settings) / "manifest.json").read_bytes()
    assert (dbt.target_dir(settings) / "manifest.json").stat().st_mtime_ns == before
    kept = dbt._warm
    dbt.warm_up(settings)
    assert dbt._warm is kept is not None
    monkeypatch.setattr(dbt, "_pinned", None)
    assert dbt.manifest_path(settings).stat().st_mtime_ns > before, "others read the draft"
