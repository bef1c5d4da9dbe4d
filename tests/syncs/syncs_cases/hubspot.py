from syncs.results import Row

OBJECT, KEY = "contacts", "email"
ROWS = [
    Row("k1", "ann@shop.example", {"email": "ann@shop.example", "churn_score": 0.5, "vip": True}),
    Row("k2", "bo@shop.example", {"email": "bo@shop.example", "churn_score": None, "vip": False}),
]
PATH = "/hubspot/crm/v3/objects/contacts/batch/upsert"
HEADERS = {"authorization": "Bearer sandbox", "content-type": "application/json"}
GOLDEN = {
    "inputs": [
        {
            "id": "ann@shop.example",
            "idProperty": "email",
            "objectWriteTraceId": "0",
            "properties": {"churn_score": "0.5", "vip": "true"},
        },
        {
            "id": "bo@shop.example",
            "idProperty": "email",
            "objectWriteTraceId": "1",
            "properties": {"churn_score": "", "vip": "false"},
        },
    ]
}
SUCCESS = {"status": "COMPLETE", "results": []}
MIXED_STATUS = 207
MIXED = {
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
}
CHECK = ("GET", "/hubspot/account-info/v3/details", {"portalId": 62515}, "account 62515")
