"""Readers: each format by hand, each fault by its message, and the real files where they are at hand."""

import gzip
import time
from pathlib import Path

import numpy as np
import pytest

from tetrisim.errors import TraceError
from tetrisim.workload.readers import read

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "traces"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"the public traces are not at {DATA}")

AZURE = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,4808,10\n2023-11-16 18:17:04.0319601,3180,8\n"
)
CSV = "timestamp,input_length,output_length\n3.5,10,1\n4.75,20,2\n4.75,30,3\n"
BURST = (
    "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    "5,ChatGPT,472,18,490,Conversation log\n45,ChatGPT,1087,0,1087,Conversation log\n"
    "118,GPT-4,417,276,693,API log\n"
)
MOONCAKE = (
    '{"timestamp": 1000, "input_length": 513, "output_length": 4, "hash_ids": [0, 1]}\n'
    '{"timestamp": 3500, "input_length": 512, "output_length": 5, "hash_ids": [0]}\n'
)


def write(folder: Path, text: str | bytes, name: str = "trace.txt") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refused(path: Path, format: str = "auto") -> TraceError:
    with pytest.raises(TraceError) as caught:
        read(path, format)
    return caught.value


@pytest.mark.parametrize("format", ["auto", "azure"])
def test_azure_keeps_100_ns(tmp_path: Path, format: str) -> None:
    trace = read(write(tmp_path, AZURE), format)
    assert trace.arrival_s.tolist() == [0.0, 0.0520001]
    assert trace.prompt_tokens.tolist() == [4808, 3180] and trace.output_tokens.tolist() == [10, 8]
    assert trace.prompt_tokens.dtype == np.int64 and trace.hash_ids is None and trace.name == "trace.txt"


def test_azure_accepts_utc_zone_only(tmp_path: Path) -> None:
    assert len(read(write(tmp_path, AZURE.replace("600,", "600+00:00,")))) == 2
    error = refused(write(tmp_path, AZURE.replace("601,", "601+02:00,")))
    assert error.where.endswith("trace.txt:3") and "+02:00" in error.what and "UTC" in error.expected


@pytest.mark.parametrize("format", ["auto", "csv"])
def test_csv_is_in_seconds(tmp_path: Path, format: str) -> None:
    trace = read(write(tmp_path, CSV), format)
    assert trace.arrival_s.tolist() == [0.0, 1.25, 1.25]
    assert trace.prompt_tokens.tolist() == [10, 20, 30] and trace.output_tokens.tolist() == [1, 2, 3]


@pytest.mark.parametrize("format", ["auto", "mooncake"])
def test_mooncake_is_in_milliseconds(tmp_path: Path, format: str) -> None:
    trace = read(write(tmp_path, MOONCAKE), format)
    assert trace.arrival_s.tolist() == [0.0, 2.5]
    assert trace.hash_ids == ((0, 1), (0,)) and trace.hash_block_tokens == 512


@pytest.mark.parametrize("format", ["auto", "burstgpt"])
def test_burstgpt_leaves_failures_out_and_says_so(tmp_path: Path, format: str) -> None:
    with pytest.warns(UserWarning, match="1 failed rows"):
        trace = read(write(tmp_path, BURST), format)
    assert trace.arrival_s.tolist() == [0.0, 113.0]  # seconds
    assert trace.prompt_tokens.tolist() == [472, 417] and trace.output_tokens.tolist() == [18, 276]


def test_burstgpt_line_numbers_count_the_failures(tmp_path: Path) -> None:
    with pytest.warns(UserWarning):
        error = refused(write(tmp_path, BURST.replace("417,276", "417,-1")))
    assert error.where.endswith(":4") and "Response tokens is -1" in error.what
    error = refused(write(tmp_path, BURST.replace("45,", "1,")))
    assert error.where.endswith(":3") and "earlier" in error.what


def test_burstgpt_of_failures_only(tmp_path: Path) -> None:
    rows = BURST.splitlines()
    assert "every row" in refused(write(tmp_path, f"{rows[0]}\n{rows[2]}\n")).what


@pytest.mark.parametrize("text", [AZURE, CSV, MOONCAKE])
def test_gzip_bom_crlf_and_blank_end_change_nothing(tmp_path: Path, text: str) -> None:
    plain = read(write(tmp_path, text))
    other = "\ufeff" + text.replace("\n", "\r\n") + "\r\n\r\n"
    zipped = read(write(tmp_path, gzip.compress(other.encode()), "trace.txt.gz"))
    for name in ("arrival_s", "prompt_tokens", "output_tokens"):
        assert getattr(plain, name).tolist() == getattr(zipped, name).tolist()


def test_columns_in_any_order_among_others(tmp_path: Path) -> None:
    trace = read(write(tmp_path, 'note, output_length,timestamp,input_length\n"a, b",7,0,9\n'))
    assert (trace.prompt_tokens[0], trace.output_tokens[0]) == (9, 7)


HEAD = "timestamp,input_length,output_length\n0,1,1\n"


@pytest.mark.parametrize(
    ("row", "what", "expected"),
    [
        ("1,0,5", "input_length is 0", "from 1"),
        ("1,5,0", "output_length is 0", "from 1"),
        ("1,-3,5", "input_length is -3", "from 1"),
        ("1,5,2.5", "output_length is 2.5", "whole number"),
        ("1,nan,5", "input_length is 'nan'", "a number"),
        ("1,5,", "output_length is ''", "a number"),
        ("1,5,many", "output_length is 'many'", "a number"),
        ("1,5,1e300", "output_length is 1e+300", "whole number"),
        ("inf,5,5", "timestamp is 'inf'", "a number"),
        ("-1,5,5", "timestamp is negative", "0 or more"),
        ("1,5", "2 fields", "3 fields"),
        ("1,5,5,5", "4 fields", "3 fields"),
        ("", "blank line", "3 fields"),
    ],
)
def test_bad_csv_row_is_named(tmp_path: Path, row: str, what: str, expected: str) -> None:
    error = refused(write(tmp_path, HEAD + row + "\n2,3,4\n"))
    assert error.where == f"{tmp_path / 'trace.txt'}:3"
    assert what in error.what and expected in error.expected


def test_time_going_back_names_the_first_bad_row(tmp_path: Path) -> None:
    error = refused(write(tmp_path, HEAD + "5,1,1\n4,1,1\n3,1,1\n"))
    assert error.where.endswith(":4") and "earlier" in error.what and "time order" in error.expected


def test_a_trace_of_more_than_thirty_years_is_in_another_unit(tmp_path: Path) -> None:
    columns = "timestamp,input_length,output_length\n"
    error = refused(write(tmp_path, columns + "1.7e9,1,1\n1.8e9,1,1\n1e300,1,1\n"))
    assert error.where.endswith("trace.txt:4") and "30 years" in error.what, error


def test_bad_row_beyond_the_first_chunk(tmp_path: Path) -> None:
    rows = [f"{i},1,1" for i in range(150_000)]
    rows[120_000] = "120000,1,x"
    assert refused(write(tmp_path, "timestamp,input_length,output_length\n" + "\n".join(rows))).where.endswith(
        ":120002"
    )
    rows[120_000] = "120000,1,0"
    assert refused(write(tmp_path, "timestamp,input_length,output_length\n" + "\n".join(rows))).where.endswith(
        ":120002"
    )


def test_missing_column_offers_the_nearest(tmp_path: Path) -> None:
    error = refused(write(tmp_path, "timestamp,input_length,output_lenght\n0,1,1\n"))
    assert error.where.endswith(":1") and error.what == "missing column 'output_length'"
    assert error.nearest == "output_lenght" and "input_length" in error.expected
    error = refused(write(tmp_path, CSV), "azure")
    assert error.what == "missing column 'TIMESTAMP'"
    assert "twice" in refused(write(tmp_path, "timestamp,input_length,output_length,timestamp\n0,1,1,0\n")).what


def test_unknown_header_and_format(tmp_path: Path) -> None:
    error = refused(write(tmp_path, "a,b\n1,2\n"))
    assert error.where.endswith(":1") and "unknown header" in error.what and "ContextTokens" in error.expected
    error = refused(write(tmp_path, CSV), "moncake")
    assert error.nearest == "mooncake"


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        (MOONCAKE.replace("512, ", "0, "), 2, "input_length is 0"),
        (MOONCAKE.replace("512", "null"), 2, "input_length is None"),
        (MOONCAKE.replace("3500", "500"), 2, "earlier"),
        (MOONCAKE.replace("3500", "NaN"), 2, "timestamp is nan"),
        (MOONCAKE + "{oops\n", 3, "not JSON"),
        (MOONCAKE + "[1]\n", 3, "not an object"),
        (MOONCAKE + "\n" + MOONCAKE, 3, "not JSON"),
        (MOONCAKE.replace(', "hash_ids": [0]', ""), 2, "missing key 'hash_ids'"),
        (MOONCAKE.replace("[0]", "[0.5]"), 2, "hash_ids is [0.5]"),
        (MOONCAKE.replace("[0]", "7"), 2, "hash_ids is 7"),
    ],
)
def test_bad_mooncake_line_is_named(tmp_path: Path, text: str, line: int, what: str) -> None:
    error = refused(write(tmp_path, text))
    assert error.where == f"{tmp_path / 'trace.txt'}:{line}" and what in error.what


def test_missing_key_offers_the_nearest(tmp_path: Path) -> None:
    error = refused(write(tmp_path, MOONCAKE.replace('"output_length": 5', '"output_lenght": 5')))
    assert error.where.endswith(":2") and error.what == "missing key 'output_length'"
    assert error.nearest == "output_lenght"


def test_block_size_is_what_the_lengths_say_or_refused(tmp_path: Path) -> None:
    line = '{{"timestamp": 0, "input_length": 40, "output_length": 1, "hash_ids": {ids}}}\n'
    assert read(write(tmp_path, line.format(ids=[1, 2]))).hash_block_tokens == 16
    assert read(write(tmp_path, line.format(ids=[1]))).hash_block_tokens == 512
    error = refused(write(tmp_path, line.format(ids=[1, 2, 3, 4])))
    assert error.where.endswith(":1") and "4 hash_ids for a prompt of 40 tokens" in error.what
    assert error.expected == "1, one for each of its 512-token blocks"
    # most rows say 512, so the row that does not is the one to blame
    error = refused(write(tmp_path, line.format(ids=[1]) * 3 + line.format(ids=[1, 2])))
    assert error.where.endswith(":4")


def test_blocks_of_other_powers_of_two(tmp_path: Path) -> None:
    def sizes(*rows: tuple[int, int]) -> int | None:
        lines = [f'{{"timestamp": 0, "input_length": {n}, "output_length": 1, "hash_ids": {list(range(ids))}}}\n'
                 for n, ids in rows]  # fmt: skip
        return read(write(tmp_path, "".join(lines))).hash_block_tokens

    assert sizes((100, 3), (128, 4), (31, 0)) == 32  # full blocks only: 100 // 32, 128 // 32, 31 // 32
    assert sizes((100, 4), (128, 4), (31, 1)) == 32  # and with a part-filled last block
    assert sizes((1000, 7), (130, 1)) == 128
    with pytest.raises(TraceError, match=r":3: 2 hash_ids for a prompt of 31 tokens; expected 0, .* full 32-token"):
        sizes((100, 3), (128, 4), (31, 2))


def test_a_stated_block_size_is_taken_or_refused(tmp_path: Path) -> None:
    line = '{"timestamp": 0, "input_length": 40, "output_length": 1, "hash_ids": [1, 2], "block_tokens": 24}\n'
    assert read(write(tmp_path, line)).hash_block_tokens == 24
    error = refused(write(tmp_path, line.replace("24", "64")))
    assert error.where.endswith(":1") and error.expected == "1, one for each of its 64-token blocks"
    assert "block_tokens is 'x'" in refused(write(tmp_path, line.replace("24", '"x"'))).what


def test_mooncake_without_hash_ids(tmp_path: Path) -> None:
    trace = read(write(tmp_path, '{"timestamp": 0, "input_length": 4, "output_length": 1}\n'))
    assert trace.hash_ids is None and trace.hash_block_tokens is None


def test_files_that_are_no_traces(tmp_path: Path) -> None:
    assert "directory" in refused(tmp_path).what
    assert "cannot be read (No such file" in refused(tmp_path / "nothing.csv").what
    empty = refused(write(tmp_path, ""))
    assert empty.where.endswith(":1") and "empty" in empty.what
    assert "no rows" in refused(write(tmp_path, "timestamp,input_length,output_length\n")).what
    assert "not text" in refused(write(tmp_path, bytes(range(256)) * 20)).what
    assert "unknown header" in refused(write(tmp_path, b"\x00\x01\x02" * 100)).what


@pytest.mark.parametrize("format", ["auto", "csv", "mooncake"])
@pytest.mark.parametrize("keep", [5, 12, 1000])
def test_truncated_gzip(tmp_path: Path, format: str, keep: int) -> None:
    rng = np.random.default_rng(0)  # noise, so that half the zipped bytes are about half the rows
    text = "timestamp,input_length,output_length\n" + "".join(f"0,{i},1\n" for i in rng.integers(1, 10**8, 2000))
    error = refused(write(tmp_path, gzip.compress(text.encode())[:keep], "t.csv.gz"), format)
    assert ("broken gzip" in error.what and ".gz" in error.expected) or (
        format == "mooncake" and "not JSON" in error.what
    )


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", denied)  # chmod does not stop root
    with pytest.raises(TraceError, match="cannot be read \\(Permission denied\\)"):
        read("/some/file.csv")


def test_a_million_rows_in_a_few_seconds(tmp_path: Path) -> None:
    path = write(tmp_path, "timestamp,input_length,output_length\n" + "12.5,1000,100\n" * 1_000_000)
    start = time.perf_counter()
    assert len(read(path)) == 1_000_000
    assert time.perf_counter() - start < 8  # about 1.5 s on an idle machine


@needs_data
@pytest.mark.parametrize(
    ("file", "n", "measured", "block"),
    [
        ("azure2023/AzureLLMInferenceTrace_conv.csv.gz", 19_366, (3501.7219369, 1154.697, 211.126), None),
        ("azure2023/AzureLLMInferenceTrace_code.csv.gz", 8_819, (3435.9480560, 2047.848, 27.88253), None),
        ("mooncake/conversation_trace.jsonl.gz", 12_031, (3536.999, 12035.06, 342.619), 512),
        ("mooncake/synthetic_trace.jsonl.gz", 3_993, (1022.025, 15325.48, 149.119), 512),
        ("sharegpt/sharegpt-llama-3.1-8b-300-sps10.hash16.jsonl.gz", 300, (29.136836, 857.4633, 652.51), 16),
    ],
)
def test_real_files(file: str, n: int, measured: tuple[float, float, float], block: int | None) -> None:
    trace = read(DATA / file)
    assert len(trace) == n and trace.arrival_s[0] == 0
    found = (trace.arrival_s[-1], trace.prompt_tokens.mean(), trace.output_tokens.mean())
    assert found == pytest.approx(measured, rel=1e-5)  # span in s, mean prompt, mean output
    assert trace.hash_block_tokens == block


@needs_data
def test_real_azure_digits_survive() -> None:
    trace = read(DATA / "azure2023" / "AzureLLMInferenceTrace_code.csv.gz")
    assert trace.arrival_s[1:3].tolist() == [0.052, 0.098189]
