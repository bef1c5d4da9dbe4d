"""The assets, left to right: event log, raw layer, models, syncs, ledger."""
