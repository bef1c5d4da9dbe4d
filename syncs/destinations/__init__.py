"""Destinations: one file each; the file's name is what a sync model calls it."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pydantic import SecretStr, ValidationError
from pydantic_settings import BaseSettings

from syncs.results import Fatal, HttpClient, Row, RowResult, Target

#: What a destination file must define.
_REQUIRED = (
    "MODES",
    "BATCH_SIZE",
    "RATE",
    "CREDENTIALS",
    "SANDBOX",
    "API_VERSION",
    "Settings",
    "push",
    "check",
)

Push = Callable[[Sequence[Row], Target[Any], HttpClient], list[RowResult]]

#: A harmless call that shows whether the credentials work: one line on whom they belong to.
#: Raises the errors of `syncs.results`.
Check = Callable[[Target[Any], HttpClient], str]


@dataclass(frozen=True, slots=True)
class Sandbox:
    """Where destinations without credentials deliver. Empty: that kind of stand-in is not there.

    `url` is like http://127.0.0.1:8090, `smtp` like 127.0.0.1:8025, `postgres` a URL of a database
    of its own, `directory` a folder for files.
    """

    url: str = ""
    smtp: str = ""
    postgres: str = ""
    directory: str = ""


@dataclass(frozen=True)
class Destination:
    """A destination file's constants and its `push`.

    OBJECTS are names, or patterns such as `lists/*` in which a star is one step of a path. As a
    mapping it says for each what differs from the file's other constants, by the names below.
    """

    name: str
    modes: frozenset[str]
    batch_size: int  # rows per request
    rate: float  # requests per second
    concurrency: int  # requests of one sync at a time, of rows that are created or updated
    credentials: tuple[str, ...]  # settings without which it cannot be used
    sandbox: dict[str, str]  # settings that point it at the sandbox
    settings: type[BaseSettings]
    push: Push
    check: Check
    api_version: str  # of the vendor's API, as the vendor names it
    batch_bytes: int | None  # of the payloads of one request; None: no limit of its own
    objects: frozenset[str]  # empty: any
    required_columns: frozenset[str]
    template_required: bool
    idempotency_key: bool  # it drops a message whose key it has seen
    skips_absent: bool  # in update_only it leaves out by itself what it does not have
    escape: Callable[[str], str] | None  # for values put into a text template
    variables: Callable[[str, Any], dict[str, Any]] | None  # for templates: action key, settings
    headers: Callable[[Row, Any], dict[str, str]] | None  # a message's own, for a look at it
    channel: str | None  # of messages to customers, such as email; it has a suppression list
    address: str | None  # the column with the recipient's address on that channel
    # By object, the source that reads what it has and a query for it: key, fields (JSON text),
    # read_at. READ_BACK in its file.
    read_back: Mapping[str, tuple[str, str]]
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def takes(self, object_name: str) -> bool:
        """Whether it has this object."""
        return not self.objects or any(_fits(name, object_name) for name in self.objects)

    def of(self, object_name: str) -> Destination:
        """The destination as it is for one of its objects."""
        for name, differences in self.variants.items():
            if _fits(name, object_name):
                return replace(self, **differences)
        return self


def available() -> list[str]:
    """Names of all destinations, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str) -> Destination:
    """The destination in `destinations/<name>.py`. Raises Fatal when there is none."""
    if name not in available():
        raise Fatal(f"no destination {name!r}; there are: {', '.join(available())}")
    module = importlib.import_module(f"{__name__}.{name}")
    missing = [constant for constant in _REQUIRED if not hasattr(module, constant)]
    if missing:
        raise Fatal(f"destinations/{name}.py does not define {', '.join(missing)}")
    objects = getattr(module, "OBJECTS", ())
    return Destination(
        name=name,
        modes=frozenset(module.MODES),
        batch_size=int(module.BATCH_SIZE),
        rate=float(module.RATE),
        concurrency=int(getattr(module, "CONCURRENCY", 1)),
        credentials=tuple(module.CREDENTIALS),
        sandbox=dict(module.SANDBOX),
        settings=module.Settings,
        push=module.push,
        check=module.check,
        api_version=str(module.API_VERSION),
        batch_bytes=getattr(module, "BATCH_BYTES", None),
        objects=frozenset(objects),
        required_columns=frozenset(getattr(module, "REQUIRED_COLUMNS", ())),
        template_required=bool(getattr(module, "TEMPLATE_REQUIRED", False)),
        idempotency_key=bool(getattr(module, "IDEMPOTENCY_KEY", False)),
        skips_absent=bool(getattr(module, "SKIPS_ABSENT", False)),
        escape=getattr(module, "escape", None),
        variables=getattr(module, "variables", None),
        headers=getattr(module, "headers", None),
        channel=getattr(module, "CHANNEL", None),
        address=getattr(module, "ADDRESS", None),
        read_back=getattr(module, "READ_BACK", {}),
        variants=objects if isinstance(objects, Mapping) else {},
    )


def resolve(
    destination: Destination, sandbox: Sandbox, *, env_file: Path | None = Path(".env")
) -> Target[Any]:
    """The live target when its credentials are set, the sandbox when none of its settings is.

    Raises Fatal naming the missing variables when only a part is set.
    """
    try:
        settings = _read(destination, env_file)
    except ValidationError as error:
        # Pydantic's own text would quote the value, which may be a secret.
        faults = "; ".join(
            f"{_variable(destination, str(item['loc'][0])) if item['loc'] else destination.name}: "
            f"{item['msg'].removeprefix('Value error, ')}"
            for item in error.errors(include_input=False, include_url=False)
        )
        raise Fatal(f"{destination.name}: {faults}") from None
    missing = [name for name in destination.credentials if not getattr(settings, name)]
    if not missing:
        return Target(destination.name, settings)
    begun = settings.model_fields_set & {*destination.credentials, "base_url"}
    if begun:
        given = ", ".join(_variable(destination, name) for name in sorted(begun))
        lacking = ", ".join(_variable(destination, name) for name in missing)
        raise Fatal(
            f"{destination.name}: set {lacking} as well (found {given}), "
            "or remove them all to use the sandbox"
        )
    return sandbox_target(destination, sandbox)


def sandbox_target(destination: Destination, sandbox: Sandbox) -> Target[Any]:
    """The target that points at the sandbox, whatever the environment says."""
    host, _, port = sandbox.smtp.rpartition(":")
    place = {
        "url": sandbox.url.rstrip("/"),
        "smtp_host": host,
        "smtp_port": port,
        "postgres": sandbox.postgres,
        "directory": sandbox.directory,
    }
    values: dict[str, Any] = {
        name: value.format(**place) for name, value in destination.sandbox.items()
    }
    settings = destination.settings(_env_file=None, **values)
    return Target(destination.name, settings, sandbox=True)


def aim(target: Target[Any], *, object_name: str, key: str, mode: str = "") -> Target[Any]:
    """The same target for one sync's object, key column and mode."""
    return replace(target, object=object_name, key=key, mode=mode)


def secrets(target: Target[Any]) -> list[str]:
    """Every secret value of the target, for masking."""
    found = []
    for name in type(target.settings).model_fields:
        value = getattr(target.settings, name)
        if isinstance(value, SecretStr):
            found.append(value.get_secret_value())
    return found


def _fits(pattern: str, name: str) -> bool:
    """Whether a path has the pattern's steps, one by one."""
    wanted, given = pattern.split("/"), name.split("/")
    return len(wanted) == len(given) and all(
        step and fnmatchcase(step, star) for step, star in zip(given, wanted, strict=True)
    )


def _read(destination: Destination, env_file: Path | None) -> BaseSettings:
    return destination.settings(_env_file=env_file)


def _variable(destination: Destination, field: str) -> str:
    prefix = destination.settings.model_config.get("env_prefix", "")
    return f"{prefix}{field}".upper()
