"""Syncs: what the warehouse decided, carried to the tools where people work.

`spec` reads what a sync is, `plan` what is due, `ledger` remembers, `push` sends, and one small
file in `destinations/` speaks to each vendor.
"""
