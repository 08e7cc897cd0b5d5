"""Checks that the specs of a scenario share; reader.py turns their ValueErrors into the user's words."""


def positive(**values: float | None) -> None:
    """Raise ValueError unless each value is above 0, or None."""
    for name, value in values.items():
        if value is not None and not value > 0:
            raise ValueError(f"{name}: expected more than 0, not {value}")


def not_negative(**values: float | None) -> None:
    """Raise ValueError unless each value is at least 0, or None."""
    for name, value in values.items():
        if value is not None and not value >= 0:
            raise ValueError(f"{name}: expected at least 0, not {value}")
