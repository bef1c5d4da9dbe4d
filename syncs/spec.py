"""What a sync is: `config.meta.sync` of a dbt model `sync_<destination>__<what>`.

The only module of the syncs that reads dbt's manifest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from syncs import destinations, policies, templates
from syncs.destinations import Destination
from syncs.policies import Policies, PolicyError
from syncs.results import Fatal

#: Columns that steer a sync and are never sent.
CONTROL_COLUMNS = ("customer_id", "trigger_id", "fired_at", "expires_at")

MODES = ("upsert", "update_only", "mirror", "message")

_KEYS: dict[str, type | tuple[type, ...]] = {
    "destination": str,
    "object": str,
    "mode": str,
    "key": str,
    "max_change_ratio": (int, float),
    "template": str,
    **policies.KEYS,
}
# Two underscores tell a sync from other models about syncs, such as `sync_results`.
_MODEL = re.compile(r"sync_.+__")


class SpecError(Fatal):
    """A sync is declared wrongly; the message names the model, the key and what is allowed."""


class SyncSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One sync.

    `relation` is the model's table as dbt quotes it, `fields` the columns a destination receives,
    in the model's order.
    """

    name: str  # hubspot__customer_health
    model: str  # sync_hubspot__customer_health
    unique_id: str  # model.signalbox.sync_hubspot__customer_health
    relation: str
    destination: str
    object: str
    mode: str
    key: str
    columns: tuple[str, ...]
    policies: Policies = Policies()
    max_change_ratio: float | None = None
    skips_absent: bool = False  # the destination itself leaves out what it does not have
    template: str | None = None
    description: str = ""

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(column for column in self.columns if column not in CONTROL_COLUMNS)

    @property
    def is_message(self) -> bool:
        return self.mode == "message"

    def has(self, column: str) -> bool:
        return column in self.columns


def load_specs(manifest: Path | Mapping[str, Any]) -> list[SyncSpec]:
    """Every sync of a dbt manifest (its path or its content), sorted by name.

    Raises SpecError for the first wrong declaration, also for a `sync_` model without one.
    """
    if isinstance(manifest, Path):
        if not manifest.exists():
            raise SpecError(f"no manifest at {manifest}; build the models first (signalbox build)")
        manifest = msgspec.json.decode(manifest.read_bytes(), type=dict[str, Any])
    specs = [
        _spec(node)
        for node in manifest.get("nodes", {}).values()
        if node.get("resource_type") == "model" and _MODEL.match(node["name"])
    ]
    return sorted(specs, key=lambda spec: spec.name)


def find(specs: list[SyncSpec], name: str) -> SyncSpec:
    """The sync called `name`, with or without `sync_`. Raises SpecError listing the others."""
    wanted = name.removeprefix("sync_")
    for spec in specs:
        if spec.name == wanted:
            return spec
    raise SpecError(f"no sync {name!r}; there are: {', '.join(spec.name for spec in specs)}")


def _spec(node: Mapping[str, Any]) -> SyncSpec:
    model = node["name"]
    declared = _declared(model, node)
    _check_keys(model, declared)
    destination = _destination(model, declared)
    columns = tuple(node.get("columns") or {})
    if not columns:
        raise SpecError(f"{model}: columns: list the model's columns in its YAML")
    object_name = _object(model, declared, destination)
    destination = destination.of(object_name)
    mode = _mode(model, declared, destination, object_name)
    _check_columns(model, declared["key"], mode, columns, destination)
    ratio = declared.get("max_change_ratio")
    if ratio is not None and (mode == "message" or not 0 < ratio <= 1):
        raise SpecError(
            f"{model}: max_change_ratio: a number above 0 and up to 1, not for messages"
        )
    return SyncSpec(
        name=model.removeprefix("sync_"),
        model=model,
        unique_id=node.get("unique_id", model),
        relation=_relation(node),
        destination=destination.name,
        object=object_name,
        mode=mode,
        key=declared["key"],
        columns=columns,
        policies=_policies(model, declared, mode, columns, destination),
        max_change_ratio=None if ratio is None else float(ratio),
        skips_absent=destination.skips_absent,
        template=_template(model, declared, mode, destination),
        description=node.get("description") or "",
    )


def _declared(model: str, node: Mapping[str, Any]) -> Mapping[str, Any]:
    meta = (node.get("config") or {}).get("meta") or {}
    declared = meta.get("sync")
    if not isinstance(declared, Mapping):
        raise SpecError(
            f"{model}: config.meta.sync: a sync model declares destination, mode and key there"
        )
    return declared


def _check_keys(model: str, declared: Mapping[str, Any]) -> None:
    unknown = sorted(set(declared) - set(_KEYS))
    if unknown:
        raise SpecError(f"{model}: {unknown[0]}: unknown key; allowed are {', '.join(_KEYS)}")
    for required in ("destination", "mode", "key"):
        if required not in declared:
            raise SpecError(f"{model}: {required}: missing")
    for name, value in declared.items():
        if not isinstance(value, _KEYS[name]) or isinstance(value, bool):
            wanted = "a text" if _KEYS[name] is str else "a number"
            raise SpecError(f"{model}: {name}: must be {wanted}, not {value!r}")


def _destination(model: str, declared: Mapping[str, Any]) -> Destination:
    name = declared["destination"]
    try:
        destination = destinations.load(name)
    except Fatal as error:
        raise SpecError(f"{model}: destination: {error}") from None
    if not model.startswith(f"sync_{name}__"):
        raise SpecError(
            f"{model}: destination: a sync to {name} is called sync_{name}__<what it carries>"
        )
    return destination


def _mode(
    model: str, declared: Mapping[str, Any], destination: Destination, object_name: str
) -> str:
    mode = str(declared["mode"])
    allowed = [known for known in MODES if known in destination.modes]
    if mode not in allowed:
        raise SpecError(
            f"{model}: mode: {mode!r} is not a mode of {destination.name}; "
            f"allowed: {', '.join(allowed)}"
        )
    if mode == "update_only" and not (
        destination.skips_absent or object_name in destination.read_back
    ):
        raise SpecError(
            f"{model}: mode: update_only needs to know what {destination.name} has, and "
            f"destinations/{destination.name}.py has no READ_BACK for {object_name}"
        )
    return mode


def _check_columns(
    model: str, key: str, mode: str, columns: tuple[str, ...], destination: Destination
) -> None:
    if key not in columns:
        raise SpecError(f"{model}: key: {key!r} is not a column; columns: {', '.join(columns)}")
    required = set(destination.required_columns)
    if mode == "message":
        required |= set(CONTROL_COLUMNS)
    missing = [column for column in sorted(required) if column not in columns]
    if missing:
        raise SpecError(
            f"{model}: columns: {destination.name} in mode {mode} needs {', '.join(missing)}"
        )


def _object(model: str, declared: Mapping[str, Any], destination: Destination) -> str:
    """The object named, the destination's only one, or what the model's name carries."""
    if destination.objects:
        names = [name for name in destination.objects if "*" not in name]
        only = names[0] if len(destination.objects) == len(names) == 1 else None
        named = declared.get("object", only)
        if not destination.takes(str(named or "")):
            raise SpecError(
                f"{model}: object: {named!r} is not an object of {destination.name}; "
                f"allowed: {', '.join(sorted(destination.objects))}"
            )
        return str(named)
    return str(declared.get("object") or model.partition("__")[2])


def _policies(
    model: str,
    declared: Mapping[str, Any],
    mode: str,
    columns: tuple[str, ...],
    destination: Destination,
) -> Policies:
    try:
        return policies.parse(
            declared,
            model.removeprefix("sync_"),
            is_message=mode == "message",
            columns=columns,
            channel=destination.channel,
            address=destination.address,
        )
    except PolicyError as error:
        raise SpecError(f"{model}: {error}") from None


def _template(
    model: str, declared: Mapping[str, Any], mode: str, destination: Destination
) -> str | None:
    name = declared.get("template")
    if name is None:
        if destination.template_required and mode == "message":
            raise SpecError(
                f"{model}: template: {destination.name} needs one; "
                f"there are: {', '.join(templates.available())}"
            )
        return None
    if mode != "message":
        raise SpecError(f"{model}: template: only messages have one")
    if name not in templates.available():
        raise SpecError(
            f"{model}: template: no syncs/templates/{name}.j2; "
            f"there are: {', '.join(templates.available())}"
        )
    return str(name)


def _relation(node: Mapping[str, Any]) -> str:
    if node.get("relation_name"):
        return str(node["relation_name"])
    parts = (node.get("database"), node.get("schema"), node.get("alias") or node["name"])
    return ".".join('"' + str(part).replace('"', '""') + '"' for part in parts if part)
