"""Which families of clusters are looked at, in waves: all, or those that optuna proposes where there are too many."""

from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any

from tetrisim.errors import TetrisimError
from tetrisim.studies.plan_space import Family

MOST_FAMILIES = 1000
"""More families than this are not enumerated but sampled."""
SAMPLED = 400
"""So many are looked at then."""
WAVE = 16
"""Families looked at before the cheapest one known is updated; the same whatever the number of processes."""


class Enumerated:
    """All families, in the given order."""

    def __init__(self, families: Sequence[Family]) -> None:
        self._families = list(families)

    def waves(self) -> Iterator[list[Family]]:
        """Families to look at next."""
        for start in range(0, len(self._families), WAVE):
            yield self._families[start : start + WAVE]

    def tell(self, family: Family, value: float) -> None:
        """How good a family is: less is better. Nothing depends on it here."""


class Sampled:
    """Families proposed by optuna's tree of Parzen estimators, which learns from what it is told."""

    def __init__(self, families: Sequence[Family], seed: int) -> None:
        try:
            optuna: Any = import_module("optuna")
        except ImportError:
            what = f"the space holds {len(families)} families of clusters, more than {MOST_FAMILIES}, and needs optuna"
            expected = "pip install 'tetrisim[plan]', or fewer of --gpu, --systems, --tp, --tokens, --chunk, --seqs"
            raise TetrisimError("plan", what, expected) from None
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._by_choice = {(each.gpu, each.system, each.tensor_parallel, each.caps): each for each in families}
        self._caps: dict[str, list[tuple[tuple[str, str, int], ...]]] = {}
        for each in families:
            self._caps.setdefault(each.system, [])
            if each.caps not in self._caps[each.system]:
                self._caps[each.system].append(each.caps)
        self._gpus = list(dict.fromkeys(each.gpu for each in families))
        self._cuts = list(dict.fromkeys(each.tensor_parallel for each in families))
        self._study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=3 * WAVE))
        self._failed: Any = optuna.trial.TrialState.FAIL
        self._open: dict[Family, Any] = {}
        self._known: dict[Family, float] = {}

    def waves(self) -> Iterator[list[Family]]:
        """Families to look at next, each once."""
        trials = 0
        while len(self._known) < min(SAMPLED, len(self._by_choice)) and trials < 4 * SAMPLED:
            wave: list[Family] = []
            for _ in range(4 * WAVE):
                trials += 1
                trial, family = self._propose()
                if family is None:
                    self._study.tell(trial, float("inf"))
                elif family in self._known:
                    self._study.tell(trial, self._known[family])
                elif family in self._open:
                    self._study.tell(trial, state=self._failed)
                else:
                    self._open[family] = trial
                    wave.append(family)
                if len(wave) == WAVE:
                    break
            if not wave:
                return
            yield wave

    def tell(self, family: Family, value: float) -> None:
        """How good a family is: less is better."""
        self._known[family] = value
        self._study.tell(self._open.pop(family), value)

    def _propose(self) -> tuple[Any, Family | None]:
        trial = self._study.ask()
        gpu = trial.suggest_categorical("gpu", self._gpus)
        cut = trial.suggest_categorical("tensor_parallel", self._cuts)
        system = trial.suggest_categorical("system", list(self._caps))
        place = trial.suggest_int(f"caps of {system}", 0, len(self._caps[system]) - 1)
        return trial, self._by_choice.get((gpu, system, cut, self._caps[system][place]))


def chosen(families: Sequence[Family], seed: int) -> Enumerated | Sampled:
    """All of them where that is possible."""
    return Enumerated(families) if len(families) <= MOST_FAMILIES else Sampled(families, seed)
