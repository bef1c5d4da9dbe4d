"""Email through any SMTP server: text and HTML, one message per row, many on one connection."""

from __future__ import annotations

import contextlib
import smtplib
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime, parseaddr
from typing import Any, Literal
from urllib.parse import urlencode

from pydantic import SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from syncs.results import Fatal, HttpClient, Rejected, Retryable, Row, RowResult, Target, Unanswered

MODES = {"message"}
BATCH_SIZE = 20  # on one connection; a crash leaves at most so many unknown
RATE = 10.0
CREDENTIALS = ("host", "from_address")
SANDBOX = {
    "host": "{smtp_host}",
    "port": "{smtp_port}",
    "starttls": "false",
    "from_address": "Signalbox <hello@signalbox.example>",
}
REQUIRED_COLUMNS = {"to_email"}
CHANNEL = "email"
ADDRESS = "to_email"
TEMPLATE_REQUIRED = True
API_VERSION = "RFC 5321"
TIMEOUT = 20.0  # seconds, for each step of the conversation


class Settings(BaseSettings):
    """SIGNALBOX_SMTP_EMAIL_HOST, _PORT, _STARTTLS, _USER, _PASSWORD, _FROM_ADDRESS.

    _POSTAL_ADDRESS stands at the end of every mail, where a law asks for it.

    _UNSUBSCRIBE_URL is an https address that takes RFC 8058's one-click POST; without it the
    unsubscribe header is a mailto to the sender.
    """

    model_config = SettingsConfigDict(
        env_prefix="SIGNALBOX_SMTP_EMAIL_", extra="ignore", env_ignore_empty=True
    )

    host: str | None = None
    port: int = 587
    starttls: bool = True
    user: str | None = None
    password: SecretStr | None = None
    from_address: str | None = None
    unsubscribe_url: str | None = None
    postal_address: str | None = None

    @model_validator(mode="after")
    def _whole_login(self) -> Settings:
        if (self.user is None) != (self.password is None):
            raise ValueError("USER and PASSWORD belong together: set both or none")
        return self

    @field_validator("unsubscribe_url")
    @classmethod
    def _https(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith("https://"):
            raise ValueError("UNSUBSCRIBE_URL must begin with https://, as RFC 8058 demands")
        return value


def push(rows: Sequence[Row], target: Target[Settings], http: HttpClient) -> list[RowResult]:
    mails = [_composed(row, target.settings) for row in rows]
    if all(isinstance(mail, RowResult) for mail in mails):
        return [mail for mail in mails if isinstance(mail, RowResult)]
    server = _connect(target.settings)
    try:
        return _send_all(server, mails)
    finally:
        # Whatever the server says to the farewell, the mails' fate is already known.
        with contextlib.suppress(OSError, smtplib.SMTPException):
            server.quit()


def check(target: Target[Settings], http: HttpClient) -> str:
    server = _connect(target.settings)
    with contextlib.suppress(OSError, smtplib.SMTPException):
        server.quit()
    return f"{target.settings.host}, logged in as {target.settings.user or 'nobody'}"


def variables(action_key: str, settings: Settings) -> dict[str, Any]:
    """What templates may show besides the row: who sends, and how to get no more."""
    name, address = parseaddr(settings.from_address or "")
    return {
        "sender_name": name or address,
        "postal_address": settings.postal_address,
        "unsubscribe_url": _unsubscribe(action_key, settings),
    }


def headers(row: Row, settings: Settings) -> dict[str, str]:
    """The headers of the mail, for a look before it is sent."""
    return {name: str(value) for name, value in compose(row, settings).items()}


def compose(row: Row, settings: Settings) -> EmailMessage:
    """The message as it is sent. Its id comes from the action key, so it never changes.

    Raises Rejected when the address is not one address.
    """
    assert row.message is not None and settings.from_address is not None
    address = str(row.fields["to_email"] or "").strip()
    plain = address.isprintable() and " " not in address and address.count("@") == 1
    if not plain or parseaddr(address)[1] != address:
        raise Rejected("to_email is not a single e-mail address")
    sender = parseaddr(settings.from_address)[1]
    message = EmailMessage()
    message["From"] = settings.from_address
    message["To"] = address
    message["Subject"] = " ".join((row.message.subject or "").split())
    message["Message-ID"] = f"<{row.action_key}@{sender.rpartition('@')[2]}>"
    message["Date"] = format_datetime(datetime.now(UTC))
    message["List-Unsubscribe"] = f"<{_unsubscribe(row.action_key, settings)}>"
    if settings.unsubscribe_url:
        message["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
    message.set_content(row.message.text)
    if row.message.html:
        message.add_alternative(row.message.html, subtype="html")
    return message


def _composed(row: Row, settings: Settings) -> EmailMessage | RowResult:
    try:
        return compose(row, settings)
    except Rejected as error:
        return RowResult.rejected(str(error))


def _unsubscribe(action_key: str, settings: Settings) -> str:
    """Where to go to get no more: the page, which learns the action key and no more; or a mail."""
    if not settings.unsubscribe_url:
        sender = parseaddr(settings.from_address or "")[1]
        return f"mailto:{sender}?subject=unsubscribe"
    joint = "&" if "?" in settings.unsubscribe_url else "?"
    return f"{settings.unsubscribe_url}{joint}{urlencode({'action': action_key})}"


def _connect(settings: Settings) -> smtplib.SMTP:
    assert settings.host is not None
    try:
        server = smtplib.SMTP(settings.host, settings.port, timeout=TIMEOUT)
        if settings.starttls:
            server.starttls(context=ssl.create_default_context())
        if settings.user is not None and settings.password is not None:
            server.login(settings.user, settings.password.get_secret_value())
        server.ehlo_or_helo_if_needed()
    except smtplib.SMTPAuthenticationError as error:
        raise Fatal(
            "the mail server refuses user or password", status_code=error.smtp_code
        ) from None
    except smtplib.SMTPNotSupportedError as error:
        raise Fatal(f"the mail server cannot do what is configured: {error}") from None
    except ssl.SSLCertVerificationError:
        raise Fatal("the mail server's certificate is not valid for its name") from None
    except (OSError, smtplib.SMTPException) as error:
        raise Retryable(f"mail server not reachable ({type(error).__name__})") from None
    return server


def _send_all(server: smtplib.SMTP, mails: Sequence[EmailMessage | RowResult]) -> list[RowResult]:
    """Each mail is handed over once. What is left when the connection breaks has not begun."""
    results: list[RowResult] = []
    broken: str | None = None
    for mail in mails:
        if isinstance(mail, RowResult):
            results.append(mail)
        elif broken is not None:
            results.append(RowResult.retrying(f"not sent: {broken}"))
        else:
            try:
                result = _send(server, mail)
                results.append(result)
                if result.outcome != "delivered":
                    # The server still holds the sender of the mail that it refused.
                    with contextlib.suppress(OSError, smtplib.SMTPException):
                        server.rset()
            except Unanswered as error:
                broken = str(error)
                results.append(RowResult.unknown(broken))
            except Retryable as error:
                broken = str(error)
                results.append(RowResult.retrying(broken))
    return results


def _send(server: smtplib.SMTP, message: EmailMessage) -> RowResult:
    # The envelope can fail without effect; only from DATA on may the mail have been taken.
    step: Literal["sender", "recipient"] = "sender"
    try:
        code, words = server.mail(parseaddr(str(message["From"]))[1])
        if code == 250:
            step = "recipient"
            code, words = server.rcpt(message["To"])
    except (OSError, smtplib.SMTPException) as error:
        raise Retryable(f"mail server broke off ({type(error).__name__})") from None
    if code not in (250, 251):
        return _refusal(step, code, words)
    try:
        code, words = server.data(message.as_bytes(policy=message.policy.clone(linesep="\r\n")))
    except smtplib.SMTPDataError as error:
        return _refusal("message", error.smtp_code, error.smtp_error)
    except (OSError, smtplib.SMTPException) as error:
        raise Unanswered(f"no answer after the mail was sent ({type(error).__name__})") from None
    return RowResult.delivered(code) if code == 250 else _refusal("message", code, words)


def _refusal(step: str, code: int, words: bytes | str) -> RowResult:
    said = words.decode("utf-8", "replace") if isinstance(words, bytes) else words
    reason = f"{step} refused: {code} {said}"
    if 400 <= code < 500:
        return RowResult.retrying(reason, code)
    if step == "sender":
        raise Fatal(reason, status_code=code)
    return RowResult.rejected(reason, code)
