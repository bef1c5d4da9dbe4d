"""The contract that every destination file keeps, whatever vendor it speaks to."""

from __future__ import annotations

import base64
import hashlib
import hmac
import importlib
from dataclasses import replace
from typing import Any

import pytest
from pydantic import SecretStr
from syncs_support import Reply, Vendor

from syncs import destinations
from syncs.destinations import Sandbox, aim, sandbox_target
from syncs.http import Http
from syncs.results import Fatal, Rejected, Retryable, RowResult, Unanswered, mask

ALL = destinations.available()


def case_of(name: str) -> Any:
    """The file syncs_cases/<name>.py: one case itself, or several in CASES; see `Case`."""
    return importlib.import_module(f"syncs_cases.{name}")


def cases_of(name: str) -> list[Any]:
    return getattr(case_of(name), "CASES", None) or [case_of(name)]


HTTP = [
    pytest.param(name, case, id=f"{name}-{case.OBJECT}")
    for name in ALL
    for case in cases_of(name)
    if case.PATH is not None
]
CHECKED = [name for name in ALL if hasattr(case_of(name), "CHECK")]


@pytest.fixture
def http() -> Any:
    client = Http(timeouts=(2.0, 0.5))
    yield client
    client.close()


def push(
    name: str, vendor: Vendor, http: Http, rows: list[Any] | None = None, case: Any = None
) -> list[RowResult]:
    case, destination = case or cases_of(name)[0], destinations.load(name)
    target = sandbox_target(destination, Sandbox(vendor.url, "127.0.0.1:1"))
    target = aim(target, object_name=case.OBJECT, key=case.KEY)
    return destination.push(case.ROWS if rows is None else rows, target, http)


@pytest.mark.parametrize("name", ALL)
def test_declares_its_limits(name: str) -> None:
    destination = destinations.load(name)
    assert destination.modes <= {"upsert", "update_only", "mirror", "message"}
    for case in cases_of(name):
        assert destination.takes(case.OBJECT)
        assert destination.of(case.OBJECT).modes <= destination.modes
    assert destination.batch_size >= 1 and destination.rate > 0
    assert set(destination.credentials) <= set(destination.settings.model_fields)
    assert set(destination.sandbox) <= set(destination.settings.model_fields)
    prefix = destination.settings.model_config["env_prefix"]
    assert prefix == f"SIGNALBOX_{name.upper()}_"


def earlier(case: Any) -> list[Reply]:
    """Answers to the requests that come before the one that counts."""
    return [Reply(body=answer) for *_, answer in getattr(case, "EARLIER", ())]


@pytest.mark.parametrize("name", ALL)
def test_empty_batch_makes_no_request(name: str, vendor: Vendor, http: Http) -> None:
    for case in cases_of(name):
        assert push(name, vendor, http, [], case) == []
    assert vendor.requests == []


@pytest.mark.parametrize(("name", "case"), HTTP)
def test_golden_request(name: str, case: Any, vendor: Vendor, http: Http) -> None:
    vendor.play(*earlier(case), Reply(body=case.SUCCESS))
    results = push(name, vendor, http, case=case)
    assert [result.outcome for result in results] == ["delivered"] * len(case.ROWS)
    *before, request = vendor.requests
    assert [(each.method, each.path, each.json) for each in before] == [
        expected[:3] for expected in getattr(case, "EARLIER", ())
    ]
    assert (request.method, request.path) == (getattr(case, "METHOD", "POST"), case.PATH)
    assert request.json == case.GOLDEN
    assert case.HEADERS.items() <= request.headers.items()


@pytest.mark.parametrize(("name", "case"), HTTP)
def test_too_many_requests_is_retryable_with_its_wait(
    name: str, case: Any, vendor: Vendor, http: Http
) -> None:
    vendor.play(*earlier(case), Reply(429, {"message": "slow down"}, {"Retry-After": "7"}))
    with pytest.raises(Retryable) as caught:
        push(name, vendor, http, case=case)
    assert caught.value.retry_after == 7.0
    assert not isinstance(caught.value, Unanswered)


@pytest.mark.parametrize(("name", "case"), HTTP)
def test_an_unanswered_request_may_have_worked(
    name: str, case: Any, vendor: Vendor, http: Http
) -> None:
    vendor.play(*earlier(case), Reply(drop=True))
    with pytest.raises(Unanswered):
        push(name, vendor, http, case=case)


@pytest.mark.parametrize(("name", "case"), HTTP)
def test_mixed_success_stays_mixed(name: str, case: Any, vendor: Vendor, http: Http) -> None:
    vendor.play(*earlier(case), Reply(case.MIXED_STATUS, case.MIXED))
    if case.MIXED_STATUS >= 400:  # the whole request; the engine halves it to find the row
        with pytest.raises(Rejected, match=str(case.MIXED_STATUS)):
            push(name, vendor, http, case=case)
        return
    results = push(name, vendor, http, case=case)
    assert len(results) == len(case.ROWS)
    *others, last = results
    assert all(result.outcome == "delivered" for result in others)
    assert last.outcome == "rejected" and last.reason


@pytest.mark.parametrize("name", CHECKED)
def test_check_is_one_harmless_request(name: str, vendor: Vendor, http: Http) -> None:
    method, path, answer, whose = case_of(name).CHECK
    destination = destinations.load(name)
    target = sandbox_target(destination, Sandbox(vendor.url, "127.0.0.1:1"))
    vendor.play(Reply(body=answer), Reply(401, {"message": "who are you"}))
    assert destination.check(target, http) == whose
    (request,) = vendor.requests
    assert (request.method, request.path) == (method, path)
    with pytest.raises(Fatal):
        destination.check(target, http)


@pytest.mark.parametrize(("name", "case"), HTTP)
def test_refused_credentials_need_a_person_and_name_no_secret(
    name: str, case: Any, vendor: Vendor, http: Http
) -> None:
    vendor.play(Reply(401, {"error": "bad token"}))
    destination = destinations.load(name)
    target = sandbox_target(destination, Sandbox(vendor.url, "127.0.0.1:1"))
    secret = "whsec_czNjcjN0LXZhbHVl"
    fields = type(target.settings).model_fields
    held = {
        f: SecretStr(secret) for f in fields if isinstance(getattr(target.settings, f), SecretStr)
    }
    target = replace(target, settings=target.settings.model_copy(update=held), object=case.OBJECT)
    assert set(destinations.secrets(target)) == {secret}
    with pytest.raises(Fatal) as caught:
        destination.push(case.ROWS, target, http)
    assert secret not in str(caught.value)
    assert secret not in repr(target)


def test_a_server_that_is_not_there_is_retryable(http: Http) -> None:
    with pytest.raises(Retryable) as caught:
        http.post("http://127.0.0.1:1/x", json={})
    assert not isinstance(caught.value, Unanswered)


def test_a_hanging_server_is_unanswered(vendor: Vendor, http: Http) -> None:
    import threading

    release = threading.Event()
    vendor.answer = lambda request: (release.wait(5), Reply())[1]
    with pytest.raises(Unanswered):
        http.post(f"{vendor.url}/x", json={})
    release.set()


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, Rejected), (422, Rejected), (403, Fatal), (404, Fatal), (302, Fatal),
     (500, Unanswered), (502, Unanswered), (503, Retryable)],
)  # fmt: skip
def test_status_codes(status: int, kind: type, vendor: Vendor, http: Http) -> None:
    vendor.play(Reply(status, {"message": "no, ann@shop.example +49 170 1234567"}))
    with pytest.raises(kind) as caught:
        http.post(f"{vendor.url}/x", json={})
    assert type(caught.value) is kind
    assert "ann@" not in str(caught.value) and "1234567" not in str(caught.value)


def test_hubspot_errors_that_name_no_row_are_not_guessed(vendor: Vendor, http: Http) -> None:
    vendor.play(Reply(207, {"results": [], "numErrors": 1, "errors": []}))
    results = push("hubspot", vendor, http)
    assert {result.outcome for result in results} == {"retrying"}


@pytest.mark.parametrize(
    ("error", "kind"),
    [("ratelimited", Retryable), ("internal_error", Unanswered), ("invalid_auth", Fatal)],
)
def test_slack_errors(error: str, kind: type, vendor: Vendor, http: Http) -> None:
    vendor.play(Reply(200, {"ok": False, "error": error}))
    with pytest.raises(kind):
        push("slack", vendor, http)


def test_webhook_signature_can_be_verified(vendor: Vendor, http: Http) -> None:
    push("webhook", vendor, http)
    (request,) = vendor.requests
    key = base64.b64decode("c2lnbmFsYm94LXNhbmRib3gtc2VjcmV0")
    stamp = request.headers["webhook-timestamp"]
    content = f"k1.{stamp}.".encode() + request.body
    expected = base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
    assert request.headers["webhook-signature"] == f"v1,{expected}"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_webhook_refuses_private_addresses(
    host: str, vendor: Vendor, http: Http, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = vendor.url.replace("127.0.0.1", host)
    monkeypatch.setenv("SIGNALBOX_WEBHOOK_BASE_URL", url)
    monkeypatch.setenv("SIGNALBOX_WEBHOOK_SECRET", "whsec_c2VjcmV0")
    destination = destinations.load("webhook")
    case = case_of("webhook")

    def send() -> list[RowResult]:
        target = destinations.resolve(destination, Sandbox(vendor.url), env_file=None)
        assert not target.sandbox
        return destination.push(case.ROWS, aim(target, object_name="x", key="y"), http)

    with pytest.raises(Fatal, match="ALLOW_HOSTS"):
        send()
    assert vendor.requests == []
    monkeypatch.setenv("SIGNALBOX_WEBHOOK_ALLOW_HOSTS", host)
    assert send()[0].outcome == "delivered"


def test_without_credentials_the_sandbox_is_used() -> None:
    target = destinations.resolve(
        destinations.load("hubspot"), Sandbox("http://127.0.0.1:8090/"), env_file=None
    )
    assert target.sandbox
    assert target.settings.base_url == "http://127.0.0.1:8090/hubspot"


def test_half_of_the_credentials_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGNALBOX_SMTP_EMAIL_HOST", "mail.shop.example")
    with pytest.raises(Fatal, match="SIGNALBOX_SMTP_EMAIL_FROM_ADDRESS"):
        destinations.resolve(destinations.load("smtp_email"), Sandbox(), env_file=None)
    monkeypatch.setenv("SIGNALBOX_SMTP_EMAIL_FROM_ADDRESS", "a@shop.example")
    monkeypatch.setenv("SIGNALBOX_SMTP_EMAIL_PASSWORD", "hunter22")
    with pytest.raises(Fatal, match="belong together") as caught:
        destinations.resolve(destinations.load("smtp_email"), Sandbox(), env_file=None)
    assert "hunter22" not in str(caught.value)


def test_an_unknown_destination_lists_the_known() -> None:
    with pytest.raises(Fatal, match=", ".join(ALL)):
        destinations.load("salesfroce")


def test_mask_keeps_the_sentence_and_drops_the_person() -> None:
    text = "Ann Example <ann@shop.example>, +49 170 1234567: token xoxb-1 cannot post to Acme"
    masked = mask(text, fields={"customer_name": "Ann Example"}, secrets=["xoxb-1"])
    assert masked == "‹customer_name› <‹email›>, ‹number›: token ‹secret› cannot post to Acme"
