from syncs_support import Case

from syncs.results import Row

HEADERS = {"authorization": "Bearer sandbox", "content-type": "application/json"}
MOMENT = "2026-01-02T03:04:05Z"


def refused(array: str) -> dict[str, object]:
    error = {"type": "The value is not valid", "input_array": array, "index": 1}
    return {"message": "success", f"{array}_processed": 1, "errors": [error]}


CASES = [
    Case(
        OBJECT="users",
        KEY="external_id",
        ROWS=[
            Row("k1", "c1", {"external_id": "c1", "churn": 0.5, "plan.tier": "gold"}),
            Row("k2", "c2", {"external_id": "c2", "churn": None, "plan.tier": "free"}),
        ],
        PATH="/braze/users/track",
        HEADERS=HEADERS,
        GOLDEN={
            "attributes": [
                {
                    "external_id": "c1",
                    "churn": 0.5,
                    "plan": {"tier": "gold"},
                    "_merge_objects": True,
                },
                {
                    "external_id": "c2",
                    "churn": None,
                    "plan": {"tier": "free"},
                    "_merge_objects": True,
                },
            ]
        },
        SUCCESS={"message": "success", "attributes_processed": 2},
        MIXED_STATUS=201,
        MIXED=refused("attributes"),
    ),
    Case(
        OBJECT="events",
        KEY="trigger_id",
        ROWS=[
            Row("k1", "t1", {"external_id": "c1", "name": "Risk rose", "score": 1}, "c1", MOMENT),
            Row("k2", "t2", {"external_id": "c2", "name": "Risk rose", "score": 2}, "c2", MOMENT),
        ],
        PATH="/braze/users/track",
        HEADERS=HEADERS,
        GOLDEN={
            "events": [
                {
                    "external_id": f"c{number}",
                    "name": "Risk rose",
                    "time": MOMENT,
                    "properties": {"score": number},
                }
                for number in (1, 2)
            ]
        },
        SUCCESS={"message": "success", "events_processed": 2},
        MIXED_STATUS=201,
        MIXED=refused("events"),
    ),
    Case(
        OBJECT="purchases",
        KEY="trigger_id",
        ROWS=[
            Row(
                f"k{number}",
                f"t{number}",
                {"email": "a@shop.example", "product_id": "lamp", "currency": "EUR", "price": 9.5},
                "c1",
                MOMENT,
            )
            for number in (1, 2)
        ],
        PATH="/braze/users/track",
        HEADERS=HEADERS,
        GOLDEN={
            "purchases": [
                {
                    "email": "a@shop.example",
                    "product_id": "lamp",
                    "currency": "EUR",
                    "price": 9.5,
                    "time": MOMENT,
                    "properties": {},
                }
            ]
            * 2
        },
        SUCCESS={"message": "success", "purchases_processed": 2},
        MIXED_STATUS=201,
        MIXED=refused("purchases"),
    ),
]
CHECK = (
    "GET",
    "/braze/campaigns/list?page=0",
    {"message": "success", "campaigns": [{"id": "1"}]},
    "a workspace with 1 or more campaigns",
)
