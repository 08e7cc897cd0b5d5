"""Guesses of output lengths, made for all requests before the run so that every system sees the same guesses.

The one kind of policy that is shown true lengths. Each returns the lower end of the predicted range.
"""

import numpy as np

from tetrisim.scenario.cluster import PredictorSpec


def oracle(outputs: np.ndarray, spec: PredictorSpec, rng: np.random.Generator) -> np.ndarray:
    """The true length."""
    return outputs.copy()


def none(outputs: np.ndarray, spec: PredictorSpec, rng: np.random.Generator) -> np.ndarray:
    """Nothing known: zero."""
    return np.zeros(len(outputs), dtype=np.int64)


def shuffled(outputs: np.ndarray, spec: PredictorSpec, rng: np.random.Generator) -> np.ndarray:
    """Useless: the range of another request's length, drawn without looking at this one."""
    return rng.permutation(outputs) // spec.granularity_tokens * spec.granularity_tokens


def bucket(outputs: np.ndarray, spec: PredictorSpec, rng: np.random.Generator) -> np.ndarray:
    """A classifier over ranges [i g, (i + 1) g) that is right with probability `accuracy`, else one range off.

    `drift` is what the accuracy has lost at the last request, linearly from the first. A wrong guess goes up with
    chance (1 + `bias`) / 2, and always from the lowest range. The paper gives the diagonal of the confusion matrix
    only; neighbours are our reading.
    """
    truth = outputs // spec.granularity_tokens
    accuracy = spec.accuracy - spec.drift * np.linspace(0.0, 1.0, len(outputs))
    right = rng.random(len(outputs)) < accuracy
    shift = np.where(rng.random(len(outputs)) < (1 - spec.bias) / 2, -1, 1)
    guess = np.where(right, truth, np.where(truth == 0, 1, truth + shift))
    return guess * spec.granularity_tokens
