"""Text units at the edge, SI numbers inside: "200 Gbit/s" <-> 2.5e10 bytes/s."""

import re

TICKS_PER_S = 10**15
"""Resolution of the simulated clock: one tick is a femtosecond, so sums of step times are exact integers."""

_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
_BYTES = {
    "B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
    "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30, "TiB": 2.0**40,
}  # fmt: skip
_BYTES_PER_S = {f"{unit}/s": factor for unit, factor in _BYTES.items()} | {
    "Mbit/s": 1e6 / 8, "Gbit/s": 1e9 / 8, "Tbit/s": 1e12 / 8,
}  # fmt: skip
_PER_S = {"/s": 1.0, "/min": 1 / 60, "/h": 1 / 3600}

FAMILIES: dict[str, tuple[dict[str, float], str]] = {
    "_bytes_per_s": (_BYTES_PER_S, "200 Gbit/s"),
    "_bytes": (_BYTES, "80 GiB"),
    "_per_s": (_PER_S, "10 /s"),
    "_s": (_SECONDS, "100 ms"),
}
"""Field-name suffix -> (unit -> factor, an example). The first suffix that fits names the family."""

_QUANTITY = re.compile(r"\s*([-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?)\s*([A-Za-z/]+)\s*")


def family_of(field_name: str) -> str | None:
    """The unit suffix of a field name (`latency_s` -> `_s`), or None for a plain number."""
    return next((suffix for suffix in FAMILIES if field_name.endswith(suffix)), None)


def parse(value: object, family: str) -> float:
    """The SI number of a text such as "5 us"; raises ValueError that says what was expected.

    A bare zero needs no unit, and a bare rate is per second, as in every load generator; any other bare number is
    refused, since its unit would be a guess.
    """
    units, example = FAMILIES[family]
    if isinstance(value, int | float) and not isinstance(value, bool) and (value == 0 or family == "_per_s"):
        value = f"{value!r} /s" if family == "_per_s" else f"0 {next(iter(units))}"
    match = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    if match is None or match[2] not in units:
        raise ValueError(f"a number with one of the units {', '.join(units)}, as in '{example}'")
    number = float(match[1]) * units[match[2]]
    if not abs(number) < 1e30:
        raise ValueError("a number of a size that exists")
    return number


def text(number: float, family: str) -> str:
    """The shortest text that `parse` turns back into exactly `number`."""
    units, _ = FAMILIES[family]
    best = ""
    for unit, factor in units.items():
        for candidate in (f"{number / factor:.12g} {unit}", f"{number / factor!r} {unit}"):
            if parse(candidate, family) == number and (not best or len(candidate) < len(best)):
                best = candidate
    return best or f"{number!r} {next(u for u, f in units.items() if f == 1.0)}"
