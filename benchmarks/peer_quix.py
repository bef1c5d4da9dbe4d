"""A stream consumer with the rule written by hand; run by `benchmarks.hot_peers`, not imported.

Started with the interpreter that has quixstreams: peer_quix.py BROKER TOPIC RECEIVER DIRECTORY
"""

import sys

import requests
from quixstreams import Application  # type: ignore[import-not-found,unused-ignore]


def main() -> None:
    broker, topic_name, receiver, directory = sys.argv[1:]
    app = Application(
        broker_address=broker,
        consumer_group="bench",
        auto_offset_reset="earliest",
        state_dir=directory,
        use_changelog_topics=False,
    )
    topic = app.topic(topic_name, value_deserializer="json", key_deserializer="str")
    http = requests.Session()

    def on_event(event, state):  # type: ignore[no-untyped-def]
        count = state.get("events", 0) + 1
        state.set("events", count)
        if event["event"] == "Support Ticket Opened":
            ticket = event["properties"]["ticket_id"]
            http.post(receiver, json={"ticket_id": ticket, "events": count}, timeout=5)

    app.dataframe(topic).update(on_event, stateful=True)
    app.run()


if __name__ == "__main__":
    main()
