"""A run in the JSON of a benchmark tool: `vllm bench serve`, AIPerf or GuideLLM.

The names look alike and the definitions differ (TPOT, ITL and goodput most of all), so each tool has its own file,
which says what it defines and what a simulation cannot know. Names and structure are those of vLLM 0.32
(vllm/benchmarks/serve.py), AIPerf 0.13 (profile_export_aiperf.json) and GuideLLM 0.8 (benchmarks.json).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from tetrisim.metrics import definitions as define
from tetrisim.metrics.definitions import Columns, Floats, Itl
from tetrisim.scenario.slo import SloSpec
from tetrisim.simulate import Result

Record = dict[str, Any]
Format = Literal["vllm", "aiperf", "guidellm"]
FORMATS: tuple[Format, ...] = ("vllm", "aiperf", "guidellm")


@dataclass(frozen=True)
class Served:
    """What an export needs of a run, simulated or measured: its rows, in order of arrival, and what they do not tell.

    `rows`: arrival_s, first_token_s, finish_s, prompt_tokens, output_tokens, status. `itl`: all gaps between tokens,
    where they are known. `facts`: what the tool would say of the load: model, label, rate_per_s, concurrency.
    """

    rows: Columns
    slo: SloSpec
    itl: Itl | None = None
    facts: tuple[tuple[str, Any], ...] = ()

    def count(self, status: str) -> int:
        """How many requests ended so."""
        return int((self.rows["status"] == status).sum())

    def of_completed(self, column: str) -> Floats:
        """A column of the completed requests."""
        return self.rows[column][define.completed(self.rows)].astype(float)


def served(result: Result) -> Served:
    """A simulated run. Its gaps are all there is of single tokens: which request each is of is not kept."""
    workload = result.scenario.workload
    itl = define.itl(result.gap_columns)
    facts = {
        "label": result.scenario.system,
        "model": result.scenario.model,
        "rate_per_s": workload.rate_per_s,
        "concurrency": workload.concurrency,
    }
    known = tuple((name, value) for name, value in facts.items() if value is not None)
    return Served(result.request_columns, result.scenario.slo, itl if itl.mean is not None else None, known)


def export(result: Result, to: Format) -> Record:
    """The run as `to` would have written it; strict JSON (no NaN)."""
    return exporter(to)(served(result))


def exporter(to: Format) -> Callable[[Served], Record]:
    """What writes a tool's JSON."""
    from tetrisim.metrics.export_aiperf import aiperf_record
    from tetrisim.metrics.export_guidellm import guidellm_record
    from tetrisim.metrics.export_vllm import vllm_record

    exporters: dict[Format, Callable[[Served], Record]] = {
        "vllm": vllm_record,
        "aiperf": aiperf_record,
        "guidellm": guidellm_record,
    }
    return exporters[to]
