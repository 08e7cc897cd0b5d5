"""Random cases for schedule.py: the settings of a scheduler and the requests it gets. Needs nothing but Python."""

from dataclasses import dataclass, field
from random import Random
from typing import Any

Row = dict[str, Any]
MAX_MODEL_LEN = 2048


@dataclass
class Case:
    """One case: `config` as it is written to config.json, `requests` as to requests.jsonl."""

    name: str
    config: Row
    requests: list[Row] = field(default_factory=list)


def draw(seed: int) -> Case:
    """The case of a seed. Every feature is drawn for itself, so they meet in all combinations."""
    random = Random(seed)
    block = random.choice([4, 8, 16, 16, 32])
    prefix = random.random() < 0.6
    tight = random.random() < 0.6
    seqs = random.choice([1, 2, 4, 8, 8, 16, 32])
    budget = max(seqs, random.choice([8, 16, 32, 64, 128, 256, 512]))
    requests = _requests(random, block, prefix, tight)
    most = max(-(-(row["input_length"] + row["output_length"]) // block) for row in requests)
    together = sum(-(-(row["input_length"] + row["output_length"]) // block) for row in requests)
    blocks = most + int(random.choice([0.3, 1, 2]) * random.random() * most) if tight else most + together
    config = {
        "seed": seed, "block_size": block, "num_gpu_blocks": blocks + 1, "max_num_seqs": seqs,
        "max_num_batched_tokens": budget, "max_model_len": MAX_MODEL_LEN, "enable_prefix_caching": prefix,
        "chunked_prefill": True, "policy": "fcfs", "async_scheduling": random.random() < 0.5,
        "long_prefill_token_threshold": random.choice([0, 0, 0, random.randint(1, budget), max(1, budget // 3)]),
        "watermark": random.choice([0.0, 0.0, 0.0, 0.05, round(random.uniform(0, 0.4), 3)]),
        "scheduler_reserve_full_isl": random.random() < 0.8,
    }  # fmt: skip
    if random.random() < 0.1:  # whole prompts only: vLLM then wants a budget of the longest sequence
        longest = max(seqs, *(row["input_length"] + row["output_length"] for row in requests))
        config |= {"chunked_prefill": False, "max_num_batched_tokens": longest, "max_model_len": longest}
        config["long_prefill_token_threshold"] = random.choice([0, 0, longest // 3])
    return Case(_name(config, tight), config, requests)


def _name(config: Row, tight: bool) -> str:
    marks = {
        "async": config["async_scheduling"], "prefix": config["enable_prefix_caching"], "tight": tight,
        "long": config["long_prefill_token_threshold"], "watermark": config["watermark"],
        "nofull": not config["scheduler_reserve_full_isl"], "whole": not config["chunked_prefill"],
    }  # fmt: skip
    return "-".join([f"s{config['seed']:04}", *(mark for mark, on in marks.items() if on)])


def _requests(random: Random, block: int, prefix: bool, tight: bool) -> list[Row]:
    """Rows with the moment each is due, in seconds; with `prefix`, prompts that begin alike and some that are alike."""
    count = random.randint(15, 60)
    longest = random.choice([16, 40, 150, 400])
    outputs = random.choice([20, 60, 150] if tight else [3, 20, 60])
    gap_s = random.choice([0.0, 0.002, 0.02, 0.1])
    stems = _stems(random, longest // block) if prefix else []
    rows: list[Row] = []
    due_s, fresh = 0.0, 1_000_000
    for number in range(count):
        due_s += random.expovariate(1 / gap_s) if gap_s else 0.0
        prompt = random.choice([random.randint(1, longest), random.randint(1, longest // block + 1) * block])
        row: Row = {"request_id": number, "due_s": round(due_s, 6), "input_length": prompt,
                    "output_length": random.choice([1, *(random.randint(1, outputs) for _ in range(4))])}  # fmt: skip
        if prefix:
            again = random.choice(rows) if rows and random.random() < 0.2 else None
            if again:
                row["input_length"], row["hash_ids"] = again["input_length"], again["hash_ids"]
            else:
                stem = random.choice(stems)[: random.randint(0, longest // block)] if random.random() < 0.8 else []
                full = prompt // block
                own = range(fresh, fresh + full - len(stem[:full]))
                row["hash_ids"] = [*stem[:full], *own]
                fresh += full
        rows.append(row)
    return rows


def _stems(random: Random, blocks: int) -> list[list[int]]:
    """A few prefixes that may branch off each other; an id stands for one block and all that is before it."""
    stems: list[list[int]] = []
    fresh = 0
    for _ in range(random.randint(1, 5)):
        old = random.choice(stems) if stems else []
        kept = old[: random.randint(0, len(old))]
        stems.append([*kept, *range(fresh, fresh + blocks - len(kept))])
        fresh += blocks
    return stems
