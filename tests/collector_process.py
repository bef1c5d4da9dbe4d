"""A collector in a process of its own, and what tests ask of it over HTTP."""

from __future__ import annotations

import base64
import http.client
import json
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from ingestion.envelope import LogRecord, decode_record
from ingestion.log import LogReader

SERVER = """
import json
import sys
from pathlib import Path
from ingestion.collector import SourcePolicy, run
from ingestion.protocol import ConnectionLimits
keys = {"wk_web": "web", "wk_open": SourcePolicy("open", "allow"),
        "wk_strict": SourcePolicy("strict", "reject"),
        "wk_masked": SourcePolicy("masked", client_ip="anonymised"),
        "wk_silent": SourcePolicy("silent", client_ip="off", user_agent=False),
        "wk_limited": SourcePolicy("limited", events_per_second=20)}
keys |= {name: SourcePolicy(name, "allow") for name in sys.argv[3:]}
limits = json.loads(sys.argv[2])
workers = limits.pop("workers", 1)
run(Path(sys.argv[1]), keys, port=0, trusted_proxies=["127.0.0.1", "10.0.0.0/8"],
    connections=ConnectionLimits(**limits), workers=workers,
    on_ready=lambda port: print(port, flush=True))
"""
#: One address of each kind; the others are names for the same.
REPRESENTATIVE = "^/(v1/(batch|track|pixel/track|projects/.*|hooks/.*)|sourceConfig|health)$"
LOGIN = {"type": "track", "event": "Logged In", "userId": "u1", "messageId": "m1"}
UNKNOWN = {**LOGIN, "event": "Sock Lost", "messageId": "m2"}


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Server:
    process: subprocess.Popen[str]
    port: int
    directory: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, response.read())
        finally:
            connection.close()

    def post(self, path: str, content: Any, key: str | None = "wk_web", **headers: str) -> Answer:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        return self.ask("POST", path, body, {**(basic(key) if key else {}), **headers})

    def batch(self, *messages: Any, key: str = "wk_web") -> Answer:
        return self.post("/v1/batch", {"batch": list(messages)}, key)

    def end(self) -> int:
        return LogReader(self.directory).end()

    def since(self, start: int) -> list[LogRecord]:
        return [decode_record(raw) for _, raw in LogReader(self.directory).read(start, 100_000)]


def basic(key: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{key}:".encode()).decode()}


def start(directory: Path, *keys: str, errors: TextIO | None = None, **limits: Any) -> Server:
    """A server of its own; `limits` are those of its connections, and `workers` if more than one.

    What it writes to stderr goes to `errors`. `keys` are write keys beside those in `SERVER`; each
    names its source, which may send anything.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(directory), json.dumps(limits), *keys],
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
    )
    assert process.stdout is not None
    return Server(process, int(process.stdout.readline()), directory)


def stop(server: Server, with_signal: signal.Signals = signal.SIGTERM) -> int:
    server.process.send_signal(with_signal)
    code = server.process.wait(timeout=30)
    assert server.process.stdout is not None
    server.process.stdout.close()
    return code


def fuzz(server: Server, *options: str, examples: int, seed: int) -> str:
    """What Schemathesis says of the server, which must be that all is well."""
    with tempfile.TemporaryDirectory() as directory:
        done = subprocess.run(
            [
                *(Path(sys.executable).with_name("st"), "--no-color", "run"),
                *(f"{server.url}/openapi.json", "--auth", "wk_open:", "--warnings", "off"),
                # A slow machine is no finding; what is slow here has tests of its own.
                *("--request-timeout", "120", "--suppress-health-check", "too_slow"),
                *("--max-examples", str(examples), "--seed", str(seed), *options),
            ],
            cwd=directory,
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stdout[-5_000:] + done.stderr[-5_000:]
    return done.stdout
