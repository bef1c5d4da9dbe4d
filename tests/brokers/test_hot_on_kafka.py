"""The hot lane where Kafka is the log: one action each, through a kill and the micro-batch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hot_home import BUILT, new_home, person, ticket

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(400)]


def test_one_action_each(kafka: str, new_topic: Callable[[int], str]) -> None:
    with new_home(SIGNALBOX_LOG_URL=f"kafka://{kafka}/{new_topic(1)}") as home:
        home.start("sandbox")
        home.start("collect")
        home.run("build", "--no-tests", "--select", BUILT)
        hot = home.start("hot")
        home.until(home.answers, "the collector's start")
        home.send(person("ada"), ticket("ada", "T-1"))
        home.until(lambda: home.arrived("webhook", "T-1") > 0, "the action on a ticket")
        hot.kill()
        hot.wait()
        home.send(person("bob"), ticket("bob", "T-2"))
        home.start("hot")
        home.until(lambda: home.arrived("webhook", "T-2") > 0, "the action after a kill")
        home.run("load")
        home.run("build", "--no-tests", "--select", BUILT)
        home.run("sync", "run", "webhook__support_ticket_opened")
        assert [home.arrived("webhook", name) for name in ("T-1", "T-2")] == [1, 1]
