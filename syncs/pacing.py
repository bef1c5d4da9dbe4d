"""How fast, and when not at all: one lane to each destination, shared by all processes.

The lane's state is a row in the ledger's Postgres, so a micro-batch, the hot lane and a person at
the command line together keep to the rate, and one of them finding a destination broken is enough
for all to leave it alone.
"""

from __future__ import annotations

import time
from datetime import datetime, timedelta

import sqlalchemy as sa

from syncs.tables import lanes

#: Seconds of its rate that an idle destination may get at once.
BURST_SECONDS = 1.0

_clock = sa.func.clock_timestamp()


class Lane:
    """The way to one destination: a token bucket, imposed waits, and a circuit breaker.

    Requests leave at `rate` a second with a burst of one second's worth, by the generic cell rate
    algorithm (ITU-T I.371). After `failures` failed requests in a row the lane is closed for
    `cooldown` seconds; then one request probes while all others wait, and its success opens the
    lane again. Every method raises SQLAlchemyError when the ledger's Postgres is away.
    """

    def __init__(
        self,
        engine: sa.Engine,
        name: str,
        rate: float,
        *,
        failures: int = 5,
        cooldown: float = 30.0,
    ) -> None:
        self._engine = engine
        self._name = name
        self._interval = timedelta(seconds=1.0 / rate)
        self._burst = max(timedelta(seconds=BURST_SECONDS) - self._interval, timedelta(0))
        self._limit = failures
        self._cooldown = timedelta(seconds=cooldown)
        #: Whether the breaker was open or waiting for its probe when the lane was last asked.
        self.failing = False
        # Whether anybody's failures may stand in the row, which the next success has to clear.
        self._doubtful = False

    def take(self) -> float:
        """Wait for this request's turn and return 0, or the seconds for which the lane is closed.

        The first request after a cooldown is the probe: it closes the lane behind itself.
        """
        with self._engine.begin() as connection:
            now, turn_at, held_until, failed = self._locked(connection)
            self.failing = failed >= self._limit
            self._doubtful = self._doubtful or failed > 0
            if held_until is not None and held_until > now:
                return (held_until - now).total_seconds()
            turn = now if turn_at is None else max(turn_at, now - self._burst)
            connection.execute(
                lanes.update()
                .where(lanes.c.lane == self._name)
                .values(
                    turn_at=turn + self._interval,
                    held_until=now + self._cooldown if self.failing else None,
                )
            )
        time.sleep(max(0.0, (turn - now).total_seconds()))
        return 0.0

    def held(self) -> float:
        """Seconds during which nothing may be sent: the destination asked, or it is failing."""
        query = sa.select(_clock, lanes.c.held_until, lanes.c.failed).where(
            lanes.c.lane == self._name
        )
        with self._engine.connect() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            return 0.0
        now, held_until, failed = row
        self.failing = failed >= self._limit
        return max(0.0, (held_until - now).total_seconds()) if held_until is not None else 0.0

    def hold(self, seconds: float) -> None:
        """The destination asked to be left alone."""
        with self._engine.begin() as connection:
            now, _, held_until, _ = self._locked(connection)
            self._set_hold(connection, held_until, now + timedelta(seconds=seconds))

    def succeeded(self) -> None:
        """A request was answered. An imposed wait stays: it was asked for later than this."""
        if not self._doubtful:
            return
        self._doubtful = False
        reset = {
            "failed": 0,
            "held_until": sa.case((lanes.c.failed < self._limit, lanes.c.held_until)),
        }
        ours = sa.and_(lanes.c.lane == self._name, lanes.c.failed > 0)
        with self._engine.begin() as connection:
            connection.execute(lanes.update().where(ours).values(reset))
        self.failing = False

    def failed(self) -> None:
        """A request failed for a reason that is the destination's."""
        self._doubtful = True
        with self._engine.begin() as connection:
            now, _, held_until, failed = self._locked(connection)
            connection.execute(
                lanes.update().where(lanes.c.lane == self._name).values(failed=failed + 1)
            )
            self.failing = failed + 1 >= self._limit
            if self.failing:
                self._set_hold(connection, held_until, now + self._cooldown)

    def _locked(
        self, connection: sa.Connection
    ) -> tuple[datetime, datetime | None, datetime | None, int]:
        """The lane's row, locked: Postgres' time, next turn, end of the hold, failures in a row."""
        query = (
            sa.select(lanes.c.turn_at, lanes.c.held_until, lanes.c.failed)
            .where(lanes.c.lane == self._name)
            .with_for_update()
        )
        # A pace that a crash of Postgres forgets need not be waited for on disk.
        connection.execute(sa.text("set local synchronous_commit to off"))
        row = connection.execute(query).one_or_none()
        if row is None:
            connection.execute(sa.text(_CREATE), {"lane": self._name})
            row = connection.execute(query).one()
        # Read after the lock is had: whoever held it before us has moved the turn since.
        now = connection.scalar(sa.select(_clock))
        assert isinstance(now, datetime)
        return now, row[0], row[1], row[2]

    def _set_hold(
        self, connection: sa.Connection, held_until: datetime | None, until: datetime
    ) -> None:
        later = until if held_until is None else max(held_until, until)
        connection.execute(
            lanes.update().where(lanes.c.lane == self._name).values(held_until=later)
        )


_CREATE = "insert into lanes (lane, failed) values (:lane, 0) on conflict do nothing"
