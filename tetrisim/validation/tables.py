"""The measured tables that a scenario's instances run on, and the host term in their step times."""

from collections.abc import Callable

import numpy as np

from tetrisim.latency import roofline
from tetrisim.latency.build import profile_folder
from tetrisim.latency.table import Profile, read_profile
from tetrisim.scenario.gpu import load_gpu
from tetrisim.scenario.model import load_model
from tetrisim.scenario.scenario import Scenario


def used_profile(scenario: Scenario) -> Profile | None:
    """The profile of the first pool; None where the roofline estimates every second."""
    pool, model = scenario.cluster.pools[0], load_model(scenario.model)
    gpu = load_gpu(pool.gpu or scenario.cluster.gpu, "cluster.pools.0")
    folder = profile_folder(scenario.profile, gpu.name, model.name, scenario.dtype, pool.tensor_parallel)
    return None if folder is None else read_profile(folder)


def host_term(profile: Profile | None) -> Callable[[int], float]:
    """Seconds of host overhead in a modelled step of so many sequences."""
    if profile is not None and "host" in profile.includes:
        return lambda sequences: 0.0
    if profile is None or profile.host is None:
        return lambda sequences: float(roofline.host_s(np.array([sequences]))[0])
    curve = profile.host
    return lambda sequences: curve.at(sequences)[0]
