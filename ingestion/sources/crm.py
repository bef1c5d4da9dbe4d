"""The CRM's contacts as they stand now, from a HubSpot-compatible API, to `raw.crm_contacts`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import orjson
from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from ingestion.rest_api import Api, parse_time
from ingestion.sources import ColumnType, Link

KIND = "refresh"
DESCRIPTION = "The CRM's contacts with their current values."
TABLE = "crm_contacts"
COLUMNS: dict[str, ColumnType] = {
    "contact_id": "text",
    "email": "text",
    "properties": "text",
    "created_at": "time",
    "updated_at": "time",
    "archived": "bool",
}
KEY = None
SANDBOX = {"url": "{url}/hubspot", "token": "sandbox"}
ON_BY_DEFAULT = True
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
    # Contacts that were merged into this one, and its further addresses; each a list by semicolons.
    "hs_merged_object_ids",
    "hs_additional_emails",
)


class Settings(BaseSettings):
    """Where the CRM is, and which of its properties holds your own id of the person."""

    model_config = SettingsConfigDict(
        env_prefix="SIGNALBOX_CRM_", env_ignore_empty=True, extra="ignore"
    )
    url: str = ""
    token: SecretStr | None = None
    user_id_property: str = "user_id"


def rows(settings: Settings, since: datetime | None = None) -> Iterator[dict[str, Any]]:
    """Every contact that is not archived, as a row of the table, each id once.

    Raises:
        SourceError: the API refuses, cannot be reached, or answers nonsense.
    """
    api = Api("CRM", settings.url, settings.token, "SIGNALBOX_CRM")
    seen: set[str] = set()  # a contact that moves between pages while we read is answered twice
    after = ""
    while True:
        properties = dict.fromkeys((*PROPERTIES, settings.user_id_property))
        parameters = {"limit": str(PAGE_ROWS), "properties": ",".join(properties)}
        if after:
            parameters["after"] = after
        page = api.get("/crm/v3/objects/contacts", parameters)
        with api.understanding():
            found = [_row(contact) for contact in page["results"]]
            following = page.get("paging", {}).get("next", {}).get("after")
        for row in found:
            if row["contact_id"] not in seen:
                seen.add(row["contact_id"])
                yield row
        if not following or following == after:
            return
        after = str(following)


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


def link(row: dict[str, Any], settings: Settings) -> Link | None:
    """A contact's id in the CRM, and the ids and addresses that it holds of the person."""
    values = orjson.loads(row["properties"])
    merged = str(values.get("hs_merged_object_ids") or "").split(";")
    addresses = str(values.get("hs_additional_emails") or "").split(";")
    return Link.of(
        "crm_contact",
        row["contact_id"],
        [
            ("user_id", values.get(settings.user_id_property)),
            ("email", row["email"]),
            *(("email", address) for address in addresses),
            *(("crm_contact_id", contact) for contact in merged),
        ],
    )
