"""Against closed forms: a server of constant times, several of them, a burst, and Little's law."""

from heapq import heappop, heappush
from itertools import pairwise

import numpy as np
import pytest
from laws.worlds import write_csv
from simulate.by_hand import use_timer

from tetrisim.scenario.load import resolve
from tetrisim.simulate import simulate

SERVICE_S = 0.010
SEEDS = 12
T_99 = 3.106
"""Student's t for 11 degrees of freedom, 99 % two-sided."""


@pytest.fixture(autouse=True)
def every_step_takes_ten_ms(monkeypatch):
    use_timer(monkeypatch, step_s=SERVICE_S, token_s=0.0)


def served(requests, seed=0, instances=1, output=1, **workload):
    """Requests of one step each (`output` of them), one at a time per instance."""
    trace = write_csv([(0.0, 10, output)] * requests)
    pool = {"role": "hybrid", "instances": instances, "max_num_seqs": 1, "kv_blocks": 100}
    document = {
        "model": "opt-125m",
        "system": "vllm-v0",
        "workload": {"trace": trace, **workload},
        "cluster": {"gpu": "l40s", "route": "random", "pools": [pool]},
        "seed": seed,
    }
    return simulate(resolve(document)).requests


def mean_wait_of(rate, **settings):
    """Mean waits over the seeds, the first tenth of each run left out: their mean and its 99 % half width."""
    means = []
    for seed in range(SEEDS):
        rows = served(4000, seed, arrivals="poisson", rate=f"{rate} /s", **settings)[400:]
        means.append((rows.prefill_start_s - rows.arrival_s).mean())
    return np.mean(means), T_99 * np.std(means, ddof=1) / np.sqrt(SEEDS)


@pytest.mark.parametrize("load", [0.3, 0.7])
def test_md1_a_poisson_stream_at_one_server_waits_as_pollaczek_and_khinchine_say(load):
    wait, half_width = mean_wait_of(load / SERVICE_S)
    expected = load * SERVICE_S / (2 * (1 - load))
    assert half_width < 0.1 * expected  # the interval says something
    assert wait == pytest.approx(expected, abs=half_width)


def test_random_routing_over_three_servers_makes_three_md1_queues():
    """A Poisson stream split at random is Poisson again, at a third of the rate."""
    load = 0.6
    wait, half_width = mean_wait_of(3 * load / SERVICE_S, instances=3)
    expected = load * SERVICE_S / (2 * (1 - load))
    assert half_width < 0.1 * expected
    assert wait == pytest.approx(expected, abs=half_width)


def test_several_steps_a_request_are_one_longer_service():
    load, steps = 0.5, 5
    wait, half_width = mean_wait_of(load / (steps * SERVICE_S), output=steps)
    assert wait == pytest.approx(load * steps * SERVICE_S / (2 * (1 - load)), abs=half_width)


@pytest.mark.parametrize("load", [0.5, 0.8, 0.95])
def test_seats_of_one_instance_are_servers_of_one_queue(load):
    """Steps of 10 ms whoever sits, answers of geometric length: each wait is that of Kiefer and Wolfowitz's recursion.

    Who arrives inside a step also waits for its end: half a step in the mean, as somebody is nearly always served.
    """
    seats, mean, requests = 8, 150, 4000
    answers = np.random.default_rng(0).geometric(1 / mean, requests)
    pool = {"role": "hybrid", "instances": 1, "max_num_seqs": seats, "kv_blocks": 4000, "async_scheduling": False}
    document = {
        "model": "opt-125m",
        "system": "vllm-v1",
        "workload": {"trace": write_csv([(0.0, 10, int(tokens)) for tokens in answers]), "arrivals": "poisson",
                     "rate": f"{load * seats / (mean * SERVICE_S)} /s"},
        "cluster": {"gpu": "l40s", "pools": [pool]},
    }  # fmt: skip
    rows = simulate(resolve(document)).requests
    free, waits = [0.0] * seats, []
    for arrival, tokens in zip(rows.arrival_s, answers, strict=True):
        start = max(arrival, heappop(free))
        heappush(free, start + tokens * SERVICE_S)
        waits.append(start - arrival)
    more = (rows.prefill_start_s - rows.arrival_s).to_numpy() - waits
    assert more.min() >= -1e-9
    assert more.mean() == pytest.approx(SERVICE_S / 2, rel=0.15)


def test_a_burst_leaves_one_service_time_after_the_other():
    rows = served(50, arrivals="burst")
    assert rows.prefill_start_s.tolist() == pytest.approx([SERVICE_S * place for place in range(50)], abs=1e-12)
    assert rows.finish_s.tolist() == pytest.approx([SERVICE_S * (place + 1) for place in range(50)], abs=1e-12)


def test_below_saturation_constant_arrivals_never_wait():
    rows = served(200, arrivals="constant", rate="99 /s")
    assert (rows.prefill_start_s == rows.arrival_s).all()


def test_above_saturation_the_wait_grows_by_the_missing_time_with_each_arrival():
    rows = served(200, arrivals="constant", rate="125 /s")  # 8 ms apart, 10 ms of work
    waits = (rows.prefill_start_s - rows.arrival_s).tolist()
    assert waits == pytest.approx([0.002 * place for place in range(200)], abs=1e-12)


@pytest.mark.parametrize("instances", [1, 3])
def test_littles_law(instances):
    """Requests in the system, counted over time from arrivals and departures, are rate times mean stay."""
    rows = served(500, 3, instances, output=3, arrivals="poisson", rate="60 /s")
    end = rows.finish_s.max()
    moments = np.sort(np.concatenate([[0.0, end], rows.arrival_s, rows.finish_s]))
    area = 0.0
    for start, stop in pairwise(moments):
        inside = ((rows.arrival_s <= start) & (rows.finish_s > start)).sum()
        area += inside * (stop - start)
    mean_stay = (rows.finish_s - rows.arrival_s).mean()
    assert area / end == pytest.approx(len(rows) / end * mean_stay, rel=1e-9)
    # A server is busy for exactly the work there is
    assert mean_stay >= 3 * SERVICE_S - 1e-12
