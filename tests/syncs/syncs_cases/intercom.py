from syncs_support import Case

from syncs.results import Row

HEADERS = {"authorization": "Bearer sandbox", "intercom-version": "2.16"}
REFUSED = {
    "type": "error.list",
    "errors": [{"code": "parameter_invalid", "message": "Custom attribute 'churn' does not exist"}],
}


def search(field: str, value: str, *ids: str) -> tuple[str, str, object, object]:
    """What is asked before every write, and the answer."""
    query = {"field": field, "operator": "=", "value": value}
    found = [{"type": "contact", "id": each} for each in ids]
    body = {"query": query, "pagination": {"per_page": 2}}
    return ("POST", "/intercom/contacts/search", body, {"type": "list", "data": found})


CASES = [
    Case(
        OBJECT="contacts",
        KEY="external_id",
        ROWS=[Row("k1", "c1", {"external_id": "c1", "name": "Ann", "churn": 0.5})],
        EARLIER=(search("external_id", "c1", "5f1"),),
        METHOD="PUT",
        PATH="/intercom/contacts/5f1",
        HEADERS=HEADERS,
        GOLDEN={"external_id": "c1", "name": "Ann", "custom_attributes": {"churn": 0.5}},
        SUCCESS={"type": "contact", "id": "5f1"},
        MIXED_STATUS=400,
        MIXED=REFUSED,
    ),
    Case(
        OBJECT="contacts",
        KEY="email",
        ROWS=[Row("k1", "bo@shop.example", {"email": "bo@shop.example", "churn": None})],
        EARLIER=(search("email", "bo@shop.example"),),
        PATH="/intercom/contacts",
        HEADERS=HEADERS,
        GOLDEN={
            "role": "user",
            "email": "bo@shop.example",
            "custom_attributes": {"churn": None},
        },
        SUCCESS={"type": "contact", "id": "5f2"},
        MIXED_STATUS=400,
        MIXED=REFUSED,
    ),
]
CHECK = ("GET", "/intercom/me", {"type": "admin", "app": {"name": "Shop"}}, "workspace Shop")
