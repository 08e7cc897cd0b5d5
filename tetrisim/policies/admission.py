"""Which received request may join the decode batch now (TetriInfer, section 3.4; Figure 18)."""

from tetrisim.policies.views import DecodeView, RequestView


def greedy(view: DecodeView, request: RequestView) -> bool:
    """vLLM: whatever fits now, blind to growth."""
    return True


def reserve_static(view: DecodeView, request: RequestView) -> bool:
    """Prompt and the lower end of the predicted output fit in the memory that is free now."""
    return view.running == 0 or view.blocks(request.prompt + request.predicted) <= view.free_blocks


def reserve_dynamic(view: DecodeView, request: RequestView) -> bool:
    """Memory is still spare when the shortest remaining job of the batch is predicted to finish."""
    if view.running == 0:
        return True
    steps = view.shortest_remaining()
    return view.blocks(request.prompt + steps) + view.growth(steps) <= view.free_blocks
