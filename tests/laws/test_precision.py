"""Progressive precision: widths by hand, whole weights to the bit, and windows that end where somebody steps down."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from laws.worlds import rows, worlds, write_csv

import tetrisim
from tetrisim.cluster.precision import Widths
from tetrisim.cluster.request import Request
from tetrisim.errors import ScenarioError
from tetrisim.latency import lowbit, roofline
from tetrisim.latency.roofline import Shard
from tetrisim.scenario.cluster import PoolSpec
from tetrisim.scenario.gpu import GpuSpec, load_gpu
from tetrisim.scenario.load import resolve
from tetrisim.scenario.memory import kv_blocks
from tetrisim.scenario.model import ModelSpec, load_model
from tetrisim.scenario.precision import CLASSES, PrecisionSpec
from tetrisim.simulate import simulate

SLOW = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)

# One layer of 100 x 100 matrices on a machine of 1 TB/s and 100 TFLOP/s.
TINY = ModelSpec("tiny", 1, 1000, 10, 10, 100, 4000, 8000, 2048, False, False)
SHARD = Shard(TINY, GpuSpec("round", 2**34, 1e12, 100e12, 100e9, 10e9, 1.0), "bf16", 1)
WEIGHTS = 12e6


def run(document, exact_steps=False):
    try:
        return simulate(resolve(document), exact_steps)
    except ScenarioError as error:
        assert "can ever be served" in error.what
        return None


def linear_s(tokens, bits, fused=False):
    return lowbit.linear_s(SHARD, np.array([tokens]), bits, fused)[0]


def test_a_bit_is_an_eighth_of_a_byte_a_weight_for_up_to_eight_rows():
    bit_s = WEIGHTS / 8 / (0.55 * 1e12)
    assert linear_s(1, 3) - linear_s(1, 2) == pytest.approx(bit_s, rel=1e-9)
    assert linear_s(8, 4) - linear_s(8, 2) == pytest.approx(2 * bit_s, rel=1e-9)
    # Nine rows expand the weights first: 3/8 of a byte read and two written, then the dense step.
    dense = roofline.linear_s(SHARD, np.array([9]))[0]
    assert linear_s(9, 3) == pytest.approx(dense + WEIGHTS * (3 / 8 + 2) / 0.8e12, rel=1e-9)
    assert linear_s(9, 3, fused=True) - linear_s(9, 2, fused=True) == pytest.approx(bit_s, rel=1e-9)
    assert linear_s(9, 16) == dense


def test_the_published_speeds_of_the_kernels_come_out():
    # Any-Precision Llama-3.1-8B on an A100, one request: 228, 196 and 169 tokens/s at 2, 3 and 4 bits.
    for bits, tokens_per_s in ((2, 228), (3, 196), (4, 169)):
        widths = {"high_bits": bits, "low_bits": bits}
        [tpot_ms] = [one_request({"precision": widths}).summary["mean_tpot_ms"]]
        assert 1e3 / tpot_ms == pytest.approx(tokens_per_s, rel=0.1)


class one_request:
    """A lone request of 200 tokens after a prompt of 64."""

    def __init__(self, pool, output=200):
        workload = {"trace": "random", "requests": 1, "prompt_tokens": 64, "output_tokens": output, "arrivals": "burst"}
        pools = [{"role": "hybrid", "async_scheduling": False, **pool}]
        document = {"model": "llama-3.1-8b", "workload": workload, "cluster": {"gpu": "a100-80gb", "pools": pools}}
        self.result = simulate(resolve(document))
        self.summary = tetrisim.summarize(self.result)


def test_the_gain_over_the_high_width_is_that_of_its_share():
    # A third of the 199 decoded tokens at 3 bits: 1 / (f + (1 - f) t2 / t3), whatever the other parts of a step take.
    spec = {"high_bits": 3, "low_bits": 2, "high_tokens": 67}
    high, low, both = (
        one_request({"precision": {**spec, **widths}}).summary["mean_tpot_ms"]
        for widths in ({"low_bits": 3}, {"high_bits": 2}, {})
    )
    share = 66 / 199  # the prefill gives the first of the 67
    assert high / both == pytest.approx(1 / (share + (1 - share) * low / high), rel=1e-3)
    bits = one_request({"precision": spec}).result.instance_columns["weight_bits"].tolist()
    assert bits == [pytest.approx(2 + share)]


@pytest.mark.parametrize(("rule", "high"), [("split", 66), ("widest", 132), ("narrowest", 0)])
def test_whose_width_two_requests_decode_at(rule, high):
    """66 of the 199 decoded tokens of each at 3 bits: split, each has its own; else both have one's.

    The second comes at 0.5 s, when the first has stepped down but is not done. The first's own 66 come before that; one
    of its tokens runs at the high width beside the second's prefill.
    """
    spec = {"rule": rule, "high_bits": 3, "low_bits": 2, "high_tokens": 67}
    pools = [{"role": "hybrid", "async_scheduling": False, "precision": spec}]
    trace = write_csv([(0.0, 64, 200), (0.5, 64, 200)])
    document = {"model": "llama-3.1-8b", "workload": {"trace": trace}, "cluster": {"gpu": "a100-80gb", "pools": pools}}
    result = simulate(resolve(document))
    assert result.request_columns["finish_s"][0] > 0.5 + 66 * 6e-3, "the second steps down first"
    bits = result.instance_columns["weight_bits"].tolist()
    assert bits == [pytest.approx(2 + (66 + 1 + high) / 398)]


@pytest.mark.parametrize(("schedule", "tokens"), [("static", 90), ("predicted", 50), ("oracle", 100)])
def test_when_a_request_steps_down(schedule, tokens):
    widths = Widths(PrecisionSpec(schedule=schedule, high_tokens=90, high_share=0.5), 1)
    assert widths.high_tokens(Request(0, 0, 10, 200, 100)) == tokens


def test_the_learned_schedule_draws_the_published_shares_by_request_not_by_order():
    spec = PrecisionSpec(schedule="learned", high_tokens=90)
    widths, again = Widths(spec, 1), Widths(spec, 1)
    drawn = [widths.high_tokens(Request(number, 0, 10, 200, 0)) for number in range(20_000)]
    assert again.high_tokens(Request(17, 0, 10, 200, 0)) == drawn[17]
    for level, share in zip((0, 30, 60, 90), CLASSES, strict=True):
        assert drawn.count(level) / len(drawn) == pytest.approx(share, abs=0.012)


def test_the_widest_copy_is_what_memory_holds():
    gpu, model = load_gpu("a100-80gb"), load_model("llama-3.1-8b")
    whole, few = (
        kv_blocks(PoolSpec("hybrid", precision=spec), gpu, model, "bf16", "pool")
        for spec in (None, PrecisionSpec(3, 2))
    )
    saved = model.matrices * (2 - 3 / 8)
    assert few - whole == pytest.approx(saved / (16 * model.kv_bytes_per_token("bf16")), abs=1)


@SLOW
@given(worlds("pmpd"))
def test_with_whole_weights_it_is_plain_to_the_bit(document):
    found = []
    for precision in ({"high_bits": 16, "low_bits": 16}, None):
        for pool in document["cluster"]["pools"]:
            pool["precision"] = precision
        found.append(run(document))
    assert (found[0] is None) == (found[1] is None)
    assert found[0] is None or rows(found[0]) == rows(found[1])


@pytest.mark.parametrize("rule", ["widest", "narrowest", "split"])
def test_windows_end_where_somebody_steps_down(rule):
    @SLOW
    @given(worlds("pmpd"), st.sampled_from(["static", "learned", "oracle"]), st.integers(0, 20))
    def law(document, schedule, high_tokens):
        for pool in document["cluster"]["pools"]:
            pool["precision"] = {"rule": rule, "schedule": schedule, "high_tokens": high_tokens, "high_bits": 4}
        result, by_steps = run(document), run(document, exact_steps=True)
        if result is not None:
            assert rows(result) == rows(by_steps)
            bits = result.instance_columns["weight_bits"]
            assert np.array_equal(bits, by_steps.instance_columns["weight_bits"], equal_nan=True)
            assert ((bits[~np.isnan(bits)] >= 2) & (bits[~np.isnan(bits)] <= 4)).all()

    law()


@pytest.mark.parametrize("wrong", [{"low_bits": 4}, {"high_bits": 17}, {"high_tokens": -1}, {"high_share": 1.5}])
def test_a_width_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ScenarioError, match=r"precision"):
        resolve(
            {
                "model": "opt-125m",
                "system": "pmpd",
                "cluster": {"gpu": "l40s", "pools": [{"role": "hybrid", "precision": wrong}]},
            }
        )


def test_instances_that_lose_bits_do_not_change_role():
    pools = [{"role": "prefill"}, {"role": "decode", "precision": {}}]
    document = {"model": "opt-125m", "system": "tetriinfer", "cluster": {"gpu": "l40s", "pools": pools}}
    with pytest.raises(ScenarioError, match="flip"):
        resolve(document)
    resolve({**document, "cluster": {**document["cluster"], "flip": {"policy": "never"}}})
