"""Every setting of Signalbox, typed, from `SIGNALBOX_*` variables and the project's `.env`."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from ingestion.object_storage import ObjectStorage
from ingestion.reserved import check_source

ROOT = Path(__file__).resolve().parent.parent
ENV_FILE = ROOT / ".env"
DBT_PROJECT = ROOT / "dbt_project"

Policy = Literal["allow", "quarantine", "reject"]
ClientIp = Literal["full", "anonymised", "off"]


class SettingsError(Exception):
    """A setting is missing or wrong; the message names the variable and what it should be."""


class Settings(BaseSettings):
    """Core settings. Those of a source or destination (`SIGNALBOX_CRM_URL` …) live in its file."""

    model_config = SettingsConfigDict(
        env_prefix="SIGNALBOX_",
        env_file=ENV_FILE,
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
    )

    home: Path = Field(Path(".signalbox"), description="Holds log, lake, Postgres and state.")
    postgres_url: SecretStr | None = Field(
        None, description="A Postgres server of your own; unset: the embedded one."
    )
    lake_url: str = Field("", description="Where Parquet files go; unset: <home>/lake.")
    lake_endpoint_url: str = Field(
        "", description="Where the lake's object storage is, if not at AWS: https://host:port."
    )
    lake_region: str = Field("", description="The region of the lake's bucket.")
    lake_access_key_id: str = Field("", description="Whose key opens the lake's bucket.")
    lake_secret_access_key: SecretStr | None = Field(None, description="That key.")
    write_keys: Annotated[dict[str, str], NoDecode] = Field(
        default={"web": "wk_web", "server": "wk_server"},
        description="Who may send, as name=key pairs: web=wk_1,server=wk_2.",
    )
    unknown_events: Annotated[dict[str, Policy], NoDecode] = Field(
        default={"*": "quarantine"},
        description="What happens to events without a contract: one policy, or name=policy pairs.",
    )
    violations: Annotated[dict[str, Policy], NoDecode] = Field(
        default={"*": "quarantine"},
        description="What happens to events that break their contract: as with unknown events.",
    )
    client_ip: Annotated[dict[str, ClientIp], NoDecode] = Field(
        default={"*": "full"},
        description="What is kept of the addresses of browsers and phones; for all or by source.",
    )
    client_user_agent: Annotated[dict[str, bool], NoDecode] = Field(
        default={"*": True},
        description="Whether the user agents of browsers and phones are kept; or by source.",
    )
    rate_limits: Annotated[dict[str, Annotated[float, Field(gt=0)]], NoDecode] = Field(
        default={},
        description="Most events a second from each source, for all or by source; unset: no limit.",
    )
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Addresses or networks whose X-Forwarded headers are believed."
    )
    host: str = Field("127.0.0.1", description="Address every server listens on.")
    collector_port: int = 8080
    collector_workers: int = Field(
        1, ge=1, le=64, description="Processes that take requests; one more writes the log."
    )
    dagster_port: int = 3000
    sandbox_port: int = 8090
    sandbox_smtp_port: int = 8025

    warm_runs: bool = Field(
        True, description="Runs are executed by a process that has everything imported already."
    )
    disk_reserve_mb: int = Field(
        500, ge=0, description="With less free on the log's disk the collector takes nothing."
    )
    log_retention_days: float = Field(
        7, ge=0, description="Segments of the log that are older, and loaded, are deleted."
    )
    log_retention_gb: float = Field(
        10, gt=0, description="The oldest loaded segments go while the log is larger than this."
    )

    ledger_retention_days: float = Field(
        90, gt=0, description="Content of finished actions, and attempts, are kept as long."
    )

    cart_abandoned_minutes: float = Field(
        30, gt=0, description="Minutes without purchase after which a cart counts as abandoned."
    )
    message_caps: Annotated[dict[str, str], NoDecode] = Field(
        default={},
        description="What one customer gets at most of all syncs on a channel: email=3/day.",
    )
    time_zone: str = Field(
        "UTC", description="For the quiet hours of customers whose time zone is not known."
    )
    source_refresh_seconds: float = Field(
        300, ge=5, description="How often sources that are tables are read: CRM, help desk."
    )
    hot_window_rows: int = Field(
        1_000_000,
        ge=10_000,
        description="Events that the hot lane keeps in memory; about 1 KB each.",
    )
    log_url: SecretStr | None = Field(
        None, description="kafka://host:port/topic in the place of the log on disk."
    )
    sources: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="Sources to switch on, by file name: kafka,stripe."
    )

    @field_validator("write_keys", mode="before")
    @classmethod
    def _parse_write_keys(cls, value: object) -> object:
        return _pairs(value) if isinstance(value, str) else value

    @field_validator(
        *("unknown_events", "violations", "client_ip", "client_user_agent", "rate_limits"),
        mode="before",
    )
    @classmethod
    def _parse_one_or_by_source(cls, value: object) -> object:
        if isinstance(value, str):
            return _pairs(value, example="web=…,*=…") if "=" in value else {"*": value.strip()}
        return value

    @field_validator("sources", "trusted_proxies", mode="before")
    @classmethod
    def _parse_sources(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("message_caps", mode="before")
    @classmethod
    def _parse_message_caps(cls, value: object) -> object:
        from syncs.policies import parse_cap

        caps = _pairs(value, example="email=3/day,sms=1/day") if isinstance(value, str) else value
        if isinstance(caps, dict):
            for cap in caps.values():
                parse_cap(cap)
        return caps

    @field_validator("time_zone")
    @classmethod
    def _known_time_zone(cls, value: str) -> str:
        from syncs.policies import time_zone

        if time_zone(value) is None:
            raise ValueError(f"{value!r} is no IANA time zone; write for example Europe/Berlin")
        return value

    @field_validator("lake_url")
    @classmethod
    def _directory_or_bucket(cls, value: str) -> str:
        scheme, separator, rest = value.partition("://")
        if separator and not (scheme == "s3" and rest.strip("/")):
            raise ValueError(f"{value!r} is neither a directory nor s3://bucket/folder")
        return value

    @field_validator("home")
    @classmethod
    def _from_project_root(cls, value: Path) -> Path:
        # Relative to the project, not to the working directory: `dbt build` runs in dbt_project/,
        # `dagster dev` in the root, and both must find the same home.
        return (ROOT / value.expanduser()).resolve()

    @model_validator(mode="after")
    def _whole_key_of_the_lake(self) -> Settings:
        if bool(self.lake_access_key_id) != (self.lake_secret_access_key is not None):
            raise ValueError(
                "set SIGNALBOX_LAKE_ACCESS_KEY_ID and SIGNALBOX_LAKE_SECRET_ACCESS_KEY, or neither"
            )
        return self

    @model_validator(mode="after")
    def _usable_keys(self) -> Settings:
        if len(set(self.write_keys.values())) != len(self.write_keys):
            raise ValueError("two sources share a write key; give each its own")
        for name in self.write_keys:
            check_source(name)
        return self

    @property
    def log_dir(self) -> Path:
        return self.home / "log"

    @property
    def lake_path(self) -> str:
        """Data path of the lake: a directory or an object-storage URL, always ending in `/`."""
        return (self.lake_url or str(self.home / "lake")).rstrip("/") + "/"

    @property
    def lake_storage(self) -> ObjectStorage | None:
        """How the lake's files are reached; None for a directory."""
        if "://" not in self.lake_path:
            return None
        key = self.lake_secret_access_key
        return ObjectStorage(
            self.lake_endpoint_url,
            self.lake_region,
            self.lake_access_key_id,
            key.get_secret_value() if key else "",
        )

    @property
    def collector_url(self) -> str:
        return f"http://{self.host}:{self.collector_port}"

    @property
    def dagster_url(self) -> str:
        return f"http://{self.host}:{self.dagster_port}"

    @property
    def sandbox_url(self) -> str:
        return f"http://{self.host}:{self.sandbox_port}"


def _pairs(text: str, example: str = "web=wk_1,server=wk_2") -> dict[str, str]:
    pairs = [part.strip() for part in text.split(",") if part.strip()]
    parsed: dict[str, str] = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or not name.strip() or not value.strip():
            raise ValueError(f"{pair!r} is not name=value; write for example {example}")
        parsed[name.strip()] = value.strip()
    if not parsed:
        raise ValueError(f"it is empty; write for example {example}")
    return parsed


@lru_cache(maxsize=1)
def load_settings() -> Settings:
    """Read the settings once per process.

    Raises:
        SettingsError: a variable does not parse; the message names it.
    """
    try:
        return Settings()
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            name, *parts = [str(part) for part in problem["loc"]] or ["* settings"]
            variable = f"SIGNALBOX_{name.upper()}" if problem["loc"] else f"SIGNALBOX_{name}"
            if parts and parts[0] != "*":
                variable += f" ({parts[0]})"
            lines.append(f"{variable}: {problem['msg'].removeprefix('Value error, ')}")
        raise SettingsError("\n".join(lines)) from None
