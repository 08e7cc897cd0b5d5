"""An engine driven step by step, without a clock."""

from tetrisim.cluster.request import NEVER


def planned(engine):
    """The next step as [request, tokens computed before, new tokens] in running order, and its pieces."""
    pieces = engine.plan()
    decodes = [request for request in engine.running if request.finish_step != NEVER]
    if decodes and not pieces and not engine.grown:  # the batch decodes by itself: take one step of its window
        engine.kv.grow(engine.batch, engine.running, 1)
        engine.grown = True
    tokens = {request: (request.base + engine.batch.step_no, 1) for request in decodes if engine.grown}
    tokens |= {request: (request.computed, take) for request, take in pieces}
    return [[request.id, *tokens[request]] for request in engine.running if request in tokens], pieces


def completed(engine, pieces):
    """Let the step end, with the token that each finished prefill shows."""
    prefilled = engine.complete(pieces)
    for request in engine.batch.finished():
        engine.finish(request)
    for request in prefilled:
        request.generated += 1
        if request.generated == request.output:
            engine.retire(request)
            engine.kv.release(request, request.target)
        else:
            engine.start_decode(request)
