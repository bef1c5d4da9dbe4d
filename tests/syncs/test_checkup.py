from __future__ import annotations

import threading
import time

import pytest
from syncs_support import Reply, Request, Vendor

from syncs.checkup import Finding, check_all, logins
from syncs.destinations import Sandbox, available

SECRET = "s3cr3t-v4lue"


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for _, destination, _ in logins():
        prefix = destination.settings.model_config["env_prefix"]
        for name in destination.settings.model_fields:
            monkeypatch.delenv(f"{prefix}{name}".upper(), raising=False)


def check(*, offline: bool = False, seconds: float = 5.0) -> dict[str, Finding]:
    place = Sandbox("http://127.0.0.1:1", "127.0.0.1:1", "postgresql://x", "/nowhere")
    found = check_all(place, env_file=None, offline=offline, seconds=seconds)
    return {each.name: each for each in found}


def test_without_credentials_all_deliver_to_the_sandbox() -> None:
    found = check()
    assert {*available(), "slack incoming_webhook"} <= set(found)
    assert all(each.sandbox and each.state == "ok" for each in found.values())


def test_each_is_called_beside_the_others_and_none_waits_for_long(
    vendor: Vendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()

    def answer(request: Request) -> Reply:
        if request.path.startswith("/v26.0"):
            return Reply(400, {"error": {"code": 190, "message": f"no such token {SECRET}"}})
        if request.path.startswith("/account-info"):
            release.wait(5)
        return Reply(body={"status": "active", "friendly_name": "Shop", "type": "Full"})

    vendor.answer = answer
    for name, value in {
        "TWILIO_ACCOUNT_SID": "AC1", "TWILIO_AUTH_TOKEN": SECRET, "TWILIO_SENDER": "+1",
        "TWILIO_BASE_URL": vendor.url, "META_AUDIENCES_ACCESS_TOKEN": SECRET,
        "META_AUDIENCES_BASE_URL": vendor.url, "HUBSPOT_TOKEN": SECRET,
        "HUBSPOT_BASE_URL": vendor.url, "SMTP_EMAIL_HOST": "mail.shop.example",
        "SLACK_WEBHOOK_URL": f"https://hooks.slack.com/services/{SECRET}",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"SIGNALBOX_{name}", value)
    started = time.monotonic()
    found = check(seconds=0.7)
    assert time.monotonic() - started < 3
    release.set()
    twilio = found["twilio"]
    assert (twilio.state, twilio.result) == ("ok", "Shop (Full account)")
    assert twilio.api_version == "2010-04-01"
    assert found["hubspot"].result == "no answer within 1 s"
    assert "SIGNALBOX_SMTP_EMAIL_FROM_ADDRESS" in found["smtp_email"].result
    assert "hooks.slack.com" in found["slack incoming_webhook"].result
    assert found["slack"].sandbox
    wrong = {name for name, each in found.items() if each.state == "wrong"}
    assert wrong == {"meta_audiences", "hubspot", "smtp_email"}
    assert SECRET not in str(found)

    calls = len(vendor.requests)
    found = check(offline=True)
    assert found["twilio"].result == "credentials are set"
    assert found["smtp_email"].state == "wrong"
    assert len(vendor.requests) == calls
