from __future__ import annotations

import email
from collections.abc import Iterator
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from syncs_cases.smtp_email import ROWS

from syncs import destinations
from syncs.http import Http
from syncs.results import Message, Retryable, Row, RowResult, Unanswered


class Mailbox:
    def __init__(self) -> None:
        self.mails: list[Any] = []
        self.rcpt = "250 ok"
        self.data = "250 taken"
        self.verdicts: dict[str, str] = {}  # by recipient
        self.peers: set[Any] = set()

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, *args: Any) -> str:  # noqa: N802
        self.peers.add(session.peer)
        verdict = self.verdicts.get(args[0], self.rcpt)
        if verdict.startswith(("250", "drop")):
            envelope.rcpt_tos.append(args[0])
            return "250 ok"
        return verdict

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        self.mails.append(envelope)
        if "drop" in (self.data, self.verdicts.get(envelope.rcpt_tos[0])):
            server.transport.abort()
        return self.data


@pytest.fixture
def mailbox() -> Iterator[tuple[Mailbox, int]]:
    box = Mailbox()
    controller = Controller(box, hostname="127.0.0.1", port=0)
    # Port 0 is ours to ask for; the controller's own start probes the port it was given.
    controller.loop.run_until_complete(_serve(controller))
    import threading

    thread = threading.Thread(target=controller.loop.run_forever, daemon=True)
    thread.start()
    yield box, controller.server.sockets[0].getsockname()[1]
    controller.loop.call_soon_threadsafe(controller.loop.stop)
    thread.join()
    controller.server.close()


async def _serve(controller: Controller) -> None:
    import asyncio

    controller.server = await asyncio.get_running_loop().create_server(
        controller.factory, "127.0.0.1", 0
    )


def push(port: int, rows: list[Row] = ROWS, **settings: Any) -> list[RowResult]:
    destination = destinations.load("smtp_email")
    target = destinations.sandbox_target(
        destination, destinations.Sandbox(smtp=f"127.0.0.1:{port}")
    )
    target = destinations.replace(target, settings=target.settings.model_copy(update=settings))
    return destination.push(rows, target, Http())


def test_golden_mail(mailbox: tuple[Mailbox, int]) -> None:
    box, port = mailbox
    assert push(port)[0].outcome == "delivered"
    (envelope,) = box.mails
    assert envelope.mail_from == "hello@signalbox.example"
    assert envelope.rcpt_tos == ["ann@shop.example"]
    mail = email.message_from_bytes(envelope.content)
    assert mail["Message-ID"] == "<k1@signalbox.example>"
    assert mail["Subject"] == "You left something"
    assert mail["List-Unsubscribe"] == "<mailto:hello@signalbox.example?subject=unsubscribe>"
    parts = {part.get_content_type(): part.get_payload() for part in mail.walk()}
    assert parts["text/plain"].strip() == "plain words"
    assert parts["text/html"].strip() == "<p>rich words</p>"


def test_one_click_unsubscribe(mailbox: tuple[Mailbox, int]) -> None:
    box, port = mailbox
    push(port, unsubscribe_url="https://shop.example/out?lang=en")
    mail = email.message_from_bytes(box.mails[0].content)
    assert mail["List-Unsubscribe"] == "<https://shop.example/out?lang=en&action=k1>"
    assert mail["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"


def test_refusals(mailbox: tuple[Mailbox, int]) -> None:
    box, port = mailbox
    box.rcpt = "550 no such user"
    assert push(port)[0].outcome == "rejected"
    box.rcpt = "451 greylisted"
    assert push(port)[0].outcome == "retrying"
    box.rcpt, box.data = "250 ok", "554 looks like spam"
    assert push(port)[0].outcome == "rejected"
    assert len(box.mails) == 1


def test_a_batch_is_one_connection_and_one_fate_per_mail(mailbox: tuple[Mailbox, int]) -> None:
    box, port = mailbox
    box.verdicts = {"c@x.example": "550 no such user", "e@x.example": "drop"}
    rows = [
        Row(f"k{n}", n, {"to_email": f"{n}@x.example"}, message=Message("s", "t", None))
        for n in ("a", "not an address", "c", "d", "e", "f")
    ]
    results = push(port, rows)
    assert [result.outcome for result in results] == [
        "delivered", "rejected", "rejected", "delivered", "unknown", "retrying"
    ]  # fmt: skip
    assert [mail.rcpt_tos for mail in box.mails] == [
        ["a@x.example"], ["d@x.example"], ["e@x.example"]
    ]  # fmt: skip
    assert len(box.peers) == 1


def test_a_connection_lost_after_the_mail_leaves_it_unknown(mailbox: tuple[Mailbox, int]) -> None:
    box, port = mailbox
    box.data = "drop"
    assert push(port)[0].outcome == "unknown"


def test_no_server_is_retryable() -> None:
    with pytest.raises(Retryable) as caught:
        push(1)
    assert not isinstance(caught.value, Unanswered)


@pytest.mark.parametrize("address", ["", "ann", "a@b.c, d@e.f", "ann@shop.example\nBcc: x@y.z"])
def test_what_is_not_one_address_is_rejected(address: str) -> None:
    row = Row("k", "t", {"to_email": address}, message=Message("s", "t", None))
    assert push(1, [row])[0].outcome == "rejected"
