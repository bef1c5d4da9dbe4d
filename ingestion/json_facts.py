"""Facts about JSON that decide whether everything downstream could hold it.

The walks use no recursion, since deep nesting is one of the things they look for.
"""

from __future__ import annotations

import json
from typing import Any


def depth(value: Any) -> int:
    """How many levels deep a value is nested; 1 for a plain one."""
    levels, level = 0, [value]
    while level:
        levels += 1
        level = [c for v in level for c in _children(v) if isinstance(c, dict | list)]
    return levels


def has_nul(value: Any) -> bool:
    """Whether any text or key in a value contains the character NUL."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str) and "\0" in value:
            return True
        if isinstance(value, dict):
            waiting += value.keys()
        waiting += _children(value)
    return False


def lone_surrogate(raw: bytes) -> bool:
    """Whether JSON that a strict parser refused has half of a surrogate pair in a text."""
    try:
        json.dumps(json.loads(raw), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    except (ValueError, RecursionError):
        return False
    return False


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
