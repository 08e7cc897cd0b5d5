"""Where the KV of a session stays between its turns, and how it comes back."""

from dataclasses import dataclass
from typing import Literal

from tetrisim.scenario.checks import not_negative, positive


@dataclass(frozen=True, slots=True)
class TierSpec:
    """The places of an instance for the KV of sessions that wait: free blocks of the GPU, host memory, a disk.

    `keep_on_gpu`: what a turn leaves stays in free blocks until somebody needs them. `host_link_bytes_per_s` is one
    way (None: the GPU's data sheet); `network_bytes_per_s` is each instance's port, one way. `remote`: KV of another
    instance can be had, over the network.

    `load`, for a turn whose KV is not all in the GPU: `layer` starts it and waits for each layer in turn, `whole` lets
    its first step begin when all is there, and `apart` keeps it out of the batch until then, as far as there is room.
    `writes`: copies to the host take no time (`free`), the other direction of the host link (`duplex`), or the same one
    (`shared`).
    """

    host_bytes: float = 256e9
    disk_bytes: float = 4e12
    keep_on_gpu: bool = True
    host_link_bytes_per_s: float | None = None
    disk_read_bytes_per_s: float = 4e9
    network_bytes_per_s: float = 12.5e9
    network_latency_s: float = 5e-6
    remote: bool = True
    load: Literal["layer", "whole", "apart"] = "layer"
    writes: Literal["free", "duplex", "shared"] = "duplex"

    def __post_init__(self) -> None:
        not_negative(host=self.host_bytes, disk=self.disk_bytes, network_latency=self.network_latency_s)
        positive(
            host_link=self.host_link_bytes_per_s, disk_read=self.disk_read_bytes_per_s, network=self.network_bytes_per_s
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class HintSpec:
    """What the scheduler is told of turns to come, and does: it chooses the instance then, and has the KV brought.

    `lead`: from when the user types (`typing`), or from the end of the turn before (`pause`: an oracle). A share
    `missed` of the hints never comes; of all that come, a share `spurious` is about sessions that are over. A hint
    counts as one request of load until the turn comes, at most for `expire_s`. `rebind_above`: at arrival the choice is
    made anew when the chosen instance has over so many times the requests of the one with the fewest, plus one.
    """

    lead: Literal["typing", "pause"] = "typing"
    missed: float = 0.0
    spurious: float = 0.0
    expire_s: float = 120.0
    rebind_above: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.missed <= 1:
            raise ValueError("missed: expected a share from 0 to 1")
        if not 0 <= self.spurious <= 0.99:
            raise ValueError("spurious: expected a share from 0 to 0.99")
        positive(expire=self.expire_s)
        if self.rebind_above is not None and not self.rebind_above >= 1:
            raise ValueError(f"rebind_above: expected at least 1, not {self.rebind_above}")
