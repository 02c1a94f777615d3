"""best_of_n.py: estimator, exact policy, KL and cost, against known answers and brute force."""

import itertools
import json
import math

from support.cost import count_flops, fitted_exponent, measure_cost
from support.drawing.best_of_n import draw_best_of_n
from support.evaluation import log_ratios, pair_logps, show_candidates
from support.pools import (
    compare_annotators,
    compare_methods,
    excess_over_optimum,
    frontier_points,
    reweighted,
    sizes_for,
)

import best_of_n as bon
import numpy as np
import pytest
from helpers import run_script
from rlhf_objectives import kl_regularized_optimum

from common.intervals import over_seeds
from common.models import encode_response, load_causal_lm, load_reward_model
from common.preferences import make_pairs, questions
from common.reporting import verdict

rng = np.random.default_rng(0)


# --- The estimator from a pool ---


def test_weights_of_four_choose_two():
    np.testing.assert_allclose(bon.best_of_n_weights(4, 2), np.array([0, 1, 2, 3]) / 6, atol=1e-12)


@pytest.mark.parametrize("size, n", [(1, 1), (5, 1), (5, 3), (7, 7), (64, 16), (2000, 500)])
def test_weights_are_a_distribution(size, n):
    weights = bon.best_of_n_weights(size, n)
    assert weights.sum() == pytest.approx(1, abs=1e-9) and (weights[: n - 1] == 0).all()
    assert weights[-1] == pytest.approx(
        n / size, abs=1e-9
    )  # the best of the pool is drawn n times in size


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_estimate_is_the_mean_over_all_subsets(n):
    rewards, values = rng.permutation(6).astype(float), rng.normal(size=6)
    subsets = list(itertools.combinations(range(6), n))
    best = [max(subset, key=lambda i: rewards[i]) for subset in subsets]
    assert bon.expected_best_of_n(rewards, n) == pytest.approx(
        np.mean([rewards[i] for i in best]), abs=1e-12
    )
    assert bon.expected_best_of_n(rewards, n, values) == pytest.approx(
        np.mean([values[i] for i in best]), abs=1e-12
    )


def test_ties_count_equally_whatever_their_order():
    rewards = np.array([1.0, 0.0, 1.0, 1.0])
    values = np.array([4.0, 100.0, 1.0, 1.0])
    expected = np.mean(
        [
            np.mean([values[i] for i in s if rewards[i] == max(rewards[list(s)])])
            for s in itertools.combinations(range(4), 2)
        ]
    )
    for order in itertools.permutations(range(4)):
        order = list(order)
        assert bon.expected_best_of_n(rewards[order], 2, values[order]) == pytest.approx(
            expected, abs=1e-12
        )


def test_pass_at_k_is_the_binary_case():
    assert bon.expected_best_of_n(np.array([0, 1, 0, 1, 0]), 3) == pytest.approx(0.9, abs=1e-12)


def test_n_outside_the_pool_is_refused():
    for n in (0, 4):
        with pytest.raises(ValueError, match="pool size 3"):
            bon.expected_best_of_n(np.zeros(3), n)


@pytest.mark.parametrize("n, maximum", [(2, 0.5642), (4, 1.0294), (8, 1.4237), (16, 1.7661)])
def test_expected_maximum_of_normals(n, maximum):
    estimates = [bon.expected_best_of_n(rng.normal(size=64), n) for _ in range(400)]
    assert np.mean(estimates) == pytest.approx(maximum, abs=4 * np.std(estimates) / math.sqrt(400))


# --- The exact policy ---

BASE = np.array([0.4, 0.3, 0.15, 0.1, 0.05])


def kl_divergence(p: np.ndarray, q: np.ndarray) -> float:
    """KL(p || q) in nats of two distributions (K,)."""
    inside = p > 0
    return float((p[inside] * np.log(p[inside] / q[inside])).sum())


def test_worked_policy():
    policy = bon.best_of_n_policy(BASE, np.arange(5), 4)
    np.testing.assert_allclose(policy, [0.0256, 0.2145, 0.2819, 0.2925, 0.1855], atol=5e-5)
    assert kl_divergence(policy, BASE) == pytest.approx(0.5927, abs=5e-5)
    assert bon.best_of_n_kl_bound(4) == pytest.approx(0.6363, abs=5e-5)
    # Win rate against one draw of the base, ties half.
    win_rate = sum(policy[i] * (BASE[:i].sum() + BASE[i] / 2) for i in range(5))
    assert win_rate == pytest.approx(0.7857, abs=5e-5) and win_rate <= 4 / 5


def test_policy_agrees_with_sampling_and_shares_ties():
    rewards, n, draws = np.array([0.0, 1.0, 1.0, 2.0, 2.0]), 3, 200_000
    sampled = rng.choice(5, size=(draws, n), p=BASE)
    scores = rewards[sampled] + 1e-6 * rng.random((draws, n))  # break ties at random
    winners = sampled[np.arange(draws), scores.argmax(1)]
    policy = bon.best_of_n_policy(BASE, rewards, n)
    frequencies = np.bincount(winners, minlength=5) / draws
    assert (np.abs(frequencies - policy) < 4 * np.sqrt(policy * (1 - policy) / draws) + 1e-9).all()
    assert policy[1] / policy[2] == pytest.approx(BASE[1] / BASE[2])


def test_n_1_is_the_base_and_order_does_not_matter():
    rewards = rng.normal(size=5)
    np.testing.assert_allclose(bon.best_of_n_policy(BASE, rewards, 1), BASE, atol=1e-12)
    order = rng.permutation(5)
    np.testing.assert_allclose(
        bon.best_of_n_policy(BASE[order], rewards[order], 4),
        bon.best_of_n_policy(BASE, rewards, 4)[order],
        atol=1e-12,
    )


def test_kl_stays_below_the_bound_and_reaches_it_without_ties():
    for n in (2, 4, 16):
        coarse = bon.best_of_n_policy(BASE, np.arange(5), n)
        fine_base = np.full(20_000, 1 / 20_000)
        fine = bon.best_of_n_policy(fine_base, np.arange(20_000), n)
        bound = bon.best_of_n_kl_bound(n)
        assert kl_divergence(coarse, BASE) < bound
        assert kl_divergence(fine, fine_base) == pytest.approx(bound, abs=2e-3)


def test_best_of_n_does_not_beat_the_optimum_at_its_kl():
    rewards = rng.normal(size=(3, 16))
    uniform = np.full(16, 1 / 16)
    for r in rewards:
        policy = bon.best_of_n_policy(uniform, r, 4)
        kl = kl_divergence(policy, uniform)
        betas = np.geomspace(0.05, 50, 400)
        optima = [kl_regularized_optimum(uniform, r, beta) for beta in betas]
        within = [p @ r for p in optima if kl_divergence(p, uniform) <= kl]
        assert max(within) > policy @ r - 0.02


# --- Curves ---


def test_curve_starts_at_the_mean_and_ends_at_the_best():
    pool = {"reward": rng.normal(size=(3, 8)), "utility": rng.normal(size=(3, 8))}
    curve = bon.best_of_n_curve(pool["reward"], pool["utility"], range(1, 9))
    np.testing.assert_allclose(curve[:, 0], pool["utility"].mean(1), atol=1e-12)
    best = pool["utility"][np.arange(3), pool["reward"].argmax(1)]
    np.testing.assert_allclose(curve[:, -1], best, atol=1e-12)
    assert (np.diff(bon.best_of_n_curve(pool["reward"], pool["reward"], range(1, 9))) > 0).all()


def arm(*values: float) -> dict:
    return {name: np.array([values] * 5) for name in ("reward", "utility", "good")}


def test_comparison_takes_the_ends_of_the_curves():
    curves = {"sft": arm(1, 2, 2, 2.5, 3), "as_many_pairs": arm(1, 0, 0, 0, 1.5)}
    measured = compare_methods({**curves, "dpo": arm(2, 0, 0, 0, 4)})
    names = ("sft", "as_many_pairs", "best_of_n", "dpo", "dpo_best_of_n")
    ends = [measured["methods"][name]["utility"]["mean"] for name in names]
    assert ends == [1, 1.5, 3, 2, 4]
    shares = measured["share_of_dpo_gain"]
    assert [shares[name]["mean"] for name in ("as_many_pairs", "best_of_n")] == [0.5, 2.0]
    assert measured["best_of_n_minus_dpo"]["mean"] == 1
    assert measured["both_minus_better_single"]["mean"] == 1
    assert measured["first_step"]["mean"] == 1.5 and measured["second_step"]["mean"] == 0.5
    assert measured["first_step_minus_second"]["mean"] == 1


@pytest.mark.parametrize("n", [2, 4])
def test_no_claim_holds_by_construction(n):
    """Without a second step there is nothing that the first one could be larger than."""
    measured = compare_methods({name: arm(*range(n)) for name in ("sft", "as_many_pairs", "dpo")})
    assert measured["first_step"]["mean"] == n - 1
    assert "second_step" not in measured and "first_step_minus_second" not in measured


def test_better_single_method_may_be_dpo():
    curves = {"sft": arm(1, 1.2), "as_many_pairs": arm(1, 1.1), "dpo": arm(2, 2.5)}
    assert compare_methods(curves)["both_minus_better_single"]["mean"] == 0.5


def test_annotators_are_compared_at_the_largest_n_and_after_four():
    curves = {"human": arm(1, 2, 3, 3.5), "length": arm(1, 2, 2.5, 1.5)}
    measured = compare_annotators([1, 2, 4, 8], curves)
    assert measured["lost_to_length"]["mean"] == 2 and measured["lost_after_few"]["mean"] == 1
    assert measured["annotators"]["n"] == [1, 2, 4, 8]
    means = [row["mean"] for row in measured["annotators"]["length"]["utility"]]
    assert means == [1, 2, 2.5, 1.5]


# --- Gold against KL on a pool ---


def random_pool(prompts: int = 6, size: int = 32, shift: float = 0.0) -> dict:
    utility = rng.choice([-1.0, 0.5, 1.0, 4.0], size=(prompts, size))
    pool = {"utility": utility, "good": (utility == 4).astype(float)}
    reward = utility + rng.normal(size=utility.shape)
    return pool | {"reward": reward, "log_ratio": np.full(utility.shape, shift)}


def points_of(pool: dict, dpo_pool: dict) -> list[dict]:
    biased = pool | {"reward": -pool["utility"]}
    annotations = {"human": 6400, "length": 100, "dpo": 768}
    pools = {"human": pool, "length": biased}
    return frontier_points(
        pools, dpo_pool, annotations, bon.best_of_n_policy, kl_regularized_optimum
    )


def test_reweighting_by_hand():
    pool = {"utility": np.array([[1.0, 3.0]]), "good": np.array([[0.0, 1.0]])}
    pool |= {"reward": np.array([[0.0, 1.0]]), "log_ratio": np.array([[0.2, 0.4]])}
    point = reweighted(pool, bon.best_of_n_policy, pool["reward"], 2)  # weights 1/4, 3/4
    kl = 0.25 * (math.log(0.5) + 0.2) + 0.75 * (math.log(1.5) + 0.4)
    assert point["kl"]["mean"] == pytest.approx(kl, abs=1e-12)
    assert point["gold"]["mean"] == pytest.approx(2.5) and point["good"]["mean"] == 0.75
    assert point["sample_share"] == pytest.approx(1 / (2 * (1 / 16 + 9 / 16)))


def test_points_of_the_frontier():
    pool, dpo_pool = random_pool(), random_pool(size=8, shift=0.7)
    points = points_of(pool, dpo_pool)
    best = [p for p in points if p["method"] == "best of n" and not p["biased"]]
    assert [p["n"] for p in best] == sizes_for(pool) == [1, 2, 4, 8, 16]
    assert [p["label"] for p in best] == [f"n = {n}" for n in sizes_for(pool)]
    assert best[0]["kl"]["mean"] == pytest.approx(0, abs=1e-12)
    assert best[0]["gold"]["mean"] == pytest.approx(pool["utility"].mean())
    for point in best[1:]:
        assert 0 < point["kl"]["mean"] <= bon.best_of_n_kl_bound(point["n"]) + 1e-9
        assert point["annotations"] == 6400
    biased = [p for p in points if p["biased"]]
    assert {p["method"] for p in biased} == {"best of n"}
    assert biased[-1]["gold"]["mean"] < biased[0]["gold"]["mean"]
    both = [p for p in points if p["method"] == "DPO + best of n"]
    assert [p["annotations"] for p in both] == [768, 7168, 7168]
    assert both[0]["kl"]["mean"] == pytest.approx(0.7)  # DPO alone: its log-ratio
    assert both[1]["kl"]["mean"] > 0.7


def test_no_best_of_n_lies_above_the_optimum():
    for _ in range(5):
        points = points_of(random_pool(), random_pool(size=8))
        assert excess_over_optimum(points) < 0.02
        optimum = [p for p in points if p["method"] == "optimum"]
        assert (np.diff([p["kl"]["mean"] for p in optimum]) > 0).all()  # beta falls
        assert (np.diff([p["gold"]["mean"] for p in optimum]) > -1e-9).all()
        assert optimum[0]["sample_share"] > 0.5 > optimum[-1]["sample_share"]
    worst = max((p for p in points if p["method"] == "best of n"), key=lambda p: p["kl"]["mean"])
    worst["gold"]["mean"] += 10
    assert excess_over_optimum(points) > 1


def test_without_gold_the_frontier_has_kl_and_reward():
    pool = {name: random_pool()[name] for name in ("reward", "log_ratio")}
    points = frontier_points(
        {"human": pool}, pool, {"human": None, "dpo": None}, bon.best_of_n_policy, None
    )
    assert {p["method"] for p in points} == {"best of n", "DPO + best of n"}
    assert all("gold" not in p and p["reward"]["mean"] for p in points)


# --- The models ---


@pytest.fixture(scope="module")
def policy():
    """tiny-gpt2 with an adapter that is not zero, and its tokenizer."""
    import torch
    from dpo_trainer import lora_config
    from peft import get_peft_model

    torch.manual_seed(0)
    model, tokenizer = load_causal_lm("tiny-gpt2")
    model = get_peft_model(model, lora_config(model)).eval()
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.02)
    return model, tokenizer


def test_log_ratios_are_differences_of_log_probabilities(policy):
    model, tokenizer = policy
    rows = make_pairs(6)
    prompts = [row["prompt"] for row in rows]
    sides = ("chosen", "rejected", "chosen")  # equal texts are read once
    token_ids = [[encode_response(tokenizer, row[side]) for side in sides] for row in rows]
    ratios = log_ratios(model, tokenizer, prompts, token_ids)
    logps, ref_logps = pair_logps(model, tokenizer, rows)
    np.testing.assert_allclose(ratios[:, :2].T, (logps - ref_logps).numpy(), atol=1e-4)
    np.testing.assert_array_equal(ratios[:, 0], ratios[:, 2])
    assert np.abs(ratios).max() > 0.01
    base = model.get_base_model()
    assert (log_ratios(load_causal_lm("tiny-gpt2")[0], tokenizer, prompts, token_ids) == 0).all()
    assert base is not None


def test_mean_log_ratio_is_the_kl(policy):
    from support.evaluation import sample_answers

    model, tokenizer = policy
    judge = load_reward_model("tiny-distilbert")
    prompts = [question.prompt for question in questions("test")[:8]]
    pool = bon.make_pool(model, tokenizer, judge, prompts, 32, 48, 0)
    texts, values = sample_answers(model, tokenizer, prompts, 32, 48, 0)
    assert pool["texts"] == texts
    assert pool["reward"].shape == pool["log_ratio"].shape == pool["utility"].shape == (8, 32)
    spread = pool["log_ratio"].std() / math.sqrt(256)
    assert pool["log_ratio"].mean() == pytest.approx(values["kl"].mean(), abs=4 * spread)


def test_the_chosen_candidate_has_the_arrow(capsys):
    prompt = questions("test")[0].prompt
    show_candidates(prompt, ["It is nothing.", "I cannot say."], np.array([-1.0, 0.25]))
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:] == [
        prompt,
        "     reward -1.00  It is nothing.  [off topic]",
        "  -> reward +0.25  I cannot say.  [off topic]",
    ]


# --- Cost ---


def test_fitted_exponent():
    ns = [1, 2, 4, 8]
    assert fitted_exponent(ns, 3 * np.array(ns) ** 1.5) == pytest.approx(1.5, abs=1e-9)


def multiply(prompt: str, n: int, seed: int) -> None:
    """5 products of 10x10 matrices for a prompt, and n for candidates: 2000 FLOPs each."""
    import torch

    for _ in range(5 + n):
        torch.ones(10, 10) @ torch.ones(10, 10)


def test_flops_are_counted():
    assert count_flops(multiply, "", 1, 0) == 12_000


def test_alone_every_candidate_pays_for_its_prompt():
    cost, seconds = measure_cost(multiply, ["a"] * 6, [1, 2, 4])
    assert [row["mean"] for row in cost["alone"]] == pytest.approx([0.012, 0.024, 0.048])
    assert [row["mean"] for row in cost["shared"]] == pytest.approx([0.012, 0.014, 0.018])
    assert cost["one_more_alone"]["mean"] == pytest.approx(0.012)
    assert cost["one_more_shared"]["mean"] == pytest.approx(0.002)
    assert cost["exponent"]["mean"] == pytest.approx(1)
    assert cost["exponent_shared"]["mean"] < 0.5
    assert cost["saved"]["mean"] == pytest.approx(1 - 18 / 48)
    assert set(seconds) == {"alone", "shared"} and min(seconds.values()) >= 0


# --- The script ---


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    folder = tmp_path_factory.mktemp("best of n")
    done = run_script("best_of_n", "--smoke", cwd=folder)
    assert done.returncode == 0, done.stderr
    results = json.loads((folder / "outputs/best_of_n-smoke.json").read_text(encoding="utf-8"))
    return folder, done.stdout, results


def test_claims_and_checks_stand_on_what_is_measured(smoke):
    _, _, results = smoke
    measured = [claim.id for claim in bon.CLAIMS if claim.path != bon.TWO_STEPS]  # n is only 4
    assert [claim["id"] for claim in results["claims"]] == measured
    assert all(check["passes"] for check in results["checks"]) and len(results["checks"]) == 2
    for claim in results["claims"]:
        low, high = (limit if limit is not None else math.inf for limit in claim["true"])
        assert claim["verdict"] == verdict(claim["ci95"], (low, high), claim["smallest"])


def test_one_n_is_named_throughout(smoke):
    """--smoke takes n = 4 from pools of 8: nothing is the best of 8."""
    _, text, results = smoke
    assert "Best of 4" in text and "est of 8" not in text and "est of 16" not in text
    assert results["metrics"]["n"] == 4 and len(results["metrics"]["curves"]["sft"]["good"]) == 4
    assert text.count("  -> reward ") == 1


def test_what_was_trained_is_used_again(smoke):
    folder, text, _ = smoke
    assert text.count("training it now") == 4
    names = {path.name for path in (folder / "outputs").iterdir() if path.is_dir()}
    assert names == {
        "dpo-smoke",
        "reward_model-smoke",
        "reward_model-pairs-64-smoke",
        "reward_model-annotator-length-smoke",
    }
    again = run_script("best_of_n", "--smoke", "--n", "3", cwd=folder)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("using ") == 4 and "training it" not in again.stdout
    assert "Best of 3" in again.stdout


def test_figure_of_several_seeds(smoke, tmp_path):
    _, _, results = smoke
    metrics = over_seeds([results["metrics"]] * 3)
    drawing = draw_best_of_n(metrics, results["metrics"])
    drawing.save(tmp_path / "seeds.png", "mean of seeds 0 to 2")
    assert (tmp_path / "seeds.png").read_bytes().startswith(b"\x89PNG")
