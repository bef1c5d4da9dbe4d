"""A contract with everything in it that is hard to write in another language."""

from __future__ import annotations

import json
from pathlib import Path

from ingestion.contract import CONTRACTS, Contracts, read_contract

ODD = {
    "title": 'Größe: 10/5 "odd" Moved',
    "description": 'Sent */ when """odd""" \\ things move.',
    "x-owner": "play",
    "x-version": 3,
    "type": "object",
    "required": ["class", "plan-type", "user_id"],
    "properties": {
        "note": {"type": ["string", "null"], "description": "A note."},
        "class": {"enum": ["a", 'b"c', 1, True, None], "description": "A keyword."},
        "plan-type": {"const": "pro", "description": "No name in any language."},
        "user_id": {"type": "string", "description": "A parameter's name."},
        "9lives": {"type": "integer", "description": "A digit first."},
        "at": {"type": "string", "format": "date-time", "description": "When."},
        "any": {"description": "Whatever."},
        "ratio": {"enum": [0.5, 1.5], "type": "number", "description": "No literal."},
        "tags": {"type": "array", "items": {"type": "string"}, "description": "Words."},
        "free": {"type": "object", "description": "Anything."},
        "path": {
            "type": "array",
            "description": "Where it went.",
            "items": {
                "type": "object",
                "required": ["x-axis"],
                "properties": {
                    "x-axis": {"type": "number", "description": "Across."},
                    "inner": {
                        "type": "object",
                        "description": "Deeper.",
                        "properties": {"deep": {"type": "boolean", "description": "Very."}},
                    },
                },
            },
        },
    },
    "examples": [{"class": "a", "plan-type": "pro", "user_id": "u"}],
}


def contracts(directory: Path) -> Contracts:
    """The shipped contracts and the odd one."""
    path = directory / "gr_e_10_5_odd_moved.v3.json"
    path.write_text(json.dumps(ODD))
    return Contracts([*Contracts.load(CONTRACTS).all, read_contract(path)])
