"""Small folders in the layouts of other projects, with times of a card that is as fast as a rule says."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

BANDWIDTH, PEAK = 2.0e12, 600e12
"""What kernels reach here: below the data sheet of an H100."""
MODEL = {
    "model_type": "llama", "hidden_size": 1024, "num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 128,
    "num_hidden_layers": 2, "intermediate_size": 3072, "vocab_size": 8000, "max_position_embeddings": 8192,
}  # fmt: skip
SYSTEM = """
data_dir: data/h100_sxm
gpu: {mem_bw: 3350000000000, mem_bw_empirical_scaling_factor: 0.8, mem_empirical_constant_latency: 0.000003}
node: {num_gpus_per_node: 8, intra_node_bw: 450000000000, p2p_latency: 0.00001}
"""
M = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)


def model(folder):
    """A config.json of a model that is in no catalog."""
    path = folder / "tiny-llama" / "config.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(MODEL))
    return path


def gemm_s(m, n, k, size=2):
    return 3e-6 + max(size * n * k / BANDWIDTH, 2 * m * n * k / (PEAK * 2 / size))


def decode_s(n, context, kv_heads):
    return 5e-6 + n * context * kv_heads * 128 * 2 * 2 / BANDWIDTH


def prefill_s(chunk, heads, batch=1):
    return 5e-6 + batch * 4 * heads * 128 * chunk * chunk / 2 / (PEAK / 2)


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def gemm_rows():
    # Just below the exact sizes too, so that some shapes of the model are measured and others interpolated.
    return [
        {"gemm_dtype": dtype, "m": m, "n": n, "k": k, "latency": gemm_s(m, n, k, size) * 1e3}
        for dtype, size in (("bfloat16", 2), ("fp8", 1))
        for m in M for n in (512, 1024, 2048, 4096, 8192) for k in (512, 1024, 2048, 4096)
    ]  # fmt: skip


def attention_rows(kind):
    fixed = {"beam_width": 1, "attn_dtype": "bfloat16", "window_size": 0, "head_dim": 128}
    rows = []
    for kv_dtype in ("bfloat16", "fp8"):
        for heads, kv_heads in ((16, 4), (8, 2)):
            shape = fixed | {"kv_cache_dtype": kv_dtype, "num_heads": heads, "num_key_value_heads": kv_heads}
            if kind == "context":
                for isl in (16, 64, 128, 256, 512, 1024, 2048, 4096, 8192):
                    time = prefill_s(isl, heads) * 1e3
                    rows.append(shape | {"batch_size": 1, "isl": isl, "step": 0, "latency": time})
            else:
                for n in (1, 2, 4, 8, 16, 32, 64, 128, 256):
                    for step in (2**i - 1 for i in range(1, 14)):
                        time = decode_s(n, step, kv_heads) * 1e3
                        rows.append(shape | {"batch_size": n, "isl": 1, "step": step, "latency": time})
    return rows


def all_reduce_rows():
    return [
        {"num_gpus": 2, "message_size": 2**i, "backend": backend, "latency": (5e-6 + 2**i * 2 / 2e11) * 1e3 * slow}
        for i in range(7, 28) for backend, slow in (("vllm_graph", 1), ("vllm_eager", 3))
    ]  # fmt: skip


def systems(folder, nested=False):
    """A `systems` folder with one system, an old version beside the new one; returns system's data folder."""
    data = folder / "data" / "h100_sxm" if nested else folder / "h100_sxm"
    data.mkdir(parents=True)
    ((folder if nested else data) / "h100_sxm.yaml").write_text(SYSTEM)
    write(data / "gemm/vllm/0.24.0/gemm_perf.parquet", gemm_rows())
    write(data / "gemm/vllm/0.9.0/gemm_perf.parquet", [{"unread": 1}])
    write(data / "attention/vllm/0.24.0/context_attention_perf.parquet", attention_rows("context"))
    write(data / "attention/vllm/0.24.0/generation_attention_perf.parquet", attention_rows("generation"))
    write(data / "comm/vllm/0.24.0/custom_allreduce_perf.parquet", all_reduce_rows())
    return data


def change(path, edit):
    """Rewrite a parquet file through a function of its rows."""
    rows = pq.read_table(path).to_pylist()
    write(path, edit(rows))


def csv_text(columns, rows):
    return "\n".join([",".join(columns), *(",".join(map(str, row)) for row in rows)]) + "\n"


def splitwise_rows():
    """Llama-2-70B on H100s, as fast as two thirds of the roofline."""
    weights = 6.5e10
    for cut in (4, 8):

        def phase(tokens, cut=cut):
            return 1e3 * (0.01 + 1.5 * max(weights * 2 / cut / 3.35e12, 2 * tokens * weights / cut / 989e12))

        shapes = [(p, 1, 128) for p in (128, 256, 512, 1024, 2048, 4096)] + [(512, b, 128) for b in (2, 4, 8, 16, 32)]
        for prompt, batch, tokens in [*shapes, (512, 1, 1024)]:
            for jitter in (0.99, 1.0, 1.02):
                times = [phase(prompt * batch) * jitter, phase(batch) * jitter]
                yield ["llama2-70b", "h100-80gb", prompt, batch, tokens, *times, cut]
        yield ["bloom-176b", "h100-80gb", 512, 1, 128, 100.0, 40.0, cut]


SPLITWISE = (
    "model",
    "hardware",
    "prompt_size",
    "batch_size",
    "token_size",
    "prompt_time",
    "token_time",
    "tensor_parallel",
)


def vidur(folder, cut=2):
    """Vidur's `data/profiling` with the linear ops of the tiny model and one node."""
    ops = {"emb": 1e-3, "input_layernorm": 3e-3, "attn_rope": 4e-3, "mlp_act": 5e-3}
    matrices = {
        "attn_pre_proj": (1024, 3072 // cut), "attn_post_proj": (2048 // cut, 1024),
        "mlp_up_proj": (1024, 6144 // cut), "mlp_down_proj": (3072 // cut, 1024),
    }  # fmt: skip
    names = [*ops, *matrices]
    columns = [f"time_stats.{op}.median" for op in names]
    columns += ["n_head", "n_kv_head", "n_embd", "n_expanded_embd", "num_tokens", "num_tensor_parallel_workers"]
    rows = []
    for tokens in (1, *range(16, 1025, 16), 1024):  # the largest twice, as there
        times = [3e-3 + time * tokens / 64 for time in ops.values()]
        times += [gemm_s(tokens, n, k) * 1e3 for k, n in matrices.values()]
        rows.append([*times, 16, 4, 1024, 3072, tokens, cut])
    path = folder / "compute" / "h100" / "org" / "Tiny-hf" / "mlp.csv"
    path.parent.mkdir(parents=True)
    path.write_text(csv_text(columns, rows))
    node = folder / "network" / "h100_dgx"
    node.mkdir(parents=True)
    sizes = [2**i for i in range(11, 28)]
    for op in ("all_reduce", "send_recv"):
        rows = [[0.01 + size / 2e8, 2, size, 2] for size in sizes]
        text = csv_text([f"time_stats.{op}.median", "num_workers", "size", "devices_per_node"], rows)
        (node / f"{op}.csv").write_text(text)
    return path


def times(profile, op):
    curve = profile.linear[op] if op in profile.linear else profile.head[op]
    return dict(zip(curve.points, np.array(curve.values), strict=True))
