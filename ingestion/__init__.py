"""The way in: collector, event log, contracts, and the dlt loads into the raw layer."""
