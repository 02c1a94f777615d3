"""frontier.py: the limit, the share of its gain, and the claims, on points with known answers."""

import math

import frontier
import pytest

from common.cli import UserError
from common.reporting import judge, run_checks, write_json

# Of the limit: KL, gold utility, and the share of the pool that counts (the last one is too small).
OPTIMUM = ((1.0, 4.0, 0.2), (0.5, 3.0, 0.5), (2.0, 4.5, 0.05))
# Of every run: KL and gold utility of its points, in order; the last one stands for it.
RUNS = {
    ("best of n", "human"): ((0, 2.0), (0.3, 2.5), (1.0, 3.5), (2.0, 3.9)),
    ("best of n", "length"): ((1.0, 1.0),),
    ("DPO", "default"): ((0.5, 2.5),),
    ("DPO", "biased"): ((0.1, 2.0), (0.5, 2.4), (5.0, 1.1)),
    ("DPO + best of n", "human"): ((1.0, 3.9),),
    ("IPO", "ipo"): ((0.5, 2.2),),
    ("KTO", "kto"): ((0.5, 2.3),),
    ("AI labels", "ai_labels"): ((0.5, 2.1),),
    ("on-policy DPO", "policy"): ((0.25, 2.8),),
    ("online RL", "default"): ((0.5, 2.7), (3.0, 3.0)),
    ("SFT on chosen", "sft_on_chosen"): ((0.5, 2.4),),
    ("random labels", "coin"): ((0.0, 2.0),),
}
HALF = 0.1  # of every interval


def quantity(mean: float) -> dict:
    return {"mean": mean, "ci95": [mean - HALF, mean + HALF]}


def made_up() -> list[dict]:
    points = []
    for kl, gold, share in OPTIMUM:
        point = {"method": "optimum", "series": "gold", "sample_share": share}
        points.append({**point, "kl": quantity(kl), "gold": quantity(gold)})
    for (method, series), run in RUNS.items():
        for n, (kl, gold) in zip((1, 4, 16, 64), run, strict=False):
            point = {"method": method, "series": series, "label": method, "annotations": 768}
            of_n = {"n": n} if method == "best of n" else {}
            points.append({**point, **of_n, "kl": quantity(kl), "gold": quantity(gold)})
    return points


@pytest.fixture(scope="module")
def metrics() -> dict:
    return frontier.study(made_up())


def test_the_limit_starts_at_the_checkpoint_and_ends_where_the_pool_does(metrics):
    limit = [(row["kl"], row["gold"]) for row in metrics["limit"]]
    assert limit == [(0, 2.0), (0.5, 3.0), (1.0, 4.0)]
    assert all(point["method"] != "optimum" for point in metrics["points"])


def test_gains_are_shares_of_the_limits_gain_at_the_same_kl(metrics):
    rows = {row["method"]: row for row in metrics["methods"]}
    shares = {name: row["share"]["mean"] for name, row in rows.items()}
    assert shares["best of n"] == pytest.approx(1.5 / 2)  # n = 16, and not the last point
    assert shares["DPO"] == pytest.approx(0.5 / 1)
    assert shares["online RL"] == pytest.approx(1.0 / 2)  # beyond the limit's last KL it is flat
    assert shares["on-policy DPO"] == pytest.approx(0.8 / 0.5)  # between two points of the limit
    low, high = rows["DPO"]["share"]["ci95"]
    assert (low, high) == (pytest.approx(0.4), pytest.approx(0.6))
    assert rows["DPO"]["gain"]["mean"] == pytest.approx(0.5)
    assert metrics["excess"] == pytest.approx(2.8 - HALF - 2.5)


def test_every_claim_compares_what_it_says(metrics):
    assert metrics["best_tuned"] == "online RL"  # of those that give one sample an answer
    assert metrics["best_of_n_share"]["mean"] == pytest.approx(1.5 / 1.0)
    minus_dpo = metrics["best_of_n_minus_dpo"]
    half = math.hypot(HALF / 2, HALF / 1)  # of the two shares
    assert minus_dpo["mean"] == pytest.approx(0.75 - 0.5)
    assert minus_dpo["ci95"] == [pytest.approx(0.25 - half), pytest.approx(0.25 + half)]
    assert metrics["online_rl_minus_dpo"]["mean"] == pytest.approx(0)
    lost = metrics["lost_by_biased_dpo"]  # from the best look to the last
    assert lost["mean"] == pytest.approx(2.4 - 1.1)
    assert lost["ci95"][0] == pytest.approx(1.3 - math.hypot(HALF, HALF))
    verdicts = {claim["id"]: claim["verdict"] for claim in judge(frontier.CLAIMS, metrics)}
    assert verdicts == {
        "best_of_n_is_a_strong_baseline": "holds",
        "best_of_n_spends_kl_better": "holds",
        "online_rl_spends_kl_better": "undecided",
        "over_optimization_is_real": "holds",
    }
    (check,) = run_checks(frontier.CHECKS, metrics)
    assert not check["passes"]  # on-policy DPO lies above the limit


def test_a_method_that_was_not_measured_is_named():
    points = [point for point in made_up() if point["method"] != "on-policy DPO"]
    with pytest.raises(UserError, match=r"nothing was measured of on-policy DPO: .* again"):
        frontier.study(points)


def test_results_that_are_missing_say_which_script_makes_them(tmp_path, monkeypatch):
    monkeypatch.setattr(frontier, "COMMITTED", tmp_path / "none")
    with pytest.raises(UserError, match=r"dpo_training-seed-2\.json is missing; .*dpo_trainer\.py"):
        frontier.collect(2, tmp_path, False)
    for name in frontier.SOURCES:
        results = {"settings": {}, "claims": [], "checks": [], "wall_seconds": {"total": 1}}
        results["metrics"] = {"frontier": [name]}
        write_json(tmp_path / f"{name}-seed-2.json", results)
    points, seconds = frontier.collect(2, tmp_path, False)
    assert points == list(frontier.SOURCES) and set(seconds) == set(frontier.SOURCES.values())
