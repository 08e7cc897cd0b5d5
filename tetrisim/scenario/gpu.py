"""Data-sheet facts of a GPU: what the roofline and the memory plan need."""

from dataclasses import dataclass

from tetrisim.errors import ScenarioError, unknown_name
from tetrisim.scenario.cluster import ClusterSpec

_GIB = 2**30


@dataclass(frozen=True, slots=True)
class GpuSpec:
    """Dense tensor-core peak at 16 bits, memory, the GPU-to-GPU link inside a node, and a list price.

    `price_per_hour` is a typical on-demand cloud price in US dollars in 2026; it only scales performance per dollar.
    """

    name: str
    memory_bytes: int
    memory_bytes_per_s: float
    flops_per_s: float
    link_bytes_per_s: float
    host_bytes_per_s: float
    price_per_hour: float
    fp8: bool = True
    """Whether its tensor cores multiply fp8 (Ada, Hopper, Blackwell)."""


GPUS: dict[str, GpuSpec] = {
    spec.name: spec
    for spec in (
        #       name           memory     HBM      fp16     NVLink  PCIe    $/h
        GpuSpec("v100-32gb", 32 * _GIB, 0.90e12, 125e12, 150e9, 16e9, 2.50, fp8=False),
        GpuSpec("a100-80gb", 80 * _GIB, 2.04e12, 312e12, 300e9, 32e9, 2.00, fp8=False),
        GpuSpec("h100-sxm", 80 * _GIB, 3.35e12, 989e12, 450e9, 64e9, 3.00),
        GpuSpec("h200-sxm", 143_771 * 2**20, 4.80e12, 989e12, 450e9, 64e9, 3.70),
        GpuSpec("b200-sxm", 180 * _GIB, 8.00e12, 2250e12, 900e9, 64e9, 5.50),
        GpuSpec("l40s", 48 * _GIB, 0.864e12, 362e12, 32e9, 32e9, 1.20),
        GpuSpec("rtx-4090", 24 * _GIB, 1.008e12, 165e12, 32e9, 32e9, 0.60),
        GpuSpec("rtx-pro-6000", 96 * _GIB, 1.792e12, 504e12, 64e9, 64e9, 1.80),
        # One core of a 2023 server CPU: two AVX-512 units, 64 FLOP a cycle at fp32 (which counts as half), to 3.8 GHz.
        GpuSpec("cpu", 16 * _GIB, 0.03e12, 0.49e12, 10e9, 10e9, 0.05, fp8=False),
    )
}
"""One-way bytes a second per GPU. L40S and RTX cards have no NVLink: their peers talk over PCIe."""


def dollars_per_hour(cluster: ClusterSpec) -> float:
    """List price of a cluster's GPUs."""
    return sum(
        pool.instances * pool.tensor_parallel * load_gpu(pool.gpu or cluster.gpu).price_per_hour
        for pool in cluster.pools
    )


def load_gpu(name: str, where: str = "cluster.gpu") -> GpuSpec:
    """The catalog entry called `name`."""
    if name not in GPUS:
        raise unknown_name(ScenarioError, where, name, GPUS)
    return GPUS[name]
