"""Simulated against real: recorded engine steps, measured requests, steady-state points."""
