from pathlib import Path

import pytest
import yaml
from latency.importers import tiny

from tetrisim.errors import ProfileError
from tetrisim.latency.build import build_timer
from tetrisim.latency.check import check_profile, choose_interpolation, compare, store_errors
from tetrisim.latency.importers.aiconfigurator import Wanted, convert
from tetrisim.latency.roofline import Shard
from tetrisim.latency.table import read_profile
from tetrisim.scenario.gpu import load_gpu
from tetrisim.scenario.model import load_model


@pytest.fixture
def profile(tmp_path):
    """A sound profile of two degrees; the folder of tp1."""
    tiny.systems(tmp_path / "systems")
    choice = Wanted([load_model(str(tiny.model(tmp_path)))], (), ("bf16",), (1, 2))
    return convert(tmp_path / "systems", tmp_path / "out", choice)[0]


def edit(path, change):
    lines = path.read_text().splitlines()
    path.write_text("\n".join(change(lines)) + "\n")


def rewrite(folder, start, time):
    """Give the row that starts with `start` another time; returns its line number."""
    path = folder / "linear.csv"
    lines = path.read_text().splitlines()
    number = next(i for i, line in enumerate(lines) if line.startswith(start))
    parts = lines[number].split(",")
    lines[number] = ",".join([*parts[:2], str(time), *parts[3:]])
    path.write_text("\n".join(lines) + "\n")
    return number + 1


def hard(folder):
    return [str(finding) for finding in check_profile(folder) if finding.hard]


def soft(folder):
    return [str(finding) for finding in check_profile(folder) if not finding.hard]


def test_a_sound_profile_has_no_hard_finding(profile):
    assert hard(profile) == []
    assert not any("faster" in line for line in soft(profile))


def test_a_row_that_beats_the_arithmetic_is_named(profile):
    # 2 * 8192 * 3072 * 1024 FLOPs at 989 TFLOP/s.
    line = rewrite(profile, "qkv_proj,8192", 40.0)
    assert hard(profile) == [
        f"{profile}/linear.csv:{line}: qkv_proj, tokens 8192 takes 40 us, faster than the peak FLOP rate of h100-sxm; "
        "expected at least 52.11 us"
    ]


def test_a_row_that_beats_the_memory_may_sit_in_the_cache_but_not_at_any_speed(profile):
    rewrite(profile, "o_proj,1,", 1.0)  # 4 MiB of weights take 1.25 us from memory
    assert hard(profile) == []
    assert any("o_proj, tokens 1 takes 1 us" in text and "may sit in its cache" in text for text in soft(profile))
    rewrite(profile, "o_proj,1,", 0.1)
    assert len(hard(profile)) == 1


def test_an_estimate_may_be_what_it_likes(profile):
    rewrite(profile, "layernorm,8192", 0.001)
    assert hard(profile) == []


@pytest.mark.parametrize(
    ("scale", "said"), [(1e3, "times the roofline's; expected microseconds"), (1e-3, "faster than")]
)
def test_another_unit_is_refused(profile, scale, said):
    def scaled(lines):
        rows = [line.split(",") for line in lines[1:]]
        return [lines[0], *(",".join([*row[:-2], f"{float(row[-2]) * scale:.6g}", row[-1]]) for row in rows)]

    edit(profile / "linear.csv", scaled)
    assert any(said in line for line in hard(profile))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: [*lines, "o_proj,3,-5,measured"], "time_us is '-5'; expected microseconds above 0"),
        (lambda lines: [*lines, "o_proj,3,nan,measured"], "time_us is 'nan'"),
        (lambda lines: [*lines, "o_proj,3"], "has not one value a column"),
        (lambda lines: [*lines, "o_proj,2.5,9,measured"], "tokens is '2.5'; expected a whole number"),
        (lambda lines: [*lines, "o_proj,3,9,mesured"], "source is 'mesured'"),
        (lambda lines: [*lines, lines[-1]], "is there twice; expected one row a point"),
        (lambda lines: [lines[0].replace("time_us", "time_ms"), *lines[1:]], "column 'time_us' is missing"),
    ],
)
def test_a_malformed_row_is_one_hard_finding_with_its_line(profile, change, said):
    edit(profile / "linear.csv", change)
    (finding,) = hard(profile)
    assert said in finding
    assert finding.startswith(f"{profile}/linear.csv")


def test_a_provenance_that_names_another_gpu(profile):
    edit(profile / "profile.yaml", lambda lines: [line.replace("gpu: h100-sxm", "gpu: a100-80gb") for line in lines])
    assert any("names a100-80gb/tiny-llama/bf16/tp1; expected h100-sxm/" in line for line in hard(profile))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tensor_parallel": 0}, "tensor_parallel is 0; expected a whole number of at least 1"),
        ({"calls_per_layer": {"o_proj": "twice"}}, "calls_per_layer.o_proj is 'twice'; expected a whole number"),
        ({"interpolation": ["smooth"]}, "key 'interpolation' is of the wrong kind; expected dict"),
        ({"includes": ["hosts"]}, "includes 'hosts'; expected some of host, all_reduce"),
    ],
)
def test_a_provenance_that_makes_no_sense_is_one_line(profile, change, said):
    path = profile / "profile.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | change))
    (finding,) = hard(profile)
    assert finding.startswith(f"{path}: {said}")


def test_noise_is_a_warning(profile):
    line = rewrite(profile, "down_proj,64,", 60.0)
    said = soft(profile)
    assert (
        f"{profile}/linear.csv:{line}: down_proj, tokens: 64 takes 60 us, far off the line of its neighbours; "
        in "".join(said)
    )
    assert any("down_proj, tokens: 128 takes" in text and "less than 64" in text for text in said)
    assert hard(profile) == []


def test_a_hole_in_the_grid(profile):
    edit(
        profile / "linear.csv",
        lambda lines: [x for x in lines if not x.startswith(("o_proj,64,", "o_proj,128,", "o_proj,256,"))],
    )
    assert any("o_proj, tokens: nothing between 32 and 512" in text for text in soft(profile))


def test_a_shard_that_is_no_faster(profile):
    half = profile.parent / "tp2"
    rewrite(half, "gate_up_proj,8192", 1e3)
    assert any("gate_up_proj at 8192 tokens takes 5." in text and "tp1's time" in text for text in soft(half))


def test_leave_one_out_by_hand(tmp_path, profile):
    """On a time that is 10 us a token from 0, each inner point is predicted exactly; one 10 % up is 1/11 off."""
    rows = [f"o_proj,{tokens},{10 * tokens * (1.1 if tokens == 16 else 1)},measured" for tokens in (8, 12, 16, 20, 24)]
    head = [line for line in (profile / "linear.csv").read_text().splitlines() if not line.startswith("o_proj")]
    (profile / "linear.csv").write_text("\n".join([*head, *rows]) + "\n")
    _, errors = choose_interpolation(read_profile(profile))
    assert errors["o_proj"]["points"] == 3
    assert errors["o_proj"]["p90"] == pytest.approx(1 - 1 / 1.1, abs=0.02)
    assert "layernorm" not in errors, "an estimate has no error of its own"


def experts(folder, *rows):
    """A mixture's experts: 8 of 3 * 1024 * 512 weights, 2 a token."""
    (folder / "moe.csv").write_text("\n".join(["tokens,active_experts,time_us", *rows]) + "\n")
    meta = yaml.safe_load((folder / "profile.yaml").read_text())
    meta["experts"] = {"count": 8, "active": 2, "intermediate": 512}
    (folder / "profile.yaml").write_text(yaml.safe_dump(meta))


def test_experts_are_bound_by_their_weights_and_judged_along_the_tokens(profile):
    """8 experts of 3 MiB take 7.5 us from 3.35 TB/s, but 25 MB may sit in the cache; 8,192 tokens take 52 us."""
    experts(profile, "16,8,20", "64,8,32", "128,8,50", "256,8,80", "8192,8,2000")
    assert hard(profile) == [] and not any("moe" in text and "faster" in text for text in soft(profile))
    assert choose_interpolation(read_profile(profile))[1]["moe"]["points"] == 3
    experts(profile, "16,8,20", "8192,8,40")
    (finding,) = hard(profile)
    assert f"{profile}/moe.csv:3: tokens 8192, active_experts 8 takes 40 us, faster than the peak FLOP rate" in finding
    experts(profile, "16,8,5")
    assert any("moe.csv:2: tokens 16, active_experts 8 takes 5 us" in text for text in soft(profile))
    meta = yaml.safe_load((profile / "profile.yaml").read_text()) | {"experts": {"count": 8}}
    (profile / "profile.yaml").write_text(yaml.safe_dump(meta))
    (finding,) = hard(profile)
    assert "experts is {'count': 8}; expected count, active and intermediate" in finding


def test_a_layer_is_judged_as_a_whole_and_neighbours_beside_it(profile):
    errors = choose_interpolation(read_profile(profile))[1]
    assert errors["linear_layer"]["points"] == errors["o_proj"]["points"]
    assert errors["linear_layer"]["median"] <= max(errors[op]["median"] for op in ("qkv_proj", "o_proj", "down_proj"))
    path = profile / "linear.csv"
    row = next(line for line in path.read_text().splitlines() if line.startswith("o_proj,256,")).split(",")
    path.write_text(path.read_text() + f"o_proj,257,{1.1 * float(row[2])},measured\n")
    assert choose_interpolation(read_profile(profile))[1]["o_proj"]["one_token"] == pytest.approx(0.1)


def test_the_better_interpolation_is_chosen_stored_and_used(profile):
    meta = yaml.safe_load((profile / "profile.yaml").read_text())
    assert meta["interpolation"]["attention_prefill"] == "smooth", "prefill time bends"
    assert meta["errors"]["attention_prefill"]["median"] < 0.05
    store_errors(profile)
    again = yaml.safe_load((profile / "profile.yaml").read_text())
    assert again["errors"] == meta["errors"]
    shard = Shard(load_model(str(tiny.model(profile.parents[4]))), load_gpu("h100-sxm"), "bf16", 1)
    timer, _ = build_timer(shard, str(profile.parents[3]), "profile")
    smooth, _ = timer.attention.mixed(3000, 0, 0, 0)
    assert smooth == pytest.approx(tiny.prefill_s(3000, 16), rel=0.01)
    edit(profile / "profile.yaml", lambda lines: [line for line in lines if line != "  attention_prefill: smooth"])
    straight, _ = build_timer(shard, str(profile.parents[3]), "profile")[0].attention.mixed(3000, 0, 0, 0)
    assert straight > 1.04 * tiny.prefill_s(3000, 16)


def test_comparing_two_profiles_of_one_gpu(profile):
    one, half = read_profile(profile), read_profile(profile.parent / "tp2")
    same = compare(one, one)
    assert all(ratio == pytest.approx(1) and p90 == pytest.approx(0) for ratio, p90, _ in same.values())
    assert compare(one, half)["gate_up_proj"][0] > 1.2


def test_profiles_of_two_gpus_are_not_compared(profile):
    one = read_profile(profile)
    edit(profile / "profile.yaml", lambda lines: [line.replace("gpu: h100-sxm", "gpu: a100-80gb") for line in lines])
    with pytest.raises(ProfileError, match="is of a100-80gb; expected a profile of h100-sxm"):
        compare(one, read_profile(profile))


def test_a_missing_folder_is_one_finding():
    (finding,) = check_profile(Path("nowhere"))
    assert finding.hard
    assert str(finding).startswith("nowhere/profile.yaml: cannot read")
