"""The grid of a sweep: what its texts mean, and how a wrong one is refused."""

import numpy as np
import pytest

from tetrisim.errors import TetrisimError
from tetrisim.studies.grid import check_grid, parse_grid, points


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("k=1..4", [1, 2, 3, 4]),
        ("k=1..8..3", [1, 4, 7]),
        ("k=1..3,8,16", [1, 2, 3, 8, 16]),
        ("k=[5,10,20]", [5, 10, 20]),
        ("k=[1..2, 5]", [1, 2, 5]),
        ("k=5 /s,200 Gbit/s", ["5 /s", "200 Gbit/s"]),
        ("k=vllm-v1,mine:shortest", ["vllm-v1", "mine:shortest"]),
        ("k={policy: idle, after: 9 s},{policy: never}", [{"policy": "idle", "after": "9 s"}, {"policy": "never"}]),
        ("k=[1, 2],[3]", [[1, 2], [3]]),
        ("k=[[1, 2], [3]]", [[1, 2], [3]]),
        ("k=null,0.5", [None, 0.5]),
        ("k='1,5',b", ["1,5", "b"]),
        ("k=../traces/a.csv", ["../traces/a.csv"]),
        ("k=a=b", ["a=b"]),
        (" k = 7", [7]),
        ("k=-2..1", [-2, -1, 0, 1]),
    ],
)
def test_values(text, values):
    assert parse_grid([text]) == {"k": values}


def test_keys_that_change_together():
    assert parse_grid(["a.0.n, a.1.n=(1,3),(2,2)"]) == {"a.0.n,a.1.n": [[1, 3], [2, 2]]}
    assert parse_grid(["a,b=(1,3)"]) == {"a,b": [[1, 3]]}
    assert parse_grid(["a,b=[[1,x],[2,y]]"]) == {"a,b": [[1, "x"], [2, "y"]]}


def test_points_are_all_combinations_and_the_last_axis_changes_fastest():
    grid = parse_grid(["p,d=(1,3),(2,2)", "rate=5,9"])
    assert points(grid, 1) == [
        {"p": 1, "d": 3, "rate": 5},
        {"p": 1, "d": 3, "rate": 9},
        {"p": 2, "d": 2, "rate": 5},
        {"p": 2, "d": 2, "rate": 9},
    ]


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ([], "--grid: is missing"),
        (["k"], "--grid: is 'k'; expected KEY=VALUES"),
        (["=1,2"], "--grid: is '=1,2'"),
        (["a,=1,2"], "--grid: is 'a,=1,2'"),
        (["k="], "--grid k: '' is no list of values"),
        (["k=1,,2"], "--grid k: '1,,2' is no list"),
        (["k={a"], "--grid k: '{a' is no list"),
        (["k=[]"], "--grid k: has no value"),
        (["k=8..1"], "--grid k: '8..1' is no range; expected whole numbers that rise"),
        (["k=1..8..0"], "--grid k: '1..8..0' is no range"),
        (["k=0.5..2"], "--grid k: '0.5..2' is no range"),
        (["k=1..999999999"], "--grid k: '1..999999999' is too long"),
        (["k=1..1000", "j=1..1000"], "--grid: asks for 1000000 runs; expected at most 100000"),
        (["k=1..4,4"], "--grid k: has 4 twice"),
        (["k=1", "k=2"], "--grid k: is there twice"),
        (["k=1", "j,k=(1,2)"], "--grid k: is there twice"),
        (["a,b=(1,2),(3)"], "--grid a,b: has [3] among the values of 2 keys; expected 2 values in brackets"),
        (["a,b=1,2"], "--grid a,b: has 1 among the values of 2 keys"),
        (["k=2020-01-01"], "--grid k: has datetime.date(2020, 1, 1); expected numbers"),
        (["k=.nan"], "--grid k: has nan"),
    ],
)
def test_a_wrong_grid_is_one_line(texts, said):
    with pytest.raises(TetrisimError) as error:
        points(parse_grid(texts), 1)
    assert str(error.value).startswith(said)


def test_python_values_and_numpy_numbers():
    assert check_grid({"k": range(2), "rate": np.array([0.5, 1.0])}) == {"k": [0, 1], "rate": [0.5, 1.0]}
    assert type(check_grid({"k": np.arange(2)})["k"][0]) is int
