"""Each vendor's happy path, credentials, limits, partial failures and paging."""

from __future__ import annotations

import smtplib
import time
from email.message import EmailMessage

import pytest

from .conftest import CONTACTS, TICKETS, Client, signature


def test_hubspot_upsert_creates_then_updates_only_what_changed(sandbox: Client) -> None:
    first = sandbox.upsert({"Ada@Example.com": {"churn_score": 0.31, "churn_band": "low"}})
    assert first.status_code == 200
    result = first.json()["results"][0]
    assert result["new"] is True
    assert result["properties"]["churn_score"] == "0.31"
    assert result["properties"]["email"] == "ada@example.com"

    second = sandbox.upsert({"ada@example.com": {"churn_score": "0.72", "churn_band": "low"}})
    assert second.json()["results"][0]["new"] is False
    sandbox.upsert({"ada@example.com": {"churn_score": "0.72"}})

    created, updated, unchanged = sandbox.effects(destination="hubspot")
    assert created["changes"]["churn_band"] == [None, "low"]
    assert updated["action"] == "contact_updated"
    assert updated["changes"] == {"churn_score": ["0.31", "0.72"]}
    assert unchanged["action"] == "contact_unchanged"
    assert '"0.72"' in updated["body"]


def test_hubspot_refuses_bad_rows_and_delivers_their_neighbours(sandbox: Client) -> None:
    answer = sandbox.upsert({"ada@example.com": {}, "bad@": {}, "alan@example.com": {}})
    assert answer.status_code == 207
    body = answer.json()
    assert [row["properties"]["email"] for row in body["results"]] == [
        "ada@example.com",
        "alan@example.com",
    ]
    assert body["numErrors"] == 1
    assert body["errors"][0]["context"]["id"] == ["bad@"]
    assert body["errors"][0]["errors"][0]["code"] == "INVALID_EMAIL"


def test_hubspot_refuses_whole_requests(sandbox: Client) -> None:
    too_many = sandbox.upsert({f"p{number}@example.com": {} for number in range(101)})
    assert (too_many.status_code, too_many.json()["category"]) == (400, "VALIDATION_ERROR")
    assert sandbox.upsert({"ada@example.com": {"Not A Name": "1"}}).status_code == 400
    assert sandbox.upsert({"ada@example.com": {}, "ADA@example.com": {}}).status_code == 400
    assert sandbox.upsert({}).status_code == 400
    not_json = sandbox.post(f"{CONTACTS}/batch/upsert", data="{")
    assert not_json.status_code == 400
    wrong = sandbox.upsert({"a@example.com": {}}, headers={"authorization": "Bearer guess"})
    assert (wrong.status_code, wrong.json()["category"]) == (401, "INVALID_AUTHENTICATION")
    assert sandbox.effects() == []


def test_hubspot_create_update_read_and_pages(sandbox: Client) -> None:
    inputs = [{"properties": {"email": f"p{n}@example.com", "plan": "pro"}} for n in range(5)]
    created = sandbox.post(f"{CONTACTS}/batch/create", json={"inputs": inputs})
    assert created.status_code == 201
    again = sandbox.post(f"{CONTACTS}/batch/create", json={"inputs": inputs[:1]})
    assert (again.status_code, again.json()["category"]) == (409, "CONFLICT")

    known, unknown = (
        {"id": email, "idProperty": "email", "properties": {"plan": ""}}
        for email in ("p0@example.com", "who@example.com")
    )
    updated = sandbox.post(f"{CONTACTS}/batch/update", json={"inputs": [known, unknown]})
    assert updated.status_code == 207
    assert updated.json()["errors"][0]["category"] == "OBJECT_NOT_FOUND"

    read = sandbox.post(
        f"{CONTACTS}/batch/read",
        json={
            "idProperty": "email",
            "properties": ["plan"],
            "inputs": [{"id": "p0@example.com"}, {"id": "p1@example.com"}],
        },
    )
    assert [row["properties"]["plan"] for row in read.json()["results"]] == [None, "pro"]

    seen, query = [], {"limit": "2", "properties": "plan,churn_band"}
    while True:
        page = sandbox.get(CONTACTS, params=query).json()
        seen += [row["properties"]["email"] for row in page["results"]]
        assert page["results"][0]["properties"]["churn_band"] is None
        if "paging" not in page:
            break
        query["after"] = page["paging"]["next"]["after"]
    assert seen == [f"p{n}@example.com" for n in range(5)]


def test_hubspot_rate_limit(sandbox: Client) -> None:
    for _ in range(100):
        assert sandbox.get(CONTACTS).status_code == 200
    refused = sandbox.get(CONTACTS)
    assert refused.status_code == 429
    assert refused.json()["policyName"] == "TEN_SECONDLY_ROLLING"
    assert 1 <= int(refused.headers["retry-after"]) <= 10
    sandbox.post("/sandbox/limits", json={"vendor": "hubspot", "enabled": False})
    assert sandbox.get(CONTACTS).status_code == 200


def test_slack_takes_json_and_form(sandbox: Client) -> None:
    posted = sandbox.slack(channel="#cs", text="*Hello*").json()
    assert posted["ok"]
    assert posted["message"]["text"] == "*Hello*"
    assert posted["channel"].startswith("C")
    form = sandbox.post(
        "/slack/api/chat.postMessage",
        data={"channel": "#cs", "blocks": '[{"type": "divider"}]'},
    ).json()
    assert form["ok"]
    assert float(form["ts"]) > float(posted["ts"])
    assert form["message"]["blocks"] == [{"type": "divider"}]
    assert sandbox.get("/slack/api/auth.test").json()["ok"]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"channel": "#cs"}, "no_text"),
        ({"channel": "no such channel!", "text": "hi"}, "channel_not_found"),
        ({"text": "hi"}, "channel_not_found"),
        ({"channel": "#cs", "text": "x" * 40_001}, "msg_too_long"),
        ({"channel": "#cs", "blocks": [{"text": "no type"}]}, "invalid_blocks"),
    ],
)
def test_slack_refusals(sandbox: Client, arguments: dict[str, object], error: str) -> None:
    answer = sandbox.slack(**arguments)
    assert answer.status_code == 200
    assert answer.json() == {"ok": False, "error": error}
    assert sandbox.effects() == []


def test_slack_auth(sandbox: Client) -> None:
    message = {"channel": "#cs", "text": "hi"}
    path = "/slack/api/chat.postMessage"
    wrong = sandbox.post(path, json=message, headers={"authorization": "Bearer guess"})
    assert wrong.json()["error"] == "invalid_auth"
    none = sandbox.post(path, json=message, headers={"authorization": None})
    assert none.json()["error"] == "not_authed"


def test_slack_channel_limit_can_be_switched_on(sandbox: Client) -> None:
    sandbox.post("/sandbox/limits", json={"vendor": "slack", "enabled": True})
    assert sandbox.slack(channel="#a", text="1").json()["ok"]
    assert sandbox.slack(channel="#b", text="1").json()["ok"]
    refused = sandbox.slack(channel="#a", text="2")
    assert (refused.status_code, refused.json()["error"]) == (429, "ratelimited")
    assert refused.headers["retry-after"] == "1"


def test_slack_marks_a_message_that_arrives_again(sandbox: Client) -> None:
    for key in ("k1", "k1", "k2"):
        payload = {"event_type": "signal", "event_payload": {"action_key": key}}
        sandbox.slack(channel="#cs", text="hi", metadata=payload)
    assert [effect["duplicate"] for effect in sandbox.effects()] == [False, True, False]
    assert sandbox.stats()["slack"]["duplicates"] == 1


def test_webhook_checks_signature_and_time(sandbox: Client) -> None:
    assert sandbox.webhook("tickets", b'{"ticket_id": "T1"}', "msg_1").json() == {
        "ok": True,
        "duplicate": False,
    }
    assert sandbox.webhook("tickets", b'{"ticket_id": "T1"}', "msg_1").json()["duplicate"]
    assert sandbox.webhook("other", b"{}", "msg_2", at=time.time() - 301).status_code == 401
    assert sandbox.webhook("other", b"{}", "msg_2", at=time.time() + 310).status_code == 401
    assert sandbox.post("/webhook/other", data=b"{}").status_code == 401
    headers = signature("msg_3", str(int(time.time())), b"{}")
    assert sandbox.post("/webhook/other", data=b"{ }", headers=headers).status_code == 401
    headers["webhook-signature"] = "v1,wrong " + headers["webhook-signature"]
    assert sandbox.post("/webhook/other", data=b"{}", headers=headers).status_code == 200
    effects = sandbox.effects(destination="webhook")
    assert [(effect["key"], effect["duplicate"]) for effect in effects] == [
        ("tickets", False),
        ("tickets", True),
        ("other", False),
    ]
    assert effects[0]["detail"]["payload"] == {"ticket_id": "T1"}


def test_support_tickets_create_update_and_pages(sandbox: Client) -> None:
    numbers = [
        sandbox.ticket(f"p{n}@example.com", priority="high").json()["ticket"]["id"]
        for n in range(5)
    ]
    assert numbers == [1, 2, 3, 4, 5]
    solved = sandbox.call("PUT", f"{TICKETS}/1", json={"ticket": {"status": "solved"}}).json()
    assert solved["ticket"]["status"] == "solved"

    seen, query = [], {"page[size]": "2"}
    while True:
        page = sandbox.get(TICKETS, params=query).json()
        seen += [ticket["id"] for ticket in page["tickets"]]
        if not page["meta"]["has_more"]:
            break
        query["page[after]"] = page["meta"]["after_cursor"]
    assert seen == [2, 3, 4, 5, 1]

    since = sandbox.get(f"{TICKETS}/5").json()["ticket"]["updated_at"]
    fresh = sandbox.get(TICKETS, params={"updated_since": since}).json()["tickets"]
    assert [ticket["id"] for ticket in fresh] == [5, 1]
    assert fresh[1]["requester_email"] == "p0@example.com"


def test_support_refusals_and_idempotency(sandbox: Client) -> None:
    assert sandbox.get(TICKETS, headers={"authorization": "Bearer guess"}).status_code == 401
    assert sandbox.ticket("nobody").status_code == 422
    assert sandbox.ticket("a@example.com", priority="whatever").status_code == 422
    assert sandbox.call("PUT", f"{TICKETS}/9", json={"ticket": {}}).status_code == 404
    assert sandbox.get(TICKETS, params={"page[after]": "?"}).status_code == 422
    assert sandbox.get(TICKETS, params={"updated_since": "yesterday"}).status_code == 422
    ticket = {"ticket": {"subject": "Help", "requester": {"email": "a@example.com"}}}
    answers = [
        sandbox.post(TICKETS, json=ticket, headers={"idempotency-key": "k"}) for _ in range(2)
    ]
    assert [answer.json()["ticket"]["id"] for answer in answers] == [1, 1]
    assert answers[1].headers["x-idempotency-lookup"] == "hit"
    assert sandbox.stats()["support"]["actions"] == {"ticket_created": 1}


def mail(to: str = "ada@example.com", message_id: str = "<1@signalbox>") -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"] = "Shop <shop@example.com>", to
    message["Subject"], message["Message-ID"] = "Dein Körbchen wartet", message_id
    message["List-Unsubscribe"] = "<https://example.com/u/1>"
    message["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
    message.set_content("Hallo Ada, drei Äpfel\n")
    message.add_alternative("<p>Hallo <b>Ada</b></p>", subtype="html")
    return message


def test_smtp_round_trip(sandbox: Client) -> None:
    with smtplib.SMTP("127.0.0.1", sandbox.address.smtp_port, timeout=20) as client:
        client.login("sandbox", "sandbox")
        client.send_message(mail())
        client.send_message(mail())
    effect, again = sandbox.effects(destination="smtp_email")
    assert effect["action"] == "email_received"
    detail = effect["detail"]
    assert detail["subject"] == "Dein Körbchen wartet"
    assert detail["to"] == ["ada@example.com"]
    assert detail["from"] == "Shop <shop@example.com>"
    assert detail["text"].strip() == "Hallo Ada, drei Äpfel"
    assert detail["html"].strip() == "<p>Hallo <b>Ada</b></p>"
    assert detail["message_id"] == "<1@signalbox>"
    assert detail["list_unsubscribe_post"] == "List-Unsubscribe=One-Click"
    assert again["duplicate"]


def test_smtp_takes_mail_that_is_not_well_formed(sandbox: Client) -> None:
    broken = (
        b"Subject: caf\xe9 \xff\r\nFrom: \xff\r\nMessage-ID: <\xff\r\n"
        b"Content-Type: text/plain; charset=no-such-charset\r\n\r\n\xff\xfe\r\n"
    )
    with smtplib.SMTP("127.0.0.1", sandbox.address.smtp_port, timeout=20) as client:
        client.sendmail("shop@example.com", ["ada@example.com"], broken)
        client.sendmail("shop@example.com", ["ada@example.com"], b"no headers at all")
    assert len(sandbox.effects(destination="smtp_email")) == 2


def test_smtp_refuses_a_wrong_password(sandbox: Client) -> None:
    with (
        smtplib.SMTP("127.0.0.1", sandbox.address.smtp_port, timeout=20) as client,
        pytest.raises(smtplib.SMTPAuthenticationError),
    ):
        client.login("sandbox", "guess")


def test_smtp_faults(sandbox: Client) -> None:
    sandbox.fault(path="/smtp", kind="reject_rows", match="bad@", count=1)
    sandbox.fault(path="/smtp", kind="429", count=1)
    sandbox.fault(path="/smtp", kind="500", count=1)
    sandbox.fault(path="/smtp", kind="disconnect", count=1)
    sandbox.fault(path="/smtp", kind="timeout_after_effect", count=1)

    def send(message: EmailMessage) -> None:
        with smtplib.SMTP("127.0.0.1", sandbox.address.smtp_port, timeout=20) as client:
            client.send_message(message)

    with pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
        send(mail("bad@example.com"))
    assert refused.value.recipients["bad@example.com"][0] == 550
    for code in (451, 554):
        with pytest.raises(smtplib.SMTPDataError) as problem:
            send(mail())
        assert problem.value.smtp_code == code
    with pytest.raises(smtplib.SMTPServerDisconnected):
        send(mail())
    assert sandbox.effects() == []
    with pytest.raises(smtplib.SMTPServerDisconnected):
        send(mail())
    assert len(sandbox.effects()) == 1
    send(mail(message_id="<2@signalbox>"))
    assert len(sandbox.effects()) == 2
