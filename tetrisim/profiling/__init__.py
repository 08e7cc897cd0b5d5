"""Measure kernels on this machine and write profiles. The only package that imports torch.

ops, attention, timer, step, bench and links need it; planning, budget, resuming and writing do not.
"""
