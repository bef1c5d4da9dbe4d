"""The mail server: takes every message, parses it, and records it as an effect."""

from __future__ import annotations

import asyncio
import email
import email.policy
import hashlib
import uuid
from email.message import EmailMessage
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from syncs.sandbox.effects import Effect, SandboxError
from syncs.sandbox.faults import Fault
from syncs.sandbox.vendor import StandIn

NAME = "smtp_email"
PATH = "/smtp"
MAX_MESSAGE_BYTES = 10 * 1024 * 1024
DEFAULT_HANG_SECONDS = 30.0


class Mailbox(StandIn):
    """The mail server's stand-in, as the page and the faults see it.

    Faults are drawn at the end of the data: 429 → 451, 500 → 554, the others as over HTTP.
    `reject_rows` refuses a recipient with 550 before the data, as a real server does.
    """

    title = "Email"
    view = "mail"

    def server(self) -> SMTP:
        """The protocol for one connection. Logging in is optional; a wrong password is refused."""
        return SMTP(
            self,
            hostname="sandbox.invalid",
            ident="Signalbox Sandbox",
            data_size_limit=MAX_MESSAGE_BYTES,
            enable_SMTPUTF8=True,
            authenticator=self._authenticate,
            auth_require_tls=False,
        )

    async def handle_RCPT(  # noqa: N802
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if self.desk.faults.rejects(PATH, address):
            self.desk.count_answer(self.name, "550")
            return f"550 5.1.1 <{address}>: Recipient address rejected: user unknown"
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(options)
        return "250 2.1.5 OK"

    async def handle_DATA(  # noqa: N802
        self, server: SMTP, _session: Session, envelope: Envelope
    ) -> str:
        answer = await self._receive(server, envelope, self.desk.faults.draw(PATH))
        self.desk.count_answer(self.name, answer[:3])
        return answer

    async def _receive(self, server: SMTP, envelope: Envelope, fault: Fault | None) -> str:
        kind = fault.kind if fault else None
        if kind == "429":
            return "451 4.7.1 Too many messages, try again later"
        if kind == "500":
            return "554 5.3.0 Transaction failed"
        if fault and kind == "hang":
            # aiosmtpd cancels this handler if the client leaves: then nothing happens.
            await asyncio.sleep(DEFAULT_HANG_SECONDS if fault.seconds is None else fault.seconds)
        if kind == "disconnect":
            await self._cut(server)
        try:
            self._store(envelope)
        except SandboxError as error:
            return f"452 4.3.1 {error}"
        if fault and kind == "timeout_after_effect":
            await asyncio.sleep(fault.seconds or 0)
            await self._cut(server)
        return "250 2.0.0 OK"

    async def _cut(self, server: SMTP) -> None:
        """Close the connection without a word; the handler is cancelled while it waits."""
        self.desk.count_answer(self.name, "cut")
        server.transport.abort()
        await asyncio.Event().wait()

    def _store(self, envelope: Envelope) -> None:
        raw = envelope.original_content or b""
        message = email.message_from_bytes(raw, policy=email.policy.default)
        detail = _parsed(message, envelope)
        identity = detail["message_id"] or hashlib.sha256(raw).hexdigest()
        recipients = ", ".join(detail["to"])
        # One key per message and recipients: a retry to those refused before is not a duplicate.
        identity = f"{identity} {recipients}"
        self.commit(
            [
                Effect(
                    destination=self.name,
                    action="email_received",
                    key=recipients,
                    summary=f"{recipients}: {detail['subject']}",
                    object_id=detail["message_id"] or None,
                    detail=detail,
                    duplicate=self.desk.effects.seen(self.name, identity),
                    identity=identity,
                    request_id=str(uuid.uuid4()),
                    body=raw.decode("utf-8", "replace"),
                )
            ]
        )

    def _authenticate(
        self, _server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, data: Any
    ) -> AuthResult:
        known = isinstance(data, LoginPassword) and self.is_token(data.password.decode("latin-1"))
        return AuthResult(success=known, handled=known)


def _parsed(message: EmailMessage, envelope: Envelope) -> dict[str, Any]:
    """The message's parts as text; a part that cannot be read is shown as such, not refused."""
    return {
        "from": _header(message, "From") or _clean(envelope.mail_from or ""),
        "to": [_clean(address) for address in envelope.rcpt_tos],
        "subject": _header(message, "Subject"),
        "text": _part(message, "plain"),
        "html": _part(message, "html"),
        "message_id": _header(message, "Message-ID"),
        "list_unsubscribe": _header(message, "List-Unsubscribe"),
        "list_unsubscribe_post": _header(message, "List-Unsubscribe-Post"),
    }


def _clean(text: str) -> str:
    """The text without the surrogates that stand for undecodable bytes; JSON has none."""
    return text.encode("utf-8", "replace").decode()


def _header(message: EmailMessage, name: str) -> str:
    try:
        return _clean(str(message.get(name, "")).strip())
    except (ValueError, IndexError, AttributeError):
        return "(unreadable)"


def _part(message: EmailMessage, kind: str) -> str:
    try:
        part = message.get_body((kind,))
        return "" if part is None else _clean(str(part.get_content()))
    except (KeyError, LookupError, ValueError, AttributeError):
        return "(unreadable)"
