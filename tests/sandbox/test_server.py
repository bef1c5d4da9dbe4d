"""The effects file over restarts, the control API, the page and its stream, and how it stops."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import requests

from syncs.sandbox.effects import FILE_NAME, Effect, EffectLog, SandboxError
from syncs.sandbox.server import Address, background, run

from .conftest import CONTACTS, TICKETS, Client

SERVE = """
import sys
from pathlib import Path
from syncs.sandbox.server import run
run(port=0, smtp_port=0, directory=Path(sys.argv[1]),
    ready=lambda a: print(a.port, a.smtp_port, flush=True))
"""


def start(directory: Path) -> tuple[subprocess.Popen[str], Client]:
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(directory)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    port, smtp_port = map(int, process.stdout.readline().split())
    return process, Client(Address("127.0.0.1", port, smtp_port))


def test_state_survives_sigkill_and_the_server_stops_on_sigterm(tmp_path: Path) -> None:
    process, client = start(tmp_path)
    client.upsert({"ada@example.com": {"plan": "pro"}, "alan@example.com": {}})
    client.upsert({"ada@example.com": {"plan": "team"}})
    client.ticket("ada@example.com")
    client.call("PUT", f"{TICKETS}/1", json={"ticket": {"status": "open"}})
    client.webhook("x", b"{}", "msg_1")
    contacts = client.get(CONTACTS, params={"properties": "plan"}).json()
    tickets, stats = client.get(TICKETS).json(), client.stats()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with (tmp_path / FILE_NAME).open("ab") as file:
        file.write(b'{"destination": "hubspot", "act')

    process, client = start(tmp_path)
    assert client.get(CONTACTS, params={"properties": "plan"}).json() == contacts
    assert client.get(TICKETS).json() == tickets
    for name, counts in client.stats().items():
        assert counts["actions"] == stats[name]["actions"]
    assert client.webhook("x", b"{}", "msg_1").json()["duplicate"]
    client.upsert({"grace@example.com": {}})
    assert [effect["seq"] for effect in client.effects()] == list(range(1, 9))

    stream = client.get("/sandbox/stream", stream=True)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 0
    stream.close()


def test_effects_can_be_read_in_part(sandbox: Client) -> None:
    for number in range(6):
        sandbox.slack(channel="#cs", text=str(number))
    sandbox.ticket("ada@example.com")
    assert [effect["seq"] for effect in sandbox.effects(since=2, limit=3)] == [3, 4, 5]
    assert [effect["seq"] for effect in sandbox.effects(destination="support")] == [7]
    assert sandbox.effects(since=7) == []
    assert sandbox.get("/sandbox/effects?since=x").status_code == 400
    assert sandbox.get("/health").json() == {"ok": True, "last_seq": 7}


def test_a_long_file_is_read_from_any_place(tmp_path: Path) -> None:
    def effect(number: int) -> Effect:
        destination = "a" if number % 2 else "b"
        return Effect(destination, "done", str(number), "summary", body="x" * 20)

    log = EffectLog(tmp_path)
    assert list(log.replay()) == []
    for start_at in range(1, 2001, 100):
        log.append([effect(number) for number in range(start_at, start_at + 100)])
    log.close()
    log = EffectLog(tmp_path)
    assert sum(1 for _ in log.replay()) == 2000
    for since in (0, 1, 499, 500, 501, 1998):
        assert [found.key for found in log.read(since, limit=2)] == [str(since + 1), str(since + 2)]
    assert [found.key for found in log.read(1000, "b", 2)] == ["1002", "1004"]
    assert len(log.recent(0)) == 400
    assert log.counts["a"]["done"] == 1000
    log.close()


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text("not an effect\n")
    with pytest.raises(SandboxError, match="line 1"):
        run(port=0, smtp_port=0, directory=tmp_path)


def test_one_sandbox_per_directory_and_port(tmp_path: Path) -> None:
    with background(tmp_path) as address:
        with pytest.raises(SandboxError, match="another sandbox uses"):
            run(port=0, smtp_port=0, directory=tmp_path)
        with pytest.raises(SandboxError, match="SIGNALBOX_SANDBOX_PORT"):
            run(port=address.port, smtp_port=0, directory=tmp_path / "other")


def test_a_secret_that_is_not_base64_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match="base64"):
        run(port=0, smtp_port=0, directory=tmp_path, webhook_secret="whsec_!")


def test_page_and_script_are_served_whole(sandbox: Client) -> None:
    sandbox.slack(channel="#cs", text="</script><b>bold</b>")
    page = sandbox.get("/")
    _, _, rest = page.text.partition('id="snapshot">')
    snapshot = json.loads(rest.partition("</script>")[0])
    assert snapshot["effects"][0]["detail"]["text"] == "</script><b>bold</b>"
    assert page.text.count("</script>") == 2
    assert page.headers["content-type"].startswith("text/html")
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert "Signalbox" in page.text
    script = sandbox.get("/page.js")
    assert "javascript" in script.headers["content-type"]
    for text in (page.text, script.text):
        assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
        assert "innerHTML" not in text


def test_the_stream_delivers_effects_and_faults(sandbox: Client) -> None:
    sandbox.slack(channel="#cs", text="before")
    with sandbox.get("/sandbox/stream", stream=True) as stream:
        lines = stream.iter_lines(chunk_size=1)

        def message() -> dict[str, object]:
            return next(
                json.loads(line.removeprefix(b"data: "))
                for line in lines
                if line.startswith(b"data: ")
            )

        first = message()
        assert [effect["detail"]["text"] for effect in first["effects"]] == ["before"]
        assert {vendor["view"] for vendor in first["vendors"]} == {
            "contacts",
            "channel",
            "mail",
            "hooks",
            "tickets",
            "plain",
            "sms",
            "cards",
            "audience",
        }
        other = requests.post(
            f"{sandbox.url}/slack/api/chat.postMessage",
            json={"channel": "#cs", "text": "after"},
            headers={"authorization": "Bearer sandbox"},
            timeout=20,
        )
        assert other.json()["ok"]
        texts: list[str] = []
        while not texts:
            texts = [effect["detail"]["text"] for effect in message()["effects"]]
        assert texts == ["after"]
        requests.post(f"{sandbox.url}/sandbox/faults", json={"kind": "500"}, timeout=20)
        while not (faults := message()["faults"]):
            pass
        assert faults[0]["kind"] == "500"


def test_other_host_names_are_not_answered(sandbox: Client) -> None:
    assert sandbox.get("/sandbox/effects", headers={"host": "evil.example"}).status_code == 400


def test_large_and_broken_bodies(sandbox: Client) -> None:
    large = sandbox.post("/slack/api/chat.postMessage", data=b"x" * (10 * 1024 * 1024 + 1))
    assert large.status_code == 413
    deep = b'{"a":' * 100_000
    assert sandbox.post(f"{CONTACTS}/batch/upsert", data=deep).status_code == 400
    assert sandbox.post(TICKETS, data=deep).status_code == 422
    with socket.create_connection(("127.0.0.1", sandbox.address.port)) as half:
        half.sendall(b"POST /slack/api/chat.postMessage HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        half.sendall(b"Content-Length: 100\r\n\r\nabc")
    assert sandbox.get("/health").json()["ok"]


@pytest.mark.parametrize(
    "value",
    [
        '"\\ud800"',
        "NaN",
        "1e999",
        "9" * 400,
        '"' + "9" * 5000 + '"',
        '"\\u0000"',
        "[]",
        "{}",
        "null",
    ],
)
def test_odd_values_are_never_an_internal_error(sandbox: Client, value: str) -> None:
    json_type = {"content-type": "application/json"}
    bodies = {
        f"{CONTACTS}/batch/upsert": f'{{"inputs": [{{"id": {value}, "idProperty": "email"}}]}}',
        f"{CONTACTS}/batch/create": f'{{"inputs": [{{"properties": {{"email": {value}}}}}]}}',
        f"{CONTACTS}/batch/read": f'{{"inputs": [{{"id": {value}}}], "properties": {value}}}',
        f"{CONTACTS}/batch/update": f'{{"inputs": [{{"id": {value}, "properties": {value}}}]}}',
        "/slack/api/chat.postMessage": f'{{"channel": "#a", "text": {value}, "blocks": {value}}}',
        TICKETS: f'{{"ticket": {{"subject": "a", "requester": {{"email": "a@b.c", '
        f'"name": {value}}}, "external_id": {value}, "created_at": {value}, "tags": {value}}}}}',
        "/sandbox/faults": f'{{"kind": "429", "path": "/nowhere", "count": {value}}}',
    }
    for path, body in bodies.items():
        answer = sandbox.post(path, data=body, headers=json_type)
        assert answer.status_code < 500, (path, answer.text)
    assert sandbox.webhook("x", value.encode(), "msg_1").status_code == 200
    assert sandbox.get("/sandbox/effects").status_code == 200


def test_a_huge_message_is_kept_whole_in_the_file_and_short_on_the_page(sandbox: Client) -> None:
    text = "x" * 200_000
    assert sandbox.webhook("big", text.encode(), "msg_1").status_code == 200
    assert sandbox.effects()[0]["body"] == text
    with sandbox.get("/sandbox/stream", stream=True) as stream:
        lines = stream.iter_lines(chunk_size=1024)
        data = next(line for line in lines if line.startswith(b"data: "))
    assert len(data) < 50_000


def test_many_clients_at_once_get_one_effect_each(sandbox: Client) -> None:
    def send(worker: int) -> None:
        for number in range(20):
            email = f"w{worker}n{number}@example.com"
            body = {"inputs": [{"id": email, "idProperty": "email", "properties": {}}]}
            requests.post(
                f"{sandbox.url}{CONTACTS}/batch/upsert",
                json=body,
                headers={"authorization": "Bearer sandbox"},
                timeout=20,
            )

    workers = [threading.Thread(target=send, args=(number,)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    effects = sandbox.effects()
    assert [effect["seq"] for effect in effects] == list(range(1, 81))
    assert len({effect["object_id"] for effect in effects}) == 80
