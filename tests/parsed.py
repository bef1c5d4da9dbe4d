"""What dbt makes of the project before it runs it, kept so that not every test's home parses anew.

Parsing takes seven seconds. dbt itself sees what has changed since, by the files' checksums.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

CACHE = Path(sys.prefix) / "parsed"
#: The file that dbt goes on from.
STATE = "partial_parse.msgpack"


def into(home: Path) -> None:
    """Let a new home be one that has parsed the project."""
    from orchestration import dbt
    from orchestration.settings import Settings

    parsed = dbt.manifest_path(Settings(home=CACHE / "home", _env_file=None)).parent
    shutil.copytree(parsed, home / parsed.name, ignore=shutil.ignore_patterns("logs", ".*"))


def lend(target: str, directory: Path) -> None:
    """Let dbt's target directory begin with what was parsed for this target before."""
    kept = CACHE / f"{target}.msgpack"
    if kept.exists():
        directory.mkdir(parents=True, exist_ok=True)
        shutil.copy(kept, directory / STATE)


def keep(target: str, directory: Path) -> None:
    """Keep what dbt has parsed for this target, for the next process or run."""
    CACHE.mkdir(exist_ok=True)
    draft = directory / f"{STATE}.kept"
    shutil.copy(directory / STATE, draft)
    draft.replace(CACHE / f"{target}.msgpack")
