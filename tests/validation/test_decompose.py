"""The parts add up to the error, and what is known to be wrong is found in its own part."""

import numpy as np
import pytest
from latency.folders import write
from validation.made import REQUESTS, recorded, rows, scenario, simulated, tables

from tetrisim.validation.decompose import waits
from tetrisim.validation.readers import read_measured
from tetrisim.validation.scorecard import validate
from tetrisim.validation.stepwise import Clocked
from tetrisim.validation.tables import host_term, used_profile

SLOWER = {
    "linear.csv": [["op", "tokens", "time_us"], *(["gemm", n, 20 + n] for n in (1, 2, 4, 64)),
                   *(["embed", n, 5] for n in (1, 2, 4, 64))],
}  # fmt: skip


def parts_of(card):
    found = card.decomposition
    for value in ("ttft_s", "e2el_s"):
        assert sum(getattr(part, value) for part in found.parts) == pytest.approx(
            getattr(found.total, value), abs=1e-12
        )
    real, ours = card.latencies["E2EL"]["mean"]
    assert found.total.e2el_s == pytest.approx(ours - real, abs=1e-12)
    return {part.name: part for part in found.parts}


def test_waits_for_one_seat_and_for_two():
    at, held = np.array([0.0, 1.0, 2.0]), np.array([5.0, 1.0, 1.0])
    assert waits(at, held, 1).tolist() == [0, 4, 4]
    assert waits(at, held, 2).tolist() == [0, 0, 0]


def test_a_run_against_itself_has_no_error_in_any_part(tmp_path):
    world = scenario(tables(tmp_path))
    card = validate(world, read_measured(simulated(tmp_path / "run.csv", world)))
    assert all(abs(part.e2el_s) < 1e-9 for part in parts_of(card).values())
    assert card.latencies["TTFT"]["p99"][0] == pytest.approx(card.latencies["TTFT"]["p99"][1])


def test_slower_steps_show_as_decode_prefill_and_longer_queues(tmp_path):
    real, ours = scenario(tables(tmp_path)), scenario(tables(tmp_path, "slow", files=SLOWER))
    parts = parts_of(validate(ours, read_measured(simulated(tmp_path / "run.csv", real))))
    assert "KV capacity" not in parts
    assert parts["decode"].e2el_s > 0 and parts["prefill"].e2el_s > 0
    assert parts["queueing"].e2el_s > parts["decode"].e2el_s, "60 requests share 4 seats"
    assert abs(parts["scheduling"].e2el_s) < 0.1 * parts["queueing"].e2el_s


def test_rows_without_scheduled_say_what_they_do_not_allow(tmp_path):
    world = scenario(tables(tmp_path))
    path = simulated(tmp_path / "run.csv", world)
    path.write_text(path.read_text().replace("scheduled_s", "unknown"))
    found = validate(world, read_measured(path)).decomposition
    assert found.parts == ()
    assert any("does not say when requests were scheduled" in text for text in found.missing)


def test_recorded_steps_of_the_same_engine_leave_no_error(tmp_path):
    world = scenario(tables(tmp_path))
    parts = parts_of(validate(world, read_measured(recorded(tmp_path / "case", world))))
    # host: the model's term is taken off and no pause was recorded, and step times hold it instead
    assert parts["host overhead"].e2el_s + parts["step time"].e2el_s + parts["queueing"].e2el_s == pytest.approx(
        0, abs=1e-9
    )
    assert parts["scheduling"].e2el_s == pytest.approx(0, abs=1e-12)


def test_one_request_alone_has_step_time_errors_and_no_queue(tmp_path):
    real, ours = scenario(tables(tmp_path)), scenario(tables(tmp_path, "slow", files=SLOWER))
    requests = [(0.0, 40, 6)]
    parts = parts_of(validate(ours, read_measured(recorded(tmp_path / "case", real, requests, pause_s=0.0))))
    # 12 layers, 2 gemms each, 10 us slower: 240 us a step, 6 steps
    assert parts["host overhead"].e2el_s == pytest.approx(6 * 100e-6, rel=1e-6), "in the model, not in the record"
    assert parts["step time"].e2el_s == pytest.approx(6 * 240e-6, rel=1e-6)
    assert parts["queueing"].e2el_s == pytest.approx(0, abs=1e-12)


def test_recorded_pauses_are_the_host_part(tmp_path):
    world = scenario(tables(tmp_path))
    folder = recorded(tmp_path / "case", world, [(0.0, 40, 6)], pause_s=0.0005)
    parts = parts_of(validate(world, read_measured(folder)))
    # the model has 100 us of host time in each of 6 steps, the record 500 us in each of the 5 pauses
    assert parts["host overhead"].e2el_s == pytest.approx(6 * 100e-6 - 5 * 500e-6, rel=1e-6)


def test_kv_capacity_is_what_the_recorded_blocks_change(tmp_path):
    profile = tables(tmp_path)
    real = scenario(profile, kv_blocks=8)
    parts = parts_of(validate(scenario(profile), read_measured(recorded(tmp_path / "case", real))))
    assert parts["KV capacity"].e2el_s < 0, "with more blocks than there were, nobody waits for one"
    assert parts["scheduling"].e2el_s == pytest.approx(0, abs=1e-12)


def test_an_asynchronous_engine_is_not_taken_apart_by_steps(tmp_path):
    profile = tables(tmp_path)
    folder = recorded(tmp_path / "case", scenario(profile))
    found = validate(scenario(profile, async_scheduling=True), read_measured(folder))
    assert found.decomposition.parts == ()
    assert "async_scheduling: false" in found.decomposition.missing[0]
    assert any("async_scheduling is True in the scenario, False in the run" in text for text in found.notes)


def test_the_free_run_is_what_simulate_gives(tmp_path):
    world = scenario(tables(tmp_path), kv_blocks=8)
    case = read_measured(recorded(tmp_path / "case", world))
    card = validate(world, case)
    assert len(REQUESTS) == card.run.compared.sum()
    assert np.allclose(card.run.rows["finish_s"], case.last_token_s, atol=1e-9)
    assert np.allclose(card.run.rows["first_token_s"], case.first_token_s, atol=1e-9)


def test_a_stay_errs_by_its_steps_and_the_pauses_between_them():
    clocked = Clocked(model_s=[3.0, 3.0, 3.0], took_s=[2.0, 4.0, 1.0], pause_s=[0.25, 0.75, np.nan])
    assert clocked.mean_pause_s == 0.5
    # steps 0 and 1: 1 - 1, and the pause between them 0.25; the one after counts for nobody
    assert clocked.stay_error(np.array([0, 1, 0]), np.array([1, 2, 2])).tolist() == [0.25, 0.75, 2.0]


def test_host_time_that_the_ops_hold_is_not_taken_off_again(tmp_path):
    apart = scenario(tables(tmp_path))
    inside = scenario(write(tmp_path / "inside", includes=["host"]))
    assert host_term(used_profile(apart))(4) == pytest.approx(130e-6)
    assert host_term(used_profile(inside))(4) == 0.0
    assert used_profile(scenario("roofline")) is None


def test_what_nobody_can_serve_is_said(tmp_path):
    world = scenario(tables(tmp_path), kv_blocks=8)
    path = simulated(tmp_path / "run.csv", world, REQUESTS[:5])
    with path.open("a") as file:
        file.write("5,500,10,0.01,0.01,0.02,0.03\n")
    card = validate(world, read_measured(path))
    assert card.run.compared.sum() == 5
    assert "1 requests (5) rejected by the simulator, and so in no metric" in card.notes


def test_rows_helper_is_read_back(tmp_path):
    assert read_measured(rows(tmp_path / "r.csv")).prompt_tokens.tolist() == [prompt for _, prompt, _ in REQUESTS]
