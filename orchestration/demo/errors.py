"""The simulator's one error class."""


class SimulatorError(ValueError):
    """The simulator cannot do what was asked; the message says what to change."""
