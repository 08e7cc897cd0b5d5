"""Figure 14: HPHD end to end."""

from paper.end_to_end import end_to_end

from tetrisim.scenario.scenario import Scenario
from tetrisim.studies.figures import Findings


def figure(scenario: Scenario) -> Findings:
    """CDFs of TTFT and JCT, resource usage time, and performance per dollar."""
    return end_to_end(scenario, 1.1)
