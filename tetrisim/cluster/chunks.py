"""How far the chunks of one long prompt are run on as a single event.

A chunk that one prompt fills alone cannot be joined, and nobody outside the instance sees it end. So the chunks of a
prompt run on up to its last one; and through that one, too, when it is clear who is in it.
"""

from tetrisim.cluster.engine import Engine, Piece
from tetrisim.cluster.request import NEVER
from tetrisim.latency.step import StepTimer


def run_on(engine: Engine, timer: StepTimer, pieces: list[Piece]) -> tuple[int, int, int, int]:
    """Extend a step whose only piece fills a chunk; `pieces` are changed to all that it computes.

    Returns its ticks, its chunks, the ticks before the last chunk when others (pieces after the first) share that, and
    the ticks before the last chunk when it is run on only because nobody waits now; NEVER where that is not so.
    """
    request, width = pieces[0]
    done = request.computed
    left = request.target - done
    count = max(1, (left - 1) // width)
    ticks = timer.chunks(width, done, count)
    rest = left - count * width
    # With a ledger a step is entered when it is timed, so none is timed that may yet be undone.
    # Told-apart blocks go by the order in which they are taken, so none is taken early either.
    if rest and not timer.labelled and not engine.kv.ordered:
        if not (engine.waiting.ordered or engine.waiting.raw):
            pieces[0] = (request, left)
            last = timer.prefill(width, 1, rest, done + count * width)
            return ticks + last, count + 1, NEVER, ticks
        if engine.can_fill(width - rest):
            pieces[0] = (request, left)
            shapes = [(rest, done + count * width)]
            shapes.extend((take, other.computed) for other, take in engine.fill(pieces, rest))
            return ticks + timer.step(width, shapes, 0, 0, 0), count + 1, ticks, NEVER
    pieces[0] = (request, width * count)
    return ticks, count, NEVER, NEVER
