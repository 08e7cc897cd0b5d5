"""Discrete-event simulation of LLM serving clusters: a scenario in, the life of every request out."""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tetrisim.errors import OutputError, ProfileError, ScenarioError, TetrisimError, TraceError
    from tetrisim.metrics.summary import summarize
    from tetrisim.scenario.load import dump_yaml, load, override, with_system
    from tetrisim.scenario.scenario import Scenario
    from tetrisim.simulate import Result, simulate
    from tetrisim.studies.advice import Advice
    from tetrisim.studies.advise import advise
    from tetrisim.studies.capacity import Capacity, capacity
    from tetrisim.studies.compare import Comparison, compare
    from tetrisim.studies.judge import Criterion
    from tetrisim.studies.plan import plan
    from tetrisim.studies.plan_record import Goal, Plan
    from tetrisim.studies.plan_space import Space
    from tetrisim.studies.spread import Backend
    from tetrisim.studies.sweep import Sweep, sweep

__version__ = "0.1.0"

__all__ = [
    "Advice",
    "Backend",
    "Capacity",
    "Comparison",
    "Criterion",
    "Goal",
    "OutputError",
    "Plan",
    "ProfileError",
    "Result",
    "Scenario",
    "ScenarioError",
    "Space",
    "Sweep",
    "TetrisimError",
    "TraceError",
    "__version__",
    "advise",
    "capacity",
    "compare",
    "dump_yaml",
    "load",
    "override",
    "plan",
    "simulate",
    "summarize",
    "sweep",
    "with_system",
]

_HOMES = {
    "Advice": "tetrisim.studies.advice",
    "Backend": "tetrisim.studies.spread",
    "Capacity": "tetrisim.studies.capacity",
    "Comparison": "tetrisim.studies.compare",
    "Criterion": "tetrisim.studies.judge",
    "Goal": "tetrisim.studies.plan_record",
    "OutputError": "tetrisim.errors",
    "Plan": "tetrisim.studies.plan_record",
    "ProfileError": "tetrisim.errors",
    "Result": "tetrisim.simulate",
    "Scenario": "tetrisim.scenario.scenario",
    "ScenarioError": "tetrisim.errors",
    "Sweep": "tetrisim.studies.sweep",
    "Space": "tetrisim.studies.plan_space",
    "TetrisimError": "tetrisim.errors",
    "TraceError": "tetrisim.errors",
    "advise": "tetrisim.studies.advise",
    "capacity": "tetrisim.studies.capacity",
    "compare": "tetrisim.studies.compare",
    "dump_yaml": "tetrisim.scenario.load",
    "load": "tetrisim.scenario.load",
    "override": "tetrisim.scenario.load",
    "plan": "tetrisim.studies.plan",
    "simulate": "tetrisim.simulate",
    "summarize": "tetrisim.metrics.summary",
    "sweep": "tetrisim.studies.sweep",
    "with_system": "tetrisim.scenario.load",
}
# Names are imported when first used: `tetrisim --help` then needs neither numpy nor the engine.


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'tetrisim' has no attribute '{name}'")
    value: object = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """Keeps `tetrisim.simulate` the function: importing the module of that name would bind it over it."""

    def __setattr__(self, name: str, value: object) -> None:
        if isinstance(value, ModuleType) and _HOMES.get(name) == value.__name__:
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
