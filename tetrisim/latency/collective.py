"""What tensor parallelism costs when no collective was measured: a ring over the GPU's own link."""

ALL_REDUCE_LAUNCH_S = 8e-6
"""A small all-reduce inside one node; vLLM's custom kernel takes 5 to 10 us on NVLink machines."""
LINK_EFFICIENCY = 0.75
"""Share of the link's one-way rate that a large ring all-reduce sustains."""


def all_reduce_s(size_bytes: float, gpus: int, link_bytes_per_s: float) -> float:
    """Seconds of one ring all-reduce: launch, then 2 (g-1)/g of the bytes over each link."""
    return ALL_REDUCE_LAUNCH_S + 2 * (gpus - 1) / gpus * size_bytes / (link_bytes_per_s * LINK_EFFICIENCY)
