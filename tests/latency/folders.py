"""A tiny profile that a test writes, with numbers that can be added up in the head."""

import csv

import yaml

META = {
    "gpu": "rtx-pro-6000", "model": "opt-125m", "dtype": "bf16", "tensor_parallel": 1, "source": "made by hand",
    "calls_per_layer": {"gemm": 2}, "calls_per_step": {"embed": 1, "lm_head": 1},
}  # fmt: skip


def attention_us(chunk, cached, sequences, context):
    """A plane: what the table holds at its points, and so everywhere between them."""
    return 1 + chunk / 8 + cached / 16 + sequences / 2 + sequences * context / 64


def tables():
    """File -> rows, the first of them the header; times in microseconds."""
    attention = [["prefill_tokens", "prefill_context", "decode_sequences", "decode_context", "time_us"]]
    points = [(0, 0, n, kv) for n in (1, 2, 4) for kv in (16, 64, 256)]
    points += [(c, kp, 0, 0) for c in (16, 64) for kp in (0, 128)]
    points += [(c, kp, n, kv) for c in (16, 64) for kp in (0, 128) for n in (1, 4) for kv in (16, 256)]
    attention += [[*point, attention_us(*point)] for point in points]
    linear = [["op", "tokens", "time_us"]]
    linear += [["gemm", tokens, 10 + tokens] for tokens in (1, 2, 4, 64)]
    linear += [["embed", tokens, 5] for tokens in (1, 2, 4, 64)]
    head = [["op", "sequences", "time_us"], ["lm_head", 1, 20], ["lm_head", 4, 50]]
    host = [["sequences", "time_us"], [1, 100], [4, 130]]
    return {"attention.csv": attention, "linear.csv": linear, "head.csv": head, "host.csv": host}


def write(folder, files=None, **meta):
    """A profile folder; `files` replaces tables, None leaves one out."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in {**tables(), **(files or {})}.items():
        if rows is not None:
            with (folder / name).open("w", newline="") as file:
                csv.writer(file).writerows(rows)
    kept = {key: value for key, value in {**META, **meta}.items() if value is not None}
    (folder / "profile.yaml").write_text(yaml.safe_dump(kept))
    return folder
