"""studies/ppo_on_a_bandit.py: what it compares, its claims; its command, and pairs_or_scores'."""

import json

import numpy as np
import pairs_or_scores
import ppo_on_a_bandit as study
import pytest
from helpers import run_script
from rlhf_objectives import make_bandit

from common.claims import judge


@pytest.fixture(scope="module")
def measured() -> dict:
    return study.measure(1)


def test_settings_without_clipping_equal_clipping_for_one_pass(measured):
    clipped, unclipped = (np.array(measured["distance"][arm]) for arm in ("clipped", "unclipped"))
    assert clipped.shape == unclipped.shape == (len(study.EPOCHS), len(study.LEARNING_RATES))
    # One pass never leaves ratio 1, so there is nothing to clip: only the sampled batches differ.
    assert np.abs(clipped[0] - unclipped[0]).max() < 0.1
    assert unclipped[-1, -1] - clipped[-1, -1] > 0.2
    added = clipped[-1, clipped[0].argmin()] - clipped[-1].min()
    assert measured["distance_added_by_epochs"] == pytest.approx(added)


def test_with_the_kl_term_ppo_ends_at_the_formulas_optimum_and_without_it_at_the_favourite(
    measured,
):
    ends = measured["end"]
    assert ends["with_kl"]["distance"] < study.CONVERGED
    most = make_bandit(20, seed=1).reward.max(-1).mean()  # of the answer that is rewarded most
    assert ends["without_kl"]["reward"] == pytest.approx(most, abs=0.02)
    assert ends["without_kl"]["distance"] > 0.3


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((0.9, 0.3), "holds"),
        ((-0.9, 0.0), "does not hold"),
        ((0.0, 0.01), "no difference"),
    ],
)
def test_claims_are_true_where_they_should_be(values, expected):
    names = ("gold_lost_without_kl", "distance_added_by_epochs")
    metrics = []
    for shift in np.linspace(-0.001, 0.001, 5):  # five seeds
        metrics.append(dict(zip(names, np.add(values, shift), strict=True)))
    assert {judge(claim, metrics)["verdict"] for claim in study.CLAIMS} == {expected}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """What the two cheap studies write when they run side by side; the others: in their tests."""
    folder = tmp_path_factory.mktemp("studies")
    cheap = ("pairs_or_scores", "ppo_on_a_bandit")
    done = run_script("run_all", "--smoke", "--jobs", 2, "--scripts", *cheap, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "outputs"


@pytest.mark.parametrize("module", [study, pairs_or_scores])
def test_what_a_study_writes(outputs, module):
    path = outputs / "studies" / f"{module.__name__}-smoke.json"
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    results = json.loads(path.read_text())
    assert results["seeds"] == [0]
    assert [claim["id"] for claim in results["claims"]] == [claim.id for claim in module.CLAIMS]
    said = (outputs / "logs" / f"{module.__name__}.log").read_text(encoding="utf-8")
    assert all(claim["says"][:40] in said for claim in results["claims"])


def test_the_metrics(outputs):
    results = json.loads((outputs / "studies" / "ppo_on_a_bandit-smoke.json").read_text())
    (metrics,) = (run["metrics"] for run in results["runs"])
    ends = metrics["end"]
    for arm, end in ends.items():
        assert metrics["curves"][arm]["gold"][-1] == pytest.approx(end["gold"])
    start = {metrics["curves"][arm]["gold"][0] for arm in ends}  # the same for both
    (lost,) = (gold - ends["without_kl"]["gold"] for gold in start)
    assert metrics["gold_lost_without_kl"] == pytest.approx(lost)


def test_the_metrics_of_pairs_or_scores(outputs):
    results = json.loads((outputs / "studies" / "pairs_or_scores-smoke.json").read_text())
    claims = {claim["id"]: claim["mean"] for claim in results["claims"]}
    (metrics,) = (run["metrics"] for run in results["runs"])
    assert metrics["responses_read"] == [12, 24, 48, 96]
    pairs, scores = (metrics["tau"][name][-3] for name in ("pairwise", "new_rater_each_time"))
    found = claims["pairwise_beats_pointwise_at_equal_cost"]
    assert found == pytest.approx(pairs - scores, abs=2e-6)
