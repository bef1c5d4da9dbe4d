"""Notices when an edit of the dbt project has shipped, so that what runs can begin again with it.

What stays up (the hot lane, Dagster's code server, the warm process) reads the project once. An
edited model has shipped when it was built into the lake's main schema after it was saved, as
`dbt build --select MODEL+` does; YAML, macros and seeds have when they are saved. Until then an
edit is a draft, which micro-batches leave alone (`dbt.pin`).
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from orchestration.settings import DBT_PROJECT, Settings


class Built(NamedTuple):
    """A model's last build: when, seconds since 1970, and of which file, if it is no view."""

    at: float
    checksum: str | None = None


#: Written after the syncs, without a mark of when.
_UNMARKED = "ops"
Stamps = dict[Path, tuple[int, int]]


class Edits:
    """What was edited since the project was taken as it is.

    Args:
        project: dbt's folder.
        built: the last build of each model, by name.
        check: what speaks against taking the project as it stands, or None.
        digest: of all that matters of the project, as `check` has left it.
    """

    def __init__(
        self,
        project: Path,
        built: Callable[[], Mapping[str, Built]],
        check: Callable[[], str | None],
        digest: Callable[[], str],
    ) -> None:
        self._project, self._built, self._check, self._digest = project, built, check, digest
        self._taken = self._seen = self._stamps()
        self._taken_digest = digest()
        self._judged: Stamps | None = None

    def shipped(self) -> bool:
        """Whether what runs should begin again. To be asked every few seconds.

        Raises EditRefused, once for each edit, if it cannot be taken.
        """
        stamps, before = self._stamps(), self._seen
        self._seen = stamps
        if stamps in (self._taken, self._judged) or stamps != before:
            return False  # nothing new, or somebody is still saving
        if self._unbuilt(stamps):
            return False
        self._judged = stamps
        if objection := self._check():
            raise EditRefused(
                f"The edited project cannot be taken; all goes on as it was. {objection}"
            )
        digest = self._digest()
        news, self._taken_digest = digest != self._taken_digest, digest
        self._taken = stamps
        return news

    def _stamps(self) -> Stamps:
        found = Stamps()
        for folder in ("models", "macros", "seeds"):
            for path in (self._project / folder).rglob("*"):
                with suppress(FileNotFoundError):  # an editor's, gone by now
                    if path.suffix in (".sql", ".yml", ".yaml", ".csv", ".py"):
                        status = path.stat()
                        found[path] = (status.st_mtime_ns, status.st_size)
        status = (self._project / "dbt_project.yml").stat()
        return found | {self._project / "dbt_project.yml": (status.st_mtime_ns, status.st_size)}

    def _unbuilt(self, stamps: Stamps) -> bool:
        models = self._project / "models"
        edited = {
            path: at / 1e9
            for path, (at, size) in stamps.items()
            if path.suffix in (".sql", ".py")
            and path.is_relative_to(models)
            and path.relative_to(models).parts[0] != _UNMARKED
            and self._taken.get(path) != (at, size)
        }
        if not edited:
            return False
        built = self._built()

        def has_shipped(path: Path, saved: float) -> bool:
            last = built.get(path.stem, Built(0.0))
            if last.checksum is None:
                return last.at >= saved
            # Micro-batches build it all the time.
            return last.checksum == sha256(path.read_text().strip().encode()).hexdigest()

        return not all(has_shipped(path, saved) for path, saved in edited.items())


class EditRefused(Exception):
    """An edit cannot be taken; the message says why. What runs goes on with what it has."""


def watch(settings: Settings) -> Edits:
    """The edits of this home's project, from now on."""
    return Edits(
        DBT_PROJECT,
        lambda: _built(settings),
        lambda: _objection(settings),
        lambda: _digest(settings),
    )


def _built(settings: Settings) -> dict[str, Built]:
    from orchestration import lake

    with lake.connect(settings) as connection:
        rows = connection.execute(
            "select model, epoch(built_at), case when as_of_ts is not null then fingerprint end"
            " from build_watermarks"
        ).fetchall()
    return {model: Built(at, checksum) for model, at, checksum in rows}


def _objection(settings: Settings) -> str | None:
    """In a process of its own: dbt takes memory, which would stay in this one."""
    command = [sys.executable, "-m", "orchestration.cli", "hot", "--check", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else done.stderr.strip()[-2000:]


def _digest(settings: Settings) -> str:
    """Of the manifest, without what is only said about things."""
    from orchestration import dbt

    parsed: dict[str, Any] = json.loads((dbt.target_dir(settings) / "manifest.json").read_text())
    matter = [
        [
            name,
            node.get("checksum"),
            node.get("config"),
            {column: one.get("data_type") for column, one in (node.get("columns") or {}).items()},
        ]
        for name, node in sorted(parsed["nodes"].items())
    ]
    matter += [[name, macro["macro_sql"]] for name, macro in sorted(parsed["macros"].items())]
    return sha256(json.dumps(matter, sort_keys=True, default=str).encode()).hexdigest()
