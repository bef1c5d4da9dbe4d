"""Faults on demand: what a vendor does when it has a bad day, switched on by path and count."""

from __future__ import annotations

import random
from itertools import count as counter
from typing import Literal

import msgspec

Kind = Literal["429", "500", "hang", "reject_rows", "timeout_after_effect", "disconnect", "chaos"]
CHAOS_KINDS: tuple[Kind, ...] = ("429", "500", "hang", "timeout_after_effect", "disconnect")
CHAOS_HANG_SECONDS = 1.0
CHAOS_ROW_SHARE = 0.1


class Fault(msgspec.Struct, forbid_unknown_fields=True):
    """A fault as the control API takes it.

    - `429`, `500`: the request is refused, nothing happens.
    - `hang`: the vendor is silent for `seconds`, then answers; a client that gave up meanwhile
      has caused nothing.
    - `disconnect`: the connection is cut before anything happens.
    - `timeout_after_effect`: the effect happens, the answer never comes: after `seconds` the
      connection is cut.
    - `reject_rows`: rows whose key contains `match` are refused with the vendor's own row error.
    - `chaos`: a share `rate` of the requests meets one of the others, or of `kinds`, and a share
      `rows` of the rows is refused (a tenth of `rate` if unset); chosen by `seed`.

    `path` is a path prefix ("/hubspot", "/slack/api", "/smtp"; "/" is everything). `count` is how
    many requests it hits (for `reject_rows`: rows); without it, it lasts until it is removed.
    """

    kind: Kind
    path: str = "/"
    count: int | None = None
    retry_after: int = 1
    match: str = ""
    seconds: float | None = None
    seed: int = 0
    rate: float = 0.2
    kinds: tuple[Kind, ...] = ()
    rows: float | None = None


#: Bad days by name, for every vendor at once.
SCENARIOS = {
    "chaos": Fault(kind="chaos"),
    "timeouts": Fault(kind="chaos", kinds=("timeout_after_effect", "hang"), rate=0.3, rows=0),
    "storm": Fault(kind="chaos", kinds=("429", "500"), rate=0.7, rows=0),
    "half": Fault(kind="chaos", rate=0, rows=0.5),
}


def scenario(name: str, seed: int = 0, path: str = "/") -> Fault:
    """The fault of a bad day. Raises ValueError naming those there are."""
    if name not in SCENARIOS:
        raise ValueError(f"no scenario {name!r}; there are: {', '.join(SCENARIOS)}")
    return msgspec.structs.replace(SCENARIOS[name], seed=seed, path=path)


class ActiveFault(msgspec.Struct):
    """A fault that is switched on, and how often it has struck."""

    id: int
    fault: Fault
    random: random.Random
    hits: int = 0

    @property
    def spent(self) -> bool:
        return self.fault.count is not None and self.hits >= self.fault.count

    def covers(self, path: str) -> bool:
        """Whether the fault's prefix, by whole path segments, leads to this path."""
        prefix = self.fault.path.rstrip("/")
        return path == prefix or path.startswith(prefix + "/")

    def describe(self) -> dict[str, object]:
        """The fault with its id and hits, as JSON-ready values."""
        return {"id": self.id, "hits": self.hits, **msgspec.to_builtins(self.fault)}


class FaultBoard:
    """The faults that are switched on, oldest first; the first that fits a request strikes."""

    def __init__(self) -> None:
        self._active: list[ActiveFault] = []
        self._ids = counter(1)

    def add(self, fault: Fault) -> ActiveFault:
        """Switch a fault on. Raises ValueError with what to change if a value makes no sense."""
        if not fault.path.startswith("/"):
            raise ValueError('path must start with "/", for example "/hubspot"')
        if fault.count is not None and fault.count < 1:
            raise ValueError("count must be at least 1; leave it out for no end")
        if fault.kind == "reject_rows" and not fault.match:
            raise ValueError("reject_rows needs match: text to be found in the row's key")
        if fault.retry_after < 0 or (fault.seconds or 0) < 0:
            raise ValueError("retry_after and seconds must not be negative")
        if not 0 <= fault.rate <= 1 or not 0 <= (fault.rows or 0) <= 1:
            raise ValueError("rate and rows must be between 0 and 1")
        if not set(fault.kinds) <= set(CHAOS_KINDS):
            raise ValueError(f"kinds: a chaos is made of {', '.join(CHAOS_KINDS)}")
        active = ActiveFault(next(self._ids), fault, random.Random(fault.seed))  # noqa: S311
        self._active.append(active)
        return active

    def remove(self, fault_id: int | None = None) -> int:
        """Switch one fault off, or all of them; returns how many there were."""
        before = len(self._active)
        self._active = [
            active for active in self._active if fault_id is not None and active.id != fault_id
        ]
        return before - len(self._active)

    def active(self) -> list[dict[str, object]]:
        """The faults that are on."""
        return [active.describe() for active in self._active]

    def draw(self, path: str) -> Fault | None:
        """The fault that this request meets, if any; spends one of its count."""
        for active in self._active:
            fault = active.fault
            if fault.kind == "reject_rows" or not active.covers(path):
                continue
            if fault.kind == "chaos":
                if active.random.random() >= fault.rate:
                    continue
                fault = Fault(
                    kind=active.random.choice(fault.kinds or CHAOS_KINDS),
                    path=fault.path,
                    retry_after=fault.retry_after,
                    seconds=CHAOS_HANG_SECONDS,
                )
            self._strike(active)
            return fault
        return None

    def rejects(self, path: str, key: str) -> bool:
        """Whether the vendor must refuse the row with this key; spends one of the count."""
        for active in self._active:
            if not active.covers(path):
                continue
            fault = active.fault
            share = fault.rate * CHAOS_ROW_SHARE if fault.rows is None else fault.rows
            if (fault.kind == "reject_rows" and fault.match in key) or (
                fault.kind == "chaos" and active.random.random() < share
            ):
                self._strike(active)
                return True
        return False

    def _strike(self, active: ActiveFault) -> None:
        active.hits += 1
        if active.spent:
            self._active.remove(active)
