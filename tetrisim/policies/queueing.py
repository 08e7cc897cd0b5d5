"""The order of the queue before prefill: a sort key over the requests of one group (`queue_batch`), or none."""

from collections.abc import Callable

from tetrisim.policies.views import RequestView

QueueKey = Callable[[RequestView], float] | None


def shortest_first(request: RequestView) -> float:
    """SJF: a prompt's length is an exact proxy of its prefill time (TetriInfer, section 3.3)."""
    return request.prompt


def by_priority(request: RequestView) -> float:
    """vLLM's `--scheduling-policy priority`: urgent classes first; who is preempted goes by it, too."""
    return request.priority


def longest_first(request: RequestView) -> float:
    """LJF, the worst case of the paper's Figure 16."""
    return -request.prompt
