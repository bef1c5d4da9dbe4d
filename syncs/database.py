"""One Postgres client for the destinations that are tables: timeouts, and errors as ours."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import psycopg2
from psycopg2 import errors

from syncs.results import Fatal, Rejected, Retryable, Unanswered

#: Seconds to connect; milliseconds a statement may take, waiting for locks included.
CONNECT_TIMEOUT = 5
STATEMENT_TIMEOUT = 20_000

_CHANGE_ROWS = (psycopg2.DataError, psycopg2.IntegrityError, errors.RaiseException)
_AGAIN = (
    errors.SerializationFailure,
    errors.DeadlockDetected,
    errors.LockNotAvailable,
    errors.QueryCanceled,
    errors.TooManyConnections,
    errors.CannotConnectNow,
    errors.AdminShutdown,
    errors.ReadOnlySqlTransaction,
)


@contextlib.contextmanager
def transaction(url: str) -> Iterator[Any]:
    """A cursor whose statements are committed together when the block ends.

    Raises Fatal, Rejected, Retryable or Unanswered in the server's own words; UndefinedTable,
    UndefinedColumn and InvalidColumnReference are the destination's to explain.
    """
    try:
        connection = psycopg2.connect(
            url,
            connect_timeout=CONNECT_TIMEOUT,
            application_name="signalbox",
            options=f"-c statement_timeout={STATEMENT_TIMEOUT}",
        )
    except psycopg2.OperationalError as error:
        words = _words(error)
        if "authentication failed" in words or "does not exist" in words:
            raise Fatal(f"Postgres: {words}; check the destination's URL") from None
        raise Retryable(f"Postgres not reachable: {words}") from None
    except psycopg2.Error:
        # Its text quotes the URL, which holds the password.
        raise Fatal("the destination's URL is not one of Postgres (postgresql://…)") from None
    try:
        with contextlib.closing(connection):
            with connection.cursor() as cursor:
                yield cursor
            _commit(connection)
    except (errors.UndefinedTable, errors.UndefinedColumn, errors.InvalidColumnReference):
        raise
    except _CHANGE_ROWS as error:
        raise Rejected(_words(error)) from None
    except _AGAIN as error:
        raise Retryable(_words(error)) from None
    except psycopg2.OperationalError as error:
        # Nothing was committed: the connection broke off while statements ran.
        raise Retryable(f"Postgres broke off: {_words(error)}") from None
    except psycopg2.Error as error:
        raise Fatal(f"Postgres: {_words(error)}") from None


def _commit(connection: Any) -> None:
    try:
        connection.commit()
    except psycopg2.OperationalError as error:
        raise Unanswered(f"Postgres broke off at the commit: {_words(error)}") from None


def _words(error: psycopg2.Error) -> str:
    """The server's sentence, without the statement and the detail that quote values."""
    said = error.diag.message_primary or str(error)
    return said.strip().splitlines()[0] if said.strip() else type(error).__name__
