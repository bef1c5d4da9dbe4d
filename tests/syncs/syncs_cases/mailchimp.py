from syncs_support import Case

from syncs.results import Row

HEADERS = {"authorization": "Bearer sandbox", "content-type": "application/json"}
TAG = [Row("k1", "Ann@shop.example", {"email_address": "Ann@shop.example"})]
TAG.append(Row("k2", "bo@shop.example", {"email_address": "bo@shop.example"}))
STRANGER = {
    "email_addresses": ["bo@shop.example"],
    "error": "Email address is not on the list.",
}
CASES = [
    Case(
        OBJECT="lists/abc123",
        KEY="email_address",
        ROWS=[
            Row(
                "k1",
                "Ann@shop.example",
                {
                    "email_address": "Ann@shop.example",
                    "status": "subscribed",
                    "email_type": "html",
                    "fname": "Ann",
                    "CHURN": 0.5,
                },
            ),
            Row(
                "k2",
                "bo@shop.example",
                {
                    "email_address": "bo@shop.example",
                    "status": "transactional",
                    "email_type": None,
                    "fname": None,
                    "CHURN": 1,
                },
            ),
        ],
        PATH="/mailchimp/3.0/lists/abc123",
        HEADERS=HEADERS,
        GOLDEN={
            "members": [
                {
                    "email_address": "Ann@shop.example",
                    "status": "subscribed",
                    "email_type": "html",
                    "merge_fields": {"FNAME": "Ann", "CHURN": 0.5},
                },
                {
                    "email_address": "bo@shop.example",
                    "status": "transactional",
                    "merge_fields": {"FNAME": "", "CHURN": 1},
                },
            ],
            "update_existing": True,
        },
        SUCCESS={"new_members": [], "updated_members": [], "errors": [], "error_count": 0},
        MIXED_STATUS=200,
        MIXED={
            "new_members": [{"email_address": "ann@shop.example"}],
            "updated_members": [],
            "errors": [
                {
                    "email_address": "bo@shop.example",
                    "error": "Please enter a number",
                    "error_code": "ERROR_GENERIC",
                    "field": "CHURN",
                    "field_message": "Please enter a number",
                }
            ],
            "error_count": 1,
        },
    ),
    Case(
        OBJECT="lists/abc123/tags/77",
        KEY="email_address",
        ROWS=TAG,
        PATH="/mailchimp/3.0/lists/abc123/segments/77",
        HEADERS=HEADERS,
        GOLDEN={"members_to_add": ["Ann@shop.example", "bo@shop.example"]},
        SUCCESS={"members_added": [], "errors": [], "error_count": 0},
        MIXED_STATUS=200,
        MIXED={"members_added": [], "errors": [STRANGER], "error_count": 1},
    ),
    Case(
        OBJECT="lists/abc123/tags/77",
        KEY="email_address",
        ROWS=[Row(row.action_key, row.key, row.fields, leave=True) for row in TAG],
        PATH="/mailchimp/3.0/lists/abc123/segments/77",
        HEADERS=HEADERS,
        GOLDEN={"members_to_remove": ["Ann@shop.example", "bo@shop.example"]},
        SUCCESS={"members_removed": [], "errors": [], "error_count": 0},
        MIXED_STATUS=200,
        MIXED={"members_removed": [], "errors": [STRANGER], "error_count": 1},
    ),
]
CHECK = (
    "GET",
    "/mailchimp/3.0/?fields=account_name,login_id",
    {"account_name": "Shop", "login_id": "1"},
    "account Shop",
)
