"""The saturation point, on laws whose answer can be worked out by hand."""

import numpy as np

from tetrisim.latency.build import build_timer
from tetrisim.latency.knee import saturation_tokens
from tetrisim.latency.roofline import Shard
from tetrisim.latency.step import Dense, StepTimer
from tetrisim.scenario.gpu import load_gpu
from tetrisim.scenario.model import load_model


class NoAttention:
    """An attention that takes no time."""

    measured = False
    skewed = False

    def mixed(self, chunk, cached, sequences, context):
        return 0.0, False


def timer_of(law_us):
    """A timer whose steps take `law_us` of their tokens, and nothing else."""

    def terms(law):
        def columns(sizes):
            seconds = np.array([law(float(size)) for size in sizes]) * 1e-6
            return seconds, np.zeros(len(sizes)), seconds

        return columns

    return StepTimer(Dense(terms(law_us), 64), Dense(terms(lambda _: 0.0), 64), NoAttention(), 1)


def test_a_sharp_ridge_is_reached_at_the_share_below_it():
    # 201 us up to 201 tokens, 1 us a token from there: 181 tokens in 201 us is just above nine tenths of a token a us.
    law = timer_of(lambda tokens: max(201.0, tokens))
    assert saturation_tokens(law, 1000) == 181
    assert saturation_tokens(law, 1000, share=0.5) == 101


def test_a_fixed_cost_and_a_cost_a_token():
    # n / (90 + n) >= 0.9 * 1000 / (90 + 1000) from n = 0.9 * 90 * 1000 / (90 + 0.1 * 1000) = 426.3 on.
    law = timer_of(lambda tokens: 90.0 + tokens)
    assert saturation_tokens(law, 1000) == 427
    assert saturation_tokens(law, 1000, share=1.0) == 1000, "it rises for as long as it is looked at"


def test_prompts_so_long_that_attention_slows_them_do_not_lower_the_plateau():
    # Throughput is highest where 400 = n^2 / 1600: 800 tokens in 800 us. Nine tenths of it from n^2 / 1600 - n / 0.9 +
    # 400 = 0, n = 800 / 0.9 * (1 - sqrt(0.19)) = 501.4, on.
    assert saturation_tokens(timer_of(lambda tokens: 400.0 + tokens * tokens / 1600), 4000) == 502


def test_one_more_wave_of_tiles_does_not_move_the_knee():
    # As in the first case, but 251 to 300 tokens all take what 350 should.
    law = timer_of(lambda tokens: 350.0 if 250 < tokens <= 300 else max(201.0, tokens))
    assert saturation_tokens(law, 1000) == 181


def test_the_roofline_saturates_near_its_ridge():
    """A matrix turns from memory- to compute-bound at (0.7 peak) / (0.8 bandwidth) tokens, with 2 bytes a weight."""
    found = {}
    for gpu in ("v100-32gb", "h100-sxm"):
        shard = Shard(load_model("opt-13b"), load_gpu(gpu), "fp16", 1)
        found[gpu] = saturation_tokens(build_timer(shard, "roofline", "profile")[0])
        ridge = 0.7 * shard.gpu.flops_per_s / (0.8 * shard.gpu.memory_bytes_per_s)
        assert 0.85 * ridge < found[gpu] < 1.2 * ridge
    assert found["h100-sxm"] > 1.8 * found["v100-32gb"]
