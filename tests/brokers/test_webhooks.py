"""Vendors that call us: who may, what becomes of what they say."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
from broker_support import CONTRACTS, collecting, payloads
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from pydantic import ValidationError

from ingestion.envelope import LogRecord, decode_record
from ingestion.hooks import Hook
from ingestion.log import LogReader
from ingestion.request import RequestError, SourcePolicy
from ingestion.sources import Request, pubsub_push, signed_webhook, stripe

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
SECRET = "whsec_test"


def ask(name: str, settings: Any, request: Request, now: datetime = NOW) -> list[LogRecord]:
    hook = Hook(SourcePolicy(name), settings)
    return hook.records(request, CONTRACTS, now)


def refused(name: str, settings: Any, request: Request, now: datetime = NOW) -> int:
    with pytest.raises(RequestError) as caught:
        ask(name, settings, request, now)
    return caught.value.status


def event(kind: str, content: dict[str, Any], **more: Any) -> bytes:
    body = {"id": "evt_1", "object": "event", "type": kind, "created": 1767225600, **more}
    return json.dumps(body | {"data": {"object": content}}, indent=2).encode()


def signed(body: bytes, at: datetime = NOW, *secrets: str) -> Request:
    """As Stripe documents it."""
    seconds = int(at.timestamp())
    marks = [
        hmac.new(secret.encode(), f"{seconds}.".encode() + body, hashlib.sha256).hexdigest()
        for secret in secrets or (SECRET,)
    ]
    header = ",".join([f"t={seconds}", *(f"v1={mark}" for mark in marks), "v0=00ff"])
    return Request(body, {"stripe-signature": header})


INVOICE = {
    "id": "in_1", "object": "invoice", "customer": "cus_1", "customer_email": "Ada@example.com",
    "amount_due": 4900, "amount_paid": 0, "currency": "eur", "attempt_count": 2,
    "next_payment_attempt": 1767312000, "billing_reason": "subscription_cycle",
    "parent": {"subscription_details": {"subscription": "sub_1", "metadata": {"user_id": "u_1"}}},
}  # fmt: skip
SUBSCRIPTION = {
    "id": "sub_1", "object": "subscription", "customer": {"id": "cus_1"}, "status": "canceled",
    "cancel_at_period_end": False, "cancellation_details": {"reason": "payment_failed"},
    "items": {"data": [{"current_period_end": 1767312000,
                        "price": {"lookup_key": "team", "unit_amount": 500, "currency": "jpy"}}]},
}  # fmt: skip


def test_stripes_billing_becomes_events_under_contract() -> None:
    settings = stripe.Settings(secret=SECRET)
    body = event("invoice.payment_failed", INVOICE)
    [failed] = ask("stripe", settings, signed(body))
    assert (failed.kind, failed.event, failed.event_version) == ("event", "Payment Failed", 1)
    assert (failed.message_id, failed.user_id, failed.anonymous_id) == (
        "evt_1", "u_1", "stripe:cus_1",
    )  # fmt: skip
    assert failed.timestamp == "2026-01-01T00:00:00.000000Z"
    assert body.decode() in failed.payload  # byte for byte as it was signed
    [said] = payloads([failed])
    assert said["properties"] == {
        "customer_id": "cus_1", "invoice_id": "in_1", "subscription_id": "sub_1", "amount": 49.0,
        "currency": "EUR", "attempt": 2, "next_attempt_at": "2026-01-02T00:00:00.000000Z",
        "billing_reason": "subscription_cycle",
    }  # fmt: skip
    assert said["context"]["traits"] == {"email": "Ada@example.com"}

    [ended] = ask("stripe", settings, signed(event("customer.subscription.deleted", SUBSCRIPTION)))
    assert (ended.kind, ended.event, ended.user_id) == ("event", "Subscription Cancelled", None)
    assert payloads([ended])[0]["properties"] == {
        "customer_id": "cus_1", "subscription_id": "sub_1", "status": "canceled", "plan": "team",
        "amount": 500, "currency": "JPY", "cancels_at_period_end": False,
        "period_ends_at": "2026-01-02T00:00:00.000000Z", "cancellation_reason": "payment_failed",
    }  # fmt: skip

    customer = {"id": "cus_1", "object": "customer", "email": "a@example.com", "name": "Ada"}
    [known] = ask("stripe", settings, signed(event("customer.updated", customer)))
    assert (known.type, known.anonymous_id) == ("identify", "stripe:cus_1")
    assert payloads([known])[0]["traits"]["email"] == "a@example.com"

    [other] = ask("stripe", settings, signed(event("charge.refunded", {"customer": "cus_1"})))
    assert (other.kind, other.event, other.reason) == (
        "quarantine", "charge.refunded", "unknown_event",
    )  # fmt: skip


def test_stripes_signature_and_replay_window() -> None:
    settings = stripe.Settings(secret=SECRET)
    body = event("invoice.payment_failed", INVOICE)
    rolled = signed(body, NOW, "whsec_old", SECRET)  # Stripe signs with both while one is rolled
    assert ask("stripe", settings, rolled)
    assert ask("stripe", stripe.Settings(secret="whsec_new, whsec_test"), signed(body))
    assert ask("stripe", settings, signed(body, NOW - timedelta(seconds=299)))
    good = signed(body).headers["stripe-signature"]
    for header in (
        "", "t=,v1=", good.replace("v1=", "v0="), good.replace("t=1", "t=2"),
        signed(body, NOW, "whsec_other").headers["stripe-signature"],
        signed(body, NOW - timedelta(seconds=301)).headers["stripe-signature"],
        signed(body, NOW + timedelta(seconds=301)).headers["stripe-signature"],
    ):  # fmt: skip
        assert refused("stripe", settings, Request(body, {"stripe-signature": header})) == 401
    assert refused("stripe", settings, Request(body + b" ", {"stripe-signature": good})) == 401
    for nonsense in (b"[]", b"{", b'{"type": "x"}', b'{"id": 1, "type": 2, "data": 3}'):
        assert refused("stripe", settings, signed(nonsense)) == 400


def mac(body: bytes, secret: bytes = b"s3cret", algorithm: str = "sha256") -> bytes:
    return hmac.new(secret, body, algorithm).digest()


def test_other_vendors_ways_of_signing() -> None:
    body = b'{"sender": {"login": "ada"}, "action": "opened"}'
    fields = {"event": "header.x-github-event", "user_id": "sender.login"}
    github = signed_webhook.Settings(
        secret="s3cret", header="X-Hub-Signature-256", prefix="sha256=",
        id_header="X-GitHub-Delivery", fields=fields, events={"issues": "Logged In"},
    )  # fmt: skip
    headers = {"x-github-delivery": "d-1", "x-github-event": "issues"}
    call = Request(body, headers | {"x-hub-signature-256": f"sha256={mac(body).hex()}"})
    [record] = ask("signed_webhook", github, call)
    assert (record.event, record.user_id, record.message_id) == ("Logged In", "ada", "d-1")
    [said] = payloads([record])
    assert said["properties"] == json.loads(body)
    for wrong in (mac(body).hex(), f"sha256={mac(body, b'other').hex()}", "sha256=zz", ""):
        assert (
            refused("signed_webhook", github, Request(body, {"x-hub-signature-256": wrong})) == 401
        )

    shopify = signed_webhook.Settings(
        secret="s3cret", header="x-shopify-hmac-sha256", encoding="base64"
    )
    mark = base64.b64encode(mac(body)).decode()
    [first], [again] = (
        ask("signed_webhook", shopify, Request(body, {"x-shopify-hmac-sha256": mark}))
        for _ in range(2)
    )
    assert first.message_id == again.message_id  # the copy is dropped by staging

    standard = signed_webhook.Settings(
        secret="whsec_" + base64.b64encode(b"key").decode(), secret_is_base64=True,
        header="webhook-signature", prefix="v1,", encoding="base64",
        signed="{id}.{timestamp}.{body}", timestamp_header="webhook-timestamp",
        id_header="webhook-id",
    )  # fmt: skip

    def standard_call(at: datetime) -> Request:
        stamp = str(int(at.timestamp()))
        mark = base64.b64encode(mac(f"m1.{stamp}.".encode() + body, b"key")).decode()
        return Request(
            body,
            {
                "webhook-signature": f"v1,{base64.b64encode(b'x' * 32).decode()} v1,{mark}",
                "webhook-timestamp": stamp,
                "webhook-id": "m1",
            },
        )

    assert ask("signed_webhook", standard, standard_call(NOW))[0].message_id == "m1"
    assert refused("signed_webhook", standard, standard_call(NOW - timedelta(hours=1))) == 401
    with pytest.raises(ValidationError, match="TIMESTAMP_HEADER"):
        signed_webhook.Settings(secret="s", signed="{timestamp}.{body}")


@pytest.fixture(scope="module")
def google() -> Iterator[Google]:
    with Google() as running:
        yield running


class Google:
    """Signs tokens as Google does, and serves the certificates to check them."""

    def __enter__(self) -> Google:
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "google")])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self._key.public_key())
            .serial_number(1)
            .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
            .not_valid_after(datetime(2040, 1, 1, tzinfo=UTC))
            .sign(self._key, hashes.SHA256())
        )
        served = {"k1": certificate.public_bytes(serialization.Encoding.PEM).decode()}

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = json.dumps(served).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/certs"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def token(self, **changes: Any) -> str:
        from google.auth import crypt, jwt

        pem = self._key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        now = int(datetime.now(UTC).timestamp())
        claims = {
            "iss": "https://accounts.google.com", "aud": "https://us.example", "iat": now,
            "exp": now + 3600, "email": "push@shop.example", "email_verified": True,
        }  # fmt: skip
        signer = crypt.RSASigner.from_string(pem, key_id="k1")
        return jwt.encode(signer, claims | changes).decode()  # type: ignore[no-untyped-call]


def test_pubsub_pushes(google: Google) -> None:
    message = {
        "data": base64.b64encode(b'{"user": "u1"}').decode(), "attributes": {"event": "Logged In"},
        "messageId": "77", "publishTime": "2026-11-24T11:59:00.5Z", "orderingKey": "",
    }  # fmt: skip
    body = json.dumps({"message": message, "subscription": "projects/p/subscriptions/s"}).encode()
    settings = pubsub_push.Settings(
        token="t0ken", audience="https://us.example", service_account="push@shop.example",
        certificates_url=google.url, fields={"user_id": "user"},
    )  # fmt: skip

    def call(token: str, query: str = "t0ken", content: bytes = body) -> Request:
        return Request(content, {"authorization": f"Bearer {token}"}, {"token": query})

    [record] = ask("pubsub_push", settings, call(google.token()))
    assert (record.kind, record.event, record.user_id) == ("event", "Logged In", "u1")
    assert (record.message_id, record.timestamp) == ("77", "2026-11-24T11:59:00.500000Z")

    for bad in (
        call(google.token(), "other"),
        call("no.such.token"),
        call(google.token(aud="https://them.example")),
        call(google.token(email="push@elsewhere.example")),
        call(google.token(email_verified=False)),
        call(google.token(iss="https://elsewhere.example")),
        call(google.token(exp=1)),
        Request(body, {}, {"token": "t0ken"}),
    ):
        assert refused("pubsub_push", settings, bad) == 401
    for nonsense in (b"{}", b"[", b'{"message": {"messageId": "1", "data": "%"}}'):
        assert refused("pubsub_push", settings, call(google.token(), content=nonsense)) == 400
    away = settings.model_copy(update={"certificates_url": "http://127.0.0.1:9/certs"})
    assert refused("pubsub_push", away, call(google.token())) == 503
    with pytest.raises(ValidationError, match="to know who calls"):
        pubsub_push.Settings()


def test_the_collector_takes_them_over_http(tmp_path: Path) -> None:
    body = event("invoice.payment_failed", INVOICE)
    environment = {
        "SIGNALBOX_SOURCES": "stripe", "SIGNALBOX_STRIPE_SECRET": SECRET,
        "SIGNALBOX_COLLECTOR_WORKERS": "2",
    }  # fmt: skip
    with collecting(tmp_path, **environment) as url:
        address = f"{url}/v1/hooks/stripe"
        good = signed(body, datetime.now(UTC)).headers
        taken = requests.post(address, body, headers=dict(good), timeout=20)
        assert (taken.status_code, taken.json()["accepted"]) == (200, 1)
        wrong = requests.post(address, body + b" ", headers=dict(good), timeout=20)
        assert (wrong.status_code, wrong.json()["code"]) == (401, "invalid_signature")
        large = requests.post(address, b"x" * 600_000, headers=dict(good), timeout=20)
        assert large.status_code == 413
        assert requests.get(address, timeout=20).status_code == 405
        off = requests.post(f"{url}/v1/hooks/signed_webhook", body, timeout=20)
        assert off.status_code == 404
    [(_, raw)] = LogReader(tmp_path / "log").read(0, 10)
    assert (decode_record(raw).source, decode_record(raw).event) == ("stripe", "Payment Failed")
