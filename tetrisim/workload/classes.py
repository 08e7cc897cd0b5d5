"""Which class each request is of."""

import numpy as np
from numpy.typing import NDArray

from tetrisim.scenario.classes import ClassSpec
from tetrisim.streams import stream


def draw_classes(classes: tuple[ClassSpec, ...], requests: int, seed: int) -> NDArray[np.int64]:
    """The place in `classes` of each request, drawn from a stream of its own.

    Lengths and arrivals stay what they are without classes; where the first share grows, those of the first class stay.
    """
    ends = np.cumsum([each.share for each in classes])[:-1]
    return np.searchsorted(ends, stream(seed, "classes").random(requests), side="right").astype(np.int64)
