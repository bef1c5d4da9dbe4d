from syncs.results import Row

OBJECT, KEY = "Contact", "Customer_Id__c"
ROWS = [
    Row("k1", "c1", {"Customer_Id__c": "c1", "Churn__c": 0.5, "Account.Number__c": "A7"}),
    Row("k2", "c2", {"Customer_Id__c": "c2", "Churn__c": None, "Account.Number__c": "A7"}),
]
METHOD = "PATCH"
PATH = "/salesforce/services/data/v68.0/composite/sobjects/Contact/Customer_Id__c"
HEADERS = {"authorization": "Bearer sandbox", "content-type": "application/json"}
GOLDEN = {
    "allOrNone": False,
    "records": [
        {
            "attributes": {"type": "Contact"},
            "Customer_Id__c": "c1",
            "Churn__c": 0.5,
            "Account": {"Number__c": "A7"},
        },
        {
            "attributes": {"type": "Contact"},
            "Customer_Id__c": "c2",
            "Churn__c": None,
            "Account": {"Number__c": "A7"},
        },
    ],
}
SUCCESS = [
    {"id": "003xx0000000001", "success": True, "errors": [], "created": True},
    {"id": "003xx0000000002", "success": True, "errors": [], "created": False},
]
MIXED_STATUS = 200
MIXED = [
    SUCCESS[0],
    {
        "success": False,
        "errors": [
            {
                "statusCode": "REQUIRED_FIELD_MISSING",
                "message": "Required fields are missing: [LastName]",
                "fields": ["LastName"],
            }
        ],
    },
]
CHECK = (
    "GET",
    "/salesforce/services/data/v68.0/query?q=select+Name+from+Organization",
    {"totalSize": 1, "done": True, "records": [{"Name": "Acme"}]},
    "organization Acme",
)
