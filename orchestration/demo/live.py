"""Live traffic: the same people go on, through Segment's own Python SDK, over HTTP."""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any, NamedTuple

from orchestration.demo import history, stories
from orchestration.demo.errors import SimulatorError
from orchestration.demo.people import DAY, Customer, rng_for
from orchestration.demo.state import DemoState
from orchestration.demo.stories import StoryEntry
from orchestration.demo.visits import Memory, Moment, Visit, choose_device, shop
from orchestration.demo.world import World, context_of

OPEN_VISITS = 12
STORY_STEP_SECONDS = 0.4
FLUSH_SECONDS = 10.0
LONGEST_SLEEP = 0.25


class _Step(NamedTuple):
    """One moment of a story that is to be sent at `due` (monotonic seconds)."""

    due: float
    order: int
    customer: Customer
    moment: Moment
    entry: StoryEntry
    is_first: bool
    is_trigger: bool


class LiveTraffic:
    """Ordinary visits at a steady rate, and a round of stories every `story_every` seconds.

    Every story is about a customer who was in none before, also after a restart with the same
    `state`. When a story runs out of fresh customers it is told no more; the rest goes on.
    `left_out` are user ids of whom no story is told.

    rate: ordinary messages per second (0: only stories). upload_interval: seconds the SDK waits
    to fill a batch. Raises SimulatorError if `state` belongs to another world.
    """

    def __init__(
        self,
        world: World,
        collector_url: str,
        write_key: str,
        *,
        state: DemoState,
        rate: float = 4.0,
        story_every: float = 20.0,
        upload_interval: float = 0.1,
        left_out: Collection[str] = (),
    ) -> None:
        if (world.seed, len(world.customers)) != (state.seed, state.customers):
            raise SimulatorError(
                f"{state.path} belongs to the world of seed {state.seed} with {state.customers} "
                f"customers, not to seed {world.seed} with {len(world.customers)}; use "
                "state.world(), or another state file"
            )
        self.world = world
        self.collector_url = collector_url
        self.write_key = write_key
        self.state = state
        self.rate = rate
        self.story_every = story_every
        self.upload_interval = upload_interval
        self.left_out = left_out
        self.story_log: list[StoryEntry] = []
        self.queued = 0
        self.failed = 0
        self.last_error: str | None = None
        self._roles = stories.casting(world)
        self._memories: dict[str, Memory] = {}
        self._open_visits: list[tuple[Customer, list[Moment]]] = []
        self._agenda: list[_Step] = []
        self._planned = 0
        self._run = 0
        self._chance = rng_for(world.seed)

    @property
    def sent(self) -> int:
        """Messages that the SDK took and has not reported as failed."""
        return self.queued - self.failed

    def run(self, stop: threading.Event, seconds: float | None = None) -> list[StoryEntry]:
        """Send until `stop` is set, or for `seconds`; then flush, and return the story log.

        Stories begun before the time is up are told to their end (some seconds); `stop` cuts
        them short. A collector that is down costs messages, counted in `failed` with the reason
        in `last_error`, and never raises.
        """
        self._run = self.state.start_run()
        self._chance = rng_for(self.world.seed, "live", self._run)
        client = self._client()
        began = next_round = next_ordinary = time.monotonic()
        try:
            while not stop.is_set():
                now = time.monotonic()
                over = seconds is not None and now - began >= seconds
                if over and not self._agenda:
                    break
                if not over and now >= next_round:
                    self._begin_round(now)
                    next_round += self.story_every
                while self._agenda and self._agenda[0].due <= now:
                    self._tell(client, heapq.heappop(self._agenda))
                if not over and self.rate > 0 and now >= next_ordinary:
                    self._ordinary(client)
                    # After a stall, catch up on one second at most.
                    next_ordinary = max(next_ordinary + 1 / self.rate, now - 1)
                due = [next_round] + ([next_ordinary] if self.rate > 0 else [])
                due += [self._agenda[0].due] if self._agenda else []
                pause = min(due) - time.monotonic()
                stop.wait(min(max(pause, 0.0), LONGEST_SLEEP))
        finally:
            self._close(client)
        return list(self.story_log)

    def _client(self) -> Any:
        # Imported here: the SDK brings requests and threads that nothing else in demo needs.
        from segment.analytics.client import Client

        # Without a handler Python prints the SDK's errors in the middle of the demo's screen.
        logging.getLogger("segment").addHandler(logging.NullHandler())
        return Client(
            self.write_key,
            host=self.collector_url,
            on_error=self._on_error,
            upload_interval=self.upload_interval,
            timeout=5,
            max_retries=6,
        )

    def _close(self, client: Any) -> None:
        deadline = time.monotonic() + FLUSH_SECONDS
        while client.queue.unfinished_tasks and time.monotonic() < deadline:
            time.sleep(0.02)
        client.join()
        left = client.queue.unfinished_tasks
        if left:
            self.failed += left
            self.last_error = self.last_error or "the collector did not take the last messages"

    def _on_error(self, error: Exception, batch: list[dict[str, Any]]) -> None:
        self.failed += len(batch)
        self.last_error = f"{type(error).__name__}: {error}"[:300]

    def _send(self, client: Any, customer: Customer, moment: Moment) -> None:
        common: dict[str, Any] = {
            "user_id": customer.user_id if moment.known else None,
            "anonymous_id": moment.device.anonymous_id if moment.device else None,
            "context": context_of(customer, moment),
        }
        if moment.kind == "track":
            taken, _ = client.track(event=moment.name, properties=moment.body, **common)
        elif moment.kind == "page":
            taken, _ = client.page(name=moment.name, properties=moment.body, **common)
        elif moment.kind == "group":
            taken, _ = client.group(group_id=moment.name, traits=moment.body, **common)
        else:
            taken, _ = client.identify(traits=moment.body, **common)
        self.queued += 1
        if not taken:
            self.failed += 1
            self.last_error = "the SDK's queue is full: the collector is too slow or down"

    def _begin_round(self, now: float) -> None:
        """Put one telling of every story on the agenda, spread over a third of the round."""
        gap = min(2.0, self.story_every / 3 / len(stories.KINDS))
        for place, kind in enumerate(stories.KINDS):
            found = self._fresh(kind)
            if found is None:
                continue
            number, customer = found
            at = int(time.time() * 1000)
            scene = stories.write(self.world, kind, customer, f"s{number}", at)
            entry = StoryEntry(
                story=kind,
                number=number,
                user_id=customer.user_id,
                email=customer.email,
                name=customer.name,
                expects=scene.expects,
                details=scene.details,
            )
            self.story_log.append(entry)
            for step, moment in enumerate(scene.moments):
                due = now + place * gap + step * STORY_STEP_SECONDS
                self._planned += 1
                last = step == len(scene.moments) - 1
                planned = _Step(due, self._planned, customer, moment, entry, step == 0, last)
                heapq.heappush(self._agenda, planned)

    def _fresh(self, kind: str) -> tuple[int, Customer] | None:
        cast = self._roles[kind]
        while self.state.told.get(kind, 0) < len(cast):
            number = self.state.claim(kind)
            customer = cast[number]
            if customer.user_id in self.left_out:
                continue
            if stories.can_play(self.world, kind, customer):
                return number, customer
        return None

    def _tell(self, client: Any, step: _Step) -> None:
        if step.is_first:
            step.entry.started_at = datetime.now(UTC)
        self._send(client, step.customer, step.moment)
        if step.is_trigger:
            step.entry.triggered_at = datetime.now(UTC)

    def _ordinary(self, client: Any) -> None:
        """Send the next moment of one of the visits that are going on."""
        while len(self._open_visits) < OPEN_VISITS:
            self._open_visits.append(self._new_visit())
        index = self._chance.randrange(len(self._open_visits))
        customer, moments = self._open_visits[index]
        self._send(client, customer, moments.pop(0))
        if not moments:
            del self._open_visits[index]

    def _new_visit(self) -> tuple[Customer, list[Moment]]:
        rng = self._chance
        regulars = self._roles["ordinary"]
        strangers = self.world.passers_by
        if not regulars and not strangers:
            raise SimulatorError("this world is too small for live traffic: use 50 customers")
        if strangers and (not regulars or rng.random() < 0.15):
            customer = rng.choice(strangers)
        else:
            customer = rng.choice(regulars)
        memory = self._memory_of(customer)
        at = int(time.time() * 1000)
        visit = Visit(customer, memory, choose_device(rng, customer), at, rng)
        if customer.persona == "passer_by":
            shop(visit, eager=0.1)
        else:
            history.ordinary(visit, at // DAY)
        return customer, visit.moments

    def _memory_of(self, customer: Customer) -> Memory:
        """What the person remembers from the history: where they are signed in, their cart."""
        memory = self._memories.get(customer.user_id)
        if memory is None:
            world = self.world
            _, memory = history.live_through(world.seed, customer, world.start_ms, world.end_ms)
            memory.tag = f"r{self._run}"
            self._memories[customer.user_id] = memory
        return memory
