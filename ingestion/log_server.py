"""Appending to the event log from other processes while one process writes it.

The writer serves a Unix socket in the log's directory that only its own user may connect to.
`RemoteLog` is the other end and keeps the same promise as `EventLog`: what `append` returns for is
on disk. What several processes send at the same time shares one fdatasync.

A request is a length (4 bytes, big endian, of what follows) and records, each a length and its
bytes. The answer is a length and one byte: 0 with the first position and the bytes cut from a torn
tail at the last start (8 bytes each), 1 with why the log is unavailable, 2 with what is wrong with
the request. A request without records asks whether one would be taken.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import threading
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from ingestion.appender import Appender, Log, QueueFull
from ingestion.log import EventLog, LogBusy, LogUnavailable
from ingestion.segment import MAX_RECORD_BYTES, read_end

SOCKET = "append.sock"
MAX_REQUEST_BYTES = 4 * MAX_RECORD_BYTES
_WAITING_BYTES = 4 * MAX_REQUEST_BYTES
_LENGTH = struct.Struct(">I")
_POSITIONS = struct.Struct(">QQ")
T = TypeVar("T")
_DONE, _UNAVAILABLE, _REFUSED = b"\0", b"\1", b"\2"


class LogServer:
    """Serves appends to `log`, whose files are in `directory`, in a thread of its own.

    Use it as a context manager, inside that of the log. Leaving it finishes what it was sent.
    """

    def __init__(self, log: Log, directory: Path) -> None:
        self._log = log
        self._directory = directory
        self._clients: set[asyncio.Task[None]] = set()

    def __enter__(self) -> LogServer:
        # Whoever was here before is gone: we hold the log's lock.
        (self._directory / SOCKET).unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with _address(self._directory) as address:
                listener.bind(address)
            (self._directory / SOCKET).chmod(0o600)  # before it listens, so that nobody slips in
        except OSError as error:
            listener.close()
            raise LogUnavailable(
                f"the socket of the event log in {self._directory} cannot be made: {error.strerror}"
            ) from error
        self._appender = Appender(self._log, _WAITING_BYTES)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="log-server")
        self._thread.daemon = True
        self._thread.start()
        self._server = self._run(asyncio.start_unix_server(self._serve, sock=listener))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        (self._directory / SOCKET).unlink(missing_ok=True)
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._appender.close()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _stop(self) -> None:
        self._server.close()
        for client in self._clients:
            client.cancel()  # takes effect between requests, see _serve
        await asyncio.gather(*self._clients, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            while True:
                size = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))[0]
                if size > MAX_REQUEST_BYTES:
                    writer.write(_frame(_REFUSED, b"the request is too large"))
                    return
                request = await reader.readexactly(size)
                # What was received is finished and answered, whoever wants to stop meanwhile.
                answer = asyncio.create_task(self._answer(request))
                try:
                    writer.write(await asyncio.shield(answer))
                except asyncio.CancelledError:
                    writer.write(await answer)
                    raise
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            return
        finally:
            self._clients.discard(task)
            with suppress(ConnectionError):
                writer.close()
                await writer.wait_closed()

    async def _answer(self, request: bytes) -> bytes:
        try:
            records = _records(request)
            if not records and (problem := self._log.problem()):
                return _frame(_UNAVAILABLE, problem.encode())
            positions = await self._appender.submit(records)
        except QueueFull:
            return _frame(_UNAVAILABLE, b"too much is waiting for the disk")
        except LogUnavailable as error:
            return _frame(_UNAVAILABLE, str(error).encode())
        except (ValueError, struct.error) as error:
            return _frame(_REFUSED, str(error).encode())
        return _frame(_DONE, _POSITIONS.pack(positions.start, self._log.recovered_bytes))


class RemoteLog:
    """The log in `directory`, written by the process that serves it. Safe to share by threads.

    It connects when it is first used and again after the writer was restarted.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = Path(directory)
        self.recovered_bytes = 0
        self._mutex = threading.Lock()
        self._socket: socket.socket | None = None

    def connect(self) -> None:
        """Make sure that a writer listens. Raises LogUnavailable."""
        with self._mutex:
            self._connected()

    def append(self, records: Sequence[bytes]) -> range:
        """Make `records` durable and return their positions.

        When LogUnavailable is raised they may be in the log all the same if the writer was killed
        meanwhile: send them again under the same message ids. Raises ValueError for a record that
        EventLog would refuse, and for more than MAX_REQUEST_BYTES together.
        """
        parts = [b""]
        for record in records:
            parts.append(_LENGTH.pack(len(record)))
            parts.append(record)
        size = sum(map(len, parts))
        if size > MAX_REQUEST_BYTES:
            raise ValueError(f"{size} bytes are too many at a time; {MAX_REQUEST_BYTES} are taken")
        parts[0] = _LENGTH.pack(size)
        with self._mutex:
            try:
                connection = self._connected()
                connection.sendall(b"".join(parts))
                status, answer = _receive(connection)
            except OSError as error:
                self._disconnect()
                raise LogUnavailable(
                    f"the process that writes the event log in {self.directory} went away: "
                    f"{error.strerror or error}"
                ) from None
        if status == _DONE:
            start, self.recovered_bytes = _POSITIONS.unpack(answer)
            return range(start, start + len(records))
        raise (LogUnavailable if status == _UNAVAILABLE else ValueError)(answer.decode())

    def end(self) -> int:
        """The next log_seq: all records before it are on disk."""
        return read_end(self.directory)

    def problem(self) -> str | None:
        """Why an append would be refused now; None if it would not."""
        try:
            self.append([])
        except LogUnavailable as error:
            return str(error)
        return None

    def close(self) -> None:
        """Disconnect. Safe to call twice."""
        with self._mutex:
            self._disconnect()

    def __enter__(self) -> RemoteLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _connected(self) -> socket.socket:
        if self._socket is None:
            fresh = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                with _address(self.directory) as address:
                    fresh.connect(address)
            except OSError as error:
                fresh.close()
                raise LogUnavailable(
                    f"no process writes the event log in {self.directory}: start the collector"
                ) from error
            self._socket = fresh
        return self._socket

    def _disconnect(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


@contextmanager
def open_log(directory: Path) -> Iterator[EventLog | RemoteLog]:
    """The log for appending: by ourselves if nobody writes to it, else through who does.

    Raises LogBusy if another process writes to it that takes nothing from others, and what
    EventLog raises.
    """
    try:
        log: EventLog | RemoteLog = EventLog(directory)
    except LogBusy as busy:
        log = RemoteLog(directory)
        try:
            log.connect()
        except LogUnavailable:
            raise busy from None
    with log:
        yield log


@contextmanager
def _address(directory: Path) -> Iterator[str]:
    """The socket's address. Unix takes about 100 bytes of it, and homes may be deeper."""
    path = str(directory / SOCKET)
    if len(os.fsencode(path)) <= 100:
        yield path
        return
    fd = os.open(directory, os.O_RDONLY)
    try:
        yield f"/proc/self/fd/{fd}/{SOCKET}"
    finally:
        os.close(fd)


def _records(request: bytes) -> list[bytes]:
    records, at = [], 0
    while at < len(request):
        (size,) = _LENGTH.unpack_from(request, at)
        at += _LENGTH.size
        if not 0 < size <= MAX_RECORD_BYTES or at + size > len(request):
            raise ValueError(f"a log record must have 1 to {MAX_RECORD_BYTES} bytes")
        records.append(request[at : at + size])
        at += size
    return records


def _frame(status: bytes, answer: bytes) -> bytes:
    return _LENGTH.pack(len(status) + len(answer)) + status + answer


def _receive(connection: socket.socket) -> tuple[bytes, bytes]:
    (size,) = _LENGTH.unpack(_exactly(connection, _LENGTH.size))
    answer = _exactly(connection, size)
    return answer[:1], answer[1:]


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        more = connection.recv(size - len(data))
        if not more:
            raise ConnectionError("it closed the connection")
        data += more
    return bytes(data)
