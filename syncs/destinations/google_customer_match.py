"""Google Customer Match: people join and leave a user list, named by SHA-256; Data Manager API.

Since April 2026 the Google Ads API takes no new users of Customer Match; this is what follows it.
https://developers.google.com/data-manager/api/devguides/audiences/send-audience-members
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any, Literal
from urllib.parse import urlencode

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from syncs.results import Fatal, HttpClient, Rejected, Row, RowResult, Target

MODES = {"mirror"}
BATCH_SIZE = 10_000
API_VERSION = "v1"
RATE = 4.0  # 300 requests a minute
CREDENTIALS = ("customer_id", "client_id", "client_secret", "refresh_token")
SANDBOX = {
    "customer_id": "1234567890",
    "client_id": "sandbox",
    "client_secret": "sandbox",
    "refresh_token": "sandbox",
    "base_url": "{url}/google_customer_match",
    "token_url": "{url}/google_customer_match/token",
}
OBJECTS = {"*"}  # the user list's id

_ADDRESS = ("given_name", "family_name", "region_code", "postal_code")
_COLUMNS = ("email", "phone", *_ADDRESS)


class Settings(BaseSettings):
    """SIGNALBOX_GOOGLE_CUSTOMER_MATCH_CUSTOMER_ID, _CLIENT_ID, _CLIENT_SECRET, _REFRESH_TOKEN.

    The OAuth scope is https://www.googleapis.com/auth/datamanager. _LOGIN_CUSTOMER_ID is the
    manager account, if one gives access. _CONSENT says `granted` where all who are sent agreed to
    ads by their data (the sync's own `consent` policy sees to that). Columns: email, phone,
    given_name, family_name, region_code, postal_code.
    """

    model_config = SettingsConfigDict(
        env_prefix="SIGNALBOX_GOOGLE_CUSTOMER_MATCH_", extra="ignore", env_ignore_empty=True
    )

    customer_id: str | None = None
    login_customer_id: str | None = None
    client_id: str | None = None
    client_secret: SecretStr | None = None
    refresh_token: SecretStr | None = None
    consent: Literal["granted", "denied", "unspecified"] = "unspecified"
    base_url: str = "https://datamanager.googleapis.com"
    token_url: str = "https://oauth2.googleapis.com/token"  # noqa: S105


def push(rows: Sequence[Row], target: Target[Settings], http: HttpClient) -> list[RowResult]:
    if not rows:
        return []
    if unknown := sorted({name for row in rows for name in row.fields} - set(_COLUMNS)):
        raise Fatal(
            f"column {unknown[0]}: Google has no such identifier; there are {', '.join(_COLUMNS)}"
        )
    people = {number: identifiers(row) for number, row in enumerate(rows)}
    members = [{"userData": {"userIdentifiers": found}} for found in people.values() if found]
    status = 200
    if members:
        method = "remove" if rows[0].leave else "ingest"
        status = http.post(
            f"{target.settings.base_url}/{API_VERSION}/audienceMembers:{method}",
            json=_request(members, target, joining=not rows[0].leave),
            headers={"Authorization": f"Bearer {_login(target.settings, http)['access_token']}"},
        ).status_code
    nobody = RowResult.rejected("the row has nothing that identifies a person")
    return [RowResult.delivered(status) if people[n] else nobody for n in range(len(rows))]


def check(target: Target[Settings], http: HttpClient) -> str:
    if "auth/datamanager" not in str(_login(target.settings, http).get("scope")):
        raise Fatal("the refresh token was not granted the scope auth/datamanager")
    return f"customer {target.settings.customer_id}, login accepted"


def identifiers(row: Row) -> list[dict[str, Any]]:
    """The row's user identifiers, normalised as Google asks and hashed."""
    text = {name: str(row.fields.get(name) or "").strip().lower() for name in _COLUMNS}
    found: list[dict[str, Any]] = []
    if email := "".join(text["email"].split()):
        local, _, domain = email.rpartition("@")
        if domain in ("gmail.com", "googlemail.com"):
            email = f"{local.partition('+')[0].replace('.', '')}@{domain}"
        found.append({"emailAddress": _hash(email)})
    if digits := re.sub(r"\D", "", text["phone"]):
        found.append({"phoneNumber": _hash(f"+{digits}")})
    if all(text[name] for name in _ADDRESS):
        address = {
            "givenName": _hash(text["given_name"]),
            "familyName": _hash(text["family_name"]),
            "regionCode": text["region_code"].upper(),
            "postalCode": text["postal_code"],
        }
        found.append({"address": address})
    return found


def _request(
    members: list[dict[str, Any]], target: Target[Settings], *, joining: bool
) -> dict[str, Any]:
    settings = target.settings
    assert settings.customer_id is not None
    manager = settings.login_customer_id
    destination = {
        "operatingAccount": _account(settings.customer_id),
        **({"loginAccount": _account(manager)} if manager else {}),
        "productDestinationId": target.object,
    }
    body: dict[str, Any] = {
        "destinations": [destination],
        "audienceMembers": members,
        "encoding": "HEX",
    }
    if joining:
        body["termsOfService"] = {"customerMatchTermsOfServiceStatus": "ACCEPTED"}
        if settings.consent != "unspecified":
            given = f"CONSENT_{settings.consent.upper()}"
            body["consent"] = {"adUserData": given, "adPersonalization": given}
    return body


def _account(number: str) -> dict[str, str]:
    return {"accountType": "GOOGLE_ADS", "accountId": number.replace("-", "")}


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _login(settings: Settings, http: HttpClient) -> dict[str, Any]:
    """An access token for the refresh token."""
    assert settings.client_secret is not None and settings.refresh_token is not None
    form = {
        "grant_type": "refresh_token",
        "client_id": settings.client_id,
        "client_secret": settings.client_secret.get_secret_value(),
        "refresh_token": settings.refresh_token.get_secret_value(),
    }
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    try:
        body = http.post(settings.token_url, data=urlencode(form).encode(), headers=kind).body
    except Rejected as error:
        raise Fatal(f"Google refuses the refresh token: {error}") from None
    if not isinstance(body, dict) or not body.get("access_token"):
        raise Fatal("Google's answer to the refresh token holds no access token")
    return body
