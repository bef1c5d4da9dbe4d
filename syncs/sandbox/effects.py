"""The effects file: an append-only record of what each vendor would have done in the world."""

from __future__ import annotations

import fcntl
import os
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

FILE_NAME = "effects.jsonl"
TAIL_LENGTH = 200
INDEX_STRIDE = 500
READ_CHUNK = 1 << 20
LARGE_LINE = 64 * 1024
SHOWN_CHARACTERS = 20_000


class SandboxError(Exception):
    """The sandbox cannot start or go on; the message says what to do about it."""


class Effect(msgspec.Struct, omit_defaults=True):
    """One thing a vendor did.

    `changes` maps a field to its old and new value (both None or text). `detail` is what the
    page draws, `body` the raw request (in a batch: this row's part of it). `duplicate` is true
    if the same message had already arrived; state that did not change is an action of its own.
    """

    destination: str
    action: str
    key: str
    summary: str
    object_id: str | None = None
    changes: dict[str, tuple[str | None, str | None]] = {}
    detail: dict[str, Any] = {}
    duplicate: bool = False
    identity: str | None = None
    request_id: str = ""
    body: str = ""
    seq: int = 0
    at: str = ""


def now() -> str:
    """The time as RFC 3339 in UTC with microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def as_json(effect: Effect, *, with_body: bool = True) -> dict[str, Any]:
    """The effect as a dict with every field present, for the control API and the page."""
    fields = {name: getattr(effect, name) for name in effect.__struct_fields__}
    if not with_body:
        del fields["body"]
    return fields


class EffectLog:
    """Single writer of the effects file; keeps counts and a short tail per destination in memory.

    Each append is one write(2) before the vendor answers, so a SIGKILL loses nothing a client
    was told about. A torn last line is cut off when the file is opened.
    """

    def __init__(self, directory: Path) -> None:
        """Open or create the file. Raises SandboxError if another sandbox holds the directory."""
        directory.mkdir(parents=True, exist_ok=True)
        self.path = directory / FILE_NAME
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._fd)
            raise SandboxError(
                f"another sandbox uses {directory}: stop it, or start this one on another directory"
            ) from None
        self._encoder = msgspec.json.Encoder()
        self._decoder = msgspec.json.Decoder(Effect)
        self._offsets: list[int] = []
        self._identities: dict[str, set[str]] = defaultdict(set)
        self.size = 0
        self.last_seq = 0
        self.counts: dict[str, Counter[str]] = defaultdict(Counter)
        self.duplicates: Counter[str] = Counter()
        self.tails: dict[str, deque[Effect]] = defaultdict(lambda: deque(maxlen=TAIL_LENGTH))

    def replay(self) -> Iterator[Effect]:
        """Yield every recorded effect, oldest first; to be drained once, before the first append.

        Raises SandboxError, naming the line, if the file was damaged other than at its end.
        """
        end = _whole_lines(self._fd)
        os.ftruncate(self._fd, end)
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    effect = self._decoder.decode(line)
                except msgspec.MsgspecError as error:
                    raise SandboxError(
                        f"{self.path}, line {number}, is not an effect ({error}): "
                        "repair the line or move the file away"
                    ) from None
                self._note(effect, len(line))
                yield effect

    def append(self, effects: Sequence[Effect]) -> None:
        """Number, stamp and write the effects, all with one write.

        Raises SandboxError if the disk refuses; then none of them is in the file.
        """
        stamp = now()
        for position, effect in enumerate(effects, start=1):
            effect.seq, effect.at = self.last_seq + position, stamp
        lines = [self._encoder.encode(effect) + b"\n" for effect in effects]
        data = memoryview(b"".join(lines))
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError as error:
            os.ftruncate(self._fd, self.size)
            raise SandboxError(f"cannot write {self.path}: {error.strerror}") from error
        for effect, line in zip(effects, lines, strict=True):
            self._note(effect, len(line))

    def seen(self, destination: str, identity: str) -> bool:
        """Whether a message with this identity has arrived at the destination before."""
        return identity in self._identities[destination]

    def read(
        self, since: int = 0, destination: str | None = None, limit: int = 500
    ) -> list[Effect]:
        """Up to `limit` effects with seq greater than `since`, oldest first, from the file."""
        end, found = self.size, []
        if since >= self.last_seq or limit <= 0:
            return []
        position = self._offsets[max(since, 0) // INDEX_STRIDE]
        with self.path.open("rb") as file:
            file.seek(position)
            for line in file:
                position += len(line)
                if position > end:
                    break
                effect = self._decoder.decode(line)
                if effect.seq > since and destination in (None, effect.destination):
                    found.append(effect)
                    if len(found) == limit:
                        break
        return found

    def recent(self, since: int) -> list[Effect]:
        """The effects after `since` that the tails still hold, oldest first."""
        found = [effect for tail in self.tails.values() for effect in tail if effect.seq > since]
        return sorted(found, key=lambda effect: effect.seq)

    def close(self) -> None:
        """Release the file and its lock."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _note(self, effect: Effect, length: int) -> None:
        if (effect.seq - 1) % INDEX_STRIDE == 0:
            self._offsets.append(self.size)
        self.size += length
        self.last_seq = effect.seq
        self.counts[effect.destination][effect.action] += 1
        self.duplicates[effect.destination] += effect.duplicate
        if effect.identity is not None:
            self._identities[effect.destination].add(effect.identity)
        shown = msgspec.structs.replace(effect, body="")
        if length > LARGE_LINE:
            _shorten(shown)
        self.tails[effect.destination].append(shown)


def _shorten(effect: Effect) -> None:
    """Cut what is too long for the page, so that a tail of huge messages still fits in memory."""

    def cut(value: Any) -> Any:
        if isinstance(value, str):
            return value[:SHOWN_CHARACTERS]
        too_large = len(msgspec.json.encode(value)) > SHOWN_CHARACTERS
        return "(too large to show)" if too_large else value

    effect.summary, effect.key = effect.summary[:500], effect.key[:500]
    effect.detail = {name: cut(value) for name, value in effect.detail.items()}
    effect.changes = {
        name: (old and old[:SHOWN_CHARACTERS], new and new[:SHOWN_CHARACTERS])
        for name, (old, new) in effect.changes.items()
    }


def _whole_lines(fd: int) -> int:
    """The file's length up to and including its last newline."""
    end = os.fstat(fd).st_size
    while end > 0:
        start = max(0, end - READ_CHUNK)
        newline = os.pread(fd, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0
