"""How many instances prefill and how many decode, as demand changes: a controller of the control tick."""

from collections.abc import Callable, Sequence

from tetrisim.cluster.clock import seconds, ticks
from tetrisim.cluster.instance import Instance
from tetrisim.cluster.request import NEVER
from tetrisim.cluster.scheduler import LoadIndex
from tetrisim.cluster.usage import Usage
from tetrisim.policies.ratio import Choice
from tetrisim.policies.registry import find_policy
from tetrisim.policies.views import RoleView
from tetrisim.scenario.control import RatioSpec
from tetrisim.scenario.slo import SloSpec

Policy = Callable[[RoleView, RoleView, RatioSpec], Choice]
OTHER = {"prefill": "decode", "decode": "prefill"}


class _Role:
    """A RoleView."""

    __slots__ = ("instances", "load", "memory", "pending_tokens")

    def __init__(self, instances: int) -> None:
        self.instances = instances
        self.load = self.memory = 0.0
        self.pending_tokens = 0


class RoleControl:
    """Measures both roles, asks the policy, and has one instance at a time drained and turned into the other role."""

    def __init__(self, instances: Sequence[Instance], index: LoadIndex, spec: RatioSpec, slo: SloSpec) -> None:
        self._instances, self._index, self._spec = instances, index, spec
        self._policy: Policy = find_policy("ratio", spec.policy, "cluster.ratio.policy")
        self._ttft_s, self._tpot_s = slo.ttft_s, slo.tpot_s
        self._counted = [(0, 0) for _ in instances]
        """Ticks at work and steps of each instance, up to the last look."""
        self._wanted: Choice = None
        self._times = 0
        """What the policy has said in the last looks, and in how many of them."""
        self._quiet_until = 0
        self.flip: Callable[[Instance], None]
        self.drain: Callable[[Instance], None]
        self.held: Callable[[], int] = int
        """Prompt tokens of requests that no decode instance has room for."""

    def control(self, now: int) -> None:
        """One look."""
        leaving = next((each for each in self._instances if each.draining_since != NEVER), None)
        if leaving is not None and not leaving.assigned:
            self.flip(leaving)
        prefill, decode = self._prefill(), self._decode(now)
        wanted = self._policy(prefill, decode, self._spec)
        self._times = self._times + 1 if wanted == self._wanted else 1
        self._wanted = wanted
        ready = self._times >= self._spec.confirmations and now >= self._quiet_until
        if wanted is None or not ready or any(each.draining_since != NEVER for each in self._instances):
            return
        givers = self._open(OTHER[wanted])
        if len(givers) > self._spec.least:
            self._quiet_until = now + ticks(self._spec.cooldown_s)
            giver = min(givers, key=lambda each: each.assigned)
            if giver.assigned:
                self.drain(giver)
            else:
                self.flip(giver)

    def _open(self, role: str) -> list[Instance]:
        return [each for each in self._instances if each.role == role and each.draining_since == NEVER]

    def _prefill(self) -> _Role:
        """Load: the time to prefill all that waits, a mean over the instances, as a share of the TTFT limit."""
        members = self._index.members
        found, work_s = _Role(len(members)), 0.0
        for place, member in enumerate(members):
            tokens = self._index.load(place)
            if tokens:
                width = min(tokens, Usage(member).chunk_tokens)
                work_s += seconds(tokens / width * member.timer.foresee(width, 0))
            found.pending_tokens += tokens
        if self._ttft_s is not None:
            found.load = work_s / len(members) / self._ttft_s
        return found

    def _decode(self, now: int) -> _Role:
        """Load: where the mean step since the last look lies between a batch of one and the TPOT limit; or the memory.

        Memory is what is held and wanted, as a share of what there is.
        """
        members = self._open("decode")
        found = _Role(len(members))
        worked, steps, held, blocks = 0, 0, 0.0, 0
        for member in members:
            usage, engine = Usage(member), member.engine
            wanted = sum(engine.kv.blocks(request.prompt) for request in engine.received)
            held += usage.capacity_blocks - usage.free_blocks + wanted + usage.waiting_blocks()
            blocks += usage.capacity_blocks
            before = self._counted[member.number]
            worked += member.busy(now) - before[0]
            steps += member.steps + member.steps_done(now) - before[1]
        held += self.held() / members[0].engine.kv.block_tokens
        found.memory = held / blocks
        found.load = found.memory
        if self._tpot_s is not None and steps:
            floor_s = seconds(members[0].timer.decode_row(1).segments[0][2])
            found.load = max(found.load, (seconds(worked / steps) - floor_s) / max(self._tpot_s - floor_s, 1e-9))
        self._counted = [(each.busy(now), each.steps + each.steps_done(now)) for each in self._instances]
        return found
