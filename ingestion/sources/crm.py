"""The CRM's contacts as they stand now, from a HubSpot-compatible API, to `raw.crm_contacts`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from ingestion.destination import Lake
from ingestion.sources.http import Api, parse_time
from ingestion.sources.load import SourceResult, load_source

PIPELINE = "crm"
PAGE_ROWS = 100  # HubSpot's maximum

# HubSpot answers only the properties that are asked for; the first are the person's, the others
# those that Signalbox itself writes, so that their present values are known.
PROPERTIES = (
    "email",
    "firstname",
    "lastname",
    "phone",
    "company",
    "churn_score",
    "churn_band",
    "churn_top_reason",
    "customer_segment",
    "last_seen_at",
)


def contacts(
    base_url: str, token: str, properties: Sequence[str] = PROPERTIES
) -> Iterator[dict[str, Any]]:
    """Every contact that is not archived, as a row of `raw.crm_contacts`, each id once.

    Raises:
        SourceError: the API refuses, cannot be reached, or answers nonsense.
    """
    api = Api("CRM", base_url, token, "SIGNALBOX_CRM")
    seen: set[str] = set()  # a contact that moves between pages while we read is answered twice
    after = ""
    while True:
        parameters = {"limit": str(PAGE_ROWS), "properties": ",".join(properties)}
        if after:
            parameters["after"] = after
        page = api.get("/crm/v3/objects/contacts", parameters)
        with api.understanding():
            rows = [_row(contact) for contact in page["results"]]
            following = page.get("paging", {}).get("next", {}).get("after")
        for row in rows:
            if row["contact_id"] not in seen:
                seen.add(row["contact_id"])
                yield row
        if not following or following == after:
            return
        after = str(following)


def load_crm(lake: Lake, base_url: str, token: str) -> SourceResult:
    """Replace `raw.crm_contacts` by the CRM's present contacts, in one commit.

    The caller holds the lake's writer lock.

    Raises:
        SourceError: the CRM cannot be read; the table stays as it was.
        LoadError: the lake cannot be written; the table stays as it was.
    """
    return load_source(lake, PIPELINE, "crm_contacts", contacts(base_url, token), key=None)


def _row(contact: dict[str, Any]) -> dict[str, Any]:
    values = contact["properties"]
    return {
        "contact_id": str(contact["id"]),
        "email": values.get("email"),
        "properties": orjson.dumps(values).decode(),
        "created_at": parse_time(contact.get("createdAt")),
        "updated_at": parse_time(contact.get("updatedAt")),
        "archived": bool(contact.get("archived", False)),
    }
