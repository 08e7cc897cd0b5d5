"""In place of Figure 9, a diagram: how long a prompt's KV cache is on the way, by link (notes, section 3)."""

import numpy as np

from tetrisim.report import style
from tetrisim.scenario.model import load_model
from tetrisim.scenario.scenario import Scenario
from tetrisim.studies.figures import Findings

LINKS = {"TS-RoCE, 200 Gbit/s": 25e9, "TS-NVLink, 300 GB/s": 300e9}
"""Bytes a second; neither has a base latency in the paper."""


def figure(scenario: Scenario) -> Findings:
    """Size over bandwidth, from 16 to 2048 tokens."""
    token_bytes = load_model(scenario.model).kv_bytes_per_token(scenario.dtype)
    tokens = np.array([2**power for power in range(4, 12)])
    times_ms = {name: 1e3 * tokens * token_bytes / bandwidth for name, bandwidth in LINKS.items()}
    at_512 = {name: float(times[tokens == 512][0]) for name, times in times_ms.items()}

    def draw(canvas):
        axis = canvas.subplots()
        for place, (name, times) in enumerate(times_ms.items()):
            axis.plot(tokens, times, color=style.colour(place), linestyle=style.dash(place), marker="o")
            style.name_line(axis, name, (tokens[-1], times[-1]), place, (-150, 2))
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.xaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_major_formatter("{x:g}")
        title = f"KV transfer, {token_bytes / 1e3:.0f} kB a token ({scenario.model})"
        style.plain(axis, title, "prompt (tokens, log scale)", "time on the link (ms, log scale)")

    roce, nvlink = at_512.values()
    return Findings({"512 tokens over 200 Gbit/s (ms)": roce, "512 tokens over 300 GB/s (ms)": nvlink}, draw)
