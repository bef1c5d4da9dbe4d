"""The dictionary says what the contracts say, and the committed one is current."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_contract import contract, write

from ingestion.contract import Contracts
from ingestion.contract_docs import dbt_docs, markdown
from orchestration.ingest import contract_documents


@pytest.mark.parametrize("path", contract_documents(), ids=lambda path: path.name)
def test_the_documents_are_current(path: Path) -> None:
    assert path.read_text() == contract_documents()[path], "run: signalbox contracts docs"


def test_a_contract_in_words(tmp_path: Path) -> None:
    schema = contract(2, description="A toy was moved. It may be lost.")
    schema["properties"]["toy"] |= {"x-pii": True, "maxLength": 9}
    schema["properties"]["path"] = {
        "type": "array",
        "description": "Where | it went.",
        "items": {
            "type": "object",
            "required": ["at"],
            "properties": {
                "at": {"type": "string", "format": "date-time", "description": "When."},
                "unit": {"enum": ["cm", None], "description": "Measure."},
            },
        },
    }
    contracts = Contracts.load(write(tmp_path, contract(), schema))
    text = markdown(contracts)
    for line in (
        "| [Toy Moved](#toy-moved) | 2 | play | A toy was moved. |",
        "A toy was moved. It may be lost.",
        "Version 2; version 1 taken too, owner: play.",
        "| `toy` | string, at most 9 long | yes | yes | Its name. |",
        "| `steps` | number, at least 0 |  |  | How far. |",
        '| `mood` | `"good"` or `"bad"` |  |  | Which mood. |',
        "| `path` | array of object |  |  | Where \\| it went. |",
        "| `path[].at` | string, date-time | yes |  | When. |",
        '| `path[].unit` | `"cm"` or `null` |  |  | Measure. |',
        '  "steps": 2,',
    ):
        assert line in text.splitlines()
    docs = dbt_docs(contracts)
    assert docs.count("{% docs ") == docs.count("{% enddocs %}") == 2
    assert "| `path[].at` | string, date-time | yes |  | When. |" in docs
