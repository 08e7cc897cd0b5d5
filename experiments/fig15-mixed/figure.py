"""Figure 15: the mixed workload end to end, in two readings of "mixed"."""

from dataclasses import replace

from paper.end_to_end import CHANGES, READINGS, end_to_end

from tetrisim.scenario.load import override
from tetrisim.scenario.scenario import Scenario
from tetrisim.studies.figures import Findings

PAPER = 1.9
"""Its perf/$."""

OWN_MIX = "sharegpt-mixed"
"""The classes as often as ShareGPT has them: one prompt in 25 is heavy. The scenario has one in two."""


def figure(scenario: Scenario) -> Findings:
    """The four classes in equal parts are drawn; the metrics of ShareGPT's own mix stand beside theirs."""
    equal = end_to_end(scenario, PAPER)
    own = end_to_end(override(scenario, {"workload.trace": OWN_MIX}), PAPER).metrics
    return replace(
        equal, metrics={**equal.metrics, **{f"own mix: {name}": own[name] for name in (*CHANGES, *READINGS)}}
    )
