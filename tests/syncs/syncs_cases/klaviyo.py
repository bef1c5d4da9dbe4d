from syncs_support import Case

from syncs.results import Row

HEADERS = {
    "authorization": "Klaviyo-API-Key sandbox",
    "content-type": "application/vnd.api+json",
    "revision": "2026-07-15",
}
ROWS = [
    Row(
        "k1",
        "ann@shop.example",
        {
            "email": "ann@shop.example",
            "first_name": "Ann",
            "location.city": "Bonn",
            "churn_score": 0.5,
        },
    ),
    Row(
        "k2",
        "bo@shop.example",
        {
            "email": "bo@shop.example",
            "first_name": None,
            "location.city": "Kiel",
            "churn_score": None,
        },
    ),
]
PROFILES = [
    {
        "type": "profile",
        "attributes": {
            "email": "ann@shop.example",
            "first_name": "Ann",
            "location": {"city": "Bonn"},
            "properties": {"churn_score": 0.5},
        },
    },
    {
        "type": "profile",
        "attributes": {
            "email": "bo@shop.example",
            "first_name": None,
            "location": {"city": "Kiel"},
            "properties": {"churn_score": None},
        },
    },
]
JOB = {
    "type": "profile-bulk-import-job",
    "attributes": {"profiles": {"data": PROFILES}},
}
SUCCESS = {"data": {"type": "profile-bulk-import-job", "id": "job1"}}
REFUSED = {
    "errors": [
        {
            "id": "1",
            "status": 400,
            "code": "invalid",
            "title": "Invalid input.",
            "detail": "Invalid email address",
            "source": {"pointer": "/data/attributes/profiles/data/0/attributes/email"},
        }
    ]
}
LOOKUP = (
    "/klaviyo/api/profiles?filter=any%28email%2C%5B%22ann%40shop.example%22%5D%29"
    "&fields%5Bprofile%5D=email&page%5Bsize%5D=100"
)
CASES = [
    Case(
        OBJECT="profiles",
        KEY="email",
        ROWS=ROWS,
        PATH="/klaviyo/api/profile-bulk-import-jobs",
        HEADERS=HEADERS,
        GOLDEN={"data": JOB},
        SUCCESS=SUCCESS,
        MIXED_STATUS=400,
        MIXED=REFUSED,
    ),
    Case(
        OBJECT="lists/Xy12Z",
        KEY="email",
        ROWS=ROWS,
        PATH="/klaviyo/api/profile-bulk-import-jobs",
        HEADERS=HEADERS,
        GOLDEN={
            "data": JOB | {"relationships": {"lists": {"data": [{"type": "list", "id": "Xy12Z"}]}}}
        },
        SUCCESS=SUCCESS,
        MIXED_STATUS=400,
        MIXED=REFUSED,
    ),
    Case(
        OBJECT="lists/Xy12Z",
        KEY="email",
        ROWS=[Row("k1", "ann@shop.example", {}, leave=True)],
        EARLIER=(("GET", LOOKUP, None, {"data": [{"type": "profile", "id": "P1"}]}),),
        METHOD="DELETE",
        PATH="/klaviyo/api/lists/Xy12Z/relationships/profiles",
        HEADERS=HEADERS,
        GOLDEN={"data": [{"type": "profile", "id": "P1"}]},
        SUCCESS={},
        MIXED_STATUS=400,
        MIXED=REFUSED,
    ),
]
CHECK = (
    "GET",
    "/klaviyo/api/accounts",
    {"data": [{"attributes": {"contact_information": {"organization_name": "Shop"}}}]},
    "account Shop",
)
