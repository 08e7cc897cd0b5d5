"""Folders to make pages of, written as the commands write them."""

import json

from handmade import nothing_completed, served, three_requests

from tetrisim.metrics.summary import summarize
from tetrisim.scenario.load import load
from tetrisim.studies.compare import Comparison
from tetrisim.studies.store import save_comparison, save_run

EVIL = "<script>document.title='owned'</script><img src=x onerror=alert(1)>\"'&"


def draw(path):
    path.write_bytes(b"")


def run(folder, result=None, warmup=0.0):
    result = three_requests() if result is None else result
    save_run(folder, result, summarize(result, warmup=warmup), draw)
    return folder


def unserved(folder):
    return run(folder, nothing_completed())


def comparison(folder, requests=400):
    results = {name: served(name, *times, requests) for name, times in MEDIANS.items()}
    save_comparison(folder, Comparison(load("default"), results, summaries(requests)), draw)
    return folder


def summaries(requests=400):
    """What `comparison` writes to summary.csv."""
    results = [served(name, *times, requests) for name, times in MEDIANS.items()]
    first = summarize(results[0])
    return [summarize(result, first) for result in results]


MEDIANS = {"vllm-v0": (0.3, 0.012), "vllm-v1": (0.2, 0.02), "tetriinfer": (0.9, 0.01)}


def seeds(folder):
    """A comparison under two seeds, of which one difference is shown."""
    comparison(folder)
    rows = [difference(system, metric, -2.0, 1.0 if metric == "mean_ttft_ms" else -1.0)
            for system in list(MEDIANS)[1:] for metric in ("mean_ttft_ms", "p99_tpot_ms")]  # fmt: skip
    found = {"seeds": 2, "baseline": "vllm-v0", "differences": rows, "summaries": []}
    (folder / "differences.json").write_text(json.dumps(found))
    return folder


def difference(system, metric, low, high):
    middle = {"mean": (low + high) / 2, "low": low, "high": high}
    own = {"mean": 20.0, "low": 19.0, "high": 21.0}
    return {
        "system": system, "metric": metric, "baseline": own, "difference": middle, "seeds": 2, "shown": high < 0,
    }  # fmt: skip


def evil(folder):
    """A run whose every text is an attempt at a script."""
    run(folder)
    record = json.loads((folder / "run.json").read_text())
    record["runs"][0] |= {"system": EVIL, "provenance": [EVIL]}
    record["runs"][0]["instances"][0]["instance"] = EVIL
    (folder / "run.json").write_text(json.dumps(record))
    table = (folder / "summary.csv").read_text().replace("vllm-v1", '"' + EVIL.replace('"', '""') + '"', 1)
    (folder / "summary.csv").write_text(table)
    (folder / "scenario.yaml").write_text(json.dumps({"model": EVIL, "workload": {"trace": EVIL, "requests": 3}}))
    return folder


def sweep(folder, text="x"):
    """Two systems by two rates under two seeds: a point cannot be run."""
    grid = {"workload.rate": ["5 /s", "10 /s"], "system": ["vllm-v1", text]}
    rows = [
        {"workload.rate": rate, "system": system, "status": "ok", "reason": "", "key": "k", "rejected": 0,
         "unfinished": 0, "p99_ttft_ms": 100.0 + place, "p99_ttft_ms_half95": 5.0, "request_goodput": 4.0,
         "estimated_share": 1.0, "provenance": [text]}
        for place, (rate, system) in enumerate((r, s) for r in grid["workload.rate"] for s in grid["system"])
    ]  # fmt: skip
    rows[3] = {
        "workload.rate": "10 /s",
        "system": text,
        "status": "invalid",
        "reason": f"no such thing {text}",
        "key": "",
    }
    (folder / "runs" / "k").mkdir(parents=True)
    (folder / "runs" / "k" / "run.json").write_text(
        json.dumps({"slo": {"ttft_s": 0.1, "tpot_s": None, "e2el_s": None}})
    )
    (folder / "sweep.json").write_text(json.dumps({"kind": "sweep", "grid": grid, "seeds": 2, "rows": rows}))
    return folder


def plan(folder, text="x"):
    """Two clusters of which the dearer meets the SLO, and one ruled out."""
    common = {"gpu": "h100-sxm", "system": text, "tpot_ms": 12.5, "goodput": 9.5}
    candidates = [
        {"name": f"1 x {text}", "gpus": 1, "dollars_per_hour": 3.0, "tokens_per_s_per_gpu": 900.0, "rank": None,
         "tokens_per_s_per_user": 40.0, "ttft_ms": 800.0, "meets": False, "pareto": False, **common},
        {"name": f"2 x {text}", "gpus": 2, "dollars_per_hour": 6.0, "tokens_per_s_per_gpu": 450.0, "rank": 1,
         "tokens_per_s_per_user": 80.0, "ttft_ms": 90.0, "meets": True, "pareto": True, **common},
    ]  # fmt: skip
    folder.mkdir()
    answer = folder / "1-2-x"
    answer.mkdir()
    (answer / "scenario.yaml").write_text(f"model: '{text}'\n")
    (answer / "serve.sh").write_text(f"vllm serve {text}\n")
    found = {"kind": "plan", "candidates": candidates, "pruned": [{"name": "l40s", "reason": f"too small: {text}"}],
             "answers": [candidates[1]["name"]]}  # fmt: skip
    (folder / "plan.json").write_text(json.dumps(found))
    return folder
