"""A list with members, for mirrored syncs: it knows members by `email`, and takes 400 bytes."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic_settings import BaseSettings, SettingsConfigDict

from syncs.results import HttpClient, Row, RowResult, Target

MODES = {"mirror"}
BATCH_SIZE = 20
BATCH_BYTES = 400
RATE = 1e6
CREDENTIALS = ("base_url",)
SANDBOX = {"base_url": "{url}/club"}
API_VERSION = "1"


class Settings(BaseSettings):
    """Where the club is."""

    model_config = SettingsConfigDict(env_prefix="SIGNALBOX_CLUB_")
    base_url: str | None = None


def push(rows: Sequence[Row], target: Target[Settings], http: HttpClient) -> list[RowResult]:
    (leave,) = {row.leave for row in rows}
    answer = http.post(
        f"{target.settings.base_url}/{'leave' if leave else 'join'}",
        json=[dict(row.fields) for row in rows],
    )
    return [RowResult.delivered(answer.status_code) for _ in rows]


def check(target: Target[Settings], http: HttpClient) -> str:
    return "a club"
