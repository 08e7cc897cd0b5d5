"""What tensor and sequence parallelism cost when no collective was measured: transfers over the GPU's own link."""

ALL_REDUCE_LAUNCH_S = 8e-6
"""A small all-reduce inside one node; vLLM's custom kernel takes 5 to 10 us on NVLink machines."""
LINK_EFFICIENCY = 0.75
"""Share of the link's one-way rate that a large ring all-reduce sustains."""


def all_reduce_s(size_bytes: float, gpus: int, link_bytes_per_s: float) -> float:
    """Seconds of one ring all-reduce: launch, then 2 (g-1)/g of the bytes over each link."""
    return ALL_REDUCE_LAUNCH_S + 2 * (gpus - 1) / gpus * size_bytes / (link_bytes_per_s * LINK_EFFICIENCY)


ALL_TO_ALL_LAUNCH_S = 15e-6
"""A small NCCL all-to-all inside one node: no custom kernel serves it, so it starts slower than an all-reduce."""


def all_to_all_s(size_bytes: float, gpus: int, link_bytes_per_s: float) -> float:
    """Seconds of one all-to-all of `size_bytes` a GPU, of which each keeps its own part."""
    return ALL_TO_ALL_LAUNCH_S + (gpus - 1) / gpus * size_bytes / (link_bytes_per_s * LINK_EFFICIENCY)
