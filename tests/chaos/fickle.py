"""A vendor that keeps what it is sent, fails by lottery, and sees its client die."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

from syncs_support import Reply, Request, Vendor

FAULTS = ("429", "500", "500 after the effect", "cut", "cut after the effect", "half")
MOMENTS = ("before the effect", "after the effect", "after the answer")


class Fickle:
    """A CRM, a chat and a webhook receiver behind one real HTTP server."""

    def __init__(self, lottery: random.Random, fault_share: float = 0.2) -> None:
        self.contacts: dict[str, float] = {}  # e-mail → version it holds
        self.older_over_newer = 0
        self.posts: Counter[str] = Counter()  # chat messages that took effect, by text
        self.broken: set[str] = set()  # chat messages that were answered 500 or not at all
        self.hooks: defaultdict[str, Counter[str]] = defaultdict(Counter)  # words → webhook-ids
        self.faults: Counter[str] = Counter()
        self.fault_share = fault_share
        self._lottery = lottery
        self._mutex = threading.Lock()
        self._fuse = 0
        self._kill: Callable[[], None] = lambda: None
        self._vendor = Vendor()
        self._vendor.answer = self._answer
        self.url = self._vendor.url

    def close(self) -> None:
        self._vendor.close()

    def kill_at(self, request: int, kill: Callable[[], None]) -> None:
        """Call `kill` around the request with that number from now on; 0 for never."""
        with self._mutex:
            self._fuse, self._kill = request, kill

    def _answer(self, request: Request) -> Reply:
        with self._mutex:
            self._fuse -= 1
            moment = self._lottery.choice(MOMENTS) if self._fuse == 0 else None
            fault = None
            if self._lottery.random() < self.fault_share:
                fault = self._lottery.choice(FAULTS)
            if fault == "half" and "/contacts/" not in request.path:
                fault = None
            if fault:
                self.faults[fault] += 1
            if self._lottery.random() < 0.3:
                time.sleep(self._lottery.uniform(0, 0.02))
            if moment == "before the effect":
                self._kill()
            reply = self._take(request, fault)
            if moment == "after the effect":
                self._kill()
            elif moment == "after the answer":
                threading.Timer(self._lottery.uniform(0, 0.01), self._kill).start()
            return reply

    def _take(self, request: Request, fault: str | None) -> Reply:
        body: Any = {"ok": True}
        if fault in (None, "half", "500 after the effect", "cut after the effect"):
            body = self._effect(request, half=fault == "half") or body
        if fault == "429":
            return Reply(429, {"message": "slow down"}, {"Retry-After": "0.01"})
        if fault in (None, "half"):
            return Reply(207 if fault else 200, body)
        if request.path.startswith("/slack/"):
            self.broken.add(request.json["text"])
        if fault.startswith("500"):
            return Reply(500, {"message": "something broke"})
        return Reply(drop=True)

    def _effect(self, request: Request, *, half: bool) -> dict[str, Any] | None:
        if request.path.startswith("/slack/"):
            self.posts[request.json["text"]] += 1
            return None
        if request.path.startswith("/webhook/"):
            self.hooks[request.json["data"]["words"]][request.headers["webhook-id"]] += 1
            return None
        inputs = request.json["inputs"]
        refused = [row["objectWriteTraceId"] for row in inputs[1::2]] if half else []
        for row in inputs:
            if row["objectWriteTraceId"] in refused:
                continue
            version = float(row["properties"]["score"])
            self.older_over_newer += version < self.contacts.get(row["id"], 0.0)
            self.contacts[row["id"]] = version
        if not refused:
            return None
        words = {"category": "RATE_LIMITS", "message": "too many at once"}
        errors = [words | {"context": {"objectWriteTraceId": [trace]}} for trace in refused]
        return {"numErrors": len(errors), "errors": errors, "results": []}
