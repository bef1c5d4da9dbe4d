"""Which models run hot, in which order, as which SQL; and why the others do not.

The analyst tags a signal `hot`. The lane then runs it, everything above it, and below it the syncs
of messages and those that mirror an audience, in the SQL that dbt compiles for the target `hot`:
the full form of each model, over a slice that holds whole customers and nobody else.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from orchestration import dbt
from orchestration.hot import across
from orchestration.settings import DBT_PROJECT, Settings
from syncs.spec import SyncSpec, load_specs

TAG = "hot"
EVENTS = "source.signalbox.raw.events"

#: What the lane itself needs of the project, besides what is tagged.
STAGING, MENTIONS, EDGES, SPLITS, IDENTITY = (
    "stg_events",
    "identity_mentions",
    "identity_edges",
    "identity_split_events",
    "identity_map",
)
WAITING = "signals_waiting"
FACTS = ("customer_consents", "suppressions", "customers")


#: What the lane asks every signal for, besides customer_id.
_OF_A_SIGNAL = ("trigger_id", "fired_at", "expires_at")


class HotError(Exception):
    """The project cannot run hot; the message says what to change."""


class Model(msgspec.Struct, frozen=True):
    """One model of the lane.

    `sql` is empty for what is copied from the lake as the last build left it: seeds, tables, and
    what does not follow from the events of one customer.
    """

    name: str
    sql: str
    is_view: bool
    columns: tuple[str, ...]
    parents: tuple[str, ...]
    is_daily: bool = False  # makes a row for each day of each customer

    @property
    def is_copy(self) -> bool:
        return not self.sql


class Project(msgspec.Struct, frozen=True, dict=True):
    """What the lane runs. `models` come in the order in which they are built."""

    fingerprint: str
    models: tuple[Model, ...]
    signals: tuple[str, ...]
    syncs: tuple[str, ...]  # names of sync models
    refused: dict[str, str]  # tagged models and their syncs → why not
    fires_on: dict[str, tuple[str, ...]]  # tagged signals → names of events at which they fire

    def model(self, name: str) -> Model:
        return next(model for model in self.models if model.name == name)

    def has(self, name: str) -> bool:
        return any(model.name == name for model in self.models)

    @functools.cached_property
    def quick_models(self) -> frozenset[str]:
        """What runs at each event: models that need none with a row for each day.

        Of these, the ones that the lane, or a signal or sync of this kind, is made from.
        """
        slow: set[str] = set()
        for model in self.models:
            if model.is_daily or slow & set(model.parents):
                slow.add(model.name)
        wanted = {IDENTITY, WAITING, *FACTS, *self.signals, *self.syncs} - slow
        return self.needs(*wanted)

    @property
    def quick_syncs(self) -> frozenset[str]:
        """Syncs made of quick models only."""
        return self.quick_models & set(self.syncs)

    @functools.cached_property
    def urgent_signals(self) -> frozenset[str]:
        """Quick signals that say at which events they fire."""
        return frozenset(name for name in self.signals if self.fires_on[name]) & self.quick_models

    @functools.cached_property
    def urgent_events(self) -> frozenset[str]:
        """Names of events at which one of these fires."""
        return frozenset(event for name in self.urgent_signals for event in self.fires_on[name])

    @functools.cached_property
    def urgent_models(self) -> frozenset[str]:
        """What runs at any of these events."""
        return self.models_at(self.urgent_events)

    def models_at(self, events: Collection[str]) -> frozenset[str]:
        """What runs at these: signals that fire then, their quick syncs, and all they need."""
        signals = {
            one for one in self.urgent_signals if not set(events).isdisjoint(self.fires_on[one])
        }
        syncs = [one for one in self.quick_syncs if signals & {*self.signals_of(one)}]
        return self.needs(IDENTITY, *FACTS, *signals, *syncs)

    def needs(self, *names: str) -> frozenset[str]:
        """These models and all that they are made from."""
        found = set(names)
        for model in reversed(self.models):
            if model.name in found:
                found |= set(model.parents)
        return frozenset(found)

    def signals_of(self, name: str) -> list[str]:
        """The tagged signals that a model is made from."""
        above = self.needs(name) - {name}
        return [signal for signal in self.signals if signal in above]

    def without(self, name: str, reason: str) -> Project:
        """The project without a model, and without all that needs it."""
        gone = {name: reason}
        for model in self.models:
            lost = next((parent for parent in model.parents if parent in gone), None)
            if lost and model.name not in gone:
                gone[model.name] = f"needs {lost}, which {gone[lost]}"
        if needed := next((base for base in (IDENTITY, *FACTS) if base in gone), None):
            raise HotError(f"the hot lane cannot run without {needed}, which {gone[needed]}")
        asked = {*self.signals, *self.syncs}
        return Project(
            self.fingerprint,
            tuple(model for model in self.models if model.name not in gone),
            tuple(model for model in self.signals if model not in gone),
            tuple(model for model in self.syncs if model not in gone),
            self.refused | {model: gone[model] for model in gone if model in asked},
            self.fires_on,
        )


def load(settings: Settings) -> Project:
    """The project as it stands, compiled once for each version of its files and variables.

    Raises:
        HotError: nothing can run hot.
        DbtFailed: the project does not parse or compile.
    """
    directory = settings.home / "hot"
    directory.mkdir(parents=True, exist_ok=True)
    kept = directory / "project.json"
    fingerprint = _fingerprint(dbt.variables(settings))
    try:
        project = msgspec.json.decode(kept.read_bytes(), type=Project)
        if project.fingerprint == fingerprint:
            return project
    except (OSError, msgspec.MsgspecError):
        pass
    manifest = dbt.manifest(settings)
    choice = choose(manifest)
    sql = dbt.compile_models(choice.run, settings, target=TAG, target_dir=directory / "dbt")
    project = assemble(manifest, choice, sql, fingerprint)
    fresh = kept.with_suffix(".new")
    fresh.write_bytes(msgspec.json.encode(project))
    fresh.replace(kept)
    return project


def assemble(
    manifest: Mapping[str, Any], choice: Choice, sql: Mapping[str, str], fingerprint: str
) -> Project:
    """The project from what was chosen and what dbt made of it, but what reads across customers."""
    nodes = {node["name"]: node for node in manifest["nodes"].values() if _is_data(node)}
    models = tuple(
        Model(
            name=name,
            sql=sql.get(name, ""),
            # Three models read the mentions.
            is_view=nodes[name]["config"]["materialized"] == "view" and name != MENTIONS,
            columns=tuple(nodes[name].get("columns") or {}),
            parents=tuple(
                parent.rpartition(".")[2]
                for parent in _parents(nodes[name])
                if name in choice.run and not parent.startswith("source.")
            ),
            is_daily=bool(nodes[name]["config"].get("meta", {}).get("rolls_daily")),
        )
        for name in _in_order(choice, nodes)
    )
    fires_on = {signal: _fires_on(nodes[signal]) for signal in choice.signals}
    project = Project(fingerprint, models, choice.signals, choice.syncs, choice.refused, fires_on)
    return _of_one_customer(project)


def _of_one_customer(project: Project) -> Project:
    """The project without models that read across customers; the lane's own are meant to."""
    run = {model.name for model in project.models if not model.is_copy}
    for model in project.models:
        if model.name in run - {STAGING, MENTIONS, EDGES, SPLITS, IDENTITY}:
            reason = across.reason(model.sql, run)
            if reason and project.has(model.name):
                project = project.without(model.name, reason)
    return project


class Choice(msgspec.Struct, frozen=True):
    """What a manifest says of the lane: which models run, which are copied, which are refused."""

    run: tuple[str, ...]
    copies: tuple[str, ...]
    signals: tuple[str, ...]
    syncs: tuple[str, ...]
    refused: dict[str, str]


def choose(manifest: Mapping[str, Any]) -> Choice:
    """Read tags and lineage. Raises HotError when what the lane itself needs cannot run."""
    judge = _Judge(manifest)
    nodes = [node for node in manifest["nodes"].values() if node["resource_type"] == "model"]
    tagged = [node for node in nodes if TAG in node["config"].get("tags", [])]
    acting = [spec for spec in load_specs(manifest) if acts_at_once(spec)]
    refused: dict[str, str] = {}
    signals = []
    for node in sorted(tagged, key=lambda node: node["name"]):
        reason = judge.refusal(node["unique_id"]) or _not_a_signal(node)
        if reason:
            refused[node["name"]] = reason
        else:
            signals.append(node["name"])
    below = {spec.model: spec for spec in acting if judge.descends(spec.unique_id, tagged)}
    syncs = []
    for name, spec in sorted(below.items()):
        reason = judge.refusal(spec.unique_id)
        lost = [one for one in refused if judge.descends(spec.unique_id, [judge.by_name(one)])]
        if reason or lost:
            refused[name] = reason or f"needs {lost[0]}, which {refused[lost[0]]}"
        else:
            syncs.append(name)
    base = [STAGING, MENTIONS, EDGES, SPLITS, IDENTITY, *FACTS]
    for name in base:
        if reason := judge.refusal(judge.by_name(name)["unique_id"]):
            raise HotError(f"the hot lane cannot run without {name}, which {reason}")
    if judge.known(WAITING) and not judge.refusal(judge.by_name(WAITING)["unique_id"]):
        base.append(WAITING)
    run, copies = judge.needed([*base, *signals, *syncs])
    return Choice(tuple(run), tuple(copies), tuple(signals), tuple(syncs), refused)


def acts_at_once(spec: SyncSpec) -> bool:
    """Whether its rows need not wait for the micro-batch: messages, and who joins an audience.

    Rows that are created and updated are left to it: of those the newest counts, not the soonest.
    """
    return spec.is_message or (spec.mode == "mirror" and spec.has("customer_id"))


class _Judge:
    """What can be done with each node: run hot, copied from the lake, or neither."""

    def __init__(self, manifest: Mapping[str, Any]) -> None:
        self._nodes = manifest["nodes"]
        self._ids = {
            node["name"]: unique_id for unique_id, node in self._nodes.items() if _is_data(node)
        }
        self._refusals: dict[str, str | None] = {}

    def known(self, name: str) -> bool:
        return name in self._ids

    def by_name(self, name: str) -> Mapping[str, Any]:
        if name not in self._ids:
            raise HotError(f"the hot lane cannot run without the model {name}; it is not there")
        node: Mapping[str, Any] = self._nodes[self._ids[name]]
        return node

    def descends(self, unique_id: str, ancestors: Iterable[Mapping[str, Any]]) -> bool:
        wanted = {node["unique_id"] for node in ancestors}
        return bool(wanted & self._above(unique_id))

    def refusal(self, unique_id: str) -> str | None:
        """Why a node can be neither run nor copied, as the end of a sentence; None if it can."""
        if unique_id not in self._refusals:
            self._refusals[unique_id] = self._judge(unique_id)
        return self._refusals[unique_id]

    def is_copy(self, unique_id: str) -> bool:
        """Whether it is taken from the lake as the last build left it."""
        node = self._nodes[unique_id]
        if node["resource_type"] == "seed" or node["config"]["materialized"] == "table":
            return True
        if any(parent.startswith("source.") and parent != EVENTS for parent in _parents(node)):
            return True
        return not across.CUSTOMER_KEYS & set(node.get("columns") or {})

    def needed(self, names: Iterable[str]) -> tuple[list[str], list[str]]:
        """Names of the models to run and of those to copy, for these models."""
        run: list[str] = []
        copies: list[str] = []
        todo = [self._ids[name] for name in names]
        seen = set(todo)
        while todo:
            unique_id = todo.pop()
            node = self._nodes[unique_id]
            if self.is_copy(unique_id):
                copies.append(node["name"])
                continue
            run.append(node["name"])
            for parent in _parents(node):
                if parent not in seen and not parent.startswith("source."):
                    seen.add(parent)
                    todo.append(parent)
        return sorted(run), sorted(copies)

    def _judge(self, unique_id: str) -> str | None:
        if unique_id.startswith("source."):
            # What was learned stands fast until the next training.
            if unique_id.split(".")[2] in ("raw", "learned"):
                return None
            return (
                f"reads {unique_id.split('.')[2]}, which is written after the fact and is not in "
                "the log; leave that to a sync's policies (cap, expires_after)"
            )
        node = self._nodes[unique_id]
        if node["resource_type"] == "seed":
            return None
        if node["resource_type"] != "model":
            return f"is a {node['resource_type']}, and only models run hot"
        if node.get("language", "sql") != "sql":
            return "is written in Python, and only SQL runs hot; write it in SQL"
        kind = node["config"]["materialized"]
        if kind not in ("view", "incremental", "table"):
            return f"is materialized as {kind}; make it a view, or incremental by customer"
        if node["config"].get("incremental_strategy") == "microbatch":
            return (
                "is built by event time (microbatch), not by customer; make it a view, or "
                "incremental with the strategy by_customer"
            )
        for parent in _parents(node):
            if reason := self.refusal(parent):
                if parent.startswith("source."):
                    return reason
                return f"needs {self._nodes[parent]['name']}, which {reason}"
        return None

    def _above(self, unique_id: str) -> set[str]:
        found: set[str] = set()
        todo = [unique_id]
        while todo:
            here = todo.pop()
            if here not in found:
                found.add(here)
                todo += _parents(self._nodes[here]) if here in self._nodes else []
        return found


def specs(project: Project, manifest: Mapping[str, Any]) -> list[SyncSpec]:
    """The syncs of the lane."""
    return [spec for spec in load_specs(manifest) if spec.model in project.syncs]


def _not_a_signal(node: Mapping[str, Any]) -> str | None:
    columns = set(node.get("columns") or {})
    if "customer_id" not in columns:
        return (
            "has no column customer_id: its rows do not follow from the events of one customer, so "
            "it would have to look back on everybody's history; select it, and name it in the YAML"
        )
    if node["config"]["materialized"] == "table":
        return "is a table, rebuilt as a whole; make it a view or incremental by customer"
    if lacking := [name for name in _OF_A_SIGNAL if name not in columns]:
        return f"is no signal without {', '.join(lacking)}; tag the signal that is made from it"
    return None


def _fires_on(node: Mapping[str, Any]) -> tuple[str, ...]:
    declared = node["config"].get("meta", {}).get("fires_on", [])
    if not isinstance(declared, list) or not all(isinstance(event, str) for event in declared):
        raise HotError(
            f"meta.fires_on of {node['name']} is {declared!r}; "
            "write a list of event names, like [Card Transaction]"
        )
    return tuple(declared)


def _parents(node: Mapping[str, Any]) -> list[str]:
    return list((node.get("depends_on") or {}).get("nodes") or [])


def _is_data(node: Mapping[str, Any]) -> bool:
    return node["resource_type"] in ("model", "seed", "snapshot")


def _in_order(choice: Choice, nodes: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Copies first, then each model after what it needs; by name where that leaves a choice."""
    done = list(choice.copies)
    left = list(choice.run)
    while left:
        ready = [
            name
            for name in left
            if all(
                parent.startswith("source.") or parent.rpartition(".")[2] in done
                for parent in _parents(nodes[name])
            )
        ]
        done.append(ready[0])
        left.remove(ready[0])
    return done


def _fingerprint(variables: Mapping[str, Any]) -> str:
    """Of everything that the compiled SQL depends on."""
    import duckdb

    digest = hashlib.sha256(json.dumps(variables, sort_keys=True).encode())
    digest.update(duckdb.__version__.encode())  # whose hashes of ids are kept
    files = [
        path for part in ("models", "macros", "seeds") for path in (DBT_PROJECT / part).rglob("*")
    ]
    files += [DBT_PROJECT / "dbt_project.yml", DBT_PROJECT / "profiles.yml"]
    files += [Path(__file__), Path(across.__file__)]
    for path in sorted(path for path in files if path.is_file()):
        digest.update(str(path.relative_to(DBT_PROJECT.parent)).encode() + b"\0")
        digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()
