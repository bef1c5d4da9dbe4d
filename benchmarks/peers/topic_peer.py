"""A loop and a dictionary on a topic: what the broker of the benchmark takes by itself."""

import json

from confluent_kafka import Consumer
from rule import DESTINATION, FEED, NEW, Destination, pay

consumer = Consumer(
    {
        "bootstrap.servers": FEED,
        "group.id": "cards",
        "auto.offset.reset": "earliest",
        # The broker lets a group wait half a session before it gives out partitions.
        "session.timeout.ms": 6000,
    }
)
consumer.subscribe(["cards"])
cards: dict[str, object] = {}
destination = Destination(DESTINATION)
while True:
    received = consumer.poll(1.0)
    if received is None or received.error():
        continue
    message = json.loads(received.value())
    card = message["properties"]["card_id"]
    cards[card], found = pay(cards.get(card, NEW), message)
    if found:
        destination.post(found)
