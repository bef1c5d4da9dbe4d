"""Dagster's daemon, whose loop over the sensors begins anew after one second instead of five.

A sensor that has started a run would else listen again only then, and micro-batches take less. How
often each sensor is evaluated at most is its own minimum interval.
"""

from __future__ import annotations

from dagster._daemon import cli, sensor

TURN_SECONDS = 1


def main() -> None:
    """`dagster-daemon`, with its arguments."""
    sensor.MIN_INTERVAL_LOOP_TIME = TURN_SECONDS
    cli.main()


if __name__ == "__main__":
    main()
