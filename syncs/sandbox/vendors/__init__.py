"""One file per vendor, each with a class `StandIn`. The file's name is the registration."""
