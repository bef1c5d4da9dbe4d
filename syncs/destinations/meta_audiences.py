"""Meta custom audiences: people join and leave, named by SHA-256 of what identifies them.

https://developers.facebook.com/docs/marketing-api/audiences/guides/custom-audiences
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, urlencode

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from syncs.results import Fatal, HttpClient, Rejected, Retryable, Row, RowResult, Target

MODES = {"mirror"}
BATCH_SIZE = 10_000
API_VERSION = "v26.0"
RATE = 2.0
CREDENTIALS = ("access_token",)
SANDBOX = {"access_token": "sandbox", "base_url": "{url}/meta_audiences"}
OBJECTS = {"*"}  # the audience's id

_LETTERS = ("fn", "ln", "ct")
_HASHED = ("email", "phone", *_LETTERS, "st", "zip", "country", "gen", "doby", "dobm", "dobd")
_PLAIN = ("madid", "extern_id")
# https://developers.facebook.com/docs/marketing-api/insights/best-practices (rate limits) and
# https://developers.facebook.com/docs/graph-api/guides/error-handling
_AGAIN = {1, 2, 4, 17, 32, 341, 613, 80000, 80003, 80004, 80014}
_NEEDS_A_PERSON = {3, 10, 102, 190, 200, 294, 2650}


class Settings(BaseSettings):
    """SIGNALBOX_META_AUDIENCES_ACCESS_TOKEN: a system user's token with ads_management.

    Columns are Meta's keys in small letters: email, phone (with country code), fn, ln, ct, st,
    zip, country, gen, doby, dobm, dobd, madid, extern_id.
    """

    model_config = SettingsConfigDict(
        env_prefix="SIGNALBOX_META_AUDIENCES_", extra="ignore", env_ignore_empty=True
    )

    access_token: SecretStr | None = None
    base_url: str = "https://graph.facebook.com"


def push(rows: Sequence[Row], target: Target[Settings], http: HttpClient) -> list[RowResult]:
    if not rows:
        return []
    schema = sorted({name for row in rows for name in row.fields})
    if unknown := [name for name in schema if name not in (*_HASHED, *_PLAIN)]:
        raise Fatal(
            f"column {unknown[0]}: Meta has no such key; there are {', '.join(_HASHED + _PLAIN)}"
        )
    results: dict[int, RowResult] = {}
    people: dict[int, list[str]] = {}
    for number, row in enumerate(rows):
        person = [normalised(name, row.fields.get(name)) for name in schema]
        if any(person):
            people[number] = person
        else:
            results[number] = RowResult.rejected("the row has nothing that identifies a person")
    if people:
        answer = _change(people, schema, rows, target, http)
        results |= dict.fromkeys(people, _taken(answer, len(people)))
    return [results[number] for number in range(len(rows))]


def check(target: Target[Settings], http: HttpClient) -> str:
    url = f"{target.settings.base_url}/{API_VERSION}/me"
    body = _call(http, "GET", url, None, target.settings)
    return f"{body.get('name')} ({body.get('id')})"


def normalised(name: str, value: Any) -> str:
    """A value as Meta compares it, hashed where Meta wants a hash; empty where there is none."""
    text = unicodedata.normalize("NFC", str("" if value is None else value)).strip().lower()
    if name == "phone":
        text = re.sub(r"\D", "", text).lstrip("0")
    elif name in _LETTERS:
        text = "".join(letter for letter in text if letter.isalpha())
    elif name in ("st", "zip", "country"):
        text = re.sub(r"[\W_]", "", text)
    elif name in ("dobm", "dobd") and text:
        text = text.zfill(2)
    return hashlib.sha256(text.encode()).hexdigest() if text and name in _HASHED else text


def _change(
    people: dict[int, list[str]],
    schema: list[str],
    rows: Sequence[Row],
    target: Target[Settings],
    http: HttpClient,
) -> dict[str, Any]:
    names = " ".join(rows[number].action_key for number in people)
    session = {
        # The same rows are the same session, however often they are sent.
        "session_id": int(hashlib.sha256(names.encode()).hexdigest()[:13], 16),
        "batch_seq": 1,
        "last_batch_flag": True,
        "estimated_num_total": len(people),
    }
    payload = {"schema": [name.upper() for name in schema], "data": list(people.values())}
    return _call(
        http,
        "DELETE" if rows[0].leave else "POST",
        f"{target.settings.base_url}/{API_VERSION}/{quote(target.object, safe='')}/users",
        {"session": json.dumps(session), "payload": json.dumps(payload)},
        target.settings,
    )


def _taken(answer: dict[str, Any], people: int) -> RowResult:
    """What became of everybody in one request."""
    if not int(answer.get("num_invalid_entries") or 0):
        return RowResult.delivered(200)
    words = "Meta cannot use what identifies this person"
    if people > 1:
        # Meta counts and does not say which: the engine halves the batch until it is clear.
        raise Rejected(words, status_code=200)
    return RowResult.rejected(words, 200)


def _call(
    http: HttpClient, method: str, url: str, form: dict[str, str] | None, settings: Settings
) -> dict[str, Any]:
    assert settings.access_token is not None
    headers = {"Authorization": f"Bearer {settings.access_token.get_secret_value()}"}
    if form:
        headers["Content-Type"] = "application/x-www-form-urlencoded"
    data = urlencode(form).encode() if form else None
    try:
        answer = http.request(method, url, data=data, headers=headers)
    except (Rejected, Fatal) as error:
        said = error.body.get("error") if isinstance(error.body, dict) else None
        code = said.get("code") if isinstance(said, dict) else None
        if code in _AGAIN:
            raise Retryable(str(error), status_code=error.status_code) from None
        if code in _NEEDS_A_PERSON or error.status_code in (401, 403):
            raise Fatal(
                f"{error}; check the token and its permissions", status_code=error.status_code
            ) from None
        raise
    return answer.body if isinstance(answer.body, dict) else {}
