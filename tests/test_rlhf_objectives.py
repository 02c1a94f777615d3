"""rlhf_objectives.py: identities and known answers, PPO against its closed form, the command."""

import itertools
import json
import warnings

import numpy as np
import pytest
import rlhf_objectives as ro
from helpers import run_script

RNG = np.random.default_rng(7)
REF = RNG.dirichlet(np.ones(6), size=3)
REWARDS = RNG.normal(size=(3, 6)) * 2


def objective(probs, ref, rewards, beta):
    return (probs * rewards).sum(-1) - beta * (probs * np.log(probs / ref)).sum(-1)


# --- The KL-regularised optimum ---


@pytest.mark.parametrize("beta", [0.3, 1.0, 4.0])
def test_optimum_recovers_the_reward_and_reaches_beta_log_z(beta):
    optimum = ro.kl_regularized_optimum(REF, REWARDS, beta)
    log_z = np.log((REF * np.exp(REWARDS / beta)).sum(-1))
    recovered = beta * np.log(optimum / REF) + beta * log_z[:, None]
    np.testing.assert_allclose(recovered, REWARDS, atol=1e-9)
    np.testing.assert_allclose(objective(optimum, REF, REWARDS, beta), beta * log_z, atol=1e-9)


@pytest.mark.parametrize("scale", [1e-3, 0.1, 2.0])
def test_no_perturbation_beats_the_optimum(scale):
    optimum = ro.kl_regularized_optimum(REF, REWARDS, 0.7)
    best = objective(optimum, REF, REWARDS, 0.7)
    for _ in range(200):
        other = optimum * np.exp(scale * RNG.normal(size=optimum.shape))
        assert (objective(other / other.sum(-1, keepdims=True), REF, REWARDS, 0.7) < best).all()


def test_worked_optimum():
    for beta in (0.2, 1.0, 5.0):  # rewards 0 and beta ln 3, uniform reference: odds of 1 to 3
        rewards = np.array([0.0, beta * np.log(3)])
        probs = ro.kl_regularized_optimum(np.array([0.5, 0.5]), rewards, beta)
        np.testing.assert_allclose(probs, [0.25, 0.75], atol=1e-12)


def test_limits_of_beta():
    ref, rewards = np.array([0.5, 0.3, 0.2, 0.0]), np.array([1.0, 2.0, 2.0, 9.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for beta in (1e-3, 1e-12, 1e-300):  # the best on the support, ties as the reference
            found = ro.kl_regularized_optimum(ref, rewards, beta)
            np.testing.assert_allclose(found, [0, 0.6, 0.4, 0], atol=1e-12)
        np.testing.assert_allclose(ro.kl_regularized_optimum(ref, rewards, 1e12), ref, atol=1e-9)
    # Only differences of rewards count; without subtracting the best, exp(1e4 / 1e-300) is inf.
    for beta, shift in itertools.product((1e-300, 1e-3, 0.7), (-1e4, 1e4)):
        found = ro.kl_regularized_optimum(REF, REWARDS + shift, beta)
        expected = ro.kl_regularized_optimum(REF, REWARDS, beta)
        np.testing.assert_allclose(found, expected, atol=1e-8)


def test_chosen_log_ratios_average_to_minus_kl_under_the_reference():
    beta = 0.4
    optimum = ro.kl_regularized_optimum(REF, REWARDS, beta)
    implicit = beta * np.log(optimum / REF)
    kl = (REF * np.log(REF / optimum)).sum(-1)
    np.testing.assert_allclose((REF * implicit).sum(-1), -beta * kl, atol=1e-9)


# --- Clip and GAE ---


def test_clipped_surrogate_values():
    ratio, advantage = np.array([1.5, 0.5, 1.5, 0.5, 1.1]), np.array([1.0, 1.0, -1.0, -1.0, 3.0])
    found = ro.clipped_surrogate(ratio, advantage, 0.2)
    np.testing.assert_allclose(found, [1.2, 0.5, -1.5, -0.8, 3.3], atol=1e-12)


@pytest.mark.parametrize("advantage", [1.3, -0.7])
@pytest.mark.parametrize("epsilon", [0.1, 0.3])
def test_gradient_dies_only_where_the_policy_moved_far_enough(advantage, epsilon):
    ratio, step = np.arange(0.05, 2.0, 0.1) + 0.013, 1e-6  # off the kinks
    ahead, behind = (ro.clipped_surrogate(ratio + s, advantage, epsilon) for s in (step, -step))
    dead = (ratio > 1 + epsilon) if advantage > 0 else (ratio < 1 - epsilon)
    assert dead.any() and not dead.all()
    slope = (ahead - behind) / (2 * step)
    np.testing.assert_allclose(slope, np.where(dead, 0.0, advantage), atol=1e-6)


def test_gae_worked_example():
    rewards, values = np.array([0.0, 0.0, 1.0]), np.array([0.5, 0.6, 0.7])
    known = {0.0: [0.1, 0.1, 0.3], 1.0: [0.5, 0.4, 0.3], 0.95: [0.46575, 0.385, 0.3]}
    for lam, expected in known.items():
        found = ro.generalized_advantage_estimate(rewards, values, 1.0, lam)
        np.testing.assert_allclose(found, expected, atol=1e-9)


def test_gae_is_the_discounted_sum_of_td_errors():
    rewards, values, gamma, lam = RNG.normal(size=7), RNG.normal(size=7), 0.9, 0.8
    deltas = rewards + gamma * np.append(values[1:], 0) - values
    expected = [sum((gamma * lam) ** k * deltas[t + k] for k in range(7 - t)) for t in range(7)]
    found = ro.generalized_advantage_estimate(rewards, values, gamma, lam)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    returns = [sum(gamma**k * rewards[t + k] for k in range(7 - t)) for t in range(7)]
    found = ro.generalized_advantage_estimate(rewards, values, gamma, 1.0)
    np.testing.assert_allclose(found, np.array(returns) - values, atol=1e-12)


# --- KL estimators ---


def test_k1_and_k3_average_to_the_kl_exactly():
    p, q = REF[0], REF[1]
    estimates = ro.kl_estimators(np.log(p), np.log(q))
    kl = (p * np.log(p / q)).sum()
    assert list(estimates) == ["k1", "k2", "k3"]
    assert (p * estimates["k1"]).sum() == pytest.approx(kl, abs=1e-12)
    assert (p * estimates["k3"]).sum() == pytest.approx(kl, abs=1e-12)
    assert abs((p * estimates["k2"]).sum() - kl) > 1e-2
    assert abs((q * np.log(q / p)).sum() - kl) > 1e-2  # so that the direction matters here


@pytest.mark.parametrize("mu", [0.1, 1.0])
def test_moments_of_the_estimators_for_two_gaussians(mu):
    x, weights = np.polynomial.hermite_e.hermegauss(80)
    weights, kl = weights / weights.sum(), mu**2 / 2
    estimates = ro.kl_estimators(-(x**2) / 2, -((x - mu) ** 2) / 2)
    mean = {name: (weights * k).sum() for name, k in estimates.items()}
    known = {"k1": kl, "k2": kl + mu**4 / 8, "k3": kl}  # k2 0.625 at mu = 1
    assert mean == pytest.approx(known, abs=1e-9)
    squares = {name: (weights * k**2).sum() for name, k in estimates.items()}
    spread = {name: np.sqrt(squares[name] - mean[name] ** 2) / kl for name in mean}
    assert spread["k1"] == pytest.approx(2 / mu, abs=1e-6)  # 20 at mu = 0.1, k3's 1.417
    assert spread["k3"] == pytest.approx(np.sqrt(np.exp(mu**2) - 1 - mu**2) / kl, abs=1e-6)


def test_k3_never_goes_negative_in_float32():
    logp = RNG.normal(size=500_000).astype(np.float32)
    x = (RNG.normal(size=logp.size) * 10.0 ** RNG.uniform(-7, 1, logp.size)).astype(np.float32)
    k3 = ro.kl_estimators(logp, logp + x)["k3"]
    assert k3.dtype == np.float32 and (k3 >= 0).all()
    x = (logp + x) - logp
    assert (np.exp(x) - 1 - x < 0).any()  # what expm1 is for


# --- PPO on the bandit ---


@pytest.fixture(scope="module")
def bandit():
    return ro.make_bandit(8, seed=0)


def rewarded_most(bandit) -> np.ndarray:
    """Where no other answer to the question is rewarded more."""
    return np.isclose(bandit.reward, bandit.reward.max(-1, keepdims=True))


def test_the_bandit_rewards_length_and_wants_what_gold_utility_says(bandit):
    np.testing.assert_allclose(bandit.ref.sum(-1), 1, atol=1e-12)
    words = (bandit.reward - bandit.gold) / 0.30  # the annotator's bias for a word of filler
    np.testing.assert_allclose(words, np.rint(words), atol=1e-9)
    assert (words >= 0).all()
    long = np.isin(ro.ANSWER_STYLES, ("verbose", "expert"))
    assert not (rewarded_most(bandit) & ~long).any()
    assert set(bandit.gold.argmax(-1)) == {0}  # a concise answer; the two tie
    assert not np.array_equal(bandit.gold, ro.make_bandit(8, seed=1).gold)


def test_ppo_follows_the_gradient_of_the_clipped_surrogate(bandit):
    """Two epochs on one batch against numerical gradients, with a step that reaches the clip."""
    ref, rewards = bandit.ref, bandit.reward
    settings = {"beta": 0.5, "learning_rate": 3.0, "epochs": 2, "updates": 1}
    found = ro.train_bandit(ref, rewards, epsilon=0.2, **settings)
    share = np.random.default_rng(0).multinomial(64, np.exp(ro.log_softmax(np.log(ref)))) / 64
    # The KL is zero before the first step.
    advantage = rewards - (share * rewards).sum(-1, keepdims=True)

    def surrogate(logits):
        ratio = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True) / ref
        return (share * ro.clipped_surrogate(ratio, advantage, 0.2)).sum(-1)

    logits, step = np.log(ref), 1e-6
    for _ in range(2):
        shifts = step * np.eye(ref.shape[-1])
        slopes = [(surrogate(logits + d) - surrogate(logits - d)) / (2 * step) for d in shifts]
        logits = logits + 3.0 * np.stack(slopes, -1)
    np.testing.assert_allclose(found[-1], ro.log_softmax(logits), atol=1e-6)
    unclipped = ro.train_bandit(ref, rewards, epsilon=np.inf, **settings)
    assert np.abs(unclipped[-1] - found[-1]).max() > 0.01


@pytest.mark.parametrize("beta", [1.0, 2.0])
def test_ppo_with_kl_converges_to_the_closed_form(bandit, beta):
    settings = {"beta": beta, "learning_rate": 0.5, "updates": 500}
    history = ro.train_bandit(bandit.ref, bandit.reward, **settings)
    optimum = ro.kl_regularized_optimum(bandit.ref, bandit.reward, beta)
    found = ro.read_bandit(history, bandit, optimum)
    assert found["distance"][0].min() > 0.1
    assert found["distance"][-1].max() < 1e-3


def test_ppo_without_kl_runs_to_what_is_rewarded_most_and_loses_quality(bandit):
    history = ro.train_bandit(bandit.ref, bandit.reward, beta=0.0)
    found = ro.read_bandit(history, bandit, bandit.ref)
    assert (np.exp(history[-1]) * rewarded_most(bandit)).sum(-1).mean() > 0.95
    assert found["reward"][-1].mean() > found["reward"][0].mean() + 2
    assert found["gold"].mean(-1).max() > found["gold"][0].mean() > found["gold"][-1].mean()


def test_readings_of_a_policy():
    """Two questions, one policy for both; and the same policy as three trainings of it."""
    p = REF.mean(0)
    small = ro.Bandit([], [], REF[:2], REWARDS[:2], 2 * REWARDS[:2])
    log_probs, optimum = np.log([p, p]), REF[1:]
    expected = {
        "reward": [2 * p @ REWARDS[0], 2 * p @ REWARDS[1]],
        "gold": [p @ REWARDS[0], p @ REWARDS[1]],
        "kl": [(p * np.log(p / ref)).sum() for ref in REF[:2]],
        "distance": [np.maximum(p - best, 0).sum() for best in optimum],
    }
    for name, values in ro.read_bandit(log_probs, small, optimum).items():
        np.testing.assert_allclose(values, expected[name], atol=1e-12)
    for name, values in ro.read_bandit(np.stack([log_probs] * 3), small, optimum).items():
        np.testing.assert_allclose(values, [expected[name]] * 3, atol=1e-12)


@pytest.mark.parametrize(("beta", "kl", "gold"), [(1.0, 0.90, 2.27), (4.0, 0.13, 2.34)])
def test_the_defaults_give_what_the_lesson_promises(beta, kl, gold):
    bandit = ro.make_bandit(20, seed=0)
    flags = {} if beta == 1.0 else {"beta": beta}
    history = ro.train_bandit(bandit.ref, bandit.reward, **flags)
    found = ro.read_bandit(history[-1], bandit, bandit.ref)
    assert (found["kl"].mean(), found["gold"].mean()) == pytest.approx((kl, gold), abs=0.005)


# --- Memory ---


def test_memory_of_the_tutorials_7b_models():
    held = ro.memory(7)
    weights = {method: sum(row["weights_gb"].values()) for method, row in held.items()}
    assert (weights["PPO"], weights["DPO"]) == (56, 28)  # four models against two
    assert [held[method]["adamw_gb"] for method in ("PPO", "DPO")] == [112, 56]
    assert len(held["PPO"]["weights_gb"]) == 4 and len(held["DPO"]["weights_gb"]) == 2
    adapter = 4_194_304 / 1e9  # q and v of 32 layers, rank 8
    assert weights["DPO + LoRA"] == pytest.approx(14 + 2 * adapter, abs=1e-4)
    assert weights["PPO + LoRA"] == pytest.approx(28 + 4 * adapter, abs=1e-4)
    assert held["DPO + LoRA"]["adamw_gb"] == pytest.approx(8 * adapter, rel=0.01)
    assert held["PPO + LoRA"]["adamw_gb"] == pytest.approx(16 * adapter, rel=0.01)
    assert sum(ro.memory(70)["PPO"]["weights_gb"].values()) == 560


# --- The command ---


def test_the_command(tmp_path):
    done = run_script("rlhf_objectives", "--smoke", "--seed", 3, cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert len(done.stdout.splitlines()) <= 25
    run = tmp_path / "outputs" / "ppo_objectives-seed-3-smoke"
    assert run.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    metrics = json.loads(run.with_suffix(".json").read_text())["metrics"]
    bandit = ro.make_bandit(20, seed=3)
    optimum = ro.kl_regularized_optimum(bandit.ref, bandit.reward, 1.0)
    for end in metrics["ppo"]:
        settings = {"beta": end.pop("beta"), "updates": 40, "seed": 3}
        history = ro.train_bandit(bandit.ref, bandit.reward, **settings)
        expected = ro.read_bandit(history[-1], bandit, optimum)
        assert end == pytest.approx({name: v.mean() for name, v in expected.items()})
    for beta, kl in zip(metrics["optimum"]["beta"], metrics["optimum"]["kl"], strict=True):
        probs = ro.kl_regularized_optimum(bandit.ref, bandit.reward, beta)
        assert kl == pytest.approx((probs * np.log(probs / bandit.ref)).sum(-1).mean())


@pytest.mark.parametrize("beta", ["0.001", "100000"])
def test_extreme_betas_are_drawn(beta, tmp_path):
    done = run_script("rlhf_objectives", "--smoke", "--beta", beta, cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == "", done.stderr


@pytest.mark.parametrize(
    "flags", [("--beta", "0"), ("--beta", "nan"), ("--epsilon", "1"), ("--epsilon", "-0.1")]
)
def test_bad_flags_exit_2_with_one_line(flags, tmp_path):
    done = run_script("rlhf_objectives", *flags, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1
    assert list(tmp_path.rglob("*.*")) == []
