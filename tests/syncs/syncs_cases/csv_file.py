from syncs.results import Row

OBJECT, KEY = "people", "email"
ROWS = [
    Row("k1", "a@x.example", {"email": "a@x.example", "name": "=1+1", "score": -0.5}),
    Row("k2", "b@x.example", {"email": "b@x.example", "name": 'Bo, "B"\nO', "score": None}),
]
# Not HTTP: what it writes is seen in test_tables.py.
PATH = None
