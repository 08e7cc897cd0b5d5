"""The arithmetic of a window: step j of it takes first + slope * j ticks, j from 0; all in whole numbers."""

from math import sqrt


def length(steps: int, first: int, slope: int) -> int:
    """Ticks of the first `steps` steps."""
    return steps * first + slope * (steps * (steps - 1) // 2)


def steps_before(elapsed: int, first: int, slope: int, most: int) -> int:
    """How many of at most `most` steps end before `elapsed` ticks: the quadratic's root, then put right exactly."""
    if elapsed <= first or not most:
        return 0
    if slope == 0:
        return min(most, (elapsed - 1) // first)
    linear = first - 0.5 * slope
    steps = min(most, int((sqrt(max(0.0, linear * linear + 2.0 * slope * elapsed)) - linear) / slope))
    while steps and steps * first + slope * (steps * (steps - 1) // 2) >= elapsed:
        steps -= 1
    while steps < most and (steps + 1) * first + slope * ((steps + 1) * steps // 2) < elapsed:
        steps += 1
    return steps
