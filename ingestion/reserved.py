"""The source that no producer can have: the models obey what comes from it."""

from __future__ import annotations

OWN_SOURCE = "signalbox"


class SourceReserved(ValueError):
    """A producer was to be named like Signalbox itself."""


def check_source(name: str) -> None:
    """Refuse Signalbox's own name for a producer.

    Raises:
        SourceReserved: it is that name.
    """
    if name == OWN_SOURCE:
        raise SourceReserved(f"the source {name} is Signalbox's own; choose another name")
