"""One HTTP client for every destination: reused connections, timeouts, and errors as ours.

The mapping is about what may have taken effect: a request that never left is `Retryable`, one
that left without a usable answer is `Unanswered`, and nothing that is raised carries a header,
a URL's query or a body we sent.
"""

from __future__ import annotations

import email.utils
import ipaddress
import json as jsonlib
import socket
import time
from collections.abc import Mapping
from datetime import UTC
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, MaxRetryError, NewConnectionError

from syncs.results import Answer, Fatal, Rejected, Retryable, SyncError, Unanswered, mask

#: Seconds to connect, seconds between two bytes of an answer.
TIMEOUTS = (5.0, 20.0)

#: Longest wait a destination can impose with Retry-After, in seconds.
MAX_RETRY_AFTER = 3600.0


class Http:
    """Requests to destinations. Safe to share between threads.

    Each method returns the answer to a 2xx and otherwise raises Retryable, Unanswered, Rejected
    or Fatal.
    """

    def __init__(self, timeouts: tuple[float, float] = TIMEOUTS, pool_size: int = 16) -> None:
        self._timeouts = timeouts
        self._proxied = _session(HTTPAdapter(pool_maxsize=pool_size))
        # A proxy would hide the peer's address from the guard, and has no business on loopback.
        self._direct = _session(HTTPAdapter(pool_maxsize=pool_size), trust_env=False)
        self._guarded = _session(_PublicOnlyAdapter(pool_maxsize=pool_size), trust_env=False)

    def close(self) -> None:
        for session in (self._proxied, self._direct, self._guarded):
            session.close()

    def request(
        self,
        method: str,
        url: str,
        *,
        json: Any = None,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        public_only: bool = False,
    ) -> Answer:
        """Send one request. `public_only` refuses every peer whose address is not public."""
        parts = urlsplit(url)
        host = parts.hostname or "?"
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Fatal("the address is not an http(s) URL; check the destination's BASE_URL")
        if json is not None:
            data = jsonlib.dumps(json, ensure_ascii=False, separators=(",", ":")).encode()
            headers = {"Content-Type": "application/json", **(headers or {})}
        session = self._session_for(host, public_only)
        try:
            response = session.request(
                method,
                url,
                data=data,
                headers=dict(headers or {}),
                timeout=self._timeouts,
                allow_redirects=False,
            )
        except requests.RequestException as error:
            raise _from_exception(error, host) from None
        return _answer(response, host)

    def post(self, url: str, **options: Any) -> Answer:
        """`request` with POST."""
        return self.request("POST", url, **options)

    def get(self, url: str, *, headers: Mapping[str, str] | None = None) -> Answer:
        """`request` with GET."""
        return self.request("GET", url, headers=headers)

    def _session_for(self, host: str, public_only: bool) -> requests.Session:
        if public_only:
            return self._guarded
        return self._direct if is_loopback(host) else self._proxied


class _PrivateAddressError(OSError):
    """The peer's address is not public."""


def _session(adapter: HTTPAdapter, *, trust_env: bool = True) -> requests.Session:
    session = requests.Session()
    session.trust_env = trust_env
    # An auth callable keeps requests from replacing our header with a line of ~/.netrc.
    session.auth = _keep_headers
    session.headers["User-Agent"] = "signalbox"
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


def _keep_headers(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def is_loopback(host: str) -> bool:
    """Whether the host, a name or an address, is this machine's own."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _refuse_private(sock: socket.socket) -> socket.socket:
    """Judge the address that was really connected to, so that no DNS answer can slip by."""
    address = ipaddress.ip_address(sock.getpeername()[0].partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    if not address.is_global or address.is_multicast:
        sock.close()
        raise _PrivateAddressError
    return sock


class _PublicHTTPConnection(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        return _refuse_private(super()._new_conn())


class _PublicHTTPSConnection(HTTPSConnection):
    def _new_conn(self) -> socket.socket:
        return _refuse_private(super()._new_conn())


class _PublicHTTPPool(HTTPConnectionPool):
    ConnectionCls = _PublicHTTPConnection


class _PublicHTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _PublicHTTPSConnection


class _PublicOnlyAdapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {
            "http": _PublicHTTPPool,
            "https": _PublicHTTPSPool,
        }


def _from_exception(error: requests.RequestException, host: str) -> Exception:
    cause = error.args[0] if error.args else None
    chain = _chain(error)
    if any(isinstance(item, _PrivateAddressError) for item in chain):
        return Fatal(
            f"{host} has a private address; if that is meant, name it in "
            "SIGNALBOX_WEBHOOK_ALLOW_HOSTS"
        )
    if isinstance(error, requests.exceptions.SSLError):
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            return Fatal(f"the certificate of {host} is not valid for its name")
        return Unanswered(f"TLS with {host} broke off")
    if isinstance(error, (requests.ConnectTimeout, requests.exceptions.ProxyError)):
        return Retryable(f"{host} not reachable ({type(error).__name__})")
    if isinstance(error, requests.ReadTimeout):
        return Unanswered(f"{host} did not answer in time")
    if isinstance(cause, MaxRetryError) and isinstance(
        cause.reason, (NewConnectionError, ConnectTimeoutError)
    ):
        return Retryable(f"{host} not reachable")
    if isinstance(error, (requests.exceptions.InvalidURL, requests.exceptions.InvalidHeader)):
        return Fatal(f"the request to {host} cannot be built ({type(error).__name__})")
    return Unanswered(f"the connection to {host} broke off")


def _chain(error: BaseException) -> list[BaseException]:
    """The error and everything it was raised from or wraps."""
    seen: list[BaseException] = []
    waiting: list[Any] = [error]
    while waiting:
        item = waiting.pop()
        if isinstance(item, BaseException) and item not in seen:
            seen.append(item)
            waiting += [*item.args, item.__cause__, item.__context__, getattr(item, "reason", None)]
    return seen


def _answer(response: requests.Response, host: str) -> Answer:
    code, body = response.status_code, _body(response)
    if 200 <= code < 300:
        return Answer(code, body)
    error = _refusal(code, f"{code} from {host}: {_words(response, body)}", _retry_after(response))
    error.body = body
    raise error


def _refusal(code: int, words: str, retry_after: float | None) -> SyncError:
    if code in (408, 425, 429, 503):
        return Retryable(words, status_code=code, retry_after=retry_after)
    if code >= 500:
        # A server that broke while it worked, or a gateway that lost it: perhaps it was done.
        return Unanswered(words, status_code=code, retry_after=retry_after)
    if code in (401, 402, 403):
        return Fatal(f"{words}; check the credentials and their permissions", status_code=code)
    if code in (404, 405, 410) or code < 400:
        return Fatal(f"{words}; check the destination's BASE_URL and the object", status_code=code)
    return Rejected(words, status_code=code)


def _body(response: requests.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return response.text[:1000]


def _words(response: requests.Response, body: Any) -> str:
    """The destination's own words, as short and as plain as they can be had."""
    if said := _said(body):
        return mask(said)
    if isinstance(body, str) and body.strip() and "<html" not in body.lower():
        return mask(" ".join(body.split()))
    return response.reason or "no explanation"


def _said(body: Any) -> str:
    """The sentence in a JSON error, which many put into the first of a list of errors."""
    if isinstance(body, list) and body:
        return _said(body[0])
    if not isinstance(body, dict):
        return ""
    for name in ("message", "error_description", "detail", "error", "msg", "reason", "title"):
        if isinstance(body.get(name), str) and body[name]:
            return str(body[name])
    return _said(body.get("errors")) or _said(body.get("error"))


def _retry_after(response: requests.Response) -> float | None:
    """The wait asked for in seconds: Retry-After, a number or a date, or the moment at which a
    rate limit starts anew (X-RateLimit-Reset, in seconds since 1970)."""
    value = response.headers.get("Retry-After", "").strip()
    if not value:
        reset = response.headers.get("X-RateLimit-Reset", "")
        wait = int(reset) - time.time() if reset.isdecimal() else 0.0
        # Elsewhere the header is a number of seconds, which is long past as a moment.
        return min(wait, MAX_RETRY_AFTER) if response.status_code == 429 and wait > 0 else None
    try:
        seconds = float(value)
    except ValueError:
        try:
            moment = email.utils.parsedate_to_datetime(value)
        except ValueError:
            return None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        seconds = moment.timestamp() - time.time()
    return min(max(seconds, 0.0), MAX_RETRY_AFTER) if seconds == seconds else None
