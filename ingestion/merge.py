"""What a batch or its request says about all of its messages, merged into each of them."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

Defaults = Mapping[str, msgspec.Raw]

_objects = msgspec.json.Decoder(dict[str, msgspec.Raw])
_OBJECT = ord("{")


def merged(raw: bytes, defaults: Defaults) -> bytes:
    """The JSON object `raw` with what it lacks of `defaults`, at every level.

    What `raw` says itself wins, and its numbers and texts stay as they were written. An object
    that is sent as null counts as not sent. Anything but an object is returned as it is.
    """
    try:
        fields = _objects.decode(raw)
    except (ValueError, RecursionError):
        return raw
    for name, default in defaults.items():
        own = fields.get(name)
        if own is None:
            fields[name] = default
        elif memoryview(default)[0] == _OBJECT:
            if bytes(own) == b"null":
                fields[name] = default
            elif memoryview(own)[0] == _OBJECT:
                fields[name] = msgspec.Raw(merged(bytes(own), _objects.decode(default)))
    return msgspec.json.encode(fields)
