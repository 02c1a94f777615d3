"""best_of_n.py and its study: known answers, brute force, the claims' arithmetic, the commands."""

import itertools
import json
import math

import best_of_n as bon
import best_of_n_and_the_limit as study
import numpy as np
import pytest
from helpers import run_script
from rlhf_objectives import kl_regularized_optimum

from common.answers import KINDS, Answers, point_name
from common.models import load_causal_lm, load_reward_model
from common.preferences import questions

rng = np.random.default_rng(0)

# --- The estimator from a pool ---


def test_weights_of_four_choose_two():
    np.testing.assert_allclose(bon.best_of_n_weights(4, 2), np.array([0, 1, 2, 3]) / 6, atol=1e-12)


@pytest.mark.parametrize("size, n", [(1, 1), (5, 1), (5, 3), (7, 7), (64, 16), (2000, 500)])
def test_weights_are_a_distribution(size, n):
    weights = bon.best_of_n_weights(size, n)
    assert weights.sum() == pytest.approx(1, abs=1e-9) and (weights[: n - 1] == 0).all()
    assert weights[-1] == pytest.approx(n / size, abs=1e-9)  # the best is drawn n times in size


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_estimate_is_the_mean_over_all_subsets(n):
    rewards, values = rng.permutation(6).astype(float), rng.normal(size=6)
    subsets = list(itertools.combinations(range(6), n))
    best = [max(subset, key=lambda i: rewards[i]) for subset in subsets]
    mean_reward, mean_value = np.mean(rewards[best]), np.mean(values[best])
    assert bon.expected_best_of_n(rewards, n) == pytest.approx(mean_reward, abs=1e-12)
    assert bon.expected_best_of_n(rewards, n, values) == pytest.approx(mean_value, abs=1e-12)


def test_ties_count_equally_whatever_their_order():
    rewards, values = np.array([1.0, 0.0, 1.0, 1.0]), np.array([4.0, 100.0, 1.0, 1.0])
    means = []
    for pair in itertools.combinations(range(4), 2):
        means.append(np.mean([values[i] for i in pair if rewards[i] == max(rewards[list(pair)])]))
    for order in itertools.permutations(range(4)):
        found = bon.expected_best_of_n(rewards[list(order)], 2, values[list(order)])
        assert found == pytest.approx(np.mean(means), abs=1e-12)


def test_pass_at_k_is_the_binary_case():
    assert bon.expected_best_of_n(np.array([0, 1, 0, 1, 0]), 3) == pytest.approx(0.9, abs=1e-12)


def test_n_outside_the_pool_is_refused():
    for n in (0, 4):
        with pytest.raises(ValueError, match="pool size 3"):
            bon.expected_best_of_n(np.zeros(3), n)


@pytest.mark.parametrize("n, maximum", [(2, 0.5642), (4, 1.0294), (16, 1.7661)])
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
    found = np.bincount(winners, minlength=5) / draws
    assert (np.abs(found - policy) < 4 * np.sqrt(policy * (1 - policy) / draws) + 1e-9).all()
    assert policy[1] / policy[2] == pytest.approx(BASE[1] / BASE[2])


def test_n_1_is_the_base_and_order_does_not_matter():
    rewards, order = rng.normal(size=5), rng.permutation(5)
    np.testing.assert_allclose(bon.best_of_n_policy(BASE, rewards, 1), BASE, atol=1e-12)
    shuffled = bon.best_of_n_policy(BASE[order], rewards[order], 4)
    np.testing.assert_allclose(shuffled, bon.best_of_n_policy(BASE, rewards, 4)[order], atol=1e-12)


def test_kl_stays_below_the_bound_and_reaches_it_without_ties():
    fine_base = np.full(20_000, 1 / 20_000)
    for n in (2, 4, 16):
        fine = bon.best_of_n_policy(fine_base, np.arange(20_000), n)
        bound = bon.best_of_n_kl_bound(n)
        assert kl_divergence(bon.best_of_n_policy(BASE, np.arange(5), n), BASE) < bound
        assert kl_divergence(fine, fine_base) == pytest.approx(bound, abs=2e-3)


# --- Pools ---


def made_pool(prompts: int = 6, size: int = 32, shift: float = 0.0) -> bon.Pool:
    """A pool of made-up values: gold utility, and a reward that is gold and noise."""
    gold = rng.choice([-1.0, 0.5, 1.0, 4.0], size=(prompts, size))
    kl = np.full(gold.shape, shift)
    texts = [[f"text {k}" for k in range(size)]] * prompts
    kind = np.where(gold == 4, KINDS[0], KINDS[4])
    made = Answers(texts, kl, kl + 7, gold, (gold == 4).astype(float), kind=kind)
    return bon.Pool(made, gold + rng.normal(size=gold.shape))


def test_a_curve_starts_at_the_mean_and_ends_at_the_best():
    rewards, values = rng.normal(size=(2, 3, 8))
    curve = bon.best_of_n_curve(rewards, values, range(1, 9))
    np.testing.assert_allclose(curve[:, 0], values.mean(1), atol=1e-12)
    best = values[np.arange(3), rewards.argmax(1)]
    np.testing.assert_allclose(curve[:, -1], best, atol=1e-12)
    assert (np.diff(bon.best_of_n_curve(rewards, rewards, range(1, 9))) > 0).all()


def kl_of_best(pool: bon.Pool, n: int) -> np.ndarray:
    return bon.measured_kl(pool, bon.best_probs(pool, n))


def test_measured_kl_is_below_the_bound_and_adds_the_policys_own():
    pool = made_pool()
    assert kl_of_best(pool, 1) == pytest.approx(0, abs=1e-12)
    for n in (2, 4, 16):
        assert (kl_of_best(pool, n) > 0).all()
        assert (kl_of_best(pool, n) <= bon.best_of_n_kl_bound(n)).all()
    tied = pool._replace(rewards=np.zeros_like(pool.rewards))
    assert kl_of_best(tied, 8) == pytest.approx(0, abs=1e-12)  # equal texts: no choice
    moved = pool._replace(answers=pool.answers._replace(kl=pool.answers.kl + 0.7))
    np.testing.assert_allclose(kl_of_best(moved, 4), kl_of_best(pool, 4) + 0.7)


def test_best_of_reads_the_chosen_answers():
    pool = made_pool()
    one, many = bon.best_of(pool, 1), bon.best_of(pool, 16)
    assert one["gold"] == pytest.approx(pool.answers.gold.mean())
    assert one["words"] == pytest.approx(7)
    assert many["gold"] > one["gold"] and many["reward"] > one["reward"]
    assert sum(many["kinds"].values()) == pytest.approx(1)
    assert many["kinds"][KINDS[0]] > one["kinds"][KINDS[0]]


def test_powers_of_two():
    assert bon.powers_of_two(2) == [1, 2] and bon.powers_of_two(12) == [1, 2, 4, 8, 12]


def test_choosing_changes_no_weight_and_candidates_have_their_price():
    model, tokenizer = load_causal_lm("tiny-gpt2")
    judge = load_reward_model("tiny-distilbert")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    prompts = [question.prompt for question in questions("test")[:2]]
    pool = bon.make_pool(model, tokenizer, judge, prompts, 4, seed=0)
    assert pool.rewards.shape == pool.answers.kl.shape == pool.answers.gold.shape == (2, 4)
    cost = bon.measure_cost(model, tokenizer, judge, prompts[:1], 4)
    assert all((tensor == before[name]).all() for name, tensor in model.state_dict().items())
    alone, shared = np.array(cost["alone"][0]), np.array(cost["shared"][0])
    assert cost["n"] == [1, 2, 4] and alone[0] == shared[0]  # one is one
    assert (np.diff(alone) > 0).all() and shared[-1] < alone[-1]
    assert np.polyfit(np.log(cost["n"]), np.log(alone), 1)[0] == pytest.approx(1, abs=0.2)  # linear


# --- The study's arithmetic ---


def flat_pool(gold: list[float], size: int = 32) -> bon.Pool:
    """Every prompt has candidates of `gold`, the last of them repeated; ranked as they stand."""
    row = np.array([*gold, *[gold[-1]] * (size - len(gold))])
    table = np.tile(row, (5, 1))
    texts = [[""] * size] * 5
    made = Answers(texts, 0 * table, 0 * table, table, 0 * table)
    return bon.Pool(made, np.tile(np.arange(size, dtype=float), (5, 1)))


def pools_of(judges: dict[str, bon.Pool], policies: dict[str, bon.Pool]) -> dict:
    """Pools as the study keeps them: of the SFT model, and of each budget's DPO."""
    pools = {("best of n", series): pool for series, pool in judges.items()}
    return pools | {(study.BOTH, budget): pool for budget, pool in policies.items()}


def test_ways_are_the_ends_of_the_curves_at_equal_labels():
    judges = {"768": [0.0] * 31 + [1.0], "6400": [0.0] * 31 + [4.0]}
    judges[study.JUDGE["768"]] = [0.0] * 31 + [2.0]
    policies = {"768": flat_pool([2.0] * 31 + [3.0]), "6400": flat_pool([1.0] * 31 + [2.0])}
    pools = pools_of({name: flat_pool(gold) for name, gold in judges.items()}, policies)
    found = study.compare_ways(pools)
    # The best of 32 is among 16 in half of the cases; the policies start at 2 + 1/32, 1 + 1/32.
    assert found["sft"] == 4 / 32
    assert found["ways"]["best of n"] == {"768": 0.5, "6400": 2.0, study.JUDGE["768"]: 1.0}
    assert found["ways"]["DPO"] == {"768": 2 + 1 / 32, "6400": 1 + 1 / 32}
    assert found["ways"][study.BOTH] == {"768": 2.5, "6400": 1.5}
    both = {"768": 2.5 - (2 + 1 / 32), "6400": 1.5 - 2}  # minus DPO alone, minus best-of-n alone
    assert found["both_minus_better_single"] == pytest.approx(both)
    of = {claim.id: claim.of(found) for claim in study.CLAIMS}
    assert of["one_to_four_beats_four_to_sixteen"] == pytest.approx((4 - 1) / 8 - (16 - 4) / 8)
    assert of["dpo_plus_best_of_n_is_best"] == pytest.approx((both["768"] + both["6400"]) / 2)


def test_reweighting_by_hand():
    gold, rewards = np.array([[1.0, 3.0]]), np.array([[0.0, 1.0]])
    log_ratios = np.array([[0.2, 0.4]])
    read = Answers([["a", "b"]], log_ratios, gold, gold, np.array([[0.0, 1.0]]))
    pool = bon.Pool(read, rewards)
    point = study.reweighted(pool, bon.best_probs(pool, 2))  # weights 1/4, 3/4
    kl = 0.25 * (math.log(0.5) + 0.2) + 0.75 * (math.log(1.5) + 0.4)
    assert point["kl"] == pytest.approx(kl, abs=1e-12)
    assert point["gold"] == pytest.approx(2.5) and point["good"] == 0.75
    assert point["sample_share"] == pytest.approx(1 / (2 * (1 / 16 + 9 / 16)))


def points_of(pool: bon.Pool, dpo_pool: bon.Pool) -> list[dict]:
    judges = {"6400": pool, "length": pool._replace(rewards=-pool.answers.gold)}
    judges[study.JUDGE["768"]] = pool
    pools = pools_of(judges, {"768": dpo_pool, "6400": dpo_pool})
    points, kept = study.plane_points([""] * len(pool.rewards), pools)
    assert set(kept["texts"]) == {point_name(p) for p in points if p["method"] != "optimum"}
    return points


def test_points_of_the_plane():
    pool, dpo_pool = made_pool(), made_pool(size=8, shift=0.7)
    points = points_of(pool, dpo_pool)
    best = [p for p in points if (p["method"], p["series"]) == ("best of n", "6400")]
    assert [p["n"] for p in best] == [1, 2, 4, 8, 16]  # it holds twice as many
    assert best[0]["gold"] == pytest.approx(pool.answers.gold.mean())
    assert {p["annotations"] for p in best} == {6400}
    biased = [p for p in points if p["biased"]]
    assert {p["method"] for p in biased} == {"best of n"}
    assert biased[-1]["gold"] < biased[0]["gold"]
    both = [p for p in points if (p["method"], p["series"]) == (study.BOTH, "768")]
    assert [p["annotations"] for p in both] == [768] * 3  # the same pairs for both
    assert both[1]["kl"] > both[0]["kl"] == pytest.approx(0.7)  # n = 1: its log-ratio
    assert both[0]["gold"] == pytest.approx(dpo_pool.answers.gold.mean())


def excess_over_optimum(points: list[dict]) -> float:
    """The most gold utility that best-of-n has above pi* at its KL, by identity none.

    Between the measured points of pi* the line runs below it, and before the first one from n = 1.
    """
    best = [point for point in points if point["method"] == "best of n"]
    limit = [point for point in points if point["method"] == "optimum"] + best[:1]
    kl, gold = zip(*sorted((p["kl"], p["gold"]) for p in limit), strict=True)
    return max(p["gold"] - np.interp(p["kl"], kl, gold) for p in best)


def test_no_best_of_n_lies_above_the_optimum():
    for _ in range(3):
        points = points_of(made_pool(), made_pool(size=8))
        assert excess_over_optimum(points) < 0.02
        optimum = [p for p in points if p["method"] == "optimum"]
        assert (np.diff([p["kl"] for p in optimum]) > 0).all()  # beta falls
        assert (np.diff([p["gold"] for p in optimum]) > -1e-9).all()
    worst = max((p for p in points if p["method"] == "best of n"), key=lambda p: p["kl"])
    worst["gold"] += 10
    assert excess_over_optimum(points) > 1


def test_best_of_n_does_not_beat_the_optimum_at_its_kl():
    uniform = np.full(16, 1 / 16)
    for rewards in rng.normal(size=(3, 16)):
        policy = bon.best_of_n_policy(uniform, rewards, 4)
        betas = np.geomspace(0.05, 50, 400)
        optima = [kl_regularized_optimum(uniform, rewards, beta) for beta in betas]
        most = kl_divergence(policy, uniform)
        within = [p @ rewards for p in optima if kl_divergence(p, uniform) <= most]
        assert max(within) > policy @ rewards - 0.02


# --- The commands ---


def test_the_study(tmp_path):  # the lesson's command: test_commands.py
    done = run_script("studies/best_of_n_and_the_limit", "--smoke", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    saved = tmp_path / "outputs/studies/best_of_n_and_the_limit-smoke.json"
    results = json.loads(saved.read_text(encoding="utf-8"))
    metrics = results["runs"][0]["metrics"]
    assert excess_over_optimum(metrics["points"]) < 0.02
    measured = {(point["method"], point["series"]) for point in metrics["points"]}
    expected = {("best of n", series) for series in study.JUDGES} | {("optimum", "gold")}
    assert measured == {*expected, *((study.BOTH, budget) for budget in study.TUNED)}
    assert len(metrics["answers"]["pools"]) == study.WHOLE_POOLS
    assert [claim["id"] for claim in results["claims"]] == [claim.id for claim in study.CLAIMS]
