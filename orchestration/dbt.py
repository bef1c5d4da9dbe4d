"""Runs dbt inside this process, with the manifest and the compiled project kept warm."""

from __future__ import annotations

import fcntl
import json
import queue
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from orchestration.settings import DBT_PROJECT, Settings

# What readers of a run's progress and outcome need. dbt says a hundred times more to itself, and
# turning all of that into JSON would take as long as a small model.
TOLD = frozenset(
    {"LogStartLine", "LogModelResult", "LogSeedResult", "LogSnapshotResult", "LogTestResult"}
)

VARIABLES = "variables.json"
ASKS_FOR = re.compile(r"""\bvar\(\s*['"](\w+)['"]""")

_warm: tuple[float, Any] | None = None
_pinned: Path | None = None


class DbtFailed(Exception):
    """dbt ended with an error; the message is dbt's own, for people."""


def target_dir(settings: Settings) -> Path:
    """Where manifest and compiled SQL of this home live, apart from an analyst's own builds."""
    return settings.home / "dbt"


def manifest_path(settings: Settings) -> Path:
    """The manifest, parsed anew when a file of the project is newer than it, unless pinned."""
    if _pinned is not None:
        return _pinned
    path = target_dir(settings) / "manifest.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with _parse_lock(path.parent):
        if not path.exists() or path.stat().st_mtime < project_mtime():
            _call(["parse"], settings)
    return path


def manifest(settings: Settings) -> dict[str, Any]:
    """The manifest as dbt writes it."""
    parsed: dict[str, Any] = json.loads(manifest_path(settings).read_text())
    return parsed


def warm_up(settings: Settings) -> None:
    """Parse the project into this process, so that later calls (and forks) skip it."""
    global _warm
    if _pinned is None and (_warm is None or _warm[0] < project_mtime()):
        mtime = project_mtime()
        manifest_path(settings)
        _warm = (mtime, _call(["parse", "--no-write-json"], settings))


def pin(settings: Settings) -> None:
    """Take the project as it is now for the rest of this process's life, and of its forks'.

    What an analyst saves while the pipeline runs is a draft until it ships (`orchestration.edits`).
    """
    global _pinned
    warm_up(settings)
    pinned = target_dir(settings) / "pinned" / "manifest.json"
    pinned.parent.mkdir(exist_ok=True)
    draft = pinned.with_suffix(".new")
    draft.write_bytes(manifest_path(settings).read_bytes())
    draft.replace(pinned)
    _pinned = pinned


def invoke(
    args: Sequence[str],
    settings: Settings,
    *,
    as_of: datetime | None = None,
    on_event: Callable[[dict[str, Any]], None] | None = None,
    whole: bool = False,
) -> None:
    """Run one dbt command (`["build", "--select", …]`) and wait for it.

    Args:
        args: the command line after `dbt`.
        settings: which home and which lake.
        as_of: the moment the models look from; now, if left out.
        on_event: called in dbt's thread with each event of dbt's JSON log that is in `TOLD`.
        whole: all of it in one transaction, undone at the first node that fails. For incremental
            models, views and tests.

    Raises:
        DbtFailed: with the failing nodes and dbt's words.
    """
    # Its JSON files are for other programs; ours read Dagster, and writing them takes a while.
    if not whole:
        _call([*args, "--no-write-json"], settings, on_event, as_of)
        return
    from orchestration.dbt_transaction import one_transaction

    with one_transaction() as begun:
        _call([*args, "--no-write-json", "--fail-fast"], settings, on_event, as_of, whole=True)
        for transaction in begun:
            transaction.end(commit=True)


def compile_models(
    names: Sequence[str], settings: Settings, *, target: str, target_dir: Path
) -> dict[str, str]:
    """The SQL of these models as dbt compiles it for another target, by name.

    `target_dir` keeps what dbt remembers of that target apart from the home's own.

    Raises:
        DbtFailed: with dbt's words.
    """
    result = _call(
        [
            "compile",
            "--select",
            *names,
            "--target",
            target,
            "--no-write-json",
            "--log-level",
            "none",
        ],
        settings,
        directory=target_dir,
        warm=False,
    )
    return {node.node.name: node.node.compiled_code for node in result.results}


def compile_inline(name: str, sql: str, settings: Settings) -> str:
    """SQL that calls macros of the project, as dbt compiles it for the lake.

    It is kept under `name` until a file of the project changes, because dbt takes seconds.

    Raises:
        DbtFailed: with dbt's words.
    """
    kept = target_dir(settings) / "inline" / f"{name}.sql"
    head = f"-- {sql}\n"
    if kept.exists() and kept.stat().st_mtime >= project_mtime():
        text = kept.read_text()
        if text.startswith(head):
            return text
    result = _call(["compile", "--inline", sql, "--no-write-json", "--log-level", "none"], settings)
    text = head + str(result.results[0].node.compiled_code)
    kept.parent.mkdir(parents=True, exist_ok=True)
    draft = kept.with_suffix(".new")
    draft.write_text(text)
    draft.replace(kept)
    return text


def keep_built(settings: Settings, parsed: Path) -> None:
    """Remember, for `modified`, that all models were just built as this manifest has them."""
    kept = _built_dir(settings)
    kept.mkdir(parents=True, exist_ok=True)
    for name, text in (
        (VARIABLES, json.dumps({"project": _project_variables(), "set": variables(settings)})),
        (parsed.name, parsed.read_text()),
    ):
        draft = kept / f"{name}.new"
        draft.write_text(text)
        draft.replace(kept / name)


def modified(settings: Settings) -> list[str] | None:
    """The models and seeds that the working tree has changed since the last build of all, sorted.

    dbt's `state:modified` (their files, configuration and macros), and what asks for a var of
    another value. None: no build has left what it was made of.

    Raises:
        DbtFailed: with dbt's words.
    """
    kept = _built_dir(settings)
    if not all((kept / name).exists() for name in (VARIABLES, "manifest.json")):
        return None
    listed = _call(
        [
            *("ls", "--select", "state:modified", "--state", str(kept)),
            *("--resource-type", "model", "--resource-type", "seed"),
            *("--output", "name", "--no-write-json", "--log-level", "none"),
        ],
        settings,
        warm=False,
    )
    kept_variables = json.loads((kept / VARIABLES).read_text())
    before, now = kept_variables["project"], _project_variables()
    edited = {name for name in before.keys() | now.keys() if before.get(name) != now.get(name)}
    edited -= kept_variables["set"].keys()
    found = set(listed)
    if edited:
        parsed = manifest(settings)
        found |= {
            node["name"]
            for node in parsed["nodes"].values()
            if node["resource_type"] == "model" and edited & _asked_variables(node, parsed)
        }
    return sorted(found)


def built_variables(settings: Settings) -> dict[str, Any]:
    """The vars that settings gave to the last build of all; those of now may differ."""
    kept = _built_dir(settings) / VARIABLES
    return dict(json.loads(kept.read_text())["set"]) if kept.exists() else {}


def _built_dir(settings: Settings) -> Path:
    return target_dir(settings) / "built"


def _project_variables() -> dict[str, Any]:
    from dbt.clients.yaml_helper import load_yaml_text

    project = load_yaml_text((DBT_PROJECT / "dbt_project.yml").read_text())
    return dict(project.get("vars") or {})


def _asked_variables(node: dict[str, Any], parsed: dict[str, Any]) -> set[str]:
    """The vars that a model's SQL or a macro it calls, directly or not, asks for."""
    texts, todo, seen = [node["raw_code"]], list(node["depends_on"]["macros"]), set()
    while todo:
        macro = todo.pop()
        if macro not in seen and macro in parsed["macros"]:
            seen.add(macro)
            texts.append(parsed["macros"][macro]["macro_sql"])
            todo += parsed["macros"][macro]["depends_on"]["macros"]
    return {name for text in texts for name in ASKS_FOR.findall(text)}


def stream(
    args: Sequence[str],
    settings: Settings,
    *,
    as_of: datetime | None = None,
    whole: bool = False,
) -> Iterator[dict[str, Any]]:
    """Run one dbt command and yield those events of dbt's JSON log that are in `TOLD`.

    Raises:
        DbtFailed: at the end, if the command failed.
    """
    events: queue.SimpleQueue[dict[str, Any] | BaseException | None] = queue.SimpleQueue()

    def work() -> None:
        try:
            invoke(args, settings, as_of=as_of, on_event=events.put, whole=whole)
            events.put(None)
        except BaseException as error:  # handed to the reader, which raises it
            events.put(error)

    threading.Thread(target=work, name="dbt", daemon=True).start()
    while (item := events.get()) is not None:
        if isinstance(item, BaseException):
            raise item
        yield item


def _call(
    args: Sequence[str],
    settings: Settings,
    on_event: Callable[[dict[str, Any]], None] | None = None,
    as_of: datetime | None = None,
    *,
    whole: bool = False,
    directory: Path | None = None,
    warm: bool = True,
) -> Any:
    from dbt.cli.main import dbtRunner
    from dbt_common.events.functions import msg_to_dict

    def tell(message: Any) -> None:
        if on_event is not None and message.info.name in TOLD:
            on_event(msg_to_dict(message))

    current = _warm and (_pinned or _warm[0] >= project_mtime())
    kept = _warm[1] if warm and _warm and current else None
    directory = directory or target_dir(settings)
    values = variables(settings, as_of) | ({"one_transaction": True} if whole else {})
    # dbt words each of its six hundred events for its log before it asks whether it is to be there.
    # Of a micro-batch Dagster keeps what happened, and what failed is in the error.
    level = "none" if whole else "info"
    command = [
        *args,
        *("--project-dir", str(DBT_PROJECT), "--profiles-dir", str(DBT_PROJECT)),
        *("--target-path", str(directory)),
        *("--log-path", str(directory / "logs"), "--log-level-file", level),
        *("--vars", json.dumps(values), "--quiet", "--no-use-colors"),
        *(("--log-level", level) if whole else ()),
    ]
    runner = dbtRunner(manifest=kept, callbacks=[tell])
    if kept is None or not whole:
        return succeeded(runner.invoke(command))
    from orchestration.dbt_kept import same_project

    with same_project(kept, tuple(args)) as write_files:
        result = runner.invoke(command)
        if not result.success:
            write_files()
        return succeeded(result)


def succeeded(result: Any) -> Any:
    """The result of a dbtRunner's invocation.

    Raises:
        DbtFailed: it failed; with the failing nodes and dbt's words.
    """
    if result.success:
        return result.result
    raise DbtFailed(_explain(result))


def variables(settings: Settings, as_of: datetime | None = None) -> dict[str, Any]:
    """The dbt vars that are settings of Signalbox, and the moment to look from if not now."""
    moment = as_of.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f") if as_of else None
    return {
        "cart_abandoned_minutes": settings.cart_abandoned_minutes,
        **({"as_of": moment} if moment else {}),
    }


def _explain(result: Any) -> str:
    if result.exception is not None:
        return str(result.exception)
    failed = [
        f"{node.node.name}: {node.message}"
        for node in getattr(result.result, "results", [])
        if str(node.status) in {"error", "fail", "runtime error"}
    ]
    return "\n".join(failed) or "dbt failed without a message"


def project_mtime() -> float:
    """When a file of the project was changed last, in seconds since 1970."""
    folders = ("models", "macros", "seeds", "tests")
    files = [path for folder in folders for path in (DBT_PROJECT / folder).rglob("*")]
    files += [DBT_PROJECT / "dbt_project.yml", DBT_PROJECT / "profiles.yml"]
    return max(path.stat().st_mtime for path in files if path.is_file())


@contextmanager
def _parse_lock(directory: Path) -> Iterator[None]:
    # Dagster starts several processes at once, and each would parse into the same files.
    with (directory / ".parse.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
