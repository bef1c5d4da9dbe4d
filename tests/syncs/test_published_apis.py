"""What destinations send, against the OpenAPI descriptions that their vendors publish."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from openapi_support import Description, description
from syncs_support import Reply, Vendor
from test_destinations import cases_of, earlier, push

from syncs.http import Http

PUBLISHED = {
    "klaviyo": ("klaviyo.json",),
    "sendgrid": ("tsg_mail_v3.json", "tsg_mc_contacts_v3.json"),
    "slack": ("slack_web_openapi_v2.json",),
    "twilio": ("twilio_api_v2010.json",),
}
#: Requests of which no description is at hand.
ELSEWHERE = ("/v3/marketing/lists/", "/services/")
#: Fields whose names are the caller's, which a description says in words only.
FREE = ("custom_fields", "properties", "headers", "custom_args")

CASES = [
    pytest.param(name, case, id=f"{name}-{case.OBJECT}")
    for name in PUBLISHED
    for case in cases_of(name)
]


@pytest.fixture
def http() -> Iterator[Http]:
    client = Http(timeouts=(2.0, 0.5))
    yield client
    client.close()


def faults(descriptions: list[Description], method: str, path: str, *sent: Any) -> list[str]:
    for each in descriptions:
        if each.knows(method, path):
            return each.faults(method, path, *sent, free=FREE)
    return [] if path.startswith(ELSEWHERE) else [f"no operation {method} {path}"]


@pytest.mark.parametrize(("name", "case"), CASES)
def test_requests_fit_the_published_description(
    name: str, case: Any, vendor: Vendor, http: Http
) -> None:
    descriptions = [description(file) for file in PUBLISHED[name]]
    vendor.play(*earlier(case), Reply(body=case.SUCCESS))
    push(name, vendor, http, case=case)
    assert vendor.requests
    for request in vendor.requests:
        path = request.path.removeprefix(f"/{name}")
        assert faults(descriptions, request.method, path, request.headers, request.body) == []


@pytest.mark.parametrize(
    ("headers", "body", "fault"),
    [
        ({}, b'{"data": {"type": "list"}}', "revision is missing"),
        ({"revision": "2026-07-15"}, b'{"data": {"type": "lists"}}', "lists"),
        ({"revision": "2026-07-15"}, b'{"date": {}}', '"data" is a required property'),
        ({"revision": "2026-07-15"}, b'{"data": {"type": "list", "x": 1}}', "'x' was unexpected"),
    ],
)
def test_what_does_not_fit_is_found(headers: dict[str, str], body: bytes, fault: str) -> None:
    headers = {"content-type": "application/vnd.api+json", **headers}
    found = description("klaviyo.json").faults("POST", "/api/lists", headers, body)
    assert any(fault in each for each in found), found
