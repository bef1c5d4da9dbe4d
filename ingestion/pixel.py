"""Segment's pixel API: a message in the address of an image, for mails and pages without script."""

from __future__ import annotations

import base64
import binascii
from typing import Any
from urllib.parse import parse_qsl

import msgspec

#: The image that is answered: 1 by 1, transparent.
GIF = (
    b"GIF89a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\xff\xff\xff!\xf9\x04\x01\x00\x00\x00\x00,"
    b"\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x01D\x00;"
)
_FIELDS = 200
_LEVELS = 10


def message(query: bytes) -> bytes:
    """The message of a query string, as bytes of JSON if it is any.

    It stands in `data`, as JSON with or without base64, or in one parameter per field:
    ``userId=u1&event=Email+Opened&properties.subject=Hello``.
    """
    try:
        pairs = parse_qsl(query.decode("ascii", "replace"), max_num_fields=_FIELDS)
    except ValueError:
        return b""
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if name == "data":
            return _decoded(value)
        *path, last = name.split(".", _LEVELS)
        at = fields
        for step in path:
            below = at.setdefault(step, {})
            if not isinstance(below, dict):
                break
            at = below
        else:
            at[last] = value
    return msgspec.json.encode(fields)


def _decoded(data: str) -> bytes:
    if data.lstrip().startswith("{"):
        return data.encode()
    plain = data.replace("-", "+").replace("_", "/").replace(" ", "+").rstrip("=")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        return data.encode()
