"""Catalog names of devices as their drivers spell them. No torch here."""

from tetrisim.errors import ProfileError
from tetrisim.scenario.gpu import GPUS, load_gpu

_MARKS = (
    (("B200",), "b200-sxm"),
    (("H200",), "h200-sxm"),
    (("H100", "HBM3"), "h100-sxm"),
    (("A100", "80GB"), "a100-80gb"),
    (("V100", "32GB"), "v100-32gb"),
    (("L40S",), "l40s"),
    (("RTX 4090",), "rtx-4090"),
    (("RTX PRO 6000",), "rtx-pro-6000"),
)

_OTHERS = ("PCIe", "NVL", "MIG", "GB200", "GH200")
"""Devices with these in their names are not what the rest of the name says."""


def check_device(kind: str, dtype: str, wanted: str | None) -> None:
    """Refuse what no machine can measure: names that do not exist or do not go together."""
    if kind not in ("cuda", "cpu"):
        raise ProfileError("--device", f"unknown device '{kind}'", "cuda or cpu")
    if kind == "cpu" and dtype == "fp8":
        raise ProfileError("--dtype", "fp8 has no matrix multiplication on a CPU", "fp32, bf16 or fp16")
    if wanted is not None and (load_gpu(wanted, "--gpu").name == "cpu") != (kind == "cpu"):
        raise ProfileError("--gpu", f"'{wanted}' is no {kind} device", "the name of what is measured")


def recognised(device: str) -> str | None:
    """The catalog name of a driver's device name, or None."""
    for marks, name in _MARKS:
        if all(mark in device for mark in marks) and not any(other in device for other in _OTHERS):
            return name
    return None


def catalog_name(kind: str, device: str, wanted: str | None) -> str:
    """The GPU name a profile gets: `wanted` if given, else `cpu`, or what the driver's name says."""
    if wanted is not None:
        known = recognised(device) if kind == "cuda" else None
        if known not in (None, wanted):
            raise ProfileError("--gpu", f"'{wanted}' is not {device}", f"'{known}'")
        return load_gpu(wanted, "--gpu").name
    if kind == "cpu":
        return load_gpu("cpu", "--device").name
    known = recognised(device)
    if known is None:
        names = ", ".join(name for name in GPUS if name != "cpu")
        raise ProfileError("--gpu", f"'{device}' is not in the catalog", f"--gpu with the nearest of {names}")
    return known
