"""SendGrid: marketing contacts, lists that mirror a segment, and mail.

https://www.twilio.com/docs/sendgrid/api-reference/contacts/add-or-update-a-contact
https://www.twilio.com/docs/sendgrid/api-reference/mail-send/mail-send

`object: contacts` upserts by email, external_id, phone_number_id or anonymous_id; columns with a
contact's own names stay, all others are custom fields by their id (e1_T). `object: lists/<list
id>` mirrors by email: joining upserts the contact and puts it on the list, leaving takes it off.
Delivered means queued as a job; SendGrid shows what a job refused under its import's status.

`object: mail` sends a rendered message to `to_email`. Delivered means that SendGrid accepted it
(202); a bounce comes later. There is no idempotency key.
"""

from __future__ import annotations

from collections.abc import Sequence
from email.utils import parseaddr
from typing import Any
from urllib.parse import quote, urlencode

from pydantic import SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from syncs.results import Fatal, HttpClient, Rejected, Row, RowResult, Target, in_parts, nested

MODES = {"upsert", "mirror", "message"}
OBJECTS = {
    "contacts": {"modes": {"upsert"}},
    "lists/*": {"modes": {"mirror"}},
    "mail": {
        "modes": {"message"},
        "batch_size": 1,
        "batch_bytes": None,
        "rate": 50.0,
        "required_columns": {"to_email"},
        "template_required": True,
        "channel": "email",
        "address": "to_email",
    },
}
BATCH_SIZE = 30_000
BATCH_BYTES = 5_000_000  # of 6 MB, which include what is around a row
API_VERSION = "v3"
RATE = 1.5  # 3 requests in 2 seconds
CREDENTIALS = ("api_key",)
SANDBOX = {
    "api_key": "sandbox",
    "base_url": "{url}/sendgrid",
    "from_address": "Signalbox <hello@signalbox.example>",
}

LOOKUP_SIZE = 100  # contacts that one request can look up
_CONTACT = {
    "email", "phone_number_id", "external_id", "anonymous_id", "alternate_emails", "first_name",
    "last_name", "address_line_1", "address_line_2", "city", "state_province_region", "country",
    "postal_code", "custom_fields",
}  # fmt: skip


class Settings(BaseSettings):
    """SIGNALBOX_SENDGRID_API_KEY is a key with Marketing (contacts) or Mail Send access (mail).

    _FROM_ADDRESS is a verified sender, _POSTAL_ADDRESS stands at the end of every mail,
    _UNSUBSCRIBE_URL is an https address that takes RFC 8058's one-click POST; without it the
    unsubscribe header is a mailto to the sender. For subusers in Europe _BASE_URL is
    https://api.eu.sendgrid.com.
    """

    model_config = SettingsConfigDict(
        env_prefix="SIGNALBOX_SENDGRID_", extra="ignore", env_ignore_empty=True
    )

    api_key: SecretStr | None = None
    from_address: str | None = None
    unsubscribe_url: str | None = None
    postal_address: str | None = None
    base_url: str = "https://api.sendgrid.com"

    @field_validator("unsubscribe_url")
    @classmethod
    def _https(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith("https://"):
            raise ValueError("UNSUBSCRIBE_URL must begin with https://, as RFC 8058 demands")
        return value


def push(rows: Sequence[Row], target: Target[Settings], http: HttpClient) -> list[RowResult]:
    if not rows:
        return []
    url, headers = f"{target.settings.base_url}/v3", _headers(target.settings)
    if target.object == "mail":
        mails = [_mail(row, target.settings) for row in rows]
        sent = [http.post(f"{url}/mail/send", json=mail, headers=headers) for mail in mails]
        return [RowResult.delivered(answer.status_code) for answer in sent]
    if rows[0].leave:
        return in_parts(rows, LOOKUP_SIZE, lambda part: _leave(part, target, http))
    body: dict[str, Any] = {"contacts": [_contact(row) for row in rows]}
    if target.object != "contacts":
        body["list_ids"] = [target.object.partition("/")[2]]
    answer = http.request("PUT", f"{url}/marketing/contacts", json=body, headers=headers)
    return [RowResult.delivered(answer.status_code) for _ in rows]


def check(target: Target[Settings], http: HttpClient) -> str:
    url = f"{target.settings.base_url}/v3/scopes"
    scopes = set(http.get(url, headers=_headers(target.settings)).body["scopes"])
    return f"a key with {len(scopes)} scopes, mail {'yes' if 'mail.send' in scopes else 'no'}"


def variables(action_key: str, settings: Settings) -> dict[str, Any]:
    """What templates may show besides the row: who sends, and how to get no more."""
    name, address = parseaddr(settings.from_address or "")
    return {
        "sender_name": name or address,
        "postal_address": settings.postal_address,
        "unsubscribe_url": _unsubscribe(action_key, settings),
    }


def headers(row: Row, settings: Settings) -> dict[str, str]:
    """The headers of the mail, for a look before it is sent."""
    mail = _mail(row, settings)
    to = str(row.fields["to_email"]).strip()
    known = {"From": str(settings.from_address), "To": to, "Subject": mail["subject"]}
    return {**known, **mail["headers"]}


def _headers(settings: Settings) -> dict[str, str]:
    assert settings.api_key is not None
    return {"Authorization": f"Bearer {settings.api_key.get_secret_value()}"}


def _contact(row: Row) -> dict[str, Any]:
    """A contact's own fields are text, and the empty text clears one."""
    fields = {
        name: "" if value is None and name in _CONTACT else value
        for name, value in row.fields.items()
    }
    return nested(fields, _CONTACT, "custom_fields")


def _leave(rows: Sequence[Row], target: Target[Settings], http: HttpClient) -> list[RowResult]:
    """Take contacts off the list by SendGrid's own ids. Who is no contact is on no list."""
    url, headers = f"{target.settings.base_url}/v3/marketing", _headers(target.settings)
    emails = {"emails": [row.key for row in rows]}
    try:
        answer = http.post(f"{url}/contacts/search/emails", json=emails, headers=headers)
    except Fatal as error:
        if error.status_code != 404:
            raise
        return [RowResult.delivered(404) for _ in rows]
    found = [
        entry["contact"]["id"] for entry in answer.body["result"].values() if "contact" in entry
    ]
    if found:
        name = quote(target.object.partition("/")[2], safe="")
        query = urlencode({"contact_ids": ",".join(found)})
        answer = http.request("DELETE", f"{url}/lists/{name}/contacts?{query}", headers=headers)
    return [RowResult.delivered(answer.status_code) for _ in rows]


def _mail(row: Row, settings: Settings) -> dict[str, Any]:
    assert row.message is not None
    address = str(row.fields["to_email"] or "").strip()
    if parseaddr(address)[1] != address or address.count("@") != 1:
        raise Rejected("to_email is not a single e-mail address")
    name, sender = parseaddr(settings.from_address or "")
    if not sender:
        raise Fatal("set SIGNALBOX_SENDGRID_FROM_ADDRESS to send mail")
    unsubscribe = {"List-Unsubscribe": f"<{_unsubscribe(row.action_key, settings)}>"}
    if settings.unsubscribe_url:
        unsubscribe["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
    parts = (("text/plain", row.message.text), ("text/html", row.message.html))
    return {
        "personalizations": [
            {"to": [{"email": address}], "custom_args": {"action_key": row.action_key}}
        ],
        "from": {"email": sender, **({"name": name} if name else {})},
        "subject": " ".join((row.message.subject or "").split()),
        "content": [{"type": kind, "value": text} for kind, text in parts if text],
        "headers": unsubscribe,
    }


def _unsubscribe(action_key: str, settings: Settings) -> str:
    """Where to go to get no more: the page, which learns the action key and no more; or a mail."""
    if not settings.unsubscribe_url:
        return f"mailto:{parseaddr(settings.from_address or '')[1]}?subject=unsubscribe"
    joint = "&" if "?" in settings.unsubscribe_url else "?"
    return f"{settings.unsubscribe_url}{joint}{urlencode({'action': action_key})}"
