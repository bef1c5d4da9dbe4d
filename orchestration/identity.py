"""Why ids are one customer, and what parting two of them does: `signalbox identity`."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from ingestion.appender import Log

SPLIT, UNDONE = "Identity Split", "Identity Split Undone"

FIND = """
select id_key from identity_map
where id_key = $id or id_value = $id or (id_kind = 'email' and id_value = lower(trim($id)))
order by id_key = $id desc, id_key
"""
CUSTOMERS = """
select id_key, solo_customer_id, is_shared from identity_map
where customer_id in (select customer_id from identity_map where id_key in (select unnest($ids)))
order by kind_rank, first_event_at nulls last, first_mentioned_at, id_key
"""
EDGES = """
select edges.id_key, edges.other_id_key, edges.evidence, edges.event_at,
    coalesce(splits.is_split, false) as is_split
from identity_edges as edges
left join identity_splits as splits
    on least(edges.id_key, edges.other_id_key) = splits.id_key
    and greatest(edges.id_key, edges.other_id_key) = splits.other_id_key
where edges.id_key in (select unnest($ids)) or edges.other_id_key in (select unnest($ids))
order by edges.log_seq
"""
MERGES = """
select merged_at, merged_id_key, seen_with_id_key, evidence, reason, into_customer_id,
    merged_customer_id, event_id
from identity_merges where $customer is null or into_customer_id = $customer
order by merged_at desc, merged_id_key limit $limit
"""
SPLITS = """
select since, id_key, other_id_key, reason from identity_splits
where is_split and ($customer is null or exists (
    select 1 from identity_map
    where customer_id = $customer and identity_map.id_key in (
        identity_splits.id_key, identity_splits.other_id_key
    )
))
order by since desc, id_key, other_id_key limit $limit
"""


Pair = tuple[str, str]


def pair(one: str, other: str) -> Pair:
    """Two ids whose edge has no direction."""
    return min(one, other), max(one, other)


class IdentityError(Exception):
    """Ids cannot be split or joined like that; the message says why."""


@dataclass(frozen=True)
class Part:
    """What becomes one customer."""

    customer_id: str
    ids: list[str]  # kind:value, the one that names the customer first


@dataclass(frozen=True)
class Parting:
    """What a split of two ids, or undoing one, makes of their customers."""

    event: str
    one: str
    other: str
    evidence: list[dict[str, Any]]  # of the edge: evidence, event_at
    before: list[Part]
    after: list[Part]
    path: list[str]  # the ids through which the two stay connected all the same


def find(connection: DuckDBPyConnection, text: str) -> str:
    """The id, as kind:value, that somebody calls like this.

    Raises:
        IdentityError: there is none, or several.
    """
    found = [str(name) for (name,) in connection.execute(FIND, {"id": text}).fetchall()]
    if not found:
        raise IdentityError(
            f"{text} is no id that the models know. Write it as kind:value (user:…, email:…, "
            "anonymous:…, crm_contact:…); signalbox customer ID lists those of a customer."
        )
    if len(found) > 1 and text not in found:
        raise IdentityError(f"{text} could be {' or '.join(found)}; write the one you mean.")
    return found[0]


def parting(
    connection: DuckDBPyConnection,
    one: str,
    other: str,
    *,
    undo: bool = False,
    pending: Mapping[Pair, bool] | None = None,
) -> Parting:
    """What would become of two ids (as from `find`) if their edge were split or, undone, joined.

    Args:
        connection: with the models in its search path.
        one: an end of the edge.
        other: its other end.
        undo: take a split back.
        pending: what was decided since the last build, by pair: whether it is split. It counts as
            built.

    Raises:
        IdentityError: nothing joins the two directly, or that was done already.
    """
    decided = dict(pending or {})
    solo, shared = _customers(connection, {one, other}, decided)
    found = connection.execute(EDGES, {"ids": list(solo)}).fetchall()
    asked = pair(one, other)
    cut = {ends for row in found if decided.get(ends := pair(row[0], row[1]), row[4])}
    edges = {
        pair(weaker, stronger)
        for weaker, stronger, *_ in found
        if weaker not in shared and {weaker, stronger} <= solo.keys()
    } - cut
    before = [part for part in _parts(list(solo), edges, solo) if {one, other} & {*part.ids}]
    ids = [id_key for id_key in solo if any(id_key in part.ids for part in before)]
    edges = {edge for edge in edges if edge[0] in ids}
    direct = [row for row in found if pair(row[0], row[1]) == asked]
    if undo and asked not in cut:
        raise IdentityError(f"{one} and {other} are not split; there is nothing to undo.")
    if not undo:
        if one == other:
            raise IdentityError(f"{one} is one id and cannot be split from itself.")
        if not direct:
            raise IdentityError(_not_linked(one, other, edges, before))
        if asked in cut:
            raise IdentityError(f"{one} and {other} are split already; --undo takes that back.")
        if lonely := {one, other} & shared:
            raise IdentityError(
                f"{lonely.pop()} is shared by more people than identity_rules allows and joins "
                "nobody; there is nothing to split."
            )
    kept = edges - {asked}
    if undo and not {one, other} & shared:
        kept |= {asked}
    return Parting(
        event=UNDONE if undo else SPLIT,
        one=one,
        other=other,
        evidence=[{"evidence": row[2], "event_at": row[3]} for row in direct],
        before=before,
        after=_parts(ids, kept, solo),
        path=[] if undo else _path(one, other, kept),
    )


def _customers(
    connection: DuckDBPyConnection, ids: set[str], decided: Mapping[Pair, bool]
) -> tuple[dict[str, str], set[str]]:
    """All ids of the customers of these and of those whom an undone split joins to them.

    Returns:
        The customer id that each id would have alone, strongest id first; which ids are shared.
    """
    while True:
        known = connection.execute(CUSTOMERS, {"ids": list(ids)}).fetchall()
        solo = {str(id_key): str(alone) for id_key, alone, _ in known}
        reached = {
            end
            for ends, is_split in decided.items()
            if not is_split and solo.keys() & set(ends)
            for end in ends
        }
        if reached <= solo.keys() | ids:
            return solo, {str(id_key) for id_key, _, is_shared in known if is_shared}
        ids = ids | reached


def record(log: Log, what: Parting, reason: str | None) -> int:
    """Write it into the event log, from where the models follow; returns its log_seq.

    Raises:
        LogError: the log cannot be written to.
    """
    from ingestion import own_events

    properties = {"id": what.one, "other_id": what.other}
    return own_events.append(log, what.event, properties | ({"reason": reason} if reason else {}))


def merges(
    connection: DuckDBPyConnection, customer_id: str | None, limit: int
) -> dict[str, list[dict[str, Any]]]:
    """The latest `merges` with their evidence and the `splits` in force, of one customer or all."""
    asked = {"customer": customer_id, "limit": limit or 2**62}
    return {
        name: rows(connection, query, asked)
        for name, query in (("merges", MERGES), ("splits", SPLITS))
    }


def rows(
    connection: DuckDBPyConnection, query: str, names: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """The answer to a query, each row by the names of its columns."""
    result = connection.execute(query, dict(names or {}))
    assert result.description is not None
    columns = [name for name, *_ in result.description]
    return [dict(zip(columns, row, strict=True)) for row in result.fetchall()]


def _not_linked(one: str, other: str, edges: Iterable[Pair], parts: Sequence[Part]) -> str:
    if len(parts) > 1:
        return f"{one} and {other} belong to two customers already."
    path = " – ".join(_path(one, other, edges))
    return (
        f"{one} and {other} were never seen together. They are one customer through {path}: "
        "split two neighbours of these."
    )


def _path(one: str, other: str, edges: Iterable[Pair]) -> list[str]:
    """The shortest way between two ids, both included; empty if there is none."""
    near: dict[str, list[str]] = {}
    for weaker, stronger in sorted(edges):
        near.setdefault(weaker, []).append(stronger)
        near.setdefault(stronger, []).append(weaker)
    came_from: dict[str, str] = {one: one}
    todo = deque([one])
    while todo and other not in came_from:
        here = todo.popleft()
        for there in near.get(here, []):
            if there not in came_from:
                came_from[there] = here
                todo.append(there)
    if other not in came_from:
        return []
    path = [other]
    while path[-1] != one:
        path.append(came_from[path[-1]])
    return path[::-1]


def _parts(ids: list[str], edges: Iterable[Pair], solo: Mapping[str, str]) -> list[Part]:
    """Connected components; `ids` come strongest first, and the first of a part names it."""
    root = {one: one for one in ids}

    def top(one: str) -> str:
        while root[one] != one:
            root[one] = root[root[one]]
            one = root[one]
        return one

    for weaker, stronger in edges:
        root[top(weaker)] = top(stronger)
    parts: dict[str, list[str]] = {}
    for one in ids:
        parts.setdefault(top(one), []).append(one)
    return [Part(solo[members[0]], members) for members in parts.values()]
