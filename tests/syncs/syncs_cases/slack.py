from syncs_support import Case

from syncs.results import Message, Row

BOT = Case(
    OBJECT="message",
    KEY="trigger_id",
    ROWS=[
        Row("k1", "t1", {"channel": "#care"}, message=Message(None, "Churn risk rose: Ann", None)),
    ],
    PATH="/slack/api/chat.postMessage",
    HEADERS={"authorization": "Bearer sandbox", "content-type": "application/json; charset=utf-8"},
    GOLDEN={"channel": "#care", "text": "Churn risk rose: Ann", "unfurl_links": False},
    SUCCESS={"ok": True, "ts": "1.2"},
    MIXED_STATUS=200,
    MIXED={"ok": False, "error": "channel_not_found"},
)
WEBHOOK = Case(
    OBJECT="incoming_webhook",
    KEY="trigger_id",
    ROWS=[Row("k1", "t1", {"plan": "pro"}, message=Message(None, "Churn risk rose: Ann", None))],
    PATH="/slack/services/T0SANDBOX/B0SANDBOX/sandbox",
    HEADERS={"content-type": "application/json"},
    GOLDEN={"text": "Churn risk rose: Ann", "unfurl_links": False},
    SUCCESS="ok",
    MIXED_STATUS=400,
    MIXED="invalid_payload",
)
CASES = [BOT, WEBHOOK]
CHECK = (
    "POST",
    "/slack/api/auth.test",
    {"ok": True, "user": "signalbox", "team": "Shop"},
    "signalbox in Shop",
)
