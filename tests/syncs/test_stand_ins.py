"""Destinations against their stand-ins: what is sent is understood, and what is refused is told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import requests
from test_destinations import cases_of

from syncs import destinations
from syncs.destinations import Sandbox, aim, sandbox_target
from syncs.http import Http
from syncs.results import Fatal, Rejected, Retryable, RowResult, Target, Unanswered
from syncs.sandbox.server import background

NAMES = ("hubspot", "slack", "webhook", "twilio", "teams", "meta_audiences",
         "google_customer_match")  # fmt: skip
CASES = [
    pytest.param(name, case, id=f"{name}-{case.OBJECT}-{number}")
    for name in NAMES
    for number, case in enumerate(cases_of(name))
]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with background(tmp_path_factory.mktemp("sandbox"), rate_limits=False) as address:
        yield address.url


@pytest.fixture(autouse=True)
def _all_well(url: str) -> Iterator[None]:
    yield
    requests.delete(f"{url}/sandbox/faults", timeout=20)


@pytest.fixture
def http() -> Iterator[Http]:
    client = Http(timeouts=(2.0, 2.0))
    yield client
    client.close()


def aimed(name: str, case: Any, url: str) -> Target[Any]:
    target = sandbox_target(destinations.load(name), Sandbox(url, "127.0.0.1:1"))
    return aim(target, object_name=case.OBJECT, key=case.KEY)


def push(target: Target[Any], case: Any, http: Http) -> list[RowResult]:
    return destinations.load(target.destination).push(case.ROWS, target, http)


def effects(url: str, name: str) -> list[dict[str, Any]]:
    query = {"destination": name, "limit": "5000"}
    found: list[dict[str, Any]] = requests.get(
        f"{url}/sandbox/effects", params=query, timeout=20
    ).json()
    return found


def fault(url: str, **given: Any) -> None:
    requests.post(f"{url}/sandbox/faults", json=given, timeout=20).raise_for_status()


@pytest.mark.parametrize(("name", "case"), CASES)
def test_rows_arrive_and_what_the_vendor_does_is_recorded(
    name: str, case: Any, url: str, http: Http
) -> None:
    before = len(effects(url, name))
    results = push(aimed(name, case, url), case, http)
    assert [result.outcome for result in results] == ["delivered"] * len(case.ROWS)
    assert len(effects(url, name)) - before == len(case.ROWS)
    check = destinations.load(name).check(aimed(name, case, url), http)
    assert check and len(effects(url, name)) - before == len(case.ROWS)


@pytest.mark.parametrize(("name", "case"), CASES)
def test_wrong_credentials_are_refused(name: str, case: Any, url: str, http: Http) -> None:
    target = aimed(name, case, url)
    values = target.settings.model_dump()
    wrong = {}
    for field in values:
        value = getattr(target.settings, field)
        if hasattr(value, "get_secret_value"):
            secret = value.get_secret_value()
            new = secret.replace("sig=sandbox", "sig=guess").replace("/sandbox", "/guess")
            wrong[field] = type(value)("whsec_Z3Vlc3M=" if new == secret else new)
    target = replace(target, settings=target.settings.model_copy(update=wrong))
    before = len(effects(url, name))
    with pytest.raises(Fatal):
        push(target, case, http)
    assert len(effects(url, name)) == before


@pytest.mark.parametrize(("name", "case"), CASES)
def test_a_bad_day_is_told_as_what_it_was(name: str, case: Any, url: str, http: Http) -> None:
    target = aimed(name, case, url)
    before = len(effects(url, name))
    fault(url, kind="429", path=f"/{name}", count=1, retry_after=7)
    with pytest.raises(Retryable) as caught:
        push(target, case, http)
    assert caught.value.retry_after == 7
    assert not isinstance(caught.value, Unanswered)
    fault(url, kind="500", path=f"/{name}", count=1)
    with pytest.raises(Unanswered):
        push(target, case, http)
    assert len(effects(url, name)) == before


@pytest.mark.parametrize(("name", "case"), CASES)
def test_an_answer_that_is_lost_leaves_the_effect(
    name: str, case: Any, url: str, http: Http
) -> None:
    before = len(effects(url, name))
    path = f"/{name}/v1" if name == "google_customer_match" else f"/{name}"
    fault(url, kind="timeout_after_effect", path=path, count=1)
    with pytest.raises(Unanswered):
        push(aimed(name, case, url), case, http)
    assert len(effects(url, name)) - before == len(case.ROWS)


@pytest.mark.parametrize(("name", "case"), CASES)
def test_a_refused_row_is_told_in_the_vendors_words(
    name: str, case: Any, url: str, http: Http
) -> None:
    fault(url, kind="chaos", path=f"/{name}", rate=0, rows=1)
    try:
        results = push(aimed(name, case, url), case, http)
    except Rejected as error:
        results = [RowResult.rejected(str(error))]
    assert all(result.outcome == "rejected" and result.reason for result in results)


def test_people_join_and_leave_audiences(url: str, http: Http) -> None:
    for name in ("meta_audiences", "google_customer_match"):
        join, _ = cases_of(name)
        target = aimed(name, replace(join, OBJECT="990"), url)
        row = join.ROWS[0]
        done = []
        for leave in (False, False, True, True):
            rows = [replace(row, leave=leave)]
            destinations.load(name).push(rows, target, http)
            done.append(effects(url, name)[-1]["action"])
        assert done == [f"contact_{verb}" for verb in ("joined", "unchanged", "left", "unchanged")]
        assert "ann" not in str(effects(url, name)).lower()


def test_companies_are_kept_by_their_unique_property(url: str, http: Http) -> None:
    case = cases_of("hubspot")[1]
    target = aimed("hubspot", case, url)
    row = replace(case.ROWS[0], fields={"account_id": "A1", "account_health": 40}, key="A1")
    push(target, case, http)
    push(target, replace(case, ROWS=[row]), http)
    last = effects(url, "hubspot")[-1]
    assert (last["action"], last["key"]) == ("company_updated", "Acme")
    assert last["changes"]["account_health"] == ["71", "40"]


@pytest.mark.parametrize(
    ("form", "code"),
    [
        ({"To": "0170", "From": "+15005550006", "Body": "x"}, 21211),
        ({"To": "+491701234567", "Body": "x"}, 21603),
        ({"To": "+491701234567", "From": "+15005550006"}, 21602),
        ({"To": "+491701234567", "From": "+15005550006", "Body": "x" * 1601}, 21617),
    ],
)
def test_twilio_refuses_what_the_real_one_refuses(
    form: dict[str, str], code: int, url: str
) -> None:
    sid = "AC" + "0" * 32
    path = f"{url}/twilio/2010-04-01/Accounts/{sid}/Messages.json"
    answer = requests.post(path, data=form, auth=(sid, "sandbox"), timeout=20)
    assert (answer.status_code, answer.json()["code"]) == (400, code)
