"""The part of a schema registry's REST interface that Confluent's serializers use."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_UNKNOWN = {"error_code": 40403, "message": "Schema not found"}


class Registry(ThreadingHTTPServer):
    """Schemas in memory, numbered in the order they came."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.schemas: list[dict[str, Any]] = []
        self.away = False
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Registry

    def do_POST(self) -> None:
        schema = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        known = {"schema": schema["schema"], "schemaType": schema.get("schemaType", "AVRO")}
        if known not in self.server.schemas:
            self.server.schemas.append(known)
        number = self.server.schemas.index(known) + 1
        subject = self.path.split("/")[2]
        self._answer(200, {"id": number, "subject": subject, "version": 1, **known})

    def do_GET(self) -> None:
        path, _, name = self.path.partition("?")[0].rpartition("/")
        number = int(name) if path == "/schemas/ids" else 0
        if self.server.away:
            self._answer(500, {"error_code": 50001, "message": "Error in the backend"})
        elif 0 < number <= len(self.server.schemas):
            self._answer(200, self.server.schemas[number - 1])
        else:
            self._answer(404, _UNKNOWN)

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass
