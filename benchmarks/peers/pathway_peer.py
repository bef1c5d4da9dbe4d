"""pathway: a Python connector, a stateful reducer, and `subscribe`."""

import json

import pathway as pw
from rule import DESTINATION, FEED, NEW, Destination, lines, pay

COMMIT_MS = 10


class Message(pw.Schema):
    card: str
    message: str


class Feed(pw.io.python.ConnectorSubject):
    def run(self) -> None:
        for line in lines(FEED):
            text = line.decode()
            self.next(card=json.loads(text)["properties"]["card_id"], message=text)


@pw.reducers.stateful_many
def judge(state, rows):
    """Kept are the card and what the last commit found; rows of one commit come in no order."""
    card = state[0] if state else NEW
    finds = []
    messages = [json.loads(message) for (message,), count in rows for _ in range(count)]
    for message in sorted(messages, key=lambda message: message["timestamp"]):
        card, found = pay(card, message)
        finds += [found] if found else []
    return card, tuple(json.dumps(found) for found in finds)


destination = Destination(DESTINATION)


def post(key, row, time, is_addition) -> None:
    if is_addition:
        for found in row["state"][1]:
            destination.post(json.loads(found))


events = pw.io.python.read(Feed(), schema=Message, autocommit_duration_ms=COMMIT_MS)
cards = events.groupby(events.card).reduce(events.card, state=judge(events.message))
pw.io.subscribe(cards, on_change=post)
pw.run(monitoring_level=pw.MonitoringLevel.NONE)
