from __future__ import annotations

from pathlib import Path

import pytest

from orchestration import activate
from orchestration.ingest import source_policy
from orchestration.settings import ROOT, Settings, SettingsError, load_settings


def read(monkeypatch: pytest.MonkeyPatch, **values: str) -> Settings:
    for name, value in values.items():
        monkeypatch.setenv(f"SIGNALBOX_{name}", value)
    load_settings.cache_clear()
    try:
        return load_settings()
    finally:
        load_settings.cache_clear()


def test_a_relative_home_is_relative_to_the_project(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert read(monkeypatch, HOME="somewhere").home == ROOT / "somewhere"


def test_write_keys_are_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = read(monkeypatch, WRITE_KEYS="web=wk_1, server=wk_2").write_keys
    assert keys == {"web": "wk_1", "server": "wk_2"}


def test_one_policy_holds_for_all_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read(monkeypatch, UNKNOWN_EVENTS="reject").unknown_events == {"*": "reject"}
    assert read(monkeypatch, UNKNOWN_EVENTS="web=allow").unknown_events == {"web": "allow"}
    settings = read(monkeypatch, VIOLATIONS="web=allow,*=reject", UNKNOWN_EVENTS="web=reject")
    web, other = source_policy(settings, "web"), source_policy(settings, "app")
    assert (web.unknown_events, web.violations) == ("reject", "allow")
    assert (other.unknown_events, other.violations) == ("quarantine", "reject")


def test_what_a_source_may_is_set_for_all_or_by_source(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = read(
        monkeypatch,
        CLIENT_IP="web=anonymised,*=off",
        CLIENT_USER_AGENT="false",
        RATE_LIMITS="web=500",
        TRUSTED_PROXIES="10.0.0.0/8, ::1",
    )
    web, other = source_policy(settings, "web"), source_policy(settings, "app")
    assert (web.client_ip, web.user_agent, web.events_per_second) == ("anonymised", False, 500)
    assert (other.client_ip, other.user_agent, other.events_per_second) == ("off", False, None)
    assert settings.trusted_proxies == ("10.0.0.0/8", "::1")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("WRITE_KEYS", "wk_1", "SIGNALBOX_WRITE_KEYS: 'wk_1' is not name=value"),
        ("WRITE_KEYS", "web=k,app=k", "share a write key"),
        ("UNKNOWN_EVENTS", "web=ignore", "SIGNALBOX_UNKNOWN_EVENTS (web): Input should be 'allow'"),
        ("VIOLATIONS", "ignore", "SIGNALBOX_VIOLATIONS: Input should be 'allow'"),
        ("COLLECTOR_PORT", "http", "SIGNALBOX_COLLECTOR_PORT"),
        ("CART_ABANDONED_MINUTES", "0", "greater than 0"),
        ("CLIENT_IP", "web=half", "SIGNALBOX_CLIENT_IP"),
        ("RATE_LIMITS", "0", "greater than 0"),
        ("MESSAGE_CAPS", "email", "write for example email=3/day"),
        ("MESSAGE_CAPS", "email=daily", "a number of messages and a span, like 1/day"),
        ("LAKE_URL", "az://lake/files", "neither a directory nor s3://bucket/folder"),
        ("LAKE_ACCESS_KEY_ID", "ada", "SIGNALBOX_LAKE_SECRET_ACCESS_KEY, or neither"),
        ("TIME_ZONE", "Berlin", "'Berlin' is no IANA time zone"),
    ],
)
def test_a_wrong_value_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    with pytest.raises(SettingsError, match="SIGNALBOX_") as caught:
        read(monkeypatch, **{name: value})
    assert said in str(caught.value)


def test_a_cap_on_a_channel_that_nothing_sends_on_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caps = read(monkeypatch, MESSAGE_CAPS="email=3/day, sms=2/6h").message_caps
    assert caps == {"email": "3/day", "sms": "2/6h"}
    assert activate.channel_caps(caps)["sms"].count == 2
    words = r"no destination sends on 'emial'; channels are email,.*sms"
    with pytest.raises(SettingsError, match=words):
        activate.channel_caps({"emial": "3/day"})


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = read(monkeypatch, POSTGRES_URL="postgresql://u:hunter2@db/postgres")
    assert "hunter2" not in repr(settings)
