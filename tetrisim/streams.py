"""Random streams spawned by name from one seed, so that two systems under one seed share the same luck."""

import hashlib
import random

import numpy as np


def stream(seed: int, name: str) -> np.random.Generator:
    """The vectorised generator called `name`; independent of every other name and of the order of creation."""
    digest = hashlib.sha256(name.encode()).digest()
    return np.random.default_rng(np.random.SeedSequence([seed, int.from_bytes(digest[:8], "big")]))


def scalar_stream(seed: int, name: str) -> random.Random:
    """The same for one draw at a time, which numpy does slowly."""
    return random.Random(int(stream(seed, name).integers(2**63)))
