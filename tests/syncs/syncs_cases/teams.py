from syncs.results import Message, Row

OBJECT, KEY = "", "trigger_id"
ROWS = [
    Row("k1", "t1", {"plan": "pro"}, message=Message("Risk rose", "Ann\nPlan: pro\n\nCall", None)),
]
PATH = "/teams/workflows/sandbox/triggers/manual/paths/invoke?sig=sandbox"
HEADERS = {"content-type": "application/json"}
GOLDEN = {
    "type": "message",
    "attachments": [
        {
            "contentType": "application/vnd.microsoft.card.adaptive",
            "contentUrl": None,
            "content": {
                "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
                "type": "AdaptiveCard",
                "version": "1.4",
                "msteams": {"width": "Full"},
                "body": [
                    {
                        "type": "TextBlock",
                        "text": "Risk rose",
                        "wrap": True,
                        "weight": "Bolder",
                        "size": "Medium",
                    },
                    {"type": "TextBlock", "text": "Ann", "wrap": True, "spacing": "Medium"},
                    {"type": "TextBlock", "text": "Plan: pro", "wrap": True, "spacing": "None"},
                    {"type": "TextBlock", "text": "Call", "wrap": True, "spacing": "Medium"},
                ],
            },
        }
    ],
}
SUCCESS = {}
MIXED_STATUS = 400
MIXED = {"error": {"code": "InvalidBotAdaptiveCard", "message": "The specified card is invalid"}}
