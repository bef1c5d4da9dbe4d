"""A loop and a dictionary."""

import json

from rule import DESTINATION, FEED, NEW, Destination, lines, pay

cards: dict[str, object] = {}
destination = Destination(DESTINATION)
for line in lines(FEED):
    message = json.loads(line)
    card = message["properties"]["card_id"]
    cards[card], found = pay(cards.get(card, NEW), message)
    if found:
        destination.post(found)
