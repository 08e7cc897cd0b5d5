"""Capacities that can be worked out by hand: a server of 10 ms a request, and Erlang's M/D/1."""

from dataclasses import replace
from math import exp, factorial, inf

import numpy as np
import pytest
from laws.worlds import write_csv
from simulate.by_hand import use_timer

from tetrisim.errors import ScenarioError
from tetrisim.scenario.load import load, override, resolve
from tetrisim.simulate import simulate
from tetrisim.studies.capacity import TOLERANCE, capacity
from tetrisim.studies.judge import Criterion, probe
from tetrisim.workload.trace import build

SERVICE_S = 0.010


@pytest.fixture
def flat(monkeypatch):
    """Every step takes 10 ms, whatever is in it."""
    use_timer(monkeypatch, step_s=SERVICE_S, token_s=0.0)


def server(ttft_s, requests=2000, output=1, long=(), seed=0, pool=(), **workload):
    """An instance that serves requests of one step each, one at a time; `long` ones fit nowhere."""
    trace = write_csv([(0.0, 9999 if number in long else 10, output) for number in range(requests)])
    document = {
        "model": "opt-125m",
        "system": "vllm-v0",
        "workload": {"trace": trace, "arrivals": "poisson", "rate": "40 /s", **workload},
        "cluster": {
            "gpu": "l40s",
            "route": "random",
            "pools": [{"role": "hybrid", "max_num_seqs": 1, "kv_blocks": 100, **dict(pool)}],
        },
        "slo": {"ttft": f"{ttft_s} s", "tpot": None},
        "seed": seed,
    }
    return resolve(document)


def erlang_wait_cdf(load, wait_s):
    """P(wait <= wait_s) of M/D/1 in equilibrium (Erlang 1909)."""
    rate, total = load / SERVICE_S, 0.0
    for k in range(int(wait_s / SERVICE_S + 1e-9) + 1):
        left = rate * (wait_s - k * SERVICE_S)
        total += (-left) ** k / factorial(k) * exp(left)
    return (1 - load) * total


def erlang_load(percent, wait_s):
    """The load at which so many per cent wait no longer."""
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if erlang_wait_cdf(middle, wait_s) >= percent / 100 else (low, middle)
    return low


@pytest.mark.usefixtures("flat")
class TestByHand:
    def test_evenly_spaced_requests_are_served_at_once_up_to_one_a_service_time(self):
        found = capacity(server(0.0101, arrivals="constant"), seeds=2)
        assert found.rate.mean == pytest.approx(100, rel=TOLERANCE - 1)
        assert found.rate.low <= 100 <= found.rate.high
        assert found.cliff.mean == pytest.approx(100, rel=0.002)

    @pytest.mark.parametrize(("percent", "limit_s"), [(90, 0.03), (95, 0.05), (99, 0.04)])
    def test_poisson_requests_at_one_server_as_erlang_says(self, percent, limit_s):
        found = capacity(server(limit_s, 5000), Criterion(percent), seeds=5)
        expected = erlang_load(percent, limit_s - SERVICE_S) / SERVICE_S
        assert found.rate.half < 0.1 * expected, "the interval says something"
        assert found.rate.low <= expected <= found.rate.high
        assert found.binding == ("TTFT", 5)

    def test_what_no_limit_stops_is_stopped_by_the_backlog(self):
        """20 s of 2000 requests: at 10 % above what the server can do, the last would wait just 2 s."""
        found = capacity(server(1000.0), seeds=3)
        assert found.rate.mean == pytest.approx(100, rel=0.005)
        assert found.binding == ("backlog", 3)
        assert all(each.missed is None for each in found.found)
        assert "The backlog binds" in str(found)

    def test_without_any_limit_too(self):
        scenario = override(server(1.0), {"slo.ttft": None})
        assert capacity(scenario, seeds=1).rate.mean == pytest.approx(100, rel=0.005)

    def test_three_servers_at_random_have_three_times_the_cliff(self):
        found = capacity(server(1000.0, 3000, pool={"instances": 3}, arrivals="constant"), seeds=3)
        assert found.cliff.mean == pytest.approx(300, rel=0.05), "random routing leaves a server idle now and then"

    def test_below_the_time_of_a_lone_request_no_rate_will_do(self):
        found = capacity(server(0.009), seeds=2)
        assert found.rate is None
        nearest = found.found[0].missed
        assert nearest.rate_per_s * nearest.stay_s <= 0.0101, "one request in a hundred mean stays"
        assert nearest.at == {"TTFT": pytest.approx(SERVICE_S)}
        assert found.binding == ("TTFT", 2)
        assert "sustains no rate" in str(found) and "p99 TTFT is 10 ms against 9 ms, 1.11 times" in str(found)
        assert found.summary()["capacity"] is None

    def test_an_unserved_request_misses_at_any_rate(self):
        some = set(range(7, 2000, 33))  # 3 %
        scenario = server(0.05, long=some)
        none = capacity(scenario, Criterion(99), seeds=1)
        assert none.rate is None and "% of the requests can never be served" in str(none)
        nearest = none.found[0].missed
        assert nearest.served == pytest.approx(0.97, abs=0.001) and nearest.at == {"TTFT": inf}
        assert none.summary()["missed"][0]["at_percentile_ms"] == {"TTFT": None}, "JSON has no infinity"
        assert capacity(scenario, Criterion(90), seeds=1).rate is not None

    def test_who_turns_everybody_away_is_told_so(self):
        """A request alone takes 10 ms, and none is taken that takes more than 1: at no rate is anybody served."""
        settings = {"system": "mooncake", "cluster.reject.ttft": "1 ms", "workload.requests": 200}
        scenario = override(load("default"), settings)
        with pytest.raises(ScenarioError, match="turns all 200 requests away"):
            capacity(scenario, seeds=1)

    def test_a_growth_of_one_in_five_is_seen_as_such(self):
        """125 a second at a server of 100: a fifth of what comes stays, and so the backlog of a quarter grows."""
        scenario = server(1000.0, 1000, arrivals="constant", rate="125 /s")
        run = probe(scenario, build(scenario.workload, 0), 125.0, Criterion())
        assert run.growth == pytest.approx(0.2, abs=0.005)
        assert run.behind and run.finished_per_s == pytest.approx(100, abs=0.5)
        assert run.span_s == pytest.approx(999 / 125)
        slow = override(scenario, {"workload.rate": 99})
        run = probe(slow, build(slow.workload, 0), 99.0, Criterion())
        assert not run.behind and run.growth == pytest.approx(0, abs=0.005)

    def test_the_first_requests_are_not_judged(self):
        """At 125 /s request k waits 2 ms x k: of 1000, those past the 500th more than 1 s."""
        scenario = server(1.01, 1000, arrivals="constant", rate="125 /s")
        trace = build(scenario.workload, 0)
        assert probe(scenario, trace, 125.0, Criterion(50, warmup=0.0)).within["TTFT"] == pytest.approx(0.5, abs=0.002)
        assert probe(scenario, trace, 125.0, Criterion(50, warmup=0.2)).within["TTFT"] == pytest.approx(
            3 / 8, abs=0.002
        )

    def test_the_load_beside_it(self):
        found = capacity(server(1000.0, rate="40 /s"), seeds=1)
        assert "The scenario's load, 40 requests/s, is 40 % of that: it can grow by 60 requests/s, 2.50 times" in str(
            found
        )
        over = str(capacity(server(1000.0, rate="125 /s"), seeds=1))
        assert "is 125 % of that: 25 requests/s too many" in over

    def test_the_search_begins_anywhere(self):
        """A start far too slow or too fast ends in the same place, as near as bisection goes."""
        rates = [capacity(server(0.03, rate=f"{rate} /s"), seeds=1).rate.mean for rate in (0.01, 40, 1e5)]
        assert rates == pytest.approx([rates[1]] * 3, rel=TOLERANCE - 1)

    def test_other_seeds_agree(self):
        one = capacity(server(0.03, 3000, seed=0), Criterion(90), seeds=6).rate
        other = capacity(server(0.03, 3000, seed=100), Criterion(90), seeds=6).rate
        assert one.low <= other.mean <= one.high and other.low <= one.mean <= other.high

    def test_looser_is_never_less(self):
        limits = [capacity(server(limit), seeds=1).rate.mean for limit in (0.02, 0.03, 0.06)]
        assert limits == sorted(limits) and limits[0] < limits[-1] < 100
        percents = [capacity(server(0.03), Criterion(percent), seeds=1).rate.mean for percent in (99, 95, 90)]
        assert percents == sorted(percents) and percents[0] < percents[-1]


def test_tpot_binds_where_company_slows_a_step(monkeypatch):
    """A decode step takes 10 ms and 1 ms a sequence; a prompt of 10 tokens has 20 ms to itself, and all others wait.

    At r requests/s and 15 ms a token a request of 50 stays 49 x 15 = 735 ms after its first, beside n = 0.735 r others,
    so 735 = 49 (10 + n) + 20 n, and r = 245 / (0.735 x 69) = 4.83.
    """
    use_timer(monkeypatch)
    pool = {"max_num_seqs": 64, "kv_blocks": 4000}
    scenario = override(server(10.0, 1000, output=50, pool=pool, arrivals="constant"), {"slo.tpot": "15 ms"})
    found = capacity(scenario, seeds=1)
    assert found.binding == ("TPOT", 1)
    assert found.rate.mean == pytest.approx(245 / (0.735 * 69), rel=0.04), "n is a whole number at any moment"


def test_a_joint_share_is_stricter_than_each_alone(flat):
    """Where 92 and 91 % are within each limit, only 85 % may be within both."""
    scenario = server(1.0)
    run = probe(scenario, build(scenario.workload, 0), 40.0, Criterion())
    run = replace(run, within={"TTFT": 0.92, "TPOT": 0.91}, good=0.85)
    assert [run.missed(Criterion(90, together)) for together in (False, True)] == ["", "TPOT"]
    assert run.missed(Criterion(91.5)) == "TPOT"
    assert run.missed(Criterion(85, together=True)) == ""


def test_a_run_of_the_search_is_the_run_of_the_scenario_at_that_rate():
    scenario = override(load("default"), {"workload.requests": 600})
    found = capacity(scenario, Criterion(90, warmup=0.0), seeds=1).found[0]
    rows = simulate(override(scenario, {"workload.rate": found.met.rate_per_s})).request_columns
    ttft = rows["first_token_s"] - rows["arrival_s"]
    assert found.met.at["TTFT"] == pytest.approx(np.percentile(ttft, 90, method="inverted_cdf"), rel=1e-6)


def test_the_answer_is_the_same_again_and_in_two_processes():
    scenario = override(load("default"), {"workload.requests": 400})
    one, again, spread = (capacity(scenario, Criterion(90), seeds=3, jobs=jobs).found for jobs in (1, 1, 2))
    assert one == again == spread


def test_seeds_that_see_one_trace_are_said_to(flat):
    assert "Every seed sees the same requests" in str(capacity(server(0.03, arrivals="constant"), seeds=2))
    drawn = capacity(server(0.03), seeds=2)
    assert not drawn.fixed and "Every seed" not in str(drawn)


@pytest.mark.parametrize(
    ("settings", "where", "said"),
    [
        ({"workload.arrivals": "burst", "workload.rate": None}, "workload.arrivals", "come at once"),
        (
            {"workload.arrivals": "closed-loop", "workload.rate": None, "workload.concurrency": 4},
            "workload.arrivals",
            "no rate",
        ),
        ({"horizon": "5 s"}, "horizon", "same moment"),
        ({"workload.requests": 100}, "workload.requests", "90 requests are judged"),
    ],
)
def test_what_has_no_capacity_is_refused(settings, where, said):
    with pytest.raises(ScenarioError, match=said) as caught:
        capacity(override(load("default"), settings))
    assert caught.value.where == where


def test_classes_with_limits_of_their_own_are_judged_together():
    """The percentile of one metric over all classes would say nothing of their limits."""
    classes = {"urgent": {"share": 0.5, "slo": {"ttft": "1 s"}}, "other": {"share": 0.5, "priority": 1, "slo": {}}}
    of = override(load("default"), {"workload.classes": classes, "workload.requests": 50})
    with pytest.raises(ScenarioError, match="classes have limits of their own; expected --goodput"):
        probe(of, build(of.workload, of.seed), 1.0, Criterion())
    assert probe(of, build(of.workload, of.seed), 1.0, Criterion(together=True)).good > 0.9
