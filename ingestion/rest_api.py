"""Reads JSON pages from a vendor's API: bearer token, timeouts, patience with limits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from time import sleep
from typing import Any

import requests
from pydantic import SecretStr

from ingestion.sources import SourceError

TIMEOUT_SECONDS = (5, 30)  # to connect, to answer
ATTEMPTS = 5
LONGEST_WAIT_SECONDS = 60.0


class Api:
    """One vendor's API.

    Args:
        name: what messages call it, for example `CRM`.
        base_url: with or without a closing slash.
        token: sent as bearer token.
        variable: prefix of the settings that hold URL and token, for messages.
    """

    def __init__(self, name: str, base_url: str, token: SecretStr | None, variable: str) -> None:
        self._name = name
        self._base_url = base_url.rstrip("/")
        self._variable = variable
        self._session = requests.Session()
        # An auth callable, because requests would prefer a .netrc entry over a plain header.
        secret = token.get_secret_value() if token else ""
        self._session.auth = lambda request: _with_token(request, secret)

    def get(self, path: str, parameters: Mapping[str, str]) -> dict[str, Any]:
        """The JSON object at `path`. Waits and repeats on 429, 5xx and lost connections.

        Raises:
            SourceError: refused, unreachable, or not JSON.
        """
        trouble = ""
        for attempt in range(ATTEMPTS):
            wait = min(2.0**attempt * 0.5, LONGEST_WAIT_SECONDS)
            try:
                answer = self._session.get(
                    self._base_url + path, params=dict(parameters), timeout=TIMEOUT_SECONDS
                )
            except (requests.ConnectionError, requests.Timeout) as error:
                trouble = f"does not answer ({type(error).__name__})"
            except requests.RequestException as error:
                raise self._error(f"cannot be asked ({type(error).__name__})") from None
            else:
                if answer.status_code == 429 or answer.status_code >= 500:
                    trouble = f"answered {answer.status_code} {ATTEMPTS} times"
                    wait = _retry_after(answer) or wait
                    if wait > LONGEST_WAIT_SECONDS:
                        raise self._error(f"asks to be left alone for {wait:.0f} s")
                else:
                    return self._parse(answer)
            if attempt + 1 < ATTEMPTS:
                sleep(wait)
        raise self._error(trouble)

    @contextmanager
    def understanding(self) -> Iterator[None]:
        """A block that takes an answer apart; fails clearly if it is made differently.

        Raises:
            SourceError: something in the block was missing or of another type.
        """
        try:
            yield
        except (KeyError, TypeError, AttributeError) as error:
            raise self._error(
                f"gave an answer that Signalbox does not understand ({type(error).__name__})"
            ) from None

    def _parse(self, answer: requests.Response) -> dict[str, Any]:
        if answer.status_code in (401, 403):
            raise SourceError(
                f"The {self._name} at {self._base_url} refused the token "
                f"({answer.status_code}). Check {self._variable}_TOKEN."
            )
        if answer.status_code != 200:
            raise self._error(f"answered {answer.status_code}")
        try:
            body = answer.json()
        except requests.JSONDecodeError:
            body = None
        if not isinstance(body, dict):
            raise self._error("answered something that is not a JSON object")
        return body

    def _error(self, what: str) -> SourceError:
        return SourceError(
            f"The {self._name} at {self._base_url} {what}. Nothing was changed; the next refresh "
            f"tries again. If it stays so, check {self._variable}_URL."
        )


def parse_time(value: object) -> datetime | None:
    """An RFC 3339 time as an aware datetime in UTC; none where there is none or it is broken."""
    if not isinstance(value, str):
        return None
    try:
        parsed = datetime.fromisoformat(value)
    except ValueError:
        return None
    return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)


def _with_token(request: requests.PreparedRequest, token: str) -> requests.PreparedRequest:
    request.headers["Authorization"] = f"Bearer {token}"
    return request


def _retry_after(answer: requests.Response) -> float | None:
    value = answer.headers.get("Retry-After", "").strip()
    if not value:
        return None
    try:
        return max(float(value), 0.0)
    except ValueError:
        pass
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return None
    at = at.replace(tzinfo=UTC) if at.tzinfo is None else at
    return max((at - datetime.now(UTC)).total_seconds(), 0.0)
