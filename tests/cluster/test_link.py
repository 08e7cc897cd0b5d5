"""Links worked by hand (1 byte a second, latency 1 s unless said), and what no order of events may break."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tetrisim.cluster.clock import ARRIVE, Alarm, Clock, seconds, ticks
from tetrisim.cluster.link import Link


class Bench:
    """A clock, and the moments in seconds at which named transfers end."""

    def __init__(self):
        self.env = Clock(initial_time=0)
        self.ends = {}

    def link(self, bytes_per_s=1.0, latency_s=1.0):
        return Link(self.env, bytes_per_s, latency_s)

    def send(self, name, link, size, **how):
        return link.send(size, lambda now: self.ends.__setitem__(name, seconds(now)), **how)

    def at(self, second, call):
        self.env.arm(Alarm(lambda _: call()), ticks(second), ARRIVE)

    def run(self):
        self.env.run()
        return self.ends


@pytest.fixture
def bench():
    return Bench()


def test_one_at_a_time_in_order(bench):
    link = bench.link()
    for name in "abc":
        bench.send(name, link, 4)
    assert bench.run() == {"a": 5, "b": 10, "c": 15}
    assert link.sent_bytes == link.received_bytes == 12
    assert link.idle


def test_two_directions_are_two_links(bench):
    up, down = bench.link(), bench.link()
    bench.send("up", up, 4)
    bench.send("down", down, 4)
    assert bench.run() == {"up": 5, "down": 5}


def test_called_off_while_it_waits(bench):
    link = bench.link()
    bench.send("a", link, 4)
    waiting = bench.send("b", link, 100)
    bench.send("c", link, 4)
    bench.at(2, waiting.cancel)
    assert bench.run() == {"a": 5, "c": 10}
    assert (link.sent_bytes, link.received_bytes, link.cancelled_bytes) == (108, 8, 100)


def test_called_off_under_way_lets_the_next_one_start_at_once(bench):
    link = bench.link()
    under_way = bench.send("a", link, 100)
    bench.send("b", link, 4)
    bench.at(4, under_way.cancel)  # latency 1 s, then 3 bytes have crossed
    bench.at(4, under_way.cancel)  # twice is once
    assert bench.run() == {"b": 9}
    assert (link.received_bytes, link.cancelled_bytes) == (7, 97)


def test_a_transfer_through_two_ports_waits_for_both_at_the_rate_of_the_slower(bench):
    out, inward = bench.link(bytes_per_s=2.0), bench.link()
    bench.send("a", out, 8)  # to 5
    bench.send("b", inward, 9)  # to 10
    bench.send("c", out, 4, beside=[inward])  # 10 + 1 + 4
    bench.send("d", out, 2)  # behind c
    assert bench.run() == {"a": 5, "b": 10, "c": 15, "d": 17}


def test_one_called_off_while_it_waits_for_the_other_port_frees_this_one(bench):
    out, inward = bench.link(), bench.link()
    bench.send("b", inward, 99)
    through = bench.send("c", out, 4, beside=[inward])
    bench.send("d", out, 2)
    bench.at(3, through.cancel)
    assert bench.run() == {"d": 6, "b": 100}


def test_the_urgent_go_first_and_know_when(bench):
    link = bench.link()
    bench.send("a", link, 4)
    bench.send("b", link, 4)
    known = {}

    def hurry():
        for name in "uv":
            transfer = bench.send(name, link, 2, urgent=True)
            known[name] = (seconds(transfer.start), seconds(transfer.arrives(1)), seconds(transfer.end))

    bench.at(2, hurry)
    assert bench.run() == {"a": 5, "u": 8, "v": 11, "b": 16}
    assert known == {"u": (5, 7, 8), "v": (8, 10, 11)}


def test_what_is_urgent_cannot_be_called_off(bench):
    with pytest.raises(RuntimeError):
        bench.send("u", bench.link(), 2, urgent=True).cancel()


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 30),  # sent at
            st.integers(0, 9),  # bytes
            st.lists(st.integers(0, 2), min_size=1, max_size=3, unique=True),  # through
            st.booleans(),  # urgent
            st.none() | st.integers(0, 40),  # called off at
        ),
        max_size=12,
    )
)
def test_nothing_is_lost_and_no_two_share_a_link(plans):
    bench = Bench()
    links = [bench.link(bytes_per_s=rate) for rate in (1.0, 2.0, 0.5)]
    made = []

    def send(size, path, urgent, off):
        first, *others = (links[index] for index in path)
        transfer = bench.send(len(made), first, size, beside=others, urgent=urgent)
        made.append(transfer)
        if off is not None and not urgent:
            bench.at(max(off, seconds(bench.env.now)), transfer.cancel)

    for at, size, path, urgent, off in plans:
        bench.at(at, lambda rest=(size, path, urgent, off): send(*rest))
    bench.run()
    assert all(transfer.done != transfer.cancelled for transfer in made)
    for link in links:
        assert link.idle
        assert link.sent_bytes == link.received_bytes + link.cancelled_bytes
        spans = sorted((t.start, t.end) for t in made if link in t.links and t.done)
        assert all(before <= after for (_, before), (after, _) in pairwise(spans))
