from syncs.results import Row

OBJECT, KEY = "crm.people", "email"
ROWS = [
    Row("k1", "a@x.example", {"email": "a@x.example", "score": 0.5, "vip": True, "seats": 3}),
    Row("k2", "b@x.example", {"email": "b@x.example", "score": None, "vip": False, "seats": None}),
]
# Not HTTP: what it writes is seen in test_tables.py.
PATH = None
