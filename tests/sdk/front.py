"""A proxy before the collector that notes every request and lies about the first one.

The first request with events is passed on and taken, but the client is told 503, as if the answer
had been lost: the worst case for a client, which must send the same messages again.
"""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Front:
    """Its address, and what came through: `(method, path, headers)` of each request."""

    url: str
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    lies: int = 0

    def posts(self) -> list[tuple[str, str, dict[str, str]]]:
        return [request for request in self.requests if request[0] == "POST"]


@contextmanager
def front(collector_port: int, *, lie: bool = True) -> Iterator[Front]:
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length)
            with lock:
                seen.requests.append((self.command, self.path, dict(self.headers)))
                lying = lie and self.command == "POST" and seen.lies == 0
                seen.lies += lying
            collector = http.client.HTTPConnection("127.0.0.1", collector_port, timeout=30)
            collector.request(self.command, self.path, body, dict(self.headers))
            answer = collector.getresponse()
            content = answer.read()
            collector.close()
            if lying:
                assert answer.status == 200
                content = b'{"code": "busy", "message": "Send it again."}'
            self.send_response(503 if lying else answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("content-length", "date", "connection"):
                    self.send_header(name, value)
            if lying:
                self.send_header("Retry-After", "1")
            if answer.status != 204:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_OPTIONS = forward  # noqa: N815  # named by the base class

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    seen = Front(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
