"""How long a step with prefill in it takes, and how far the chunks of one long prompt are run on as a single event.

A chunk that one prompt fills alone cannot be joined, and nobody outside the instance sees it end. So the chunks of a
prompt run on up to its last one; and through that one, too, when it is clear who is in it.
"""

from tetrisim.cluster.engine import Engine, Piece
from tetrisim.cluster.predictor import Predictor
from tetrisim.cluster.request import NEVER
from tetrisim.latency.step import StepTimer


def step_ticks(engine: Engine, timer: StepTimer, pieces: list[Piece], predictor: Predictor) -> int:
    """The length of one step: the pieces of a plan, and the decodes beside them where it runs any."""
    padded = engine.batching.padded
    if len(pieces) == 1 and not engine.grown:
        request, take = pieces[0]
        ticks = timer.prefill(take if take > padded else padded, 1, take, request.computed)
    else:
        batch = engine.batch
        tokens = n = batch.n if engine.grown else 0
        shapes: list[tuple[int, int]] = []
        for request, take in pieces:
            shapes.append((take, request.computed))
            tokens += take
        ticks = timer.step(max(tokens, padded), shapes, n, batch.context, batch.longest())
    return ticks + ticks * predictor.slows(pieces) // 1000 if predictor.permille else ticks


def run_on(engine: Engine, timer: StepTimer, pieces: list[Piece], predictor: Predictor) -> tuple[int, int, int, int]:
    """Extend a step whose only piece fills a chunk; `pieces` are changed to all that it computes.

    Returns its ticks, its chunks, the ticks before the last chunk when others (pieces after the first) share that, and
    the ticks before the last chunk when it is run on only because nobody waits now; NEVER where that is not so.
    """
    request, width = pieces[0]
    done = request.computed
    left = request.target - done
    count = max(1, (left - 1) // width)
    slow = predictor.slows(pieces)
    ticks = timer.chunks(width, done, count, slow)
    rest = left - count * width
    # With a ledger a step is entered when it is timed, so none is timed that may yet be undone.
    # Told-apart blocks go by the order in which they are taken, so none is taken early either.
    if rest and not timer.labelled and not engine.kv.ordered:
        if not (engine.waiting.ordered or engine.waiting.raw):
            pieces[0] = (request, left)
            last = timer.prefill(width, 1, rest, done + count * width)
            return ticks + last + last * slow // 1000, count + 1, NEVER, ticks
        if engine.can_fill(width - rest):
            pieces[0] = (request, left)
            shapes = [(rest, done + count * width)]
            shapes.extend((take, other.computed) for other, take in engine.fill(pieces, rest))
            last = timer.step(width, shapes, 0, 0, 0)
            # Whoever shares it has waited for it, so the predictor runs beside it in either mode.
            slow = predictor.permille if len(pieces) > 1 else slow
            return ticks + last + last * slow // 1000, count + 1, ticks, NEVER
    pieces[0] = (request, width * count)
    return ticks, count, NEVER, NEVER
