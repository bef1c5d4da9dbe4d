from syncs.results import Row

OBJECT, KEY = "ticket_opened", "ticket_id"
ROWS = [
    Row("k1", "7", {"ticket_id": "7", "priority": "high"}, "c1", "2026-01-02T03:04:05Z"),
]
PATH = "/webhook/ticket_opened"
HEADERS = {"content-type": "application/json", "webhook-id": "k1"}
GOLDEN = {
    "type": "ticket_opened",
    "timestamp": "2026-01-02T03:04:05Z",
    "data": {"ticket_id": "7", "priority": "high"},
}
SUCCESS = {}
MIXED_STATUS = 400
MIXED = {"message": "priority is not known here"}
