"""The OpenAPI description is true: it names every address, and a fuzzer finds nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from collector_process import REPRESENTATIVE, Server, fuzz, start, stop
from openapi_spec_validator import OpenAPIV31SpecValidator

from ingestion.envelope import Limits
from ingestion.openapi import describe
from ingestion.routes import ROUTES, find


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = start(tmp_path_factory.mktemp("openapi") / "log")
    yield running
    assert stop(running) == 0


def test_the_description_is_valid_and_served(server: Server) -> None:
    served = server.ask("GET", "/openapi.json").json
    assert served == describe(Limits())
    OpenAPIV31SpecValidator(served).validate()


def test_every_address_and_method_is_described_and_exists(server: Server) -> None:
    paths = describe(Limits())["paths"]
    assert set(ROUTES) < set(paths)
    for path, operations in paths.items():
        route = find(path.replace("{writeKey}", "wk_web").replace("{source}", "stripe"))
        assert route is not None
        assert set(operations) == {method.lower() for method in route.methods}
        wrong = server.ask("DELETE", path.replace("{writeKey}", "k").replace("{source}", "stripe"))
        assert wrong.status == 405
        assert set(wrong.headers["allow"].split(", ")) == {*route.methods, "OPTIONS"}


def test_a_fuzzer_finds_nothing(server: Server) -> None:
    said = fuzz(server, "--include-path-regex", REPRESENTATIVE, examples=4, seed=1)
    assert "No issues found" in said
    health = server.ask("GET", "/health").json
    assert health["accepted"] > 20
    assert health["quarantined"] > 20
