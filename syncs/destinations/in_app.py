"""Messages for a web app to show: rows of one Postgres table, which it reads and marks as read.

The table `signalbox_in_app` is made when it is not there:

    action_key text primary key     the same for every attempt, so nothing is ever there twice
    user_id    text not null        whom it is for, by the app's own id
    feed       text not null        the sync's object
    title      text                 the template's subject
    body       text not null        the template's text
    html       text                 the template's HTML
    data       jsonb not null       the sync model's columns
    fired_at   timestamptz          when the signal fired
    created_at timestamptz          when the row was written
    read_at    timestamptz          the app's to set

A feed is `select * from signalbox_in_app where user_id = … and read_at is null order by created_at`.
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Sequence

from psycopg2 import errors
from psycopg2.extras import Json, execute_values
from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from syncs.database import transaction
from syncs.results import HttpClient, Row, RowResult, Target

MODES = {"message"}
BATCH_SIZE = 100
API_VERSION = "PostgreSQL"
RATE = 20.0
CREDENTIALS = ("url",)
SANDBOX = {"url": "{postgres}"}
REQUIRED_COLUMNS = {"user_id"}
TEMPLATE_REQUIRED = True
CHANNEL = "in_app"
ADDRESS = "user_id"
IDEMPOTENCY_KEY = True  # a second row with the same action_key is not written

TABLE = """
create table if not exists signalbox_in_app (
    action_key text primary key,
    user_id text not null,
    feed text not null,
    title text,
    body text not null,
    html text,
    data jsonb not null,
    fired_at timestamptz,
    created_at timestamptz not null default now(),
    read_at timestamptz
);
create index if not exists signalbox_in_app_feed on signalbox_in_app (user_id, created_at)
"""
INSERT = """
insert into signalbox_in_app (action_key, user_id, feed, title, body, html, data, fired_at)
values %s on conflict (action_key) do nothing
"""


class Settings(BaseSettings):
    """SIGNALBOX_IN_APP_URL is the database that the web app reads."""

    model_config = SettingsConfigDict(
        env_prefix="SIGNALBOX_IN_APP_", extra="ignore", env_ignore_empty=True
    )

    url: SecretStr | None = None


def push(rows: Sequence[Row], target: Target[Settings], http: HttpClient) -> list[RowResult]:
    readable = [row for row in rows if row.fields.get("user_id")]
    if readable:
        try:
            _insert(readable, target)
        except errors.UndefinedTable:
            with transaction(_url(target.settings)) as cursor:
                cursor.execute(TABLE)
            _insert(readable, target)
    nobody = RowResult.rejected("user_id is empty: nobody would read it")
    return [RowResult.delivered() if row.fields.get("user_id") else nobody for row in rows]


def check(target: Target[Settings], http: HttpClient) -> str:
    with transaction(_url(target.settings)) as cursor:
        cursor.execute("select current_database(), to_regclass('signalbox_in_app') is not null")
        database, is_there = cursor.fetchone()
    return f"{database}, table {'is there' if is_there else 'will be made'}"


def _url(settings: Settings) -> str:
    assert settings.url is not None
    return settings.url.get_secret_value()


def _insert(rows: Sequence[Row], target: Target[Settings]) -> None:
    values = []
    for row in rows:
        message, user = row.message, str(row.fields["user_id"])
        assert message is not None
        said = (message.subject, message.text, message.html)
        data = Json(dict(row.fields))
        values.append((row.action_key, user, target.object, *said, data, row.fired_at))
    with transaction(_url(target.settings)) as cursor:
        execute_values(cursor, INSERT, values, page_size=len(values))
