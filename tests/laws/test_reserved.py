"""Orca and FasterTransformer: reservations and static batches by hand; with ample memory reserving changes nothing."""

import pytest
from hypothesis import HealthCheck, given, settings
from laws.worlds import rows, worlds
from simulate.by_hand import in_ms, one, scenario, use_timer

from tetrisim.cluster.engine import Engine
from tetrisim.cluster.request import Request
from tetrisim.cluster.reserved import ReservedKV
from tetrisim.errors import ScenarioError
from tetrisim.scenario.cluster import PoolSpec
from tetrisim.scenario.load import resolve
from tetrisim.simulate import simulate

SLOW = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
TWO = [(0, 10, 3), (5, 25, 2)]


def lives(result):
    return list(zip(*(in_ms(result, name) for name in ("prefill_start_s", "first_token_s", "finish_s")), strict=True))


@pytest.mark.parametrize(("rule", "need"), [("longest", 128), ("power-of-two", 5), ("exact", 4)])
def test_what_a_request_of_40_and_20_tokens_reserves(rule, need):
    # Blocks of 16: 2048 tokens are 128; 40 + 32 are 5; 40 + 20 are 4.
    cache = ReservedKV(130, 16, rule, 2048)
    request = Request(0, 0, 40, 20, 0)
    cache.admit(request, 0, 40)
    assert (cache.reserved, cache.free) == (need, 130 - 3)
    assert cache.fits(Request(1, 0, 40, 20, 0), 40, 0) == (2 * need <= 130)
    cache.release(request, 40)
    cache.check()
    assert (cache.reserved, cache.free) == (0, 130)


def test_an_iteration_of_orca_runs_whole_prompts_beside_decodes(tmp_path, monkeypatch):
    use_timer(monkeypatch)
    # 0-20 prefill of 10; 20-56 a decode and 25; 56-68 two decodes
    result = simulate(scenario(tmp_path, TWO, **one("orca", kv_reservation="exact")))
    assert lives(result) == [(0, 20, 68), (20, 56, 68)]


def test_whoever_finds_no_room_to_reserve_waits_though_blocks_are_free(tmp_path, monkeypatch):
    use_timer(monkeypatch)
    # 13 tokens reserve 4 blocks and 27 reserve 7, of 10: 0-20, then decodes to 42; 42-77 prefill of 25, a decode to 88
    reserved = simulate(scenario(tmp_path, TWO, **one("orca", kv_reservation="exact", kv_blocks=10)))
    assert lives(reserved) == [(0, 20, 42), (42, 77, 88)]
    paged = simulate(scenario(tmp_path, TWO, **one("orca", kv_reservation="none", kv_blocks=10)))
    assert lives(paged) == [(0, 20, 68), (20, 56, 68)]


def test_nobody_joins_a_static_batch(tmp_path, monkeypatch):
    use_timer(monkeypatch)
    # as if there were no room: the second is prefilled when the first has finished, and a third joins the second
    result = simulate(scenario(tmp_path, [*TWO, (10, 5, 4)], **one("fastertransformer", kv_reservation="exact")))
    # 42-82 prefills of 25 and 5; 82-94 two decodes; 94-105, 105-116 one
    assert lives(result) == [(0, 20, 42), (42, 82, 94), (42, 82, 116)]


@SLOW
@given(worlds("orca", {"hybrid": {"kv_blocks": 4000}}))
def test_with_ample_memory_a_reservation_changes_nothing(document):
    found = []
    for rule in ("exact", "none"):
        for pool in document["cluster"]["pools"]:
            pool |= {"kv_reservation": rule, "watermark": 0.0}
        try:
            found.append(rows(simulate(resolve(document))))
        except ScenarioError as error:
            assert "can ever be served" in error.what
            found.append(None)
    assert found[0] == found[1]


@pytest.mark.parametrize("rule", ["longest", "power-of-two", "exact"])
def test_nobody_is_preempted_and_nothing_is_used_that_was_not_reserved(monkeypatch, rule):
    plan = Engine.plan
    monkeypatch.setattr(Engine, "plan", lambda self: self.kv.check() or plan(self))

    @SLOW
    @given(worlds("orca", {"hybrid": {"kv_reservation": rule}}))
    def law(document):
        try:
            result = simulate(resolve(document))
        except ScenarioError as error:
            assert "can ever be served" in error.what
            return
        assert result.request_columns["preemptions"].sum() == 0

    law()


@pytest.mark.parametrize(("role", "caching"), [("hybrid", True), ("decode", False)])
def test_a_reservation_where_it_has_no_meaning_is_refused(role, caching):
    with pytest.raises(ValueError, match="kv_reservation"):
        PoolSpec(role, kv_reservation="exact", prefix_caching=caching)
