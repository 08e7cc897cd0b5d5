"""What vLLM's own scheduler was recorded to do, batch by batch: ours has to do every step the same.

Two sets of records, both replayed with the moments at which requests were handed over and steps were planned:
- tests/golden/vllm_v1: vLLM 0.32.0's scheduler alone with random requests, as experiments/live/schedule.py writes it,
  with blocks held and free. With and without asynchronous scheduling, prefix caching, memory pressure, a limit on long
  prefills, a watermark, a check of the whole prompt at admission, and chunked prefill.
- shared/data/ground_truth/vllm_cpu: whole engine runs on a CPU.
"""

import json
from pathlib import Path

import pytest

from tetrisim.cluster.engine import Engine
from tetrisim.cluster.kvcache import PrefixCache
from tetrisim.validation import steps
from tetrisim.validation.steps import check_case, check_steps

GOLDEN = Path(__file__).parents[1] / "golden" / "vllm_v1"
RECORDED = Path(__file__).parents[2].parent / "shared" / "data" / "ground_truth" / "vllm_cpu"
ITERATIONS = {"overload": 337, "preempt": 441, "prefix": 920, "prefix_tight": 708, "small_batch": 1038, "steady": 1428}
CASES = sorted(folder.name for folder in GOLDEN.iterdir())
needs_record = pytest.mark.skipif(not RECORDED.is_dir(), reason=f"needs the recorded vLLM runs in {RECORDED}")


def config(case):
    return json.loads((GOLDEN / case / "config.json").read_text())


@pytest.mark.parametrize("case", CASES)
def test_every_step_of_vllms_scheduler_is_ours_too(case):
    report = check_case(GOLDEN / case)
    assert report.difference is None
    assert report.steps == report.equal == config(case)["iterations"]


@needs_record
@pytest.mark.parametrize("case", ITERATIONS)
def test_every_recorded_iteration_is_scheduled_as_vllm_did(case):
    report = check_case(RECORDED / case)
    assert report.difference is None
    assert report.steps == report.equal == ITERATIONS[case]


@needs_record
def test_the_recorded_runs_are_all_there():
    assert sum(ITERATIONS.values()) == 4872
    assert sorted(ITERATIONS) == sorted(folder.name for folder in RECORDED.iterdir())


def test_the_golden_cases_meet_every_setting_and_real_pressure():
    configs = [config(case) for case in CASES]
    assert len(configs) >= 16
    for key in ("async_scheduling", "enable_prefix_caching", "chunked_prefill", "scheduler_reserve_full_isl"):
        assert {config[key] for config in configs} == {True, False}
    for key in ("long_prefill_token_threshold", "watermark"):
        assert {config[key] > 0 for config in configs} == {True, False}
    assert sum(config["preemptions"] for config in configs) >= 200
    assert sum(config["async_scheduling"] and config["preemptions"] > 0 for config in configs) >= 4


def changed(**settings):
    """engine_of for a configuration that is not the recorded one."""
    engine_of = steps.engine_of
    return lambda config, where: engine_of({**config, **settings}, where)


def one_more_token(config, where, engine_of=steps.engine_of):
    return engine_of({**config, "max_num_batched_tokens": config["max_num_batched_tokens"] + 1}, where)


def no_lag(config, where, engine_of=steps.engine_of):
    engine = engine_of(config, where)
    engine.kv.lag = 0
    return engine


WRONG = {
    "a budget of one token more": one_more_token,
    "blocks found a step too early": no_lag,
    "no lag at all": changed(async_scheduling=False),
    "no limit on long prefills": changed(long_prefill_token_threshold=0),
    "no watermark": changed(watermark=0.0),
    "a check of whole prompts everywhere": changed(scheduler_reserve_full_isl=True),
    "prompts cut everywhere": changed(chunked_prefill=True),
}


@pytest.mark.parametrize("fault", WRONG)
def test_a_wrong_engine_is_found_out(fault, monkeypatch):
    monkeypatch.setattr(steps, "engine_of", WRONG[fault])
    assert any(case.difference for case in check_steps(GOLDEN).cases)


def test_a_wrong_victim_is_found_out(monkeypatch):
    preempt = Engine._preempt

    def last_but_one(self, request):
        running = list(self.running)
        preempt(self, running[-2] if len(running) > 1 and request is running[-1] else request)

    monkeypatch.setattr(Engine, "_preempt", last_but_one)
    assert any(case.difference for case in check_steps(GOLDEN).cases)


def test_a_wrong_order_of_eviction_is_found_out(monkeypatch):
    take = PrefixCache._take

    def newest_first(self, request, tokens):
        if self._list:
            self._list.move_to_end(next(reversed(self._list)), last=False)
        take(self, request, tokens)

    monkeypatch.setattr(PrefixCache, "_take", newest_first)
    assert any(case.difference for case in check_steps(GOLDEN).cases)
