"""Sources: one file each; the file's name is what SIGNALBOX_SOURCES calls it.

A file's `KIND` says how its data comes in and what else it defines:

* `refresh`: a table that is read again and again through an API. `TABLE`, `COLUMNS`, `KEY`,
  `SANDBOX` and `rows(settings, since)`; where its rows are about people, `link(row, settings)`.
* `pull`: a broker whose messages go through the collector's door into the event log.
  `WINDOW` and `connect(settings)`, which returns a `Consumer`.
* `push`: a vendor that calls the collector at `POST /v1/hooks/<name>`.
  `receive(request, settings, now)`, which returns `Delivery` objects.

All define `DESCRIPTION` and `Settings`. A file imports its vendor's package only when it is used,
because every file is imported to learn its kind.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from pydantic import ValidationError
from pydantic_settings import BaseSettings

HOLD_SECONDS = 10.0

Kind = Literal["refresh", "pull", "push"]
ColumnType = Literal["text", "time", "bool", "integer", "number"]

_REQUIRED: Mapping[str, tuple[str, ...]] = {
    "refresh": ("TABLE", "COLUMNS", "KEY", "SANDBOX", "rows"),
    "pull": ("WINDOW", "connect"),
    "push": ("receive",),
}


class SourceError(Exception):
    """A source cannot be read; the message says which and what to do, never a secret."""


class Unreadable(Exception):
    """A delivery cannot become a message: the quarantine's reason, and words for a person."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One message as a broker or a vendor delivered it.

    Args:
        body: the message's bytes, which should be JSON.
        id: stable however often it is delivered; the `messageId` unless the body or a header has
            a better one.
        time: when the broker took it.
        event: name for the event if nothing in the message says better.
        headers: attributes beside the body.
        key: what the broker orders or partitions by.
        unreadable: why it cannot be parsed, where the source already knows.
        receipt: what the source needs to acknowledge it.
    """

    body: bytes
    id: str
    time: datetime | None = None
    event: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    key: str | None = None
    unreadable: Unreadable | None = None
    receipt: Any = None


class Consumer(Protocol):
    """A connection to a broker. Used by one thread. Every method may raise SourceError."""

    def receive(self, limit: int, wait_seconds: float) -> Sequence[Delivery]:
        """Up to `limit` messages, as soon as there is one, or none after `wait_seconds`."""

    def hold(self, receipts: Sequence[Any]) -> None:
        """Keep these from being delivered to anybody else; called every `HOLD_SECONDS`."""

    def acknowledge(self, receipts: Sequence[Any]) -> Sequence[Any]:
        """Tell the broker that these, the oldest held, are safe; returns those it did not take.

        What is returned is offered again; what the broker gave to another consumer meanwhile is
        not returned.
        """

    def lag(self) -> int | None:
        """Messages that wait in the broker, as far as it tells."""

    def close(self) -> None:
        """Leave. What is not acknowledged is delivered again."""


@dataclass(frozen=True, slots=True)
class Request:
    """A vendor's call: header names in lower case, and the query's parameters."""

    body: bytes
    headers: Mapping[str, str]
    query: Mapping[str, str] = field(default_factory=dict)


class Refused(Exception):
    """A call is not from whom it should be (401) or not what it should be (400)."""

    def __init__(self, status: Literal[400, 401], message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(frozen=True)
class Link:
    """Ids that a record of another system holds of one person.

    Args:
        id_kind: kind of the record, as identity knows it: `crm_contact`.
        id_value: the record's id there.
        external_ids: the others, as (type, id); the types are those of Segment's
            `context.externalIds`, and the seed identity_rules says which of them join.
    """

    id_kind: str
    id_value: str
    external_ids: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, id_kind: str, id_value: object, ids: Iterable[tuple[str, object]]) -> Link | None:
        """The link of a record; None if it has no id of its own or no other id."""
        given = [(kind, str(value).strip()) for kind, value in ids if value not in (None, "")]
        external_ids = tuple(dict.fromkeys((kind, value) for kind, value in given if value))
        if id_value in (None, "") or not external_ids:
            return None
        return cls(id_kind, str(id_value), external_ids)


Rows = Callable[[Any, datetime | None], Iterator[dict[str, Any]]]


@dataclass(frozen=True)
class Source:
    """What every source file says."""

    name: str
    description: str
    settings: type[BaseSettings]


@dataclass(frozen=True)
class RefreshSource(Source):
    """A table that is read again and again.

    `rows(settings, since)` yields dicts of `columns`. With a `key` they are merged, the newest
    `updated_at` wins, and `since` is the newest there is; without one they replace the table.
    `link(row, settings)` tells which ids a row holds together, if it does.
    """

    table: str
    columns: Mapping[str, ColumnType]
    key: str | None
    sandbox: Mapping[str, str]  # settings that point it at the sandbox
    on_by_default: bool
    rows: Rows
    link: Callable[[dict[str, Any], Any], Link | None] | None = None


@dataclass(frozen=True)
class PullSource(Source):
    """A broker."""

    window: int  # messages at most between being taken and being acknowledged
    connect: Callable[[Any], Consumer]


@dataclass(frozen=True)
class PushSource(Source):
    """A vendor that calls us."""

    receive: Callable[[Request, Any, datetime], list[Delivery]]


_S = TypeVar("_S", bound=Source)


def available() -> list[str]:
    """Names of all sources, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str) -> Source:
    """The source in `sources/<name>.py`. Raises SourceError when there is none."""
    if name not in available():
        raise SourceError(
            f"There is no source {name!r}. SIGNALBOX_SOURCES can name: {', '.join(available())}."
        )
    module = importlib.import_module(f"{__name__}.{name}")
    kind = getattr(module, "KIND", None)
    wanted = ("DESCRIPTION", "Settings", *_REQUIRED.get(str(kind), ("KIND",)))
    missing = [constant for constant in wanted if not hasattr(module, constant)]
    if missing:
        raise SourceError(f"ingestion/sources/{name}.py does not define {', '.join(missing)}")
    common = (name, str(module.DESCRIPTION), module.Settings)
    if kind == "refresh":
        return RefreshSource(
            *common,
            table=module.TABLE,
            columns=dict(module.COLUMNS),
            key=module.KEY,
            sandbox=dict(module.SANDBOX),
            on_by_default=bool(getattr(module, "ON_BY_DEFAULT", False)),
            rows=module.rows,
            link=getattr(module, "link", None),
        )
    if kind == "pull":
        return PullSource(*common, window=int(module.WINDOW), connect=module.connect)
    return PushSource(*common, receive=module.receive)


def refreshed() -> list[RefreshSource]:
    """Every source that is a table, switched on or not: models are written over their tables."""
    return [source for name in available() if isinstance(source := load(name), RefreshSource)]


def switched_on(names: Iterable[str], kind: type[_S]) -> list[_S]:
    """The sources of a kind that are on: those named, and those on by default."""
    chosen = {*names, *(source.name for source in refreshed() if source.on_by_default)}
    return [source for name in sorted(chosen) if isinstance(source := load(name), kind)]


def read_settings(source: Source, env_file: Path | None) -> Any:
    """A source's own settings. Raises SourceError naming each variable that is wrong or missing."""
    try:
        return source.settings(_env_file=env_file)
    except ValidationError as error:
        # Pydantic's own text would quote the value, which may be a secret.
        faults = "; ".join(
            f"{variable(source, str(item['loc'][0])) if item['loc'] else source.name}: "
            f"{item['msg'].removeprefix('Value error, ')}"
            for item in error.errors(include_input=False, include_url=False)
        )
        raise SourceError(f"The source {source.name} cannot start. {faults}") from None


def variable(source: Source, setting: str) -> str:
    """The environment variable of a source's setting."""
    prefix = source.settings.model_config.get("env_prefix", "")
    return f"{prefix}{setting}".upper()


def missing_package(source: str, extra: str) -> SourceError:
    """What to say when a source's package is not installed."""
    return SourceError(
        f"The source {source} needs a package that is not installed. "
        f'Run: pip install "signalbox[{extra}]"'
    )
