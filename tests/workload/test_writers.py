"""Writers: what is read back is what was written, in every format, and nothing is written over."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tetrisim.errors import OutputError, TraceError
from tetrisim.workload.readers import other_columns, read
from tetrisim.workload.trace import Trace
from tetrisim.workload.writers import WRITERS, losses, new_file, write

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "traces"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"the public traces are not at {DATA}")
formats = pytest.mark.parametrize("format", list(WRITERS))


def trace(arrival_s: list[float], ids: tuple[tuple[int, ...], ...] | None = None, block: int | None = None) -> Trace:
    n = len(arrival_s)
    prompt = np.arange(600, 600 + n, dtype=np.int64)
    return Trace("made", np.array(arrival_s), prompt, np.arange(1, n + 1, dtype=np.int64), ids, block)


def same(a: Trace, b: Trace, tolerance_s: float = 0.0) -> bool:
    assert np.abs(a.arrival_s - b.arrival_s).max() <= tolerance_s
    return np.array_equal(a.prompt_tokens, b.prompt_tokens) and np.array_equal(a.output_tokens, b.output_tokens)


@formats
@pytest.mark.parametrize("end", ["", ".gz"])
def test_what_is_read_back_is_what_was_written(tmp_path: Path, format: str, end: str) -> None:
    first = trace([0.0, 0.0520001, 0.0520001, 12.5, 3501.7219369])  # Azure's digits
    write(first, tmp_path / f"a{end}", format)
    again = read(tmp_path / f"a{end}")  # the format is found again by the first line
    assert same(first, again) and again.hash_ids is None
    assert (tmp_path / f"a{end}").read_bytes()[:2] == b"\x1f\x8b" or not end
    write(again, tmp_path / f"b{end}", format)
    assert (tmp_path / f"a{end}").read_bytes() == (tmp_path / f"b{end}").read_bytes()


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=20))
@settings(max_examples=30, deadline=None)
def test_any_times_survive(tmp_path_factory: pytest.TempPathFactory, times: list[float]) -> None:
    folder = tmp_path_factory.mktemp("any")
    first = trace((np.sort(times) - min(times)).tolist())
    for format in WRITERS:
        write(first, folder / format, format)
        # Mooncake's milliseconds cost a last binary digit at most, Azure keeps 100 ns
        tolerance_s = {"azure": 50e-9 + 1e-9, "mooncake": 1e-9}.get(format, 0.0)
        assert same(first, read(folder / format), tolerance_s)


def test_hash_ids_stay_with_mooncake_and_the_loss_is_told_elsewhere(tmp_path: Path) -> None:
    first = trace([0.0, 1.0], ((1, 2), (1, 3)), 512)
    write(first, tmp_path / "a", "mooncake")
    again = read(tmp_path / "a")
    assert same(first, again) and again.hash_ids == first.hash_ids and again.hash_block_tokens == 512
    assert losses(first, "mooncake") == []
    for format in ("azure", "burstgpt", "csv"):
        assert "hash ids of 4 blocks of 512 tokens" in losses(first, format)[0]
    assert losses(trace([0.0, 1.0]), "csv") == []


@pytest.mark.parametrize(("block", "ids"), [(32, 18), (24, 25), (300, 2)])
def test_a_block_size_that_lengths_do_not_tell_is_stated(tmp_path: Path, block: int, ids: int) -> None:
    first = trace([0.0], (tuple(range(ids)),), block)  # 600 tokens
    write(first, tmp_path / "a", "mooncake")
    again = read(tmp_path / "a")
    assert again.hash_ids == first.hash_ids and again.hash_block_tokens == block
    assert ("block_tokens" in (tmp_path / "a").read_text()) == (block != 32)
    assert other_columns(tmp_path / "a", "mooncake") == ()


def test_azure_says_what_its_clock_costs(tmp_path: Path) -> None:
    exact, finer = trace([0.0, 0.0520001]), trace([0.0, 0.05200004])
    assert len(losses(exact, "azure")) == 1 and "the date" in losses(exact, "azure")[0]
    assert "at most 40 ns off" in losses(finer, "azure")[1]
    write(exact, tmp_path / "a", "azure")
    assert (tmp_path / "a").read_text().splitlines()[2] == "1970-01-01 00:00:00.0520001,601,2"


def test_columns_that_are_not_read_are_known(tmp_path: Path) -> None:
    path = tmp_path / "burst.csv"
    path.write_text("Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,GPT-4,4,1,5,API log\n")
    assert other_columns(path, "burstgpt") == ("Model", "Log Type")


def test_an_unknown_format_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="did you mean 'mooncake'"):
        write(trace([0.0]), tmp_path / "a", "moncake")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_over_and_a_failure_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.gz"
    path.write_bytes(b"mine")
    with pytest.raises(OutputError, match="exists already") as caught:
        write(trace([0.0]), path, "csv")
    assert caught.value.nearest == str(tmp_path / "a-2.csv.gz") and path.read_bytes() == b"mine"
    with pytest.raises(ZeroDivisionError), new_file(tmp_path / "b") as partial:
        partial.write_text("half")
        raise ZeroDivisionError
    with pytest.raises(OutputError, match="exists already"), new_file(tmp_path / "c") as partial:
        partial.write_text("late")
        (tmp_path / "c").write_text("first")
    assert (tmp_path / "c").read_text() == "first"
    with pytest.raises(OutputError, match="cannot write"):
        write(trace([0.0]), path / "below", "csv")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.csv.gz", "c"]


@needs_data
@pytest.mark.parametrize(
    "file",
    [
        "azure2023/AzureLLMInferenceTrace_code.csv.gz",
        "mooncake/synthetic_trace.jsonl.gz",
        "sharegpt/sharegpt-llama-3.1-8b-300-sps10.hash16.jsonl.gz",
    ],
)
@formats
def test_real_traces_come_back(tmp_path: Path, file: str, format: str) -> None:
    first = read(DATA / file)
    write(first, tmp_path / "a", format)
    again = read(tmp_path / "a")
    # ShareGPT's times are exact to 1 ns, of which Azure's format keeps 100; a float of an hour is exact to 5e-13 s
    assert same(first, again, 51e-9 if (format, file[0]) == ("azure", "s") else 5e-13)
    if format == "mooncake":
        assert (again.hash_ids, again.hash_block_tokens) == (first.hash_ids, first.hash_block_tokens)


@needs_data
def test_mooncake_lines_are_as_published(tmp_path: Path) -> None:
    file = DATA / "mooncake" / "synthetic_trace.jsonl.gz"
    write(read(file), tmp_path / "a", "mooncake")
    assert (tmp_path / "a").read_text() == gzip.decompress(file.read_bytes()).decode()
