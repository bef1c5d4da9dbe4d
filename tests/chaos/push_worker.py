"""One run of three syncs in a process of its own: state rows, messages, messages with a key.

Arguments: the lake's file, the ledger's URL, the vendor's URL, a folder with the template `plain`.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import duckdb

sys.path.append(str(Path(__file__).parents[1] / "syncs"))

from syncs_support import contacts_spec, make_pusher, message_spec, webhook_spec

from syncs import destinations, templates
from syncs.ledger import Ledger
from syncs.spec import SyncSpec

SPECS: list[SyncSpec] = [contacts_spec(), message_spec(template="plain"), webhook_spec()]


def main(lake: str, ledger: str, vendor: str, folder: str) -> None:
    load = destinations.load
    # Vendors' rates are real; a kill need not wait for them.
    destinations.load = lambda name: replace(load(name), rate=1e6)
    templates.FOLDERS.insert(0, Path(folder))
    pusher = make_pusher(Ledger(ledger), vendor)
    with duckdb.connect(lake, read_only=True) as connection:
        for spec in SPECS:
            report = pusher.run(spec, connection)
            print(spec.name, report.status, report.message or "")  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
