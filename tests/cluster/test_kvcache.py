"""Blocks by hand: what they hold, who shares them, and which one goes when a new one is needed."""

import pytest

from tetrisim.cluster.batch import DecodeBatch
from tetrisim.cluster.kvcache import KVCache, PrefixCache
from tetrisim.cluster.request import Request


def request(number, prompt, hash_ids=(), output=8):
    made = Request(number, 0, prompt, output, 0)
    made.hash_ids = hash_ids
    return made


def prefilled(kv, made):
    """Admit a whole prompt; returns how many of its tokens were found."""
    cached = kv.cached(made)
    assert kv.fits(made, made.target, 0)
    kv.admit(made, cached, made.target - cached)
    kv.check()
    made.computed = made.target
    return cached


def released(kv, *requests):
    for made in requests:
        kv.release(made, made.computed)
    kv.check()


def test_a_request_takes_the_blocks_that_its_tokens_begin():
    kv = KVCache(10, 16)
    assert [kv.blocks(tokens) for tokens in (0, 1, 16, 17)] == [0, 1, 1, 2]
    made = request(0, 33)
    kv.admit(made, 0, 20)
    assert kv.free == 8
    made.computed = 20
    kv.extend(made, 20, 12, False)  # 32 tokens still fit two blocks
    assert kv.free == 8
    made.computed = 32
    kv.extend(made, 32, 1, False)
    assert kv.free == 7
    kv.release(made, 33)
    assert kv.free == 10


def test_a_request_fits_beside_what_is_kept_for_others():
    kv = KVCache(3, 16)
    assert kv.fits(request(0, 48), 48, 0)
    assert not kv.fits(request(0, 49), 49, 0)
    assert not kv.fits(request(0, 48), 48, 1)
    assert kv.fits(request(0, 48), 32, 1)


def test_a_batch_grows_as_many_blocks_as_its_members_begin():
    kv, batch = KVCache(10, 4), DecodeBatch(4)
    for number, context in enumerate((4, 5)):
        made = request(number, context)
        made.sequence = number
        batch.join(made, context)
    kv.grow(batch, [], 4)  # 4 -> 8 begins one block, 5 -> 9 begins one
    assert kv.free == 8


@pytest.mark.parametrize("free", [-1, 11])
def test_a_broken_count_is_noticed(free):
    kv = KVCache(10, 16)
    kv.free = free
    with pytest.raises(AssertionError, match="free blocks of 10"):
        kv.check()


def test_two_requests_share_the_full_blocks_of_one_prefix():
    kv = PrefixCache(10, 4, 0, 4)
    first, second = request(0, 10, (7, 8)), request(1, 11, (7, 9))
    assert prefilled(kv, first) == 0
    assert kv.free == 7
    assert prefilled(kv, second) == 4  # block 7 is shared, 8 is not 9
    assert kv.free == 5
    released(kv, first)
    assert kv.free == 7  # the shared block stays
    released(kv, second)
    assert kv.free == 10


def test_a_hit_never_covers_the_whole_prompt():
    kv = PrefixCache(10, 4, 0, 4)
    first = request(0, 8, (1, 2))
    prefilled(kv, first)
    assert kv.cached(request(1, 8, (1, 2))) == 4  # at least one token is computed, so the last block is not taken
    assert kv.cached(request(1, 9, (1, 2))) == 8


def test_a_part_filled_block_is_not_found_again():
    kv = PrefixCache(10, 4, 0, 4)
    prefilled(kv, request(0, 7, (1,)))
    assert kv.cached(request(1, 7, (1,))) == 4


def test_a_block_of_the_trace_is_cut_into_blocks_of_the_pool():
    kv = PrefixCache(16, 4, 0, 8)  # an id stands for 8 tokens, two blocks
    prefilled(kv, request(0, 16, (1, 2)))
    assert kv.cached(request(1, 17, (1, 2))) == 16
    assert kv.cached(request(1, 17, (1, 3))) == 8
    assert kv.cached(request(1, 7, (1,))) == 4


def test_found_blocks_cost_nothing_while_somebody_holds_them():
    kv = PrefixCache(4, 4, 0, 4)
    first = request(0, 12, (1, 2, 3))
    prefilled(kv, first)
    again = request(1, 13, (1, 2, 3))
    assert kv.free == 1
    assert kv.fits(again, 13, 0)  # three shared, one new
    released(kv, first)
    assert kv.fits(again, 13, 0)  # the same three come off the free list
    assert not kv.fits(again, 13, 1)


def test_the_oldest_freed_goes_first_and_of_one_request_its_tail():
    kv = PrefixCache(5, 4, 0, 4)
    old, young = request(0, 8, (1, 2)), request(1, 12, (3, 4, 5))
    prefilled(kv, old)
    prefilled(kv, young)
    released(kv, old)
    released(kv, young)

    def found():
        return [kv.cached(request(9, 13, ids)) // 4 for ids in ((1, 2), (3, 4, 5))]

    assert found() == [2, 3]
    left = []
    for number in range(5):  # strangers of one block each take what is evicted, and keep it
        prefilled(kv, request(10 + number, 3))
        left.append(found())
    # block 2, then 1 of the old request; then 5, 4, 3 of the young one
    assert left == [[1, 3], [0, 3], [0, 2], [0, 1], [0, 0]]


def test_using_a_prefix_again_makes_it_young():
    kv = PrefixCache(4, 4, 0, 4)
    one, two = request(0, 4, (1,)), request(1, 4, (2,))
    for made in (one, two):
        prefilled(kv, made)
        released(kv, made)
    again = request(2, 5, (1,))
    assert prefilled(kv, again) == 4
    released(kv, again)
    # two blank blocks (one of them the tail of `again`, never full) are taken first, then the older prefix
    for number in range(3):
        prefilled(kv, request(10 + number, 1))
    assert kv.cached(request(3, 5, (1,))) == 4
    assert kv.cached(request(3, 5, (2,))) == 0


def test_a_prompt_that_is_computed_in_pieces_is_found_whole():
    """Two ids of 8 tokens and a part-filled third, in blocks of 4; the first piece ends within an id."""
    kv, made = PrefixCache(16, 4, 0, 8), request(0, 22, (1, 2, 3))
    kv.admit(made, 0, 12)
    assert kv.cached(request(1, 23, (1, 2, 3))) == 12
    kv.extend(made, 12, 10, False)
    assert kv.cached(request(1, 23, (1, 2, 3))) == 20
    # What fills the rest of the third id's tokens is of the answer, which another of the same prompt does not share.
    kv.extend(made, 22, 2, True)
    other = request(2, 22, (1, 2, 3))
    other.target = 25
    assert kv.cached(other) == 20


def test_a_recomputed_request_finds_its_own_blocks():
    kv, batch = PrefixCache(8, 4, 0, 4), DecodeBatch(4)
    made = request(0, 6, (1,))
    prefilled(kv, made)
    made.generated = 1
    batch.join(made, 6)
    kv.grow(batch, [made], 4)
    batch.advance(4)
    kv.check()
    assert kv.free == 5  # ten tokens
    context = batch.leave(made)
    kv.release(made, context)
    kv.check()
    made.target, made.computed = made.prompt + made.generated, 0
    assert made.target == 11
    assert kv.cached(made) == 8
    stranger = request(1, 11, (1,))
    assert kv.cached(stranger) == 4  # what another has generated is its own


def test_what_a_decode_fills_is_found_one_step_later_while_its_token_is_on_the_way():
    kv, batch = PrefixCache(8, 4, 0, 4), DecodeBatch(4)
    kv.lag = 1
    made = request(0, 6)
    prefilled(kv, made)
    made.generated = 1
    batch.join(made, 6)
    found = []
    for _ in range(3):
        kv.grow(batch, [made], 1)
        batch.advance(1)
        again = request(0, 30)  # the names of generated blocks go by the number of the request
        found.append(kv.cached(again))
    assert found == [4, 4, 8]  # the second step fills the second block, with a token that the third is planned without
    kv.enter(made, 9)
    assert kv.held(made, 9) == 3
