"""Every malformed profile is refused with its file, its row, and what was expected."""

import pytest
from latency.folders import META, tables, write

from tetrisim.errors import ProfileError
from tetrisim.latency.build import build_timer
from tetrisim.latency.roofline import Shard
from tetrisim.latency.table import read_profile
from tetrisim.scenario.gpu import load_gpu
from tetrisim.scenario.model import load_model


def refused(folder):
    with pytest.raises(ProfileError) as caught:
        read_profile(folder)
    return caught.value


def changed(name, row, column, value):
    rows = [list(each) for each in tables()[name]]
    rows[row][column] = value
    return {name: rows}


def test_a_good_profile_is_read_in_seconds(tmp_path):
    profile = read_profile(write(tmp_path))
    assert profile.title == "rtx-pro-6000 opt-125m bf16 tp1: made by hand"
    assert profile.linear["gemm"].at(64) == (pytest.approx(74e-6), True)
    assert profile.attention[0, 0, 2, 64] == pytest.approx((1 + 1 + 2) * 1e-6)
    assert profile.all_reduce is None and profile.skew == {}


@pytest.mark.parametrize(
    ("name", "row", "column", "value", "what", "expected"),
    [
        ("linear.csv", 2, 2, "-3", "time_us is '-3'", "microseconds above 0"),
        ("linear.csv", 2, 2, "nan", "time_us is 'nan'", "microseconds above 0"),
        ("linear.csv", 2, 2, "0", "time_us is '0'", "microseconds above 0"),
        ("linear.csv", 2, 2, "inf", "time_us is 'inf'", "microseconds above 0"),
        ("linear.csv", 2, 2, "", "time_us is ''", "microseconds above 0"),
        ("linear.csv", 3, 1, "2.5", "tokens is '2.5'", "a whole number of at least 0"),
        ("linear.csv", 3, 1, "-2", "tokens is '-2'", "a whole number of at least 0"),
        ("attention.csv", 1, 2, "many", "decode_sequences is 'many'", "a whole number of at least 0"),
        ("head.csv", 2, 1, 1, "the point ('lm_head', 1) is there twice", "one row a point"),
        ("host.csv", 2, 0, 1, "the point (1,) is there twice", "one row a point"),
    ],
)
def test_a_bad_value_is_named_by_file_and_line(tmp_path, name, row, column, value, what, expected):
    error = refused(write(tmp_path, changed(name, row, column, value)))
    assert (error.where, error.what, error.expected) == (f"{tmp_path / name}:{row + 1}", what, expected)


def test_a_missing_column_is_named_with_the_nearest(tmp_path):
    error = refused(write(tmp_path, changed("linear.csv", 0, 2, "time_ms")))
    assert error.where == str(tmp_path / "linear.csv")
    assert (error.what, error.nearest) == ("column 'time_us' is missing", "time_ms")
    assert error.expected == "columns op, tokens, time_us"


@pytest.mark.parametrize("name", ["linear.csv", "attention.csv"])
@pytest.mark.parametrize("rows", [None, "header"])
def test_a_table_that_is_not_there_or_empty(tmp_path, name, rows):
    error = refused(write(tmp_path, {name: rows and tables()[name][:1]}))
    assert (error.where, error.what) == (str(tmp_path / name), "is missing or empty")


@pytest.mark.parametrize("key", META)
def test_a_missing_key_of_profile_yaml(tmp_path, key):
    error = refused(write(tmp_path, **{key: None}))
    assert error.where == str(tmp_path / "profile.yaml")
    assert error.what == f"key '{key}' is missing or of the wrong kind"


@pytest.mark.parametrize("key", ["tensor_parallel", "calls_per_layer", "calls_per_step"])
@pytest.mark.parametrize("count", [0, -1, 1.5, True])
def test_a_count_of_profile_yaml_that_is_none(tmp_path, key, count):
    op = next(iter(META[key])) if key != "tensor_parallel" else ""
    error = refused(write(tmp_path, **{key: {**META[key], op: count} if op else count}))
    if op or isinstance(count, int):
        assert (error.what, error.expected) == (
            f"{key}{'.' * bool(op)}{op} is {count!r}",
            "a whole number of at least 1",
        )
    else:
        assert (error.what, error.expected) == (f"key '{key}' is missing or of the wrong kind", "int")


@pytest.mark.parametrize(("text", "what"), [("- [", "is not YAML"), ("just text", "key 'gpu' is missing")])
def test_a_profile_yaml_that_is_none(tmp_path, text, what):
    (write(tmp_path) / "profile.yaml").write_text(text)
    error = refused(tmp_path)
    assert error.where == str(tmp_path / "profile.yaml") and what in error.what


def test_no_profile_yaml_at_all(tmp_path):
    assert "cannot read" in refused(tmp_path).what


def build(folder, gpu="rtx-pro-6000", model="opt-125m", dtype="bf16", shards=1):
    return build_timer(Shard(load_model(model), load_gpu(gpu), dtype, shards), str(folder), "profile")


@pytest.mark.parametrize(
    "other",
    [{"gpu": "l40s"}, {"model": "opt-13b"}, {"dtype": "fp16"}, {"shards": 2}],
    ids=lambda other: next(iter(other)),
)
def test_a_profile_of_something_else_is_not_used(tmp_path, other):
    build(write(tmp_path))
    with pytest.raises(ProfileError) as caught:
        build(tmp_path, **other)
    assert caught.value.where == str(tmp_path / "profile.yaml")
    assert "is of rtx-pro-6000 opt-125m bf16 1" in caught.value.what


def test_the_right_one_is_found_below_a_folder_of_profiles(tmp_path):
    for shards in (1, 2):
        write(tmp_path / f"rtx-pro-6000/opt-125m/bf16/tp{shards}", tensor_parallel=shards)
    assert build(tmp_path, shards=2)[1] == "rtx-pro-6000 opt-125m bf16 tp2: made by hand"
    with pytest.raises(ProfileError) as caught:
        build(tmp_path, model="opt-13b")
    assert caught.value.where == "profile"
    assert caught.value.expected == "a profile, or a folder that holds rtx-pro-6000/opt-13b/bf16/tp1"


def test_a_named_op_without_rows(tmp_path):
    with pytest.raises(ProfileError) as caught:
        build(write(tmp_path, calls_per_step={"sampler": 1}))
    assert caught.value.what == "op 'sampler' of profile.yaml has no rows"


@pytest.mark.parametrize("kept", ["decode", "prefill"])
def test_attention_needs_pure_decodes_and_pure_prefills(tmp_path, kept):
    header, *rows = tables()["attention.csv"]
    rows = [row for row in rows if (row[0] == 0) == (kept == "decode")]
    if kept == "prefill":
        rows = [row for row in rows if row[2] == 0]
    with pytest.raises(ProfileError, match="no pure decode or no pure prefill rows"):
        build(write(tmp_path, {"attention.csv": [header, *rows]}))
