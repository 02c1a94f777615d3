"""Claims and verdicts, and the run of a study (common/claims.py)."""

import json
import subprocess
import sys
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest

from common import claims
from common.claims import (
    ABOVE_ZERO,
    INFINITY,
    Claim,
    discoveries,
    judge,
)


@pytest.mark.parametrize(
    ("ci95", "region", "smallest", "verdict"),
    [
        ((0.1, 0.5), ABOVE_ZERO, 0, "holds"),
        ((-0.5, -0.1), ABOVE_ZERO, 0, "does not hold"),
        ((-0.1, 0.5), ABOVE_ZERO, 0, "undecided"),
        ((0.0, 0.5), ABOVE_ZERO, 0, "undecided"),  # touches the border from inside
        ((-0.5, 0.0), ABOVE_ZERO, 0, "does not hold"),  # nothing above it
        ((0.0, 0.0), ABOVE_ZERO, 0, "does not hold"),
        ((0.0, 0.0), (-1e-12, 1e-12), 0, "holds"),
        ((0.9, 1.1), (0.85, 1.15), 0, "holds"),
        ((0.8, 1.1), (0.85, 1.15), 0, "undecided"),
        ((0.9, 1.2), (0.85, 1.15), 0, "undecided"),
        ((0.8, 1.2), (0.85, 1.15), 0, "undecided"),
        ((1.15, 1.3), (0.85, 1.15), 0, "does not hold"),
        ((0.2, 0.85), (0.85, 1.15), 0, "does not hold"),
        ((-2, -1), (-INFINITY, 0), 0, "holds"),
        ((1, 2), (-INFINITY, 0), 0, "does not hold"),
        ((-0.04, 0.04), ABOVE_ZERO, 0.05, "no difference"),
        ((0.01, 0.04), ABOVE_ZERO, 0.05, "no difference"),  # sure, and too small to matter
        ((-0.04, -0.01), ABOVE_ZERO, 0.05, "no difference"),
        ((-0.04, 0.06), ABOVE_ZERO, 0.05, "undecided"),
        ((0.01, 0.06), ABOVE_ZERO, 0.05, "holds"),
        ((-0.06, -0.01), ABOVE_ZERO, 0.05, "does not hold"),
        ((1.11, 1.18), (0.85, 1.15), 0.05, "no difference"),
        (None, ABOVE_ZERO, 0.05, "undecided"),
    ],
)
def test_verdicts(ci95, region, smallest, verdict):
    assert claims.verdict(ci95, region, smallest) == verdict


def test_a_judged_claim_is_ready_for_json():
    claim = Claim("a", "says", "measured", lambda m: m["y"])
    judged = judge(claim, [{"y": np.float32(1.0)}, {"y": 2}], published="a paper")
    half = 12.71 * 0.5
    assert judged == {
        "id": "a",
        "says": "says",
        "measured": "measured",
        "true": [0.0, None],
        "smallest": 0.0,
        "predicted": "holds",
        "published": "a paper",
        "mean": 1.5,
        "ci95": [1.5 - half, 1.5 + half],
        "by_seed": [1.0, 2.0],
        "verdict": "undecided",
    }
    assert json.loads(json.dumps(judged)) == judged
    alone = judge(claim, [{"y": 3.0}])
    assert (alone["ci95"], alone["verdict"]) == (None, "undecided")
    tiny = judge(claim, [{"y": 1e-9}] * 3)  # above 0, where nothing else is said
    assert tiny["verdict"] == "holds" and tiny["ci95"] == [0.0, 0.0]  # judged before rounding
    region = Claim("b", "", "", lambda m: m["y"], (0.5, 1.5))
    assert judge(region, [{"y": 1.0}] * 3)["verdict"] == "holds"


# Benjamini and Hochberg 1995, section 3.2: fifteen p-values, of which four are discoveries at 5 %.
P_VALUES = (0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240)
P_VALUES += (0.4262, 0.5719, 0.6528, 0.7590, 1.0000)


def judged_at(p: float, region=ABOVE_ZERO, below: bool = False) -> dict:
    """A claim whose interval implies this p-value, `below` the lower border or above it."""
    distance = NormalDist().inv_cdf(1 - p / 2) / 1.96  # in half-widths of 1
    mean = region[0] - distance if below else region[0] + distance
    ci95 = (mean - 1, mean + 1)
    judged = {"id": f"p {p}", "true": [region[0], None], "mean": mean, "ci95": ci95}
    return {**judged, "verdict": claims.verdict(ci95, region)}


@pytest.mark.parametrize(
    ("rate", "count"),
    [
        (15 * 0.0001, 1),
        (15 / 3 * 0.0019, 3),  # of the second alone it would be 15 / 2 * 0.0004
        (0.05, 4),
        (15 / 5 * 0.0201, 5),
        (0.063, 5),
        (15 / 7 * 0.0298, 7),  # the sixth is no less sure than the seventh
        (0.5, 10),
    ],
)
def test_discoveries_by_their_own_example(rate, count):
    judged = [judged_at(p, below=k % 2 == 1) for k, p in enumerate(P_VALUES)]
    assert {claim["verdict"] for claim in judged} == {"holds", "does not hold", "undecided"}
    expected = {f"p {p}" for p in P_VALUES[:count]}
    rate *= 1 + 1e-9  # the intervals give the p-values but for rounding
    assert discoveries(judged, rate) == discoveries(judged[::-1], rate) == expected
    no_interval = {**judged[0], "id": "none", "ci95": None, "verdict": "undecided"}
    equal = {**judged[0], "id": "equal", "verdict": "no difference"}
    assert discoveries([*judged, no_interval, equal], rate) == expected
    assert discoveries([]) == set()


def test_a_p_value_looks_at_the_nearest_border():
    claim = {"id": "a", "true": [0.0, 10.0], "verdict": "holds"}
    near_top = {**claim, "mean": 9.0, "ci95": [8.02, 9.98]}
    p = 2 * NormalDist().cdf(-1.0 * 1.96 / 0.98)
    assert discoveries([near_top], 1.001 * p) == {"a"} and not discoveries([near_top], 0.999 * p)
    assert discoveries([{**claim, "mean": 5.0, "ci95": [5.0, 5.0]}], 0) == {"a"}
    assert not discoveries([{**claim, "mean": 0.0, "ci95": [0.0, 0.0]}], 0.99)


# --- The run of a study ---

STUDY = """A made-up study: does a number grow?

Its docstring is the help.
"""

CODE = f'''"""{STUDY}"""
from common.claims import Claim, run_study, study_folder
import numpy as np

CLAIMS = (Claim("grows", "the number grows", "by how much", of=lambda m: m["rise"], smallest=0.1),)

def measure(seed, smoke):
    if seed == 9:
        raise ValueError("no such seed")
    study_folder(seed, smoke).parent.mkdir(parents=True, exist_ok=True)
    with open(study_folder(seed, smoke).parent / "ran.txt", "a") as file:
        file.write(f"{{seed}} {{smoke}}\\n")
    return {{"rise": 1.0 + seed / 10}}

def draw(runs):
    from common.figures import new_figure, seed_dots
    figure, axes = new_figure(1, 1, "The number grows")
    seed_dots(axes[0], 0, [run["rise"] for run in runs], "lab:dpo")
    return figure

if __name__ == "__main__":
    run_study(CLAIMS, measure, draw)
'''


def run_made_up(folder: Path, *flags: str) -> subprocess.CompletedProcess:
    (folder / "made_up.py").write_text(CODE, encoding="utf-8")
    (folder / "published.json").write_text('{"grows": "agrees: nobody"}', encoding="utf-8")
    command = [sys.executable, "made_up.py", *flags]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_a_study_runs_its_seeds_once_and_judges_from_five_on(tmp_path):
    one = run_made_up(tmp_path)
    assert one.returncode == 0, one.stderr
    saved = json.loads((tmp_path / "outputs/studies/made_up.json").read_text())
    assert saved["seeds"] == [0] and saved["runs"][0]["metrics"]["rise"] == 1.0
    assert "too few seeds" in one.stdout and "holds" not in one.stdout
    five = run_made_up(tmp_path, "--seeds", "0", "1", "2", "3", "4", "--jobs", "2")
    assert five.returncode == 0 and "holds" in five.stdout and "seeds 0 to 4" in five.stdout
    ran = (tmp_path / "outputs/studies/ran.txt").read_text().split("\n")
    assert sorted(ran)[1:] == [f"{seed} False" for seed in range(5)]  # seed 0 only once
    saved = json.loads((tmp_path / "outputs/studies/made_up.json").read_text())
    (claim,) = saved["claims"]
    assert claim["by_seed"] == [1.0, 1.1, 1.2, 1.3, 1.4] and claim["verdict"] == "holds"
    assert (tmp_path / "outputs/studies/made_up.png").stat().st_size > 1000
    listed = run_made_up(tmp_path, "--claims")
    assert "the number grows" in listed.stdout and "agrees: nobody" in listed.stdout
    twice = run_made_up(tmp_path, "--seeds", "0", "0", "1")  # one run does not count as two
    assert twice.returncode == 0 and "too few seeds" in twice.stdout
    saved = json.loads((tmp_path / "outputs/studies/made_up.json").read_text())
    assert saved["seeds"] == [0, 1]
    assert (tmp_path / "outputs/studies/ran.txt").read_text().split("\n") == ran  # nothing ran


def test_a_seed_that_fails_is_one_line(tmp_path):
    failed = run_made_up(tmp_path, "--seeds", "0", "9")
    assert failed.returncode == 2 and failed.stderr.count("\n") == 1
    assert "ValueError: no such seed" in failed.stderr
    assert not (tmp_path / "outputs/studies/made_up.json").exists()


def test_a_changed_study_is_run_again(tmp_path):
    run_made_up(tmp_path)
    part = tmp_path / "outputs/studies/made_up/seed-0.json"
    content = json.loads(part.read_text())
    part.write_text(json.dumps({**content, "code": "of before"}))
    run_made_up(tmp_path)
    assert len((tmp_path / "outputs/studies/ran.txt").read_text().split()) == 4  # twice


def test_claims_become_a_table(tmp_path):
    found = "A paper (arXiv 2401.01234; abstract): so"
    claim = Claim("a", "it is so", "log-odds", lambda m: m, predicted="undecided")
    judged = judge(claim, [0.9, 1.0, 1.1], found)
    path = tmp_path / "claims.md"
    claims.write_claims_table(path, {"A question?": {"claims": [judged]}})
    text = path.read_text()
    assert "| A question? | it is so | log-odds | 1.00 [0.75, 1.25] | above 0 |" in text
    assert "above 0 | undecided | holds | A paper" in text
    assert "([arXiv 2401.01234](https://arxiv.org/abs/2401.01234); abstract): so |" in text
    assert "1 verdicts are not what was predicted" in text
    assert "1 claims (holds: 1, does not hold: 0, no difference: 0, undecided: 0)" in text
    assert "Of the 1 that are decided, 1 stand at a false-discovery rate of 5 %" in text
