"""Hides personal data in messages that are shown to people.

Hidden are the fields that a contract marks `x-pii`, fields whose name says that they are personal,
and email addresses and telephone numbers wherever they stand in a text. It is for looking, not for
anonymising: what it shows must not leave the house.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ingestion.contract import PAGE_EVENT, Contracts

MASK = "***"
# Of bounded length: without, a long text of no email at all takes quadratic time.
EMAIL = re.compile(r"[^\s\"'<>(),;:@=&?/]{1,64}(?:@|%40)[\w-]{1,63}(?:\.[\w-]{1,63})+", re.I)
# With a plus, or grouped as in North America: plain runs of digits are ids far more often.
PHONE = re.compile(
    r"(?<![\w.])(?:\+\d(?:[ ().-]{0,2}\d){6,14}|\(?\d{3}\)?[ .-]\d{3}[ .-]\d{4})(?![\w-])"
)
# Segment's reserved traits that are personal, and what else is commonly sent, without _ and case.
PERSONAL_NAMES = frozenset({
    "email", "emailaddress", "phone", "phonenumber", "mobile", "firstname", "lastname",
    "middlename", "fullname", "username", "surname", "address", "street", "streetaddress",
    "postalcode", "postcode", "zip", "zipcode", "birthday", "birthdate", "dateofbirth", "dob",
    "age", "gender", "avatar", "ip", "ipaddress", "useragent", "ssn", "iban", "cardnumber",
    "password", "token", "deviceid", "advertisingid", "idfa", "latitude", "longitude",
})  # fmt: skip
_TRAITS_NAMES = PERSONAL_NAMES | {"name", "description", "title", "website"}


class Masker:
    """Masks by the contracts in force."""

    def __init__(self, contracts: Contracts) -> None:
        self._marked = {
            event: frozenset().union(*(_marked(c.schema) for c in contracts.versions(event)))
            for event in {contract.event for contract in contracts.all}
        }

    def message(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """A copy of a Segment message without personal data."""
        event = PAGE_EVENT if message.get("type") == "page" else message.get("event")
        masked: dict[str, Any] = {}
        for name, value in message.items():
            if name == "properties" and isinstance(value, dict):
                masked[name] = self.properties(event, value)
            else:
                masked |= _masked({name: value}, PERSONAL_NAMES)
        return masked

    def properties(self, event: Any, properties: Mapping[str, Any]) -> dict[str, Any]:
        """A copy of an event's properties without personal data."""
        marked = self._marked.get(event, frozenset()) if isinstance(event, str) else frozenset()
        return {
            text(name): _hidden(value)
            if (name,) in marked
            else _masked(value, PERSONAL_NAMES, marked, (name,))
            for name, value in properties.items()
        }


def text(value: str) -> str:
    """A text with its email addresses and telephone numbers hidden."""
    return PHONE.sub(MASK, EMAIL.sub(MASK, value))


def is_personal(name: str) -> bool:
    """Whether a field's name says that it holds personal data."""
    return re.sub(r"[^a-z]", "", name.lower()) in PERSONAL_NAMES


Path = tuple[str, ...]


def _masked(
    value: Any, names: frozenset[str], marked: frozenset[Path] = frozenset(), path: Path = ()
) -> Any:
    name = re.sub(r"[^a-z]", "", path[-1].lower()) if path else ""
    if name in names:
        return _hidden(value)
    if name == "traits":
        names = _TRAITS_NAMES
    if isinstance(value, str):
        return text(value)
    if isinstance(value, list):
        return [_masked(item, names, marked, (*path, "[]")) for item in value]
    if isinstance(value, dict):
        return {
            text(key): _hidden(item)
            if (*path, key) in marked
            else _masked(item, names, marked, (*path, key))
            for key, item in value.items()
        }
    return value


def _hidden(value: Any) -> Any:
    return None if value is None else MASK


def _marked(schema: Any, path: Path = ()) -> frozenset[Path]:
    """Paths of the fields that a contract marks as personal; `[]` stands for every item."""
    found: set[Path] = set()
    if not isinstance(schema, dict):
        return frozenset()
    for name, field in schema.get("properties", {}).items():
        if isinstance(field, dict) and field.get("x-pii"):
            found.add((*path, name))
        found |= _marked(field, (*path, name))
    found |= _marked(schema.get("items"), (*path, "[]"))
    return frozenset(found)
