"""Checking what vendors sign: in constant time, against each candidate, within a replay window."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from ingestion.sources import Refused


def verify(
    content: bytes, secrets: Iterable[bytes], candidates: Iterable[bytes], algorithm: str = "sha256"
) -> None:
    """Refused (401) unless a candidate is the HMAC of `content` under one of the secrets."""
    offered = list(candidates)
    genuine = False
    for secret in secrets:
        expected = hmac.new(secret, content, getattr(hashlib, algorithm)).digest()
        for candidate in offered:  # all of them, so that time tells nothing
            genuine |= hmac.compare_digest(expected, candidate)
    if not genuine:
        raise Refused(401, "The signature is missing or wrong.")


def verify_time(seconds: str, now: datetime, tolerance: float) -> None:
    """Refused (401) unless the time (seconds since 1970) is near: `tolerance` seconds at most."""
    try:
        signed = datetime.fromtimestamp(float(seconds), UTC)
    except (ValueError, OverflowError, OSError):
        raise Refused(401, "The time of the signature is missing or not a number.") from None
    if abs(now - signed) > timedelta(seconds=tolerance):
        raise Refused(401, f"The signature is not from within {tolerance:g} seconds of now.")
