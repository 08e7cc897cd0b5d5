"""What each step runs, step by step: [request, tokens computed before, new tokens] in running order."""

from tetrisim.cluster.engine import Engine
from tetrisim.cluster.kvcache import KVCache, PrefixCache
from tetrisim.cluster.queue import WaitingQueue
from tetrisim.cluster.request import Request
from tetrisim.policies import admission, batching
from tetrisim.policies.queueing import shortest_first
from tetrisim.scenario.cluster import PoolSpec
from tetrisim.validation.steps import complete_step, plan_step


class Steps:
    """An engine, and what it has run."""

    def __init__(self, policy, blocks=100, block=4, key=None, swap_blocks=1000, kv=None, **pool):
        spec = PoolSpec(role=pool.pop("role", "hybrid"), block_tokens=block, **pool)
        kv = kv or KVCache(blocks, block)
        self.engine = Engine(spec, kv, policy, WaitingQueue(key, 16), admission.greedy)
        self.engine.limit_swap(swap_blocks)

    def push(self, number, prompt, output, hash_ids=()):
        request = Request(number, 0, prompt, output, 0)
        request.hash_ids = hash_ids
        self.engine.push(request)
        return request

    def step(self):
        """The batch of the next step, which ends at once."""
        batch, pieces = plan_step(self.engine)
        self.engine.let_go()
        complete_step(self.engine, pieces)
        self.engine.kv.check()
        return batch

    @property
    def preempted(self):
        return [request.id for request in self.engine.preempted]


def test_v1_gives_tokens_to_decodes_then_to_the_partial_prompt_then_to_waiting_ones():
    v1 = Steps(batching.TokenBudget(10))
    v1.push(0, 6, 4)
    v1.push(1, 12, 2)
    v1.push(2, 5, 2)
    assert v1.step() == [[0, 0, 6], [1, 0, 4]]  # 6, and 4 of 12
    assert v1.step() == [[0, 6, 1], [1, 4, 8], [2, 0, 1]]  # a decode, the other 8, and 1 of 5
    assert v1.step() == [[0, 7, 1], [1, 12, 1], [2, 1, 4]]
    v1.push(3, 30, 1)
    # 0 and 1 have shown 3 and 2 tokens; 1 is gone
    assert v1.step() == [[0, 8, 1], [2, 5, 1], [3, 0, 8]]
    assert v1.step() == [[3, 8, 10]]
    assert v1.step() == [[3, 18, 10]]
    assert v1.step() == [[3, 28, 2]]
    assert v1.engine.idle


def test_v1_cuts_a_long_prompt_so_that_others_ride_along():
    v1 = Steps(batching.TokenBudget(10, long_prefill=4))
    v1.push(0, 9, 1)
    v1.push(1, 5, 1)
    assert v1.step() == [[0, 0, 4], [1, 0, 4]]
    assert v1.step() == [[0, 4, 4], [1, 4, 1]]
    assert v1.step() == [[0, 8, 1]]


def test_v1_runs_a_long_prompt_before_the_decodes_that_were_admitted_behind_it():
    v1 = Steps(batching.TokenBudget(6, long_prefill=4), max_num_seqs=3)
    v1.push(0, 9, 1)
    v1.push(1, 2, 2)
    assert v1.step() == [[0, 0, 4], [1, 0, 2]]
    last = v1.push(2, 9, 1)
    assert v1.step() == [[0, 4, 4], [1, 2, 1], [2, 0, 1]]
    v1.push(3, 2, 3)
    assert v1.step() == [[0, 8, 1], [2, 1, 4], [3, 0, 1]]
    assert v1.step() == [[2, 5, 4], [3, 1, 1]]
    assert last.generated == 1
    assert v1.step() == [[3, 2, 1]]


def test_v1_does_not_cut_the_prompt_of_a_request_that_is_alone():
    v1 = Steps(batching.TokenBudget(10, long_prefill=4))
    v1.push(0, 25, 1)
    assert v1.step() == [[0, 0, 10]]
    v1.push(1, 9, 1)  # it has no seat yet, but it waits
    assert v1.step() == [[0, 10, 4], [1, 0, 4]]


def test_v1_takes_a_prompt_whole_or_not_at_all_without_chunked_prefill():
    v1 = Steps(batching.TokenBudget(10, chunked=False))
    for number, prompt in enumerate((6, 5, 2)):
        v1.push(number, prompt, 1)
    assert v1.step() == [[0, 0, 6]]  # 5 do not fit beside it, and nobody passes
    assert v1.step() == [[1, 0, 5], [2, 0, 2]]


def test_v1_keeps_its_watermark_free_only_while_somebody_runs():
    v1 = Steps(batching.TokenBudget(100), kv=KVCache(4, 4, reserve=2))
    v1.push(0, 12, 3)  # three of the four blocks
    v1.push(1, 4, 1)
    assert v1.step() == [[0, 0, 12]]  # the last block stays free
    assert v1.step() == [[0, 12, 1]]  # for this
    assert v1.step() == [[0, 13, 1]]
    assert v1.step() == [[1, 0, 4]]


def test_v1_may_admit_a_prompt_of_which_only_the_first_chunk_fits():
    for whole, second in ((True, [[0, 4, 1]]), (False, [[0, 4, 1], [1, 0, 3]])):
        v1 = Steps(batching.TokenBudget(4), blocks=3)
        v1.engine.whole_prompts_fit = whole
        v1.push(0, 4, 2)
        v1.push(1, 9, 1)
        assert v1.step() == [[0, 0, 4]]
        assert v1.step() == second


def test_async_a_seat_and_its_blocks_are_free_one_step_later():
    v1 = Steps(batching.TokenBudget(10), blocks=2, max_num_seqs=1, async_scheduling=True)
    v1.push(0, 3, 2)
    v1.push(1, 2, 1)
    assert v1.step() == [[0, 0, 3]]
    assert v1.step() == [[0, 3, 1]]
    assert v1.step() == []
    assert v1.engine.kv.free == 2
    assert v1.step() == [[1, 0, 2]]
    assert v1.step() == []  # its only token is there; the blocks go with this step
    assert v1.engine.idle


def test_async_a_finished_request_can_be_preempted_and_is_not_computed_again():
    v1 = Steps(batching.TokenBudget(100), blocks=3, async_scheduling=True)
    v1.push(0, 4, 3)
    finished = v1.push(1, 8, 1)
    assert v1.step() == [[0, 0, 4], [1, 0, 8]]
    v1.push(2, 1, 1)
    assert v1.step() == [[0, 4, 1]]  # takes one of the two blocks of the last; nobody joins, as in any such step
    assert v1.preempted == [1]
    assert (finished.generated, finished.preemptions, v1.engine.kv.free) == (1, 0, 1)
    assert v1.step() == [[0, 5, 1], [2, 0, 1]]


def test_async_blocks_are_taken_before_the_victims_come_back():
    kv = PrefixCache(5, 4, 0, 4)
    v1 = Steps(batching.TokenBudget(100), kv=kv, async_scheduling=True)
    v1.push(0, 4, 1, (9,))
    v1.push(1, 4, 9)
    v1.push(2, 4, 9)
    again = Request(3, 0, 5, 1, 0)
    again.hash_ids = (9,)
    for _ in range(5):
        v1.step()
    assert (kv.cached(again), kv.free) == (4, 1)
    # Both need a third block. The first takes the one that is free, then the last gives its own back: one is blank, for
    # the token that would fill it is still on its way.
    assert v1.step() == [[1, 8, 1]]
    assert (v1.preempted, kv.cached(again), kv.free) == ([2], 0, 2)


def test_v1_seats_are_a_limit_of_their_own():
    v1 = Steps(batching.TokenBudget(10), max_num_seqs=1)
    v1.push(0, 2, 2)
    v1.push(1, 2, 1)
    assert v1.step() == [[0, 0, 2]]
    assert v1.step() == [[0, 2, 1]]
    assert v1.step() == [[1, 0, 2]]


def test_v1_preempts_the_last_and_admits_nobody_in_that_step():
    v1 = Steps(batching.TokenBudget(100), blocks=5)
    first, last = v1.push(0, 8, 9), v1.push(1, 8, 9)
    assert v1.step() == [[0, 0, 8], [1, 0, 8]]  # four blocks, both full
    v1.push(2, 1, 1)  # would fit the fifth block by itself
    # Both need a block and one is free: the last is preempted. Its two blocks are free now, but this step takes nobody.
    assert v1.step() == [[0, 8, 1]]
    assert v1.preempted == [1]
    assert (last.target, last.computed, last.preemptions) == (9, 0, 1)
    # Its 8 prompt tokens and the one shown need three blocks and two are free; nobody passes it.
    for context in (9, 10, 11):
        assert v1.step() == [[0, context, 1]]
        assert v1.preempted == []
    for context in (12, 13, 14, 15):
        assert v1.step() == [[0, context, 1]]
    assert first.generated == 9
    assert v1.step() == [[1, 0, 9], [2, 0, 1]]
    assert last.generated == 2
    assert v1.step() == [[1, 9, 1]]


def test_v1_takes_nobody_in_a_step_that_preempted_though_memory_is_there():
    v1 = Steps(batching.TokenBudget(100), blocks=5, preemption="swap")
    v1.push(0, 8, 9)
    v1.push(1, 8, 9)
    v1.step()
    v1.push(2, 1, 1)
    assert v1.step() == [[0, 8, 1]]  # of the two blocks that the last gave back one is left, enough for a prompt of 1
    assert v1.preempted == [1]
    assert v1.engine.kv.free == 2


def test_v1_preempts_a_prompt_in_the_middle_and_starts_it_again():
    v1 = Steps(batching.TokenBudget(9), blocks=5)
    v1.push(0, 7, 9)
    v1.push(1, 12, 1)
    assert v1.step() == [[0, 0, 7], [1, 0, 2]]  # two blocks and one
    assert v1.step() == [[0, 7, 1], [1, 2, 8]]  # two and three: full
    assert v1.step() == [[0, 8, 1]]  # needs a third: the prompt gives all of its blocks back
    assert v1.preempted == [1]
    assert v1.engine.kv.free == 2
    for context in (9, 10, 11, 12, 13, 14):
        assert v1.step() == [[0, context, 1]]
    assert v1.step() == [[1, 0, 9]]
    assert v1.step() == [[1, 9, 3]]


def test_v1_a_prompt_in_the_middle_takes_the_blocks_of_who_came_after_it():
    v1 = Steps(batching.TokenBudget(20, long_prefill=4), blocks=4)
    v1.push(0, 12, 1)
    v1.push(1, 4, 9)
    assert v1.step() == [[0, 0, 4], [1, 0, 4]]
    assert v1.step() == [[0, 4, 4], [1, 4, 1]]  # two blocks each: full
    assert v1.step() == [[0, 8, 4]]
    assert v1.preempted == [1]


def test_v0_runs_no_decode_beside_a_prefill():
    v0 = Steps(batching.PrefillFirst(10))
    v0.push(0, 4, 3)
    v0.push(1, 6, 3)
    v0.push(2, 1, 1)
    assert v0.step() == [[0, 0, 4], [1, 0, 6]]  # whole prompts up to the budget
    assert v0.step() == [[2, 0, 1]]
    assert v0.step() == [[0, 4, 1], [1, 6, 1]]
    v0.push(3, 10, 1)
    assert v0.step() == [[3, 0, 10]]
    assert v0.step() == [[0, 5, 1], [1, 7, 1]]


def test_v0_never_lets_a_later_prompt_pass():
    v0 = Steps(batching.PrefillFirst(10))
    for number, prompt in enumerate((6, 5, 4)):
        v0.push(number, prompt, 1)
    assert v0.step() == [[0, 0, 6]]
    assert v0.step() == [[1, 0, 5], [2, 0, 4]]


def test_v0_brings_the_swapped_back_before_it_takes_new_ones():
    v0 = Steps(batching.PrefillFirst(100), blocks=4, preemption="swap")
    v0.push(0, 4, 8)
    v0.push(1, 4, 8)
    v0.step()
    for context in (4, 5, 6, 7):
        assert v0.step() == [[0, context, 1], [1, context, 1]]
    assert v0.step() == [[0, 8, 1]]
    assert (v0.preempted, v0.engine.moved_blocks) == ([1], 2)
    v0.engine.moved_blocks = 0  # paid for by the instance
    v0.push(2, 1, 1)  # there is a block for it, but somebody is swapped out
    assert v0.step() == [[0, 9, 1]]
    assert v0.step() == [[0, 10, 1]]
    assert v0.step() == [[1, 8, 1]]  # nothing is computed again
    assert v0.engine.moved_blocks == 2
    assert v0.step() == [[2, 0, 1]]
    assert v0.step() == [[1, 9, 1]]


def test_v0_computes_again_what_the_swap_space_cannot_hold():
    v0 = Steps(batching.PrefillFirst(100), blocks=4, preemption="swap", swap_blocks=1)
    v0.push(0, 4, 8)
    last = v0.push(1, 4, 8)
    for _ in range(6):
        v0.step()
    assert v0.preempted == [1]
    assert v0.engine.moved_blocks == 0
    assert (last.target, last.computed) == (9, 0)


def test_fixed_chunks_are_cut_and_merged_in_scheduled_order():
    chunks = Steps(batching.FixedChunks(8), key=shortest_first, role="prefill")
    for number, prompt in enumerate((11, 3, 9)):
        chunks.push(number, prompt, 1)
    assert chunks.step() == [[1, 0, 3], [2, 0, 5]]
    assert chunks.step() == [[2, 5, 4], [0, 0, 4]]
    assert chunks.step() == [[0, 4, 7]]
    assert chunks.engine.idle


def test_received_requests_join_as_memory_allows_and_in_order():
    decode = Steps(batching.DecodeOnly(), blocks=5, role="decode")
    for number, prompt in enumerate((8, 7, 2)):
        request = Request(number, 0, prompt, 4, 0)
        request.generated = 1
        decode.engine.receive(request)
    # 8 + 1 tokens take three blocks; 7 + 1 take two; the last would need a sixth
    assert decode.step() == [[0, 8, 1], [1, 7, 1]]
    assert decode.engine.kv.free == 0
    assert decode.step() == [[0, 9, 1]]  # the second grows into a block that is not there
    assert decode.preempted == [1]


def test_v0_keeps_its_watermark_free_even_when_nothing_runs():
    v0 = Steps(batching.PrefillFirst(100), kv=KVCache(4, 4, reserve=1))
    v0.push(0, 13, 1)
    assert v0.step() == []
    v0 = Steps(batching.PrefillFirst(100), kv=KVCache(4, 4, reserve=1))
    v0.push(0, 12, 2)
    assert v0.step() == [[0, 0, 12]]
    assert v0.step() == [[0, 12, 1]]  # the reserve is for decodes


def test_v0_seats_hold_for_prompts():
    v0 = Steps(batching.PrefillFirst(100), max_num_seqs=2)
    for number in range(3):
        v0.push(number, 2, 2)
    assert v0.step() == [[0, 0, 2], [1, 0, 2]]
    assert v0.step() == [[0, 2, 1], [1, 2, 1]]
    assert v0.step() == [[2, 0, 2]]


def test_v0_computes_preempted_ones_again_before_all_others_and_in_their_old_order():
    v0 = Steps(batching.PrefillFirst(100), blocks=4)
    for number, prompt in enumerate((8, 3, 4)):
        v0.push(number, prompt, 8)
    assert v0.step() == [[0, 0, 8], [1, 0, 3], [2, 0, 4]]
    v0.push(3, 1, 1)
    # The first needs a block: the last gives its one back. The second still has room for a token in its own.
    assert v0.step() == [[0, 8, 1], [1, 3, 1]]
    assert v0.preempted == [2]
    # Its 4 tokens and the one shown take two blocks and none is free; the one behind it may not pass.
    assert v0.step() == [[0, 9, 1]]  # the second needs a block now, and is its own victim
    assert v0.preempted == [1]
    for context in (10, 11):
        assert v0.step() == [[0, context, 1]]  # 3 tokens and 2 shown: two blocks, and one is free
    for context in (12, 13, 14):
        assert v0.step() == [[0, context, 1]]
    assert v0.step() == [[1, 0, 5], [2, 0, 5]]
    assert v0.step() == [[1, 5, 1], [2, 5, 1]]


def test_v0_brings_nobody_back_in_a_step_that_preempted():
    v0 = Steps(batching.PrefillFirst(100), blocks=7, preemption="swap")
    for number, prompt in enumerate((4, 16, 4)):
        v0.push(number, prompt, 9)
    assert v0.step() == [[0, 0, 4], [1, 0, 16], [2, 0, 4]]  # one, four and one of the seven
    assert v0.step() == [[0, 4, 1], [1, 16, 1]]
    assert v0.preempted == [2]
    for step in (1, 2, 3):
        assert v0.step() == [[0, 4 + step, 1], [1, 16 + step, 1]]
    assert v0.step() == [[0, 8, 1]]  # the five blocks of the second would be enough for the third
    assert v0.preempted == [1]
    assert v0.step() == [[0, 9, 1], [2, 4, 1]]
