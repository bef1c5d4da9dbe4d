"""Unmodified client libraries against a collector process: what they send is what arrives.

Every library makes the same calls, is told 503 at first, and sends again. Then the event log is
read back. `pytest tests/sdk --write-sdk-table` writes docs/sdks.md from what was seen.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from collector_process import Server, start, stop
from front import Front, front

from ingestion.envelope import LogRecord

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
README = ROOT / "README.md"
TABLE = ROOT / "docs" / "sdks.md"
PINNED = json.loads((HERE / "package.json").read_text())["dependencies"]

NESTED = {"großes Maß": "naïve 東京 🎉", "items": [{"n": 1, "deep": {"er": [True, None, 0.1]}}]}
CALLS: list[dict[str, Any]] = [
    {"type": "identify", "userId": "zoë-1", "traits": {"name": "Zoë ❤", "address": NESTED}},
    {"type": "track", "userId": "zoë-1", "event": "Größe geändert 👟", "properties": NESTED},
    {"type": "page", "userId": "zoë-1", "name": "Straße", "properties": {"plan": NESTED}},
    {"type": "screen", "userId": "zoë-1", "name": "Übersicht", "properties": {"n": 2**53 - 1}},
    {"type": "group", "userId": "zoë-1", "groupId": "g-ü", "traits": {"seats": 12, "x": NESTED}},
    {"type": "alias", "userId": "zoë-1", "previousId": "früher"},
]


@dataclass(frozen=True)
class Sdk:
    """A library in one way of using it. `run` sends `CALLS`, or `jobs` do so in the browser."""

    name: str
    package: str
    run: Callable[[str, str, list[Any], Path], None] | None = None
    library: str = ""
    lacks: tuple[str, ...] = ()
    retries: bool = True
    note: str = ""

    @property
    def key(self) -> str:
        # Jitsu's libraries take only keys with a secret behind a colon.
        return self.name.replace(" ", ":" if self.package == "@jitsu/js" else "-")

    @property
    def version(self) -> str:
        if self.package in PINNED:
            return str(PINNED[self.package])
        return importlib.metadata.version(self.package)

    @property
    def calls(self) -> list[dict[str, Any]]:
        return [call for call in CALLS if call["type"] not in self.lacks]


def segment_python(url: str, key: str, calls: list[Any], _: Path, *, gzip: bool = False) -> None:
    from segment.analytics.client import Client

    errors: list[Any] = []
    client = Client(key, host=url, gzip=gzip, on_error=lambda *error: errors.append(error))
    for call in calls:
        make_python_call(client, call)
    client.shutdown()
    assert errors == []


def rudder_python(url: str, key: str, calls: list[Any], _: Path) -> None:
    from rudderstack.analytics.client import Client

    errors: list[Any] = []
    client = Client(key, host=url, on_error=lambda *error: errors.append(error))
    for call in calls:
        make_python_call(client, call)
    client.flush()
    client.join()
    assert errors == []


def make_python_call(client: Any, call: dict[str, Any]) -> None:
    user = call["userId"]
    match call["type"]:
        case "identify":
            client.identify(user, call["traits"])
        case "track":
            client.track(user, call["event"], call["properties"])
        case "page":
            client.page(user, name=call["name"], properties=call["properties"])
        case "screen":
            client.screen(user, name=call["name"], properties=call["properties"])
        case "group":
            client.group(user, call["groupId"], call["traits"])
        case "alias":
            client.alias(call["previousId"], user)


def node(script: str) -> Callable[[str, str, list[Any], Path], None]:
    def run(url: str, key: str, calls: list[Any], modules: Path) -> None:
        given = {"url": url, "key": key, "calls": calls, "modules": str(modules)}
        command = ["node", str(HERE / "clients" / script), json.dumps(given)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr

    return run


SDKS = [
    Sdk("segment python", "segment-analytics-python", segment_python),
    Sdk(
        "segment python gzip",
        "segment-analytics-python",
        functools.partial(segment_python, gzip=True),
    ),
    Sdk(
        "rudder python",
        "rudder-sdk-python",
        rudder_python,
        note="gzip always; traits of identify are in context.traits",
    ),
    Sdk("segment node", "@segment/analytics-node", node("segment-node.cjs")),
    Sdk("rudder node", "@rudderstack/rudder-sdk-node", node("rudder-node.cjs"), note="gzip always"),
    Sdk(
        "jitsu node",
        "@jitsu/js",
        node("jitsu-node.cjs"),
        lacks=("screen", "alias"),
        retries=False,
        note="has no screen and alias; does not retry",
    ),
    Sdk("segment browser", "@segment/analytics-next", library="segment"),
    Sdk("segment browser batching", "@segment/analytics-next", library="segmentBatching"),
    Sdk(
        "segment browser credentials",
        "@segment/analytics-next",
        library="segmentCredentials",
        note="fetch with credentials",
    ),
    Sdk(
        "rudder browser",
        "@rudderstack/analytics-js",
        library="rudder",
        lacks=("screen",),
        note="has no screen; traits are in context.traits",
    ),
    Sdk(
        "rudder browser beacon",
        "@rudderstack/analytics-js",
        library="rudderBeacon",
        lacks=("screen",),
        retries=False,
        note="sendBeacon, which cannot retry",
    ),
]
BY_NAME = {sdk.name: sdk for sdk in SDKS}
PYTHON = [sdk.name for sdk in SDKS if sdk.package not in PINNED]


@dataclass
class Result:
    front: Front
    records: list[LogRecord]

    @property
    def ids(self) -> list[str]:
        """The distinct message ids, in order of arrival."""
        return list(dict.fromkeys(record.message_id for record in self.records))

    def arrived(self, type_: str) -> list[dict[str, Any]]:
        found = {r.message_id: json.loads(r.payload) for r in self.records if r.type == type_}
        return list(found.values())


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("sdks") / "log"
    server = start(directory, *(sdk.key for sdk in SDKS))
    yield server
    assert stop(server) == 0


@pytest.fixture(scope="module")
def pages(modules: Path) -> Iterator[str]:
    """A page of another origin than the collector's, with the libraries beside it."""

    class Handler(SimpleHTTPRequestHandler):
        def translate_path(self, path: str) -> str:
            inside = path.partition("?")[0].removeprefix("/modules/")
            return str(modules / inside if inside != path else HERE / "clients" / "page.html")

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/page.html"
    server.shutdown()
    thread.join()
    server.server_close()


def taken(collector: Server, sdk: Sdk, seen: Front) -> Result:
    return Result(seen, [r for r in collector.since(0) if r.source == sdk.key])


def wait_for(collector: Server, sdk: Sdk, seen: Front) -> Result:
    """What arrived, once it is all there and what was refused has been sent again."""
    for _ in range(300):
        result = taken(collector, sdk, seen)
        again = not sdk.retries or len(result.ids) < len(result.records)
        if again and {r.type for r in result.records} == {call["type"] for call in sdk.calls}:
            break
        time.sleep(0.1)
    return result


def send_all(collector: Server, sdks: list[Sdk], modules: Path) -> dict[str, Result]:
    """Each library in a thread of its own."""
    with ExitStack() as stack:
        fronts = {s: stack.enter_context(front(collector.port, lie=s.retries)) for s in sdks}
        pool = stack.enter_context(ThreadPoolExecutor(len(sdks)))
        running = [
            pool.submit(sdk.run, seen.url, sdk.key, sdk.calls, modules)
            for sdk, seen in fronts.items()
            if sdk.run is not None
        ]
        for run in running:
            run.result()
        return {sdk.name: wait_for(collector, sdk, seen) for sdk, seen in fronts.items()}


@pytest.fixture(scope="module")
def from_python(collector: Server) -> dict[str, Result]:
    return send_all(collector, [BY_NAME[name] for name in PYTHON], HERE)


@pytest.fixture(scope="module")
def from_node(collector: Server, modules: Path) -> dict[str, Result]:
    sdks = [sdk for sdk in SDKS if sdk.run is not None and sdk.name not in PYTHON]
    return send_all(collector, sdks, modules)


@pytest.fixture(scope="module")
def from_browser(collector: Server, modules: Path, chromium: str, pages: str) -> dict[str, Result]:
    sdks = [sdk for sdk in SDKS if sdk.library]
    with ExitStack() as stack:
        fronts = {s: stack.enter_context(front(collector.port, lie=s.retries)) for s in sdks}
        jobs = [
            {"library": sdk.library, "url": seen.url, "key": sdk.key, "calls": sdk.calls}
            for sdk, seen in fronts.items()
        ]
        given = {"jobs": jobs, "modules": str(modules), "page": pages, "chromium": chromium}
        browser = subprocess.Popen(
            ["node", str(HERE / "clients" / "browser.cjs"), json.dumps(given)],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        results = {sdk.name: wait_for(collector, sdk, seen) for sdk, seen in fronts.items()}
        _, said = browser.communicate(timeout=60)
        print(said)  # noqa: T201  # shown where a test fails
        assert browser.returncode == 0, said
    return results


@pytest.fixture
def result(request: pytest.FixtureRequest, sdk: Sdk) -> Result:
    runtime = "browser" if sdk.library else "python" if sdk.name in PYTHON else "node"
    results: dict[str, Result] = request.getfixturevalue(f"from_{runtime}")
    return results[sdk.name]


def all_missing(sdk: Sdk, result: Result) -> list[str]:
    return [m for c in sdk.calls for p in result.arrived(c["type"]) for m in missing(c, p)]


def missing(call: dict[str, Any], payload: dict[str, Any]) -> list[str]:
    """The fields of a call that did not arrive as they were sent."""
    # RudderStack's libraries put the traits of identify into the context.
    traits = {**payload.get("context", {}).get("traits", {}), **(payload.get("traits") or {})}
    properties = payload.get("properties") or {}
    arrived = {
        **payload,
        "name": payload.get("name") or properties.get("name"),
        "traits": {name: traits.get(name) for name in call.get("traits", {})},
        "properties": {name: properties.get(name) for name in call.get("properties", {})},
    }
    return [f"{call['type']}.{name}" for name in call if arrived.get(name) != call[name]]


@pytest.mark.parametrize("sdk", SDKS, ids=[sdk.key for sdk in SDKS])
def test_what_is_sent_arrives(sdk: Sdk, result: Result) -> None:
    assert all_missing(sdk, result) == []
    counts = {call["type"]: len(result.arrived(call["type"])) for call in sdk.calls}
    assert counts == dict.fromkeys(counts, 1)
    assert {record.kind for record in result.records} == {"event"}
    assert not any(record.message_id_generated for record in result.records)
    assert all(record.original_timestamp and record.timestamp for record in result.records)


@pytest.mark.parametrize("sdk", SDKS, ids=[sdk.key for sdk in SDKS])
def test_what_is_sent_again_has_the_same_identity(sdk: Sdk, result: Result) -> None:
    assert len(result.ids) == len(sdk.calls)
    assert result.front.lies == int(sdk.retries)
    assert (len(result.records) > len(sdk.calls)) == sdk.retries


@pytest.mark.parametrize("sdk", SDKS, ids=[sdk.key for sdk in SDKS])
def test_the_library_is_the_pinned_one(sdk: Sdk, result: Result) -> None:
    library = result.arrived("track")[0]["context"]["library"]
    assert library["version"].rpartition("-")[2] == sdk.version


@pytest.mark.parametrize("sdk", SDKS, ids=[sdk.key for sdk in SDKS])
def test_only_devices_get_an_address_from_the_request(sdk: Sdk, result: Result) -> None:
    context = result.arrived("track")[0]["context"]
    assert ("ip" in context, "HeadlessChrome" in str(context.get("userAgent"))) == (
        (True, True) if sdk.library else (False, False)
    )


def row(sdk: Sdk, result: Result) -> str:
    def way(path: str, headers: dict[str, str]) -> str:
        packed = ", gzip" if headers.get("Content-Encoding") == "gzip" else ""
        kind = headers.get("Content-Type", headers.get("content-type", "")).partition(";")[0]
        return f"`{path.partition('?')[0]}` {kind}{packed}"

    ways = sorted({way(path, headers) for _, path, headers in result.front.posts()})
    kinds = {way.partition("`")[2].partition("`")[2] for way in ways}
    if len(ways) > 2 and len(kinds) == 1:
        paths = ", ".join(way.partition("` ")[0] + "`" for way in ways)
        ways = [paths + kinds.pop()]
    cells = [
        sdk.name,
        f"`{sdk.package}` {sdk.version}",
        ", ".join(ways),
        " ".join(call["type"] for call in sdk.calls),
        f"{len(result.ids)} of {len(sdk.calls)}, "
        + (", ".join(all_missing(sdk, result)) or "every field equal"),
        "sent again, same ids" if len(result.records) > len(result.ids) else "–",
        sdk.note,
    ]
    return "| " + " | ".join(cells) + " |"


def test_the_documented_table_is_this_runs(
    request: pytest.FixtureRequest,
    from_python: dict[str, Result],
    from_node: dict[str, Result],
    from_browser: dict[str, Result],
) -> None:
    results = {**from_python, **from_node, **from_browser}
    table = "\n".join(row(sdk, results[sdk.name]) for sdk in SDKS)
    if request.config.getoption("--write-sdk-table", default=False):
        TABLE.write_text(HEAD + table + "\n")
    assert TABLE.read_text() == HEAD + table + "\n", "run: pytest tests/sdk --write-sdk-table"


def test_the_readmes_examples_work(modules: Path, tmp_path: Path) -> None:
    """Each as it stands, with the address of a collector of ours."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    blocks = re.findall(r"```(python|js|sh)\n(.*?)```", README.read_text(), re.DOTALL)
    mine = [(language, code) for language, code in blocks if "127.0.0.1:8080" in code]
    server = start(tmp_path / "log", "wk_server")
    (tmp_path / "node_modules").symlink_to(modules)
    try:
        for language, code in mine:
            code = code.replace("http://127.0.0.1:8080", server.url)
            (tmp_path / "example.mjs").write_text(code)
            command = {
                "python": [sys.executable, "-c", code],
                "js": ["node", tmp_path / "example.mjs"],
                "sh": ["sh", "-c", code],
            }[language]
            if "AnalyticsBrowser" not in code:  # a browser's runs above, from a page
                done = subprocess.run(command, capture_output=True, text=True, timeout=60)
                assert done.returncode == 0, done.stderr
    finally:
        records = server.since(0)
        stop(server)
    assert [language for language, _ in mine] == ["python", "js", "js", "sh"]
    assert [r.event for r in records] == [None, "Cart Updated", "Logged In", "Logged In"]
    assert {(r.kind, r.source) for r in records} == {("event", "wk_server")}


def test_the_documented_versions_are_the_pinned_ones() -> None:
    table = TABLE.read_text()
    for sdk in SDKS:
        assert f"| {sdk.name} | `{sdk.package}` {sdk.version} |" in table


HEAD = """\
# Client libraries

The collector takes the place of Segment's and RudderStack's gateways: point a library at it and
change nothing else. This table is written by `pytest tests/sdk --write-sdk-table`, which runs each
unmodified library against a collector process. Each makes the same calls, with nested properties
and text outside ASCII. The answer to its first request is lost on the way: the collector has taken
it, the library hears 503. Then the event log is read back and compared with what was sent.

Message ids stay the same when a library sends again, so staging keeps one row of each.

Limits are Segment's: 32 KB a message, 500 KB and 2,500 messages a batch. RudderStack's own gateway
takes 4 MB, and its Python library fills a request up to that: keep `upload_size` low where messages
are large.

| run | library | requests | sent | arrived | after a lost answer | notes |
|---|---|---|---|---|---|---|
"""
