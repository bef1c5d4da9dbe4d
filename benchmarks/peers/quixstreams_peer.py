"""quixstreams: a topic, the library's own state, and `update`."""

from quixstreams import Application
from rule import DESTINATION, DIRECTORY, FEED, NEW, Destination, pay

app = Application(
    FEED,
    consumer_group="cards",
    auto_offset_reset="earliest",
    state_dir=DIRECTORY,
    consumer_poll_timeout=0.01,
    loglevel="WARNING",
    # The benchmark's broker lets a group wait half a session before it gives out partitions.
    consumer_extra_config={"session.timeout.ms": 6000},
)
destination = Destination(DESTINATION)


def judge(message, state):
    kept = state.get("card")
    card = NEW if kept is None else (tuple(kept[0]), kept[1] and tuple(kept[1]), kept[2])
    card, found = pay(card, message)
    state.set("card", card)
    if found:
        destination.post(found)


app.dataframe(app.topic("cards", value_deserializer="json")).update(judge, stateful=True)
app.run()
