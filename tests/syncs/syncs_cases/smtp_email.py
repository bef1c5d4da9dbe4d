from syncs.results import Message, Row

OBJECT, KEY = "", "trigger_id"
ROWS = [
    Row(
        "k1",
        "t1",
        {"to_email": "ann@shop.example"},
        message=Message("You left\nsomething", "plain words", "<p>rich words</p>"),
    ),
]
# Not HTTP: its requests are seen in test_smtp_email.py.
PATH = None
