from hashlib import sha256
from typing import Any

from syncs_support import Case

from syncs.results import Row


def hashed(text: str) -> str:
    return sha256(text.encode()).hexdigest()


LOGIN = (
    "POST",
    "/google_customer_match/token",
    {
        "grant_type": "refresh_token",
        "client_id": "sandbox",
        "client_secret": "sandbox",
        "refresh_token": "sandbox",
    },
    {"access_token": "ya29", "expires_in": 3599},
)


def request(*members: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "destinations": [
            {
                "operatingAccount": {"accountType": "GOOGLE_ADS", "accountId": "1234567890"},
                "productDestinationId": "77",
            }
        ],
        "audienceMembers": [{"userData": {"userIdentifiers": found}} for found in members],
        "encoding": "HEX",
    }


PERSON = {"given_name": " Ann", "family_name": "Bo", "region_code": "de", "postal_code": "10115"}
BAD = {
    "error": {"code": 400, "message": "There was a problem.", "status": "INVALID_ARGUMENT"},
}
JOIN = Case(
    OBJECT="77",
    KEY="email",
    ROWS=[
        Row("k1", "a", {"email": "An.n+shop@GMail.com", "phone": "+49 170 1234567", **PERSON}),
    ],
    EARLIER=(LOGIN,),
    PATH="/google_customer_match/v1/audienceMembers:ingest",
    HEADERS={"authorization": "Bearer ya29"},
    GOLDEN=request(
        [
            {"emailAddress": hashed("ann@gmail.com")},
            {"phoneNumber": hashed("+491701234567")},
            {
                "address": {
                    "givenName": hashed("ann"),
                    "familyName": hashed("bo"),
                    "regionCode": "DE",
                    "postalCode": "10115",
                }
            },
        ]
    )
    | {"termsOfService": {"customerMatchTermsOfServiceStatus": "ACCEPTED"}},
    SUCCESS={"requestId": "r1"},
    MIXED_STATUS=400,
    MIXED=BAD,
)
LEAVE = Case(
    OBJECT="77",
    KEY="email",
    ROWS=[Row("k2", "b", {"email": "bo.x@shop.example"}, leave=True)],
    EARLIER=(LOGIN,),
    PATH="/google_customer_match/v1/audienceMembers:remove",
    GOLDEN=request([{"emailAddress": hashed("bo.x@shop.example")}]),
    SUCCESS={"requestId": "r2"},
    MIXED_STATUS=400,
    MIXED=BAD,
)
CASES = [JOIN, LEAVE]
CHECK = (
    "POST",
    "/google_customer_match/token",
    {"access_token": "ya29", "scope": "https://www.googleapis.com/auth/datamanager"},
    "customer 1234567890, login accepted",
)
