"""`tetrisim plan`: the table, the folder, serve lines, and exit codes."""

import json
import re
import stat
import subprocess

import pytest
from cli.shell import tetrisim

from tetrisim.scenario.load import load, resolve
from tetrisim.studies.plan_serve import serve_script

SMALL = [
    "--gpu", "h100-sxm", "--tp", "1,2", "--tokens", "2048", "--chunk", "512", "--seqs", "128", "--percentile", "90",
    "--seeds", "2", "--set", "workload.requests=300",
]  # fmt: skip


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """A plan for 20 requests/s, written to a folder."""
    folder = tmp_path_factory.mktemp("plan") / "out"
    done = tetrisim("plan", "default", "--rate", 20, *SMALL, "--out", folder)
    assert done.exit_code == 0, done.output
    return folder, done.stdout


def test_table_and_sentences(planned):
    folder, said = planned
    found = json.loads((folder / "plan.json").read_text())
    best = found["candidates"][0]
    assert re.search(r"^1 +h100-sxm +\S+ +.*2 x tp1|1 x tp2", said, re.M)
    assert f"Cheapest for 20 requests/s with p90 TTFT <= 500 ms and p90 TPOT <= 20 ms: {best['name']}" in said
    price = best["dollars_per_hour"]
    assert f"{best['gpus']} h100-sxm x 3.00 $/h = {price:.2f} $/h, list price." in said
    assert f"{found['counts']['candidates']} candidate clusters in {found['counts']['families']} families" in said
    assert f"{found['counts']['simulated']} simulated" in said
    assert "weights + " in said and "runtime + " in said
    assert "100 % estimated" in said


def test_json_on_stdout_is_what_the_folder_holds(planned):
    folder, _ = planned
    done = tetrisim("plan", "default", "--rate", 20, *SMALL, "--json")
    told, kept = json.loads(done.stdout), json.loads((folder / "plan.json").read_text())
    assert told.pop("wall_s") and kept.pop("wall_s")
    assert told == kept and kept["kind"] == "plan"
    keys = {"name", "gpu", "system", "pools", "tensor_parallel", "gpus", "dollars_per_hour", "ttft_ms", "tpot_ms"}
    keys |= {"dollars_per_million_tokens", "tokens_per_s_per_gpu", "tokens_per_s_per_user", "goodput", "instances"}
    keys |= {"meets", "pareto", "rank"}
    assert all(keys <= set(row) for row in kept["candidates"])
    assert all({"name", "reason"} <= set(each) for each in kept["pruned"])


def test_every_answer_runs_again_with_the_same_numbers(planned):
    folder, _ = planned
    found = json.loads((folder / "plan.json").read_text())
    rows = {row["name"]: row for row in found["candidates"]}
    folders = sorted(each for each in folder.iterdir() if each.is_dir())
    assert len(folders) == len(found["answers"]) >= 2
    for name, own in zip(found["answers"], folders, strict=True):
        done = tetrisim("run", own / "scenario.yaml", "--json")
        assert done.exit_code == 0, done.output
        said = json.loads(done.stdout)
        assert {key: said[key] for key in rows[name]["final_run"]} == rows[name]["final_run"]
        assert load(own / "scenario.yaml").workload.rate_per_s == 20
        subprocess.run(["sh", "-n", own / "serve.sh"], check=True)
    assert (folder / "pareto.png").read_bytes().startswith(b"\x89PNG")


def test_most_for_money_with_goodput():
    arguments = ["--goodput" if each == "--percentile" else each for each in SMALL]
    done = tetrisim("plan", "default", "--budget", 6, *arguments, "--systems", "vllm-v1")
    assert done.exit_code == 0, done.output
    assert "Most for 6 $/h, that is the highest arrival rate with 90 % of requests within TTFT" in done.stdout
    assert "carries" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--rate", 20, "--set", "slo.ttft=1 ms"], "Binding: the speed of one instance: TTFT of a request alone is at"),
        (["--rate", 900, "--most-gpus", 1], "Binding: the number of GPUs; 900 requests/s are at least the work of"),
        (
            ["--rate", 30, "--most-gpus", 1],
            r"Nearest miss: 1 x h100-sxm tp1 .*, TPOT [\d.]+ ms of 20 ms at 30 requests/s",
        ),
        (["--budget", 2], "the smallest cluster has 1, at 3.00"),
        (
            ["--gpus", 1, "--tp", "1", "--set", "model=llama-3.1-70b"],
            "Binding: GPU memory: llama-3.1-70b does not fit on",
        ),
    ],
)
def test_nothing_fits_is_exit_code_3_with_the_nearest_miss(arguments, says):
    done = tetrisim("plan", "default", *SMALL, *arguments)
    assert done.exit_code == 3, done.output
    assert done.stdout.startswith("No cluster ")
    assert re.search(says, done.stdout), done.stdout
    assert "Traceback" not in done.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "plan: has no goal; expected --rate R, --gpus N or --budget"),
        (["--rate", 5, "--gpus", 3], "--gpus: is given beside --rate"),
        (["--rate", 0], "--rate: is out of range"),
        (["--rate", 5, "--tp", "1,x"], "--tp: is '1,x'; expected whole numbers"),
        (["--rate", 5, "--seqs", "0"], "--seqs: is out of range; expected whole numbers of at least 1"),
        (["--rate", 5, "--gpu", "h100"], "--gpu: unknown name 'h100'; expected one of .*did you mean 'h100-sxm'"),
        (["--rate", 5, "--systems", "vlm-v1"], "--systems: unknown name 'vlm-v1'.*did you mean 'vllm-v1'"),
        (["--rate", 5, "--percentile", 101], "--percentile: is out of range; expected between 0 and 100, not 101"),
        (["--rate", 5, "--percentile", 99, "--goodput", 95], "--goodput: is given beside --percentile"),
        (["--rate", 5, "--set", "workload.requests=50"], "workload.requests: 45 requests are judged, too few"),
    ],
)
def test_bad_options_are_one_line_and_exit_code_2(arguments, says):
    done = tetrisim("plan", "default", *arguments)
    assert done.exit_code == 2
    assert re.match(f"error: {says}", done.stderr), done.stderr
    assert done.stderr.count("\n") == 1 and not done.stdout


def test_a_folder_that_exists_is_left_alone_before_anything_runs(tmp_path):
    done = tetrisim("plan", "default", "--rate", 5, "--out", tmp_path)
    assert done.exit_code == 2 and "exists already" in done.stderr
    assert not list(tmp_path.iterdir()) and tmp_path.stat().st_mode & stat.S_IWUSR


def lines_of(script):
    return [line.strip() for line in script.splitlines() if "vllm serve" in line]


class TestServe:
    def scenario(self, **cluster):
        return resolve({
            "model": "llama-3.1-8b",
            "system": cluster.pop("system"),
            "workload": {"trace": "azure-conv-like", "arrivals": "poisson", "rate": "5 /s"},
            "cluster": {"gpu": "l40s", **cluster},
        })  # fmt: skip

    def test_two_replicas_of_two_gpus(self):
        """The KV blocks of two L40S hold llama-3.1-8b's 131,072 positions."""
        pool = {"role": "hybrid", "instances": 2, "tensor_parallel": 2, "max_num_batched_tokens": 2048,
                "max_num_seqs": 128, "memory_utilization": 0.85, "prefix_caching": False}  # fmt: skip
        flags = (
            "--tensor-parallel-size 2 --dtype bfloat16 --max-num-batched-tokens 2048 --max-num-seqs 128 "
            "--gpu-memory-utilization 0.85 --block-size 16 --no-enable-prefix-caching --async-scheduling &"
        )
        assert lines_of(serve_script(self.scenario(system="vllm-v1", pools=[pool]))) == [
            f'CUDA_VISIBLE_DEVICES=0,1 vllm serve "$MODEL" --port 8000 {flags}',
            f'CUDA_VISIBLE_DEVICES=2,3 vllm serve "$MODEL" --port 8001 {flags}',
        ]

    def test_prefill_and_decode_speak_through_nixl(self):
        """A KV cache of (43.2 - 15.0 - 0.2 - 0.75) GiB, 2 MiB a block: 13,960 blocks hold all positions; an RTX 4090's
        less, so that vLLM must be told a shorter longest request."""
        pools = [{"role": "prefill", "instances": 1, "chunk_tokens": 512}, {"role": "decode", "max_num_seqs": 64}]
        common = "--gpu-memory-utilization 0.9 --block-size 16"
        script = serve_script(self.scenario(system="tetriinfer", pools=pools))
        assert lines_of(script) == [
            'CUDA_VISIBLE_DEVICES=0 VLLM_NIXL_SIDE_CHANNEL_PORT=5600 UCX_NET_DEVICES=all vllm serve "$MODEL" '
            f"--port 8000 --tensor-parallel-size 1 --dtype bfloat16 --max-num-batched-tokens 512 --max-num-seqs 256 "
            f"{common} --no-enable-prefix-caching --no-async-scheduling --kv-transfer-config "
            '\'{"kv_connector":"NixlConnector","kv_role":"kv_producer"}\' &',
            'CUDA_VISIBLE_DEVICES=1 VLLM_NIXL_SIDE_CHANNEL_PORT=5608 UCX_NET_DEVICES=all vllm serve "$MODEL" '
            f"--port 8001 --tensor-parallel-size 1 --dtype bfloat16 --max-num-seqs 64 {common} "
            "--no-enable-prefix-caching --no-async-scheduling --kv-transfer-config "
            '\'{"kv_connector":"NixlConnector","kv_role":"kv_consumer"}\' &',
        ]
        assert "--prefiller-hosts machine-1 --prefiller-ports 8000" in script
        assert "--decoder-hosts machine-1 --decoder-ports 8001" in script
        assert "# Simulated: tetriinfer with fixed-chunks batching, which vLLM does not have" in script
        tight = serve_script(self.scenario(system="vllm-v1", pools=[{"role": "hybrid", "gpu": "rtx-4090"}]))
        (line,) = lines_of(tight)
        room = int(re.search(r"--max-model-len (\d+)", line)[1])
        assert room < 131_072 and room % 16 == 0

    def test_an_instance_stays_on_one_machine_of_eight_gpus(self):
        pool = {"role": "hybrid", "instances": 5, "tensor_parallel": 4}
        script = serve_script(self.scenario(system="vllm-v1", pools=[pool]))
        first, second, third = script.split("if [")[1:]
        assert [part.count("vllm serve") for part in (first, second, third)] == [2, 2, 1]
        assert "CUDA_VISIBLE_DEVICES=0,1,2,3 " in second and "CUDA_VISIBLE_DEVICES=4,5,6,7 " in second
        assert "machine-3:8004" in script
