from syncs.results import Message, Row

OBJECT, KEY = "news", "trigger_id"
ROWS = [Row("k1", "t1", {"user_id": "u1"}, message=Message("Hello", "plain", "<p>rich</p>"))]
# Not HTTP: what it writes is seen in test_tables.py.
PATH = None
