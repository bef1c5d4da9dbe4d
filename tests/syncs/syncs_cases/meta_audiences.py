import json
from hashlib import sha256

from syncs_support import Case

from syncs.results import Row


def hashed(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def form(session: int, schema: list[str], *data: list[str]) -> dict[str, str]:
    about = {"session_id": session, "batch_seq": 1, "last_batch_flag": True}
    return {
        "session": json.dumps({**about, "estimated_num_total": len(data)}),
        "payload": json.dumps({"schema": schema, "data": data}),
    }


ANN = {"email": " Ann@Shop.Example", "phone": "0049 (170) 12345", "fn": "Ann-Marie", "zip": "AB 1"}
JOIN = Case(
    OBJECT="120001",
    KEY="email",
    ROWS=[Row("k1", " Ann@Shop.Example", ANN)],
    PATH="/meta_audiences/v26.0/120001/users",
    HEADERS={"authorization": "Bearer sandbox"},
    GOLDEN=form(
        int(hashed("k1")[:13], 16),
        ["EMAIL", "FN", "PHONE", "ZIP"],
        [hashed("ann@shop.example"), hashed("annmarie"), hashed("4917012345"), hashed("ab1")],
    ),
    SUCCESS={"audience_id": "120001", "num_received": 1, "num_invalid_entries": 0},
    MIXED_STATUS=200,
    MIXED={"audience_id": "120001", "num_received": 1, "num_invalid_entries": 1},
)
LEAVE = Case(
    OBJECT="120001",
    KEY="email",
    ROWS=[Row("k2", "bo@shop.example", {"email": "bo@shop.example"}, leave=True)],
    METHOD="DELETE",
    PATH="/meta_audiences/v26.0/120001/users",
    GOLDEN=form(int(hashed("k2")[:13], 16), ["EMAIL"], [hashed("bo@shop.example")]),
    SUCCESS={"audience_id": "120001", "num_received": 1, "num_invalid_entries": 0},
    MIXED_STATUS=400,
    MIXED={"error": {"code": 100, "message": "Invalid parameter"}},
)
CASES = [JOIN, LEAVE]
CHECK = ("GET", "/meta_audiences/v26.0/me", {"name": "Signals", "id": "7"}, "Signals (7)")
