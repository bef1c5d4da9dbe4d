from syncs_support import Case

from syncs.results import Row

HEADERS = {"authorization": "Basic c2FuZGJveDpzYW5kYm94", "content-type": "application/json"}
REFUSED = {
    "errors": [
        {
            "batch_index": 1,
            "reason": "invalid",
            "field": "identifiers",
            "message": "email is not a valid address",
        }
    ]
}
MEMBERS = [Row("k1", "c1", {"id": "c1"}), Row("k2", "c2", {"id": "c2"})]
CASES = [
    Case(
        OBJECT="people",
        KEY="email",
        ROWS=[
            Row("k1", "ann@shop.example", {"email": "ann@shop.example", "churn": 0.5, "a.b": 1}),
            Row("k2", "bo@shop.example", {"email": "bo@shop.example", "churn": None, "a.b": 2}),
        ],
        PATH="/customerio/api/v2/batch",
        HEADERS=HEADERS,
        GOLDEN={
            "batch": [
                {
                    "type": "person",
                    "action": "identify",
                    "identifiers": {"email": "ann@shop.example"},
                    "attributes": {"churn": 0.5, "a": {"b": 1}},
                },
                {
                    "type": "person",
                    "action": "identify",
                    "identifiers": {"email": "bo@shop.example"},
                    "attributes": {"churn": "", "a": {"b": 2}},
                },
            ]
        },
        SUCCESS={},
        MIXED_STATUS=207,
        MIXED=REFUSED,
    ),
    Case(
        OBJECT="events",
        KEY="trigger_id",
        ROWS=[
            Row("k1", "t1", {"id": "c1", "name": "Risk rose", "score": 1}, "c1", moment)
            for moment in ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05.001Z")
        ],
        PATH="/customerio/api/v2/batch",
        HEADERS=HEADERS,
        GOLDEN={
            "batch": [
                {
                    "type": "person",
                    "action": "event",
                    "identifiers": {"id": "c1"},
                    "id": ulid,
                    "name": "Risk rose",
                    "timestamp": 1767323045,
                    "attributes": {"score": 1},
                }
                for ulid in ("01KDYAK348DAWZ3TWFFMSRHX7S", "01KDYAK349DAWZ3TWFFMSRHX7S")
            ]
        },
        SUCCESS={},
        MIXED_STATUS=207,
        MIXED=REFUSED,
    ),
    Case(
        OBJECT="segments/7",
        KEY="id",
        ROWS=MEMBERS,
        PATH="/customerio/api/v1/segments/7/add_customers?id_type=id",
        HEADERS=HEADERS,
        GOLDEN={"ids": ["c1", "c2"]},
        SUCCESS={},
        MIXED_STATUS=400,
        MIXED={"errors": [{"detail": "segment 7 is data-driven", "status": "400"}]},
    ),
    Case(
        OBJECT="segments/7",
        KEY="id",
        ROWS=[Row(row.action_key, row.key, row.fields, leave=True) for row in MEMBERS],
        PATH="/customerio/api/v1/segments/7/remove_customers?id_type=id",
        HEADERS=HEADERS,
        GOLDEN={"ids": ["c1", "c2"]},
        SUCCESS={},
        MIXED_STATUS=400,
        MIXED={"errors": [{"detail": "segment 7 is data-driven", "status": "400"}]},
    ),
]
CHECK = (
    "GET",
    "/customerio/api/v1/accounts/region",
    {"url": "https://track.customer.io", "region": "us", "environment_id": 3},
    "workspace 3 in us",
)
