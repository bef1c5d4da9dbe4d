"""The words a destination and the engine share: rows in, one result per row out, three errors.

A destination imports nothing else of Signalbox.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol, TypeVar

Outcome = Literal["delivered", "rejected", "retrying", "unknown"]

#: Longest reason that is kept, in characters.
REASON_LENGTH = 300

_EMAIL = re.compile(r"[^\s<>\"'(),:;]+@[^\s<>\"'(),:;]+")
_NUMBER = re.compile(r"\+?\d[\d ()/-]{6,}\d")


class SyncError(Exception):
    """A sync cannot go on; the message says what to do.

    `body` is the destination's parsed answer, where there was one: its codes tell a destination
    file what the status alone does not. It may hold anything, so it is never kept or shown.
    """

    body: Any = None


class Retryable(SyncError):
    """The destination did not take the request now and may later. Nothing took effect.

    `retry_after` is the wait in seconds that the destination asked for, if it did.
    """

    def __init__(
        self, reason: str, *, status_code: int | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(reason)
        self.status_code = status_code
        self.retry_after = retry_after


class Unanswered(Retryable):
    """The request left and no usable answer came: it may have taken effect.

    Rows that may safely be sent twice are retried; other messages become `unknown`.
    """


class Rejected(SyncError):
    """The destination understood the request and refuses it, in its own words."""

    def __init__(self, reason: str, *, status_code: int | None = None) -> None:
        super().__init__(reason)
        self.status_code = status_code


class Fatal(SyncError):
    """No row can be delivered until a person changes something (credentials, address, model)."""

    def __init__(self, reason: str, *, status_code: int | None = None) -> None:
        super().__init__(reason)
        self.status_code = status_code


@dataclass(frozen=True, slots=True)
class RowResult:
    """What became of one row."""

    outcome: Outcome
    reason: str | None = None
    status_code: int | None = None
    retry_after: float | None = None

    @classmethod
    def delivered(cls, status_code: int | None = None) -> RowResult:
        return cls("delivered", None, status_code)

    @classmethod
    def rejected(cls, reason: str, status_code: int | None = None) -> RowResult:
        return cls("rejected", reason, status_code)

    @classmethod
    def retrying(
        cls, reason: str, status_code: int | None = None, retry_after: float | None = None
    ) -> RowResult:
        return cls("retrying", reason, status_code, retry_after)

    @classmethod
    def unknown(cls, reason: str, status_code: int | None = None) -> RowResult:
        return cls("unknown", reason, status_code)


@dataclass(frozen=True, slots=True)
class Message:
    """A rendered template. Blocks a template does not have are None."""

    subject: str | None
    text: str
    html: str | None


@dataclass(frozen=True, slots=True)
class Row:
    """One row on its way out.

    `fields` holds exactly the sync model's columns but the control columns. `action_key` is the
    same for every attempt of the same action, so it serves as idempotency key. `leave` is true
    where a mirrored audience loses this row; all rows of one push agree on it.
    """

    action_key: str
    key: str
    fields: Mapping[str, Any]
    customer_id: str | None = None
    fired_at: str | None = None
    message: Message | None = None
    leave: bool = False


SettingsT = TypeVar("SettingsT")


@dataclass(frozen=True)
class Target(Generic[SettingsT]):
    """Where a destination sends: its settings, and the object, key column and mode of the sync."""

    destination: str
    settings: SettingsT = field(repr=False)
    object: str = ""
    key: str = ""
    mode: str = ""
    sandbox: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """A 2xx answer. `body` is the parsed JSON, or the text when it is not JSON."""

    status_code: int
    body: Any


class HttpClient(Protocol):
    """What a destination may ask of HTTP. Raises the three errors, never its library's own."""

    def request(
        self,
        method: str,
        url: str,
        *,
        json: Any = None,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        public_only: bool = False,
    ) -> Answer: ...

    def post(
        self,
        url: str,
        *,
        json: Any = None,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        public_only: bool = False,
    ) -> Answer: ...

    def get(self, url: str, *, headers: Mapping[str, str] | None = None) -> Answer: ...


def nested(
    fields: Mapping[str, Any], known: Collection[str] = (), rest: str = ""
) -> dict[str, Any]:
    """The fields as objects within objects: a dot in a column's name is a step down.

    With `rest`, columns whose first step is none of `known` go below the object of that name.
    Raises Fatal where one column is both a value and an object.
    """
    tree: dict[str, Any] = {}
    for name, value in fields.items():
        steps = name.split(".")
        if rest and steps[0] not in known and steps[0] != rest:
            steps = [rest, *steps]
        place = tree
        for step in steps[:-1]:
            place = place.setdefault(step, {})
            if not isinstance(place, dict):
                raise Fatal(f"columns {step} and {name} cannot both be sent; rename one")
        if isinstance(place.get(steps[-1]), dict):
            raise Fatal(f"columns {name} and {name}.… cannot both be sent; rename one")
        place[steps[-1]] = value
    return tree


def in_parts(
    rows: Sequence[Row], size: int, send: Callable[[Sequence[Row]], list[RowResult]]
) -> list[RowResult]:
    """Send rows `size` at a time, for what takes several requests.

    Once a part is through, a failure that may pass is told row by row and the others wait, so
    that what is done stays done. The first part's failures are raised as they are.
    """
    results: list[RowResult] = []
    for start in range(0, len(rows), size):
        try:
            results += send(rows[start : start + size])
        except Retryable as error:
            if not results:
                raise
            retry = RowResult.retrying(str(error), error.status_code, error.retry_after)
            return results + [retry] * (len(rows) - len(results))
    return results


def mask(text: str, *, fields: Mapping[str, Any] | None = None, secrets: Iterable[str] = ()) -> str:
    """A reason fit for keeping: without secrets, the row's own values, addresses or numbers.

    A value of the row is replaced by its field name, so the sentence still says what was wrong.
    """
    for secret in secrets:
        if secret:
            text = text.replace(secret, "‹secret›")
    longest_first = sorted(
        ((name, str(value)) for name, value in (fields or {}).items() if value is not None),
        key=lambda item: -len(item[1]),
    )
    for name, value in longest_first:
        if len(value) >= 4 and value in text:
            text = text.replace(value, f"‹{name}›")
    text = _EMAIL.sub("‹email›", text)
    text = _NUMBER.sub("‹number›", text)
    return text[:REASON_LENGTH]
