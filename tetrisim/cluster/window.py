"""The arithmetic of a window: step j of it takes first + slope * j ticks, j from 0; all in whole numbers."""

from math import sqrt

FEW = 6
"""Up to so many steps, counting is faster than a square root."""


def length(steps: int, first: int, slope: int) -> int:
    """Ticks of the first `steps` steps."""
    return steps * first + slope * (steps * (steps - 1) // 2)


def steps_before(elapsed: int, first: int, slope: int, most: int) -> int:
    """How many of at most `most` steps end before `elapsed` ticks: the quadratic's root, then put right exactly."""
    if elapsed <= first or not most:
        return 0
    if slope == 0:
        return min(most, (elapsed - 1) // first)
    if most <= FEW:
        steps, step, end = 0, first, first
        while steps < most and end < elapsed:
            steps, step = steps + 1, step + slope
            end += step
        return steps
    linear = first - 0.5 * slope
    steps = min(most, int((sqrt(max(0.0, linear * linear + 2.0 * slope * elapsed)) - linear) / slope))
    while steps and steps * first + slope * (steps * (steps - 1) // 2) >= elapsed:
        steps -= 1
    while steps < most and (steps + 1) * first + slope * ((steps + 1) * steps // 2) < elapsed:
        steps += 1
    return steps
