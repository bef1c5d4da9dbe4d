from syncs_support import Case

from syncs.results import Row

HEADERS = {"api-key": "sandbox", "content-type": "application/json"}
ROWS = [
    Row("k1", "ann@shop.example", {"email": "ann@shop.example", "churn": 0.5, "plan.tier": "a"}),
    Row("k2", "bo@shop.example", {"email": "bo@shop.example", "churn": None, "plan.tier": "b"}),
]
USERS = [
    {
        "email": "ann@shop.example",
        "dataFields": {"churn": 0.5, "plan": {"tier": "a"}},
        "mergeNestedObjects": True,
    },
    {
        "email": "bo@shop.example",
        "dataFields": {"churn": None, "plan": {"tier": "b"}},
        "mergeNestedObjects": True,
    },
]
SUCCESS = {"successCount": 2, "failCount": 0, "failedUpdates": {}}
MIXED = {
    "successCount": 1,
    "failCount": 1,
    "invalidEmails": [],
    "failedUpdates": {"invalidDataEmails": ["bo@shop.example"]},
}
CASES = [
    Case(
        OBJECT="users",
        KEY="email",
        ROWS=ROWS,
        PATH="/iterable/api/users/bulkUpdate",
        HEADERS=HEADERS,
        GOLDEN={"users": USERS},
        SUCCESS=SUCCESS,
        MIXED_STATUS=200,
        MIXED=MIXED,
    ),
    Case(
        OBJECT="lists/42",
        KEY="userid",
        ROWS=[Row("k1", "c1", {"userid": "c1", "churn": 1})],
        PATH="/iterable/api/lists/subscribe",
        HEADERS=HEADERS,
        GOLDEN={
            "listId": 42,
            "subscribers": [{"userId": "c1", "dataFields": {"churn": 1}, "preferUserId": True}],
        },
        SUCCESS={"successCount": 1, "failCount": 0},
        MIXED_STATUS=200,
        MIXED={"successCount": 0, "failCount": 1, "failedUpdates": {"forgottenUserIds": ["c1"]}},
    ),
    Case(
        OBJECT="lists/42",
        KEY="email",
        ROWS=[Row(row.action_key, row.key, row.fields, leave=True) for row in ROWS],
        PATH="/iterable/api/lists/unsubscribe",
        HEADERS=HEADERS,
        GOLDEN={
            "listId": 42,
            "subscribers": [{"email": "ann@shop.example"}, {"email": "bo@shop.example"}],
        },
        # Who is not there has left.
        SUCCESS={
            "successCount": 1,
            "failCount": 1,
            "failedUpdates": {"notFoundEmails": ["bo@shop.example"]},
        },
        MIXED_STATUS=200,
        MIXED={
            "successCount": 1,
            "failCount": 1,
            "failedUpdates": {"invalidEmails": ["bo@shop.example"]},
        },
    ),
]
CHECK = ("GET", "/iterable/api/lists", {"lists": [{"id": 42}]}, "a project with 1 lists")
