from syncs_support import Case

from syncs.results import Row

CONTACTS = Case(
    OBJECT="contacts",
    KEY="email",
    ROWS=[
        Row("k1", "ann@shop.example", {"email": "ann@shop.example", "score": 0.5, "vip": True}),
        Row("k2", "bo@shop.example", {"email": "bo@shop.example", "score": None, "vip": False}),
    ],
    PATH="/hubspot/crm/v3/objects/contacts/batch/upsert",
    HEADERS={"authorization": "Bearer sandbox", "content-type": "application/json"},
    GOLDEN={
        "inputs": [
            {
                "id": "ann@shop.example",
                "idProperty": "email",
                "objectWriteTraceId": "0",
                "properties": {"score": "0.5", "vip": "true"},
            },
            {
                "id": "bo@shop.example",
                "idProperty": "email",
                "objectWriteTraceId": "1",
                "properties": {"score": "", "vip": "false"},
            },
        ]
    },
    SUCCESS={"status": "COMPLETE", "results": []},
    MIXED_STATUS=207,
    MIXED={
        "status": "COMPLETE",
        "results": [{"id": "1", "objectWriteTraceId": "0"}],
        "numErrors": 1,
        "errors": [
            {
                "category": "VALIDATION_ERROR",
                "message": "Email address bo@shop.example is invalid",
                "context": {"objectWriteTraceId": ["1"]},
            }
        ],
    },
)
COMPANIES = Case(
    OBJECT="companies",
    KEY="account_id",
    ROWS=[
        Row("k1", "a1", {"account_id": "a1", "name": "Acme", "account_health": 71}),
        Row("k2", "a2", {"account_id": "a2", "name": "Bolt", "account_health": 12}),
    ],
    PATH="/hubspot/crm/v3/objects/companies/batch/upsert",
    GOLDEN={
        "inputs": [
            {
                "id": "a1",
                "idProperty": "account_id",
                "objectWriteTraceId": "0",
                "properties": {"name": "Acme", "account_health": "71"},
            },
            {
                "id": "a2",
                "idProperty": "account_id",
                "objectWriteTraceId": "1",
                "properties": {"name": "Bolt", "account_health": "12"},
            },
        ]
    },
    SUCCESS={"status": "COMPLETE", "results": []},
    MIXED_STATUS=207,
    MIXED={
        "results": [{"id": "1", "objectWriteTraceId": "0"}],
        "numErrors": 1,
        "errors": [
            {
                "category": "VALIDATION_ERROR",
                "message": "Bolt was not one of the allowed options",
                "context": {"objectWriteTraceId": ["1"]},
            }
        ],
    },
)
CASES = [CONTACTS, COMPANIES]
CHECK = ("GET", "/hubspot/account-info/v3/details", {"portalId": 62515}, "account 62515")
