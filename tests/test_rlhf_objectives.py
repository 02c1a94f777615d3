"""rlhf_objectives.py: identities and known answers, PPO against its closed form, the command."""

import itertools
import json
import warnings

from support import bandit, objective_curves
from support.drawing.ppo_objectives import draw_objectives
from support.model_sizes import Sizes, model_sizes, read_counts

import matplotlib.image
import numpy as np
import pytest
import rlhf_objectives as ro
from helpers import run_script

from common.intervals import over_seeds
from common.reporting import judge, run_checks

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
    np.testing.assert_allclose(
        beta * np.log(optimum / REF) + beta * log_z[:, None], REWARDS, atol=1e-9
    )
    np.testing.assert_allclose(objective(optimum, REF, REWARDS, beta), beta * log_z, atol=1e-9)


@pytest.mark.parametrize("scale", [1e-3, 0.1, 2.0])
def test_no_perturbation_beats_the_optimum(scale):
    optimum = ro.kl_regularized_optimum(REF, REWARDS, 0.7)
    best = objective(optimum, REF, REWARDS, 0.7)
    for _ in range(200):
        other = optimum * np.exp(scale * RNG.normal(size=optimum.shape))
        assert (objective(other / other.sum(-1, keepdims=True), REF, REWARDS, 0.7) < best).all()


def test_worked_optimum():
    # Rewards 0 and beta ln 3 over a uniform reference: odds of 1 to 3, whatever beta is.
    for beta in (0.2, 1.0, 5.0):
        probs = ro.kl_regularized_optimum(
            np.array([0.5, 0.5]), np.array([0.0, beta * np.log(3)]), beta
        )
        np.testing.assert_allclose(probs, [0.25, 0.75], atol=1e-12)


def test_limits_of_beta():
    ref, rewards = np.array([0.5, 0.3, 0.2, 0.0]), np.array([1.0, 2.0, 2.0, 9.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for beta in (
            1e-3,
            1e-12,
            1e-300,
        ):  # the best on the support; ties keep the reference's proportions
            np.testing.assert_allclose(
                ro.kl_regularized_optimum(ref, rewards, beta), [0, 0.6, 0.4, 0], atol=1e-12
            )
        np.testing.assert_allclose(ro.kl_regularized_optimum(ref, rewards, 1e12), ref, atol=1e-9)


def test_rewards_far_from_zero_give_the_same_optimum():
    # Only differences of rewards count; without subtracting the best, exp(1e4 / 1e-300) is inf.
    for beta, shift in itertools.product((1e-300, 1e-3, 0.7), (-1e4, 1e4)):
        found = ro.kl_regularized_optimum(REF, REWARDS + shift, beta)
        expected = ro.kl_regularized_optimum(REF, REWARDS, beta)
        assert np.isfinite(found).all()
        np.testing.assert_allclose(found, expected, atol=1e-8)
    best = np.eye(6)[REWARDS.argmax(-1)]
    np.testing.assert_allclose(ro.kl_regularized_optimum(REF, REWARDS, 1e-308), best, atol=1e-12)


def test_chosen_log_ratios_average_to_minus_kl_under_the_reference():
    beta = 0.4
    optimum = ro.kl_regularized_optimum(REF, REWARDS, beta)
    implicit = beta * np.log(optimum / REF)
    kl = (REF * np.log(REF / optimum)).sum(-1)
    np.testing.assert_allclose((REF * implicit).sum(-1), -beta * kl, atol=1e-9)
    assert ((REF * implicit).sum(-1) < 0).all()


# --- Clip and GAE ---


def test_clipped_surrogate_values():
    ratio, advantage = np.array([1.5, 0.5, 1.5, 0.5, 1.1]), np.array([1.0, 1.0, -1.0, -1.0, 3.0])
    np.testing.assert_allclose(
        ro.clipped_surrogate(ratio, advantage, 0.2), [1.2, 0.5, -1.5, -0.8, 3.3], atol=1e-12
    )


@pytest.mark.parametrize("advantage", [1.3, -0.7])
@pytest.mark.parametrize("epsilon", [0.1, 0.3])
def test_gradient_dies_only_where_the_policy_moved_far_enough(advantage, epsilon):
    ratio = np.arange(0.05, 2.0, 0.1) + 0.013  # off the kinks
    step = 1e-6
    ahead, behind = (ro.clipped_surrogate(ratio + s, advantage, epsilon) for s in (step, -step))
    dead = (ratio > 1 + epsilon) if advantage > 0 else (ratio < 1 - epsilon)
    assert dead.any() and not dead.all()
    np.testing.assert_allclose(
        (ahead - behind) / (2 * step), np.where(dead, 0.0, advantage), atol=1e-6
    )


def test_gae_worked_example():
    rewards, values = np.array([0.0, 0.0, 1.0]), np.array([0.5, 0.6, 0.7])
    for lam, expected in (
        (0.0, [0.1, 0.1, 0.3]),
        (1.0, [0.5, 0.4, 0.3]),
        (0.95, [0.46575, 0.385, 0.3]),
    ):
        found = ro.generalized_advantage_estimate(rewards, values, 1.0, lam)
        np.testing.assert_allclose(found, expected, atol=1e-9)


def test_gae_is_the_discounted_sum_of_td_errors():
    rewards, values, gamma, lam = RNG.normal(size=7), RNG.normal(size=7), 0.9, 0.8
    deltas = rewards + gamma * np.append(values[1:], 0) - values
    expected = [sum((gamma * lam) ** k * deltas[t + k] for k in range(7 - t)) for t in range(7)]
    np.testing.assert_allclose(
        ro.generalized_advantage_estimate(rewards, values, gamma, lam), expected, atol=1e-12
    )
    returns = [sum(gamma**k * rewards[t + k] for k in range(7 - t)) for t in range(7)]
    monte_carlo = ro.generalized_advantage_estimate(rewards, values, gamma, 1.0)
    np.testing.assert_allclose(monte_carlo, np.array(returns) - values, atol=1e-12)


# --- KL estimators ---


def test_k1_and_k3_average_to_the_kl_exactly():
    p, q = REF[0], REF[1]
    estimates = ro.kl_estimators(np.log(p), np.log(q))
    kl = (p * np.log(p / q)).sum()
    assert set(estimates) == {"k1", "k2", "k3"}
    assert (p * estimates["k1"]).sum() == pytest.approx(kl, abs=1e-12)
    assert (p * estimates["k3"]).sum() == pytest.approx(kl, abs=1e-12)
    assert abs((p * estimates["k2"]).sum() - kl) > 1e-2
    assert abs((q * np.log(q / p)).sum() - kl) > 1e-2  # so that the direction matters here


@pytest.mark.parametrize("mu", [0.1, 1.0])
def test_moments_of_the_estimators_for_two_gaussians(mu):
    x, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / weights.sum()
    estimates, kl = ro.kl_estimators(-(x**2) / 2, -((x - mu) ** 2) / 2), mu**2 / 2
    mean = {name: (weights * k).sum() for name, k in estimates.items()}
    spread = {
        name: np.sqrt((weights * k**2).sum() - mean[name] ** 2) / kl
        for name, k in estimates.items()
    }
    assert mean["k1"] == pytest.approx(kl, abs=1e-9)
    assert mean["k2"] == pytest.approx(kl + mu**4 / 8, abs=1e-9)  # 0.625 at mu = 1
    assert mean["k3"] == pytest.approx(kl, abs=1e-9)
    assert spread["k1"] == pytest.approx(2 / mu, abs=1e-6)
    assert spread["k3"] == pytest.approx(np.sqrt(np.exp(mu**2) - 1 - mu**2) / kl, abs=1e-6)
    if mu == 0.1:
        assert (spread["k1"], spread["k3"]) == (
            pytest.approx(20.0, abs=1e-3),
            pytest.approx(1.417, abs=1e-3),
        )


def test_expected_estimates_are_those_of_samples():
    log_probs, log_ref = np.log(REF[:2]), np.log(np.roll(REF[:2], 1, axis=-1))
    expected, rng = (
        objective_curves.expected_estimates(ro.kl_estimators, log_probs, log_ref),
        np.random.default_rng(3),
    )
    drawn = np.stack([rng.choice(6, size=50_000, p=probs) for probs in REF[:2]])
    samples = [np.take_along_axis(logs, drawn, axis=-1) for logs in (log_probs, log_ref)]
    for name, estimates in ro.kl_estimators(*samples).items():
        spread = expected[name]["spread"]["mean"]
        assert spread == pytest.approx(estimates.std(-1).mean(), rel=0.1)
        tolerance = 4 * estimates.std() / np.sqrt(estimates.size)
        assert expected[name]["average"]["mean"] == pytest.approx(estimates.mean(), abs=tolerance)
    averages = {name: row["average"]["mean"] for name, row in expected.items()}
    assert averages["k1"] == pytest.approx(averages["k3"], abs=1e-12)
    assert abs(averages["k2"] - averages["k1"]) > 0.01


def test_k3_never_goes_negative_in_float32():
    logp = RNG.normal(size=500_000).astype(np.float32)
    ref_logp = logp + (RNG.normal(size=logp.size) * 10.0 ** RNG.uniform(-7, 1, logp.size)).astype(
        np.float32
    )
    k3 = ro.kl_estimators(logp, ref_logp)["k3"]
    assert k3.dtype == np.float32 and (k3 >= 0).all()
    x = ref_logp - logp
    assert (np.exp(x) - 1 - x < 0).any()  # what expm1 is for


# --- The bandit ---


@pytest.fixture(scope="module")
def world():
    return bandit.make_bandit(8, seed=0)


def test_bandit_is_a_gold_utility_and_a_proxy_that_likes_length(world):
    np.testing.assert_allclose(world["ref"].sum(-1), 1, atol=1e-12)
    words = (world["proxy"] - world["gold"]) / 0.30  # the annotator's bias per filler word
    np.testing.assert_allclose(words, np.rint(words), atol=1e-9)
    long = np.isin(bandit.STYLES, ("verbose", "expert"))
    assert (
        (words >= 0).all()
        and not (world["favourite"] & ~long).any()
        and world["favourite"].any(-1).all()
    )
    assert set(world["gold"].argmax(-1)) == {0}  # a concise answer; the two tie
    other = bandit.make_bandit(8, seed=1)
    assert not np.array_equal(world["gold"], other["gold"])


def test_ppo_follows_the_gradient_of_the_clipped_surrogate(world):
    """Two epochs on one batch against numerical gradients, with a step that reaches the clip."""
    ref, rewards, beta, rate, epsilon = world["ref"], world["proxy"], 0.5, 3.0, 0.2
    found = ro.train_ppo(ref, rewards, beta, 1, 0, rate, epsilon, 2)
    share = (
        np.random.default_rng(0).multinomial(ro.BATCH, np.exp(bandit.log_softmax(np.log(ref))))
        / ro.BATCH
    )
    advantage = rewards - (share * rewards).sum(
        -1, keepdims=True
    )  # the KL is zero before the first step

    def surrogate(logits):
        ratio = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True) / ref
        return (share * ro.clipped_surrogate(ratio, advantage, epsilon)).sum(-1)

    logits, step = np.log(ref), 1e-6
    for _ in range(2):
        shifts = step * np.eye(ref.shape[-1])
        slopes = [(surrogate(logits + d) - surrogate(logits - d)) / (2 * step) for d in shifts]
        logits = logits + rate * np.stack(slopes, -1)
    np.testing.assert_allclose(found[-1], bandit.log_softmax(logits), atol=1e-6)
    unclipped = ro.train_ppo(ref, rewards, beta, 1, 0, rate, np.inf, 2)
    assert np.abs(unclipped[-1] - found[-1]).max() > 0.01


@pytest.mark.parametrize("beta", [1.0, 2.0])
def test_ppo_with_kl_converges_to_the_closed_form(world, beta):
    history = ro.train_ppo(world["ref"], world["proxy"], beta, 500, 0, 0.5, 0.2, 4)
    found = bandit.describe(
        history, world, ro.kl_regularized_optimum(world["ref"], world["proxy"], beta)
    )
    assert found["distance"][0].min() > 0.1
    assert found["distance"][-1].max() < 1e-3


def test_ppo_without_kl_runs_to_the_proxy_favourite_and_loses_gold(world):
    history = ro.train_ppo(world["ref"], world["proxy"], 0.0, 200, 0, 0.3, 0.2, 4)
    found = bandit.describe(
        history, world, ro.kl_regularized_optimum(world["ref"], world["proxy"], 1e-9)
    )
    assert found["favourite"][-1].mean() > 0.95
    assert found["proxy"][-1].mean() > found["proxy"][0].mean() + 2
    assert found["gold"].mean(-1).max() > found["gold"][0].mean() > found["gold"][-1].mean()


def test_describe_measures_what_it_says(world):
    ref, p = world["ref"], REF.mean(0)
    small = {"ref": REF[:1], "gold": REWARDS[:1], "proxy": REWARDS[:1], "favourite": np.eye(6)[:1]}
    found = bandit.describe(np.log(p)[None], small, REF[1:2])
    assert found["kl"][0] == pytest.approx((p * np.log(p / REF[0])).sum())
    assert found["distance"][0] == pytest.approx(np.maximum(p - REF[1], 0).sum())
    assert found["gold"][0] == pytest.approx(p @ REWARDS[0]) and found["favourite"][
        0
    ] == pytest.approx(p[0])
    np.testing.assert_allclose(bandit.describe(np.log(ref), world, ref)["kl"], 0, atol=1e-12)


def test_sensitivity_without_clipping_equals_clipping_for_one_pass(world):
    measured = ro.measure_sensitivity(world, 1.0, 0.2, 10, 0)
    clipped, unclipped = (
        np.array([[cell["mean"] for cell in row] for row in measured["sensitivity"][arm]])
        for arm in ("clipped", "unclipped")
    )
    assert clipped.shape == unclipped.shape == (len(ro.EPOCHS), len(ro.RATES))
    # One pass never leaves ratio 1, so there is nothing to clip: only the sampled batches differ.
    assert np.abs(clipped[0] - unclipped[0]).max() < 0.1
    assert unclipped[-1, -1] - clipped[-1, -1] > 0.2
    saved = measured["distance_saved_by_clipping"]["mean"]
    assert saved == pytest.approx((unclipped - clipped).mean())
    added = clipped[-1, clipped[0].argmin()] - clipped[-1].min()
    assert measured["distance_added_by_epochs"]["mean"] == pytest.approx(added)


# --- Memory ---


def test_memory_of_the_7b_example():
    held = ro.memory(model_sizes()["7B"])
    weights = {method: row["weights_gb"] for method, row in held.items()}
    assert (weights["PPO"], weights["DPO"], weights["best-of-n"]) == (56.0, 28.0, 28.0)
    assert len(held["PPO"]["by_role"]) == 4 and len(held["DPO"]["by_role"]) == 2
    adapter = 2 * 4_194_304 / 1e9
    assert weights["DPO + LoRA"] == pytest.approx(14 + adapter)
    assert weights["PPO + LoRA"] == pytest.approx(28 + 2 * adapter)
    assert [held[m]["adamw_gb"] for m in ("PPO", "DPO", "best-of-n")] == [112.0, 56.0, 0.0]
    assert held["DPO + LoRA"]["trained"] == 4_194_304
    assert held["PPO + LoRA"]["trained"] == 2 * 4_194_304
    assert held["PPO + LoRA"]["adamw_gb"] == pytest.approx(8 * 2 * 4_194_304 / 1e9)


def test_memory_of_the_tutorial_models():
    sizes = model_sizes()["distilgpt2"]
    assert sizes == (81_912_576, 66_362_880, 405_504)  # peft counts the same adapter
    held = ro.memory(sizes)
    assert held["PPO"]["weights_gb"] == pytest.approx(4 * (sizes.policy + sizes.reward) / 1e9)
    assert held["PPO"]["trained"] == sizes.policy + sizes.reward
    roles = ro.memory(Sizes(1, 10, 100))["PPO + LoRA"]["by_role"]
    assert roles == {"adapters": 400e-9, "policy": 2e-9, "reward": 20e-9}


def test_counts_from_a_safetensors_header(tmp_path):
    tensors = {
        "transformer.wte.weight": [10, 4],
        "transformer.h.0.attn.c_attn.weight": [4, 12],
        "transformer.h.0.attn.c_attn.bias": [12],
        "vocab_transform.weight": [4, 4],
    }
    header, start = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in tensors.items():
        end = start + 2 * int(np.prod(shape))
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [start, end]}
        start = end
    text = json.dumps(header).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(start))
    assert read_counts(path) == (40 + 48 + 12, 8 * (4 + 12))


# --- The study, its claims and its figure ---


@pytest.fixture(scope="module")
def studies():
    """Small studies of three seeds, as they come back from their JSON files."""
    small = {"epsilon": 0.2, "count": 5, "updates": 40}
    runs = [ro.study(beta=1.0, seed=seed, **small) for seed in range(3)]
    return [json.loads(json.dumps(run)) for run in runs]


def test_the_study_measures_what_its_parts_measure(studies):
    run, world = studies[0], bandit.make_bandit(5, seed=0)
    optimum = ro.kl_regularized_optimum(world["ref"], world["proxy"], 1.0)
    final = {}
    for name, beta in (("with_kl", 1.0), ("without_kl", 0.0)):
        history = ro.train_ppo(world["ref"], world["proxy"], beta, 40, 0, 0.3, 0.2, 4)
        readings = bandit.describe(history, world, optimum)
        final[name] = {key: values[-1].mean() for key, values in readings.items()}
        for key, value in final[name].items():
            assert run["end"][name][key]["mean"] == pytest.approx(value)
            assert run["curves"][name][key][-1]["mean"] == pytest.approx(value)
            start = readings[key][0].mean()
            assert run["curves"][name][key][0]["mean"] == pytest.approx(start)
            assert run["start"][key]["mean"] == pytest.approx(start)
        peak = readings["gold"].mean(-1).max()
    assert run["peak_gold_without_kl"]["mean"] == pytest.approx(peak)
    kept = final["with_kl"]["gold"] - final["without_kl"]["gold"]
    assert run["gold_kept_by_kl"]["mean"] == pytest.approx(kept)
    assert (run["curves"]["updates"][0], run["curves"]["updates"][-1]) == (0, 40)
    by_beta = zip(run["optimum"]["beta"], run["optimum"]["kl"], strict=True)
    for beta, kl in by_beta:
        probs = ro.kl_regularized_optimum(world["ref"], world["proxy"], beta)
        expected = (probs * np.log(probs / world["ref"])).sum(-1).mean()
        assert kl["mean"] == pytest.approx(expected)
    advantages = dict(zip(run["advantages"]["lam"], run["advantages"]["advantages"], strict=True))
    assert run["advantages"]["gamma"] == 1.0
    assert advantages[0.95] == pytest.approx([0.46575, 0.385, 0.3])
    assert run["clip"]["up"] == pytest.approx([0, 0.8, 1, 1.2, 1.2])
    assert run["clip"]["down"] == pytest.approx([-0.8, -0.8, -1, -1.2, -2])
    near, far = (
        run["kl_estimators"][when]["k1"]["average"]["mean"]
        for when in ("after_1_update", "at_the_end")
    )
    assert far == pytest.approx(final["with_kl"]["kl"]) and near < far


def measured(mean: float) -> dict:
    return {"mean": mean, "ci95": [mean - 0.001, mean + 0.001], "count": 5}


def test_claims_are_true_where_they_should_be(studies):
    def verdicts(favourite, kept, distance, added, saved) -> set[str]:
        end = {
            "with_kl": {"distance": measured(distance)},
            "without_kl": {"favourite": measured(favourite)},
        }
        metrics = {
            "end": end,
            "gold_kept_by_kl": measured(kept),
            "distance_added_by_epochs": measured(added),
            "distance_saved_by_clipping": measured(saved),
        }
        return {claim["verdict"] for claim in judge(ro.CLAIMS, metrics)}

    assert verdicts(0.97, 0.9, 0.002, 0.3, 0.2) == {"holds"}
    assert verdicts(0.1, -0.9, 0.2, 0.0, -0.2) == {"does not hold"}
    assert verdicts(0.5, 0.0, 0.01, 0.01, 0.0) == {"no difference"}
    assert [check["passes"] for check in run_checks(ro.CHECKS, studies[0])] == [True]
    assert studies[0]["ppo_over_dpo"] == 2


def test_findings_name_the_numbers(studies):
    text = " ".join(ro.findings(studies[0]))
    end = studies[0]["end"]
    for name in ("with_kl", "without_kl"):
        assert f"{end[name]['gold']['mean']:.2f}" in text
    assert "PPO 56, DPO 28, PPO + LoRA 28, DPO + LoRA 14" in text


@pytest.mark.parametrize("which", ["one seed", "three seeds", "beside a default"])
def test_the_figure_is_drawn_from_the_metrics_alone(studies, tmp_path, which):
    metrics = studies[1] if which == "one seed" else over_seeds(studies)
    default = studies[0] if which == "beside a default" else None
    draw_objectives(metrics, default).save(tmp_path / "figure.png", "beta 1")
    image = matplotlib.image.imread(tmp_path / "figure.png")
    assert image.shape[1] == 1560 and image[..., :3].std() > 0.05


# --- The command ---


def test_smoke_command_writes_the_same_json_twice(tmp_path):
    results = []
    for name in ("first", "second"):
        done = run_script("rlhf_objectives", "--smoke", "--seed", 3, cwd=tmp_path)
        assert done.returncode == 0 and done.stderr == "", done.stderr
        lines = done.stdout.splitlines()
        assert len(lines) <= 25 and any(line.startswith("wrote ") for line in lines)
        run = "outputs/ppo_objectives-seed-3-smoke"
        assert (tmp_path / f"{run}.png").read_bytes().startswith(b"\x89PNG")
        results.append(json.loads((tmp_path / f"{run}.json").read_text()))
        results[-1].pop("wall_seconds")
        (tmp_path / "outputs").rename(tmp_path / name)
    assert results[0] == results[1]
    assert [claim["id"] for claim in results[0]["claims"]] == [claim.id for claim in ro.CLAIMS]
    assert (
        results[0]["checks"][0]["id"] == "four_models_vs_two" and results[0]["checks"][0]["passes"]
    )
    assert results[0]["metrics"]["memory"]["7B"]["PPO"]["weights_gb"] == 56.0
    assert results[0]["seed"] == 3 and results[0]["script"] == "rlhf_objectives.py"


@pytest.mark.parametrize("beta", ["0.001", "100000"])
def test_extreme_betas_are_drawn(beta, tmp_path):
    done = run_script("rlhf_objectives", "--smoke", "--beta", beta, cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == "", done.stderr


@pytest.mark.parametrize(
    "flags",
    [
        ("--beta", "0"),
        ("--beta", "nan"),
        ("--beta", "x"),
        ("--epsilon", "1"),
        ("--epsilon", "-0.1"),
        ("--what",),
    ],
)
def test_bad_flags_exit_2_with_one_line(flags, tmp_path):
    done = run_script("rlhf_objectives", *flags, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_figures_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    done = run_script("rlhf_objectives", "--smoke", "--figures-dir", "file/figures", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
