from syncs_support import Case

from syncs.results import Message, Row

HEADERS = {"authorization": "Bearer sandbox"}
LIST = "4fb1d0a4-70e3-4f5b-8b55-6d2d9fc03d0f"
ROWS = [
    Row("k1", "ann@shop.example", {"email": "ann@shop.example", "city": "Bonn", "e1_N": 0.5}),
    Row("k2", "bo@shop.example", {"email": "bo@shop.example", "city": None, "e1_N": 1}),
]
CONTACTS = [
    {"email": "ann@shop.example", "city": "Bonn", "custom_fields": {"e1_N": 0.5}},
    {"email": "bo@shop.example", "city": "", "custom_fields": {"e1_N": 1}},
]
REFUSED = {
    "errors": [{"field": "contacts[0].email", "message": "length should be less than 254 chars"}]
}
CASES = [
    Case(
        OBJECT="contacts",
        KEY="email",
        ROWS=ROWS,
        METHOD="PUT",
        PATH="/sendgrid/v3/marketing/contacts",
        HEADERS=HEADERS,
        GOLDEN={"contacts": CONTACTS},
        SUCCESS={"job_id": "j1"},
        MIXED_STATUS=400,
        MIXED=REFUSED,
    ),
    Case(
        OBJECT=f"lists/{LIST}",
        KEY="email",
        ROWS=ROWS,
        METHOD="PUT",
        PATH="/sendgrid/v3/marketing/contacts",
        HEADERS=HEADERS,
        GOLDEN={"contacts": CONTACTS, "list_ids": [LIST]},
        SUCCESS={"job_id": "j1"},
        MIXED_STATUS=400,
        MIXED=REFUSED,
    ),
    Case(
        OBJECT=f"lists/{LIST}",
        KEY="email",
        ROWS=[Row("k1", "ann@shop.example", {}, leave=True)],
        EARLIER=(
            (
                "POST",
                "/sendgrid/v3/marketing/contacts/search/emails",
                {"emails": ["ann@shop.example"]},
                {"result": {"ann@shop.example": {"contact": {"id": "s1"}}}},
            ),
        ),
        METHOD="DELETE",
        PATH=f"/sendgrid/v3/marketing/lists/{LIST}/contacts?contact_ids=s1",
        HEADERS=HEADERS,
        GOLDEN=None,
        SUCCESS={"job_id": "j2"},
        MIXED_STATUS=400,
        MIXED=REFUSED,
    ),
    Case(
        OBJECT="mail",
        KEY="trigger_id",
        ROWS=[
            Row(
                "k1",
                "t1",
                {"to_email": "ann@shop.example"},
                message=Message("You left\nsomething", "plain words", "<p>rich words</p>"),
            )
        ],
        PATH="/sendgrid/v3/mail/send",
        HEADERS=HEADERS,
        GOLDEN={
            "personalizations": [
                {"to": [{"email": "ann@shop.example"}], "custom_args": {"action_key": "k1"}}
            ],
            "from": {"email": "hello@signalbox.example", "name": "Signalbox"},
            "subject": "You left something",
            "content": [
                {"type": "text/plain", "value": "plain words"},
                {"type": "text/html", "value": "<p>rich words</p>"},
            ],
            "headers": {"List-Unsubscribe": "<mailto:hello@signalbox.example?subject=unsubscribe>"},
        },
        SUCCESS={},
        MIXED_STATUS=400,
        MIXED={"errors": [{"message": "Does not contain a valid address.", "field": "to"}]},
    ),
]
CHECK = (
    "GET",
    "/sendgrid/v3/scopes",
    {"scopes": ["mail.send", "marketing.read"]},
    "a key with 2 scopes, mail yes",
)
