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
        row = self._take()
        if row is None:
            with self._engine.begin() as connection:
                connection.execute(sa.text(_CREATE), {"lane": self._name})
            row = self._take()
        assert row is not None
        closed, wait, failed = row
        self.failing = failed >= self._limit
        self._doubtful = self._doubtful or failed > 0
        if closed is not None:
            return float(closed)
        if wait > 0:
            time.sleep(float(wait))
        return 0.0

    def _take(self) -> sa.Row[tuple[float | None, float, int]] | None:
        """Seconds for which the lane is closed, if it is; seconds until the turn; failures."""
        parameters = {
            "lane": self._name,
            "interval": self._interval,
            "burst": self._burst,
            "limit": self._limit,
            "cooldown": self._cooldown,
        }
        with self._engine.connect() as connection:
            connection = connection.execution_options(isolation_level="AUTOCOMMIT")
            return connection.execute(sa.text(_TAKE), parameters).one_or_none()

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

# One statement, because each request waits for it and all who send stand in line at its lock. The
# clock is read when the lock is had. A pace that a crash of Postgres forgets need not be on disk.
_TAKE = """
with locked as materialized (
    select *, clock_timestamp() as moment
    from (
        select turn_at, held_until, failed from lanes where lane = :lane for update
    ) as row_of_lane
),

turn as (
    select
        *, held_until is not null and held_until > moment as is_closed,
        greatest(coalesce(turn_at, moment), moment - :burst) as at
    from locked
),

taken as (
    update lanes set
        turn_at = turn.at + :interval,
        held_until = case when turn.failed >= :limit then turn.moment + :cooldown end
    from turn
    where lanes.lane = :lane and not turn.is_closed
)

select
    case when is_closed then extract(epoch from held_until - moment) end as closed,
    extract(epoch from at - moment) as wait,
    failed
from turn
where set_config('synchronous_commit', 'off', true) is not null
"""
