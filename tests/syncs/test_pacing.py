"""The lane to a destination, as several processes see it: each Lane has its own connections."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from syncs.ledger import Ledger
from syncs.pacing import Lane

MakeLane = Callable[..., Lane]


@pytest.fixture
def lane(ledger_url: str, ledger: Ledger) -> Iterator[MakeLane]:
    ledgers: list[Ledger] = []

    def make(rate: float = 1000.0, cooldown: float = 60.0) -> Lane:
        ledgers.append(Ledger(ledger_url))
        return Lane(ledgers[-1].engine, "crm", rate, failures=3, cooldown=cooldown)

    yield make
    for opened in ledgers:
        opened.close()


def test_processes_share_one_rate(lane: MakeLane) -> None:
    """80 requests of four processes at 40 a second: a burst of 40, then one every 25 ms."""
    lanes = [lane(rate=40.0) for _ in range(4)]
    moments: list[float] = []

    def send(mine: Lane) -> None:
        for _ in range(20):
            assert mine.take() == 0.0
            moments.append(time.monotonic())

    threads = [threading.Thread(target=send, args=(each,)) for each in lanes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    moments.sort()
    # A machine that stalls makes requests later, never earlier.
    assert moments[-1] - moments[0] >= 39 / 40.0 - 0.03
    assert len(moments) == 80


def test_an_imposed_wait_holds_for_all_and_survives_a_success(lane: MakeLane) -> None:
    one, other = lane(), lane()
    one.hold(30.0)
    one.succeeded()
    assert 29.0 < other.held() <= 30.0
    assert 29.0 < other.take() <= 30.0
    one.hold(5.0)
    assert other.held() > 29.0, "a shorter wait does not shorten a longer one"


def test_one_probe_after_the_cooldown_and_the_others_wait(lane: MakeLane) -> None:
    one, other = lane(cooldown=0.2), lane(cooldown=0.2)
    for _ in range(3):
        assert one.take() == 0.0
        one.failed()
    assert other.held() > 0 and other.failing
    time.sleep(0.22)
    assert one.take() == 0.0, "the probe"
    assert other.take() > 0, "while it is out, nobody else goes"
    one.succeeded()
    assert other.held() == 0.0 and not other.failing
    assert other.take() == 0.0


def test_a_probe_that_dies_is_followed_by_another(lane: MakeLane) -> None:
    one, other = lane(cooldown=0.2), lane(cooldown=0.2)
    for _ in range(3):
        one.failed()
    time.sleep(0.22)
    assert one.take() == 0.0
    time.sleep(0.22)
    assert other.take() == 0.0
