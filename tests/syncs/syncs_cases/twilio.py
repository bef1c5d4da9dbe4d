from syncs.results import Message, Row

OBJECT, KEY = "", "trigger_id"
ROWS = [
    Row("k1", "t1", {"to_phone": "+49 170 1234567"}, message=Message(None, "Your card & you", None))
]
PATH = "/twilio/2010-04-01/Accounts/AC00000000000000000000000000000000/Messages.json"
HEADERS = {
    "authorization": "Basic QUMwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDpzYW5kYm94",
    "content-type": "application/x-www-form-urlencoded",
}
GOLDEN = {"To": "+491701234567", "From": "+15005550006", "Body": "Your card & you"}
SUCCESS = {"sid": "SM1", "status": "queued", "error_code": None}
MIXED_STATUS = 400
MIXED = {"code": 21610, "message": "Attempt to send to unsubscribed recipient", "status": 400}
CHECK = (
    "GET",
    "/twilio/2010-04-01/Accounts/AC00000000000000000000000000000000.json",
    {"status": "active", "friendly_name": "Shop", "type": "Full"},
    "Shop (Full account)",
)
