"""Results written by hand, so that metrics and reports are tested without an engine."""

from dataclasses import replace

import numpy as np

from tetrisim.scenario.load import load, with_system
from tetrisim.simulate import Result

NAN = float("nan")


def three_requests(system: str = "vllm-v1") -> Result:
    """Two completed requests of 3 and 1 output tokens and a rejected one, on one worked GPU and one idle."""
    return Result(
        scenario=with_system(load("default"), system),
        request_columns={
            "request_id": np.array([0, 1, 2]),
            "arrival_s": np.array([1.0, 2.0, 3.0]),
            "prompt_tokens": np.array([100, 200, 300]),
            "output_tokens": np.array([3, 1, 50]),
            "predicted_tokens": np.array([NAN, NAN, NAN]),
            "prefill_start_s": np.array([1.0, 2.1, NAN]),
            "first_token_s": np.array([1.2, 2.6, NAN]),
            "transfer_start_s": np.array([NAN, NAN, NAN]),
            "transfer_end_s": np.array([NAN, NAN, NAN]),
            "decode_start_s": np.array([1.2, 2.6, NAN]),
            "finish_s": np.array([1.3, 2.6, NAN]),
            "lost_prefill_s": np.zeros(3),
            "lost_decode_s": np.array([0.02, 0.0, 0.0]),
            "cached_tokens": np.zeros(3, dtype=int),
            "recomputations": np.zeros(3, dtype=int),
            "preemptions": np.array([2, 0, 0]),
            "prefill_instance": np.array(["hybrid-0", "hybrid-0", ""]),
            "decode_instance": np.array(["hybrid-0", "hybrid-0", ""]),
            "status": np.array(["completed", "completed", "rejected"]),
        },
        instance_columns={
            "instance": np.array(["hybrid-0", "hybrid-1"]),
            "role": np.array(["hybrid", "hybrid"]),
            "gpu": np.array(["h100-sxm", "h100-sxm"]),
            "gpus": np.array([2, 2]),
            "first_work_s": np.array([1.0, NAN]),
            "last_work_s": np.array([2.6, NAN]),
            "busy_s": np.array([0.9, 0.0]),
            "steps": np.array([4, 0]),
        },
        flip_columns={},
        gap_columns={
            "first_s": np.array([0.040]),
            "slope_s": np.array([0.020]),
            "steps": np.array([2]),
            "weight": np.array([1]),
        },
        time_shares={"measured": 1.0, "interpolated": 2.0, "estimated": 1.0},
        provenance=("roofline of h100-sxm",),
        simulated_s=2.6,
        wall_s=0.5,
    )


def served(system: str, ttft_s: float, tpot_s: float, requests: int = 400) -> Result:
    """Requests of 2 to 200 output tokens with log-normal TTFT and TPOT about the given medians."""
    draw = np.random.default_rng(7)
    base = three_requests(system)
    arrival = np.cumsum(draw.exponential(0.05, requests))
    tokens = draw.integers(2, 200, requests)
    first = arrival + ttft_s * draw.lognormal(0, 0.8, requests)
    finish = first + tpot_s * draw.lognormal(0, 0.2, requests) * (tokens - 1)
    rows = {name: np.full(requests, NAN) for name in base.request_columns}
    rows |= {
        "request_id": np.arange(requests),
        "arrival_s": arrival,
        "prompt_tokens": draw.integers(10, 2000, requests),
        "output_tokens": tokens,
        "prefill_start_s": (arrival + first) / 2,
        "first_token_s": first,
        "decode_start_s": first,
        "finish_s": finish,
        "lost_prefill_s": np.zeros(requests),
        "lost_decode_s": np.zeros(requests),
        "cached_tokens": np.zeros(requests, dtype=int),
        "recomputations": np.zeros(requests, dtype=int),
        "preemptions": np.zeros(requests, dtype=int),
        "prefill_instance": np.full(requests, "hybrid-0"),
        "decode_instance": np.full(requests, "hybrid-0"),
        "status": np.full(requests, "completed"),
    }
    return replace(base, request_columns=rows)


def nothing_completed() -> Result:
    """The three requests, all of them still waiting at the horizon."""
    base = three_requests()
    unserved = {name: np.full(3, NAN) for name in ("first_token_s", "finish_s", "decode_start_s")}
    rows = base.request_columns | unserved | {"status": np.full(3, "unfinished"), "preemptions": np.zeros(3, int)}
    instances = base.instance_columns | {name: np.full(2, NAN) for name in ("first_work_s", "last_work_s")}
    gaps = {name: column[:0] for name, column in base.gap_columns.items()}
    return replace(
        base,
        request_columns=rows,
        instance_columns=instances,
        flip_columns={},
        gap_columns=gaps,
        time_shares={"measured": 0.0, "interpolated": 0.0, "estimated": 0.0},
    )
