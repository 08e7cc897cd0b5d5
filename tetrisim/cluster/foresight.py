"""What a router that looks ahead has to remember: who waits where for a first token, and what was found for whom."""

from tetrisim.cluster.instance import Instance
from tetrisim.cluster.kvcache import KVCache
from tetrisim.cluster.request import NEVER, Request
from tetrisim.policies.batching import Batching


class Foresight:
    """Prefills to come, by the estimate made when each was routed; and what is known of the request being routed."""

    def __init__(self) -> None:
        self._ahead: dict[int, dict[Request, int]] = {}
        """Instance number -> its requests without a first token, and the ticks that the prefill of each will take."""
        self._left: dict[Request, int] = {}
        """Those requests, and the tokens of each that were to be computed."""
        self._asked: tuple[Request | None, int] = (None, 0)
        """The request looked at last, and when."""
        self._names: dict[tuple[type[KVCache], int], list[int]] = {}
        """Kind of cache and its block size -> the names of its blocks."""
        self._found: dict[int, int] = {}
        """Instance number -> tokens of it found there."""
        self._ticks: dict[tuple[int, Batching, int], int] = {}
        """Timer, batching and cached tokens -> ticks of its prefill."""

    def expect(self, instance: Instance, request: Request, cached_tokens: int) -> None:
        """A request was sent to an instance, where so many of its tokens will be found."""
        ahead = self._ahead.setdefault(instance.number, {})
        ahead[request] = self.prefill_ticks(instance, request, cached_tokens)
        self._left[request] = request.prompt - cached_tokens

    def waiting(self, instance: Instance) -> int:
        """Requests there without a first token."""
        return len(self._current(instance))

    def waiting_tokens(self, instance: Instance) -> int:
        """Their prompts, without what was found of them."""
        return sum(self._left[request] for request in self._current(instance))

    def waiting_ticks(self, instance: Instance) -> int:
        """Ticks until all of those have theirs, one after the other."""
        ahead, now = self._current(instance), instance.env.now
        begun = [(each.prefill_start, ticks) for each, ticks in ahead.items() if NEVER < each.prefill_start < now]
        gone = min(now - min(start for start, _ in begun), sum(ticks for _, ticks in begun)) if begun else 0
        return sum(ahead.values()) - gone

    def cached_tokens(self, instance: Instance, request: Request, taken: int) -> int:
        """Tokens of a request's prompt that are in the prefix cache, the decodes having taken `taken` more blocks."""
        self._look_at(instance, request)
        if instance.number not in self._found:
            kv = instance.engine.kv
            key = type(kv), kv.block_tokens
            if key not in self._names:
                self._names[key] = kv.names(request)
            self._found[instance.number] = kv.foreseen(self._names[key], taken)
        return self._found[instance.number]

    def computed_tokens(self, instance: Instance, request: Request, cached_tokens: int) -> int:
        """Those of them whose KV is there: what a prefill in progress computes is found, too, before it is there."""
        found, engine = cached_tokens, instance.engine
        for other in engine.running:
            if other.cached < found and engine.kv.shared_tokens(request, other) > other.cached:
                found = other.cached
        return found

    def prefill_ticks(self, instance: Instance, request: Request, cached_tokens: int) -> int:
        """Ticks of the steps that compute the rest of its prompt alone."""
        self._look_at(instance, request)
        batching = instance.engine.limited or instance.engine.batching
        key = id(instance.timer), batching, cached_tokens
        if key not in self._ticks:
            done, total = cached_tokens, 0
            while done < request.prompt:
                left = request.prompt - done
                take = batching.prefill_tokens(left, 0) or left  # 0: longer than a step, where prompts are not cut
                total += instance.timer.foresee(take, done, batching.padded)
                done += take
            self._ticks[key] = total
        return self._ticks[key]

    def _current(self, instance: Instance) -> dict[Request, int]:
        ahead = self._ahead.get(instance.number, {})
        for request in [each for each in ahead if each.first_token != NEVER]:
            del ahead[request], self._left[request]
        return ahead

    def _look_at(self, instance: Instance, request: Request) -> None:
        now = instance.env.now
        if self._asked[0] is not request or self._asked[1] != now:
            self._asked = request, now
            self._names, self._found, self._ticks = {}, {}, {}
