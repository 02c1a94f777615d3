"""online_rl.py: the advantage, the gradient that it stands for, parity with TRL, the script."""

import json
from itertools import product

from support.rl_arms import spread, spread_over_rates

import numpy as np
import online_rl
import pytest
import torch
from helpers import run_script
from rlhf_objectives import kl_regularized_optimum

from common.models import load_causal_lm, load_reward_model
from common.preferences import questions

REWARDS = np.array([1.0, -0.5, 0.3, 2.0])
REFERENCE = np.array([0.4, 0.3, 0.2, 0.1])
BETA = 0.7

# --- The advantage ---


def test_a_worked_advantage():
    advantages = online_rl.leave_one_out_advantages(np.array([[1.0, 2.0, 6.0]]))
    np.testing.assert_allclose(advantages, [[-3.0, -1.5, 4.5]])


@pytest.mark.parametrize("kind", [np.asarray, torch.tensor])
@pytest.mark.parametrize("count", [2, 4, 7])
def test_identities(kind, count):
    rewards = np.random.default_rng(count).normal(size=(5, count))
    advantages = np.asarray(online_rl.leave_one_out_advantages(kind(rewards)))
    centred = rewards - rewards.mean(1, keepdims=True)
    np.testing.assert_allclose(advantages.sum(1), 0, atol=1e-12)
    np.testing.assert_allclose(advantages, count / (count - 1) * centred, atol=1e-12)
    shifted = np.asarray(online_rl.leave_one_out_advantages(kind(rewards + 3.0)))
    np.testing.assert_allclose(shifted, advantages, atol=1e-12)


def test_equal_rewards_teach_nothing():
    assert not online_rl.leave_one_out_advantages(np.full((3, 4), 1.7)).any()


def test_the_penalty_is_beta_times_the_log_ratio_of_the_sequence():
    rewards, ratios = np.array([[1.0, 2.0]]), np.array([[0.5, -1.0]])
    np.testing.assert_allclose(online_rl.penalized_rewards(rewards, ratios, 0.4), [[0.8, 2.4]])


# --- The gradient ---


def expected_gradient(logits: np.ndarray, beta: float, count: int = 2) -> np.ndarray:
    """E of mean_i A_i grad log pi(y_i) over all samples of `count` answers, exactly: (K,)."""
    probs = np.exp(logits) / np.exp(logits).sum()
    gradient = np.zeros_like(probs)
    for sampled in product(range(len(probs)), repeat=count):
        picks = list(sampled)
        ratios = np.log(probs / REFERENCE)[picks]
        rewards = online_rl.penalized_rewards(REWARDS[picks], ratios, beta)
        advantages = online_rl.leave_one_out_advantages(rewards[None])[0]
        scores = np.eye(len(probs))[picks] - probs  # grad of log pi with respect to the logits
        gradient += probs[picks].prod() * (advantages[:, None] * scores).mean(0)
    return gradient


@pytest.mark.parametrize("count", [2, 3])
def test_the_expected_update_is_the_gradient_of_the_objective(count):
    start = np.log([0.2, 0.5, 0.2, 0.1])
    logits = torch.tensor(start, requires_grad=True)
    logp = logits.log_softmax(-1)
    reference = torch.tensor(REFERENCE).log()
    objective = (logp.exp() * (torch.tensor(REWARDS) - BETA * (logp - reference))).sum()
    objective.backward()
    found = expected_gradient(start, BETA, count)
    np.testing.assert_allclose(found, logits.grad.numpy(), atol=1e-12)


def test_a_tabular_policy_reaches_the_kl_regularised_optimum():
    logits = np.log(REFERENCE)
    for _ in range(3000):
        logits = logits + expected_gradient(logits, BETA)
    probs = np.exp(logits) / np.exp(logits).sum()
    optimum = kl_regularized_optimum(REFERENCE, REWARDS, BETA)
    assert np.abs(probs - optimum).sum() / 2 < 1e-3
    assert np.abs(REFERENCE - optimum).sum() / 2 > 0.1  # it had a way to go


def test_a_sampled_tabular_policy_comes_near_it():
    rng, logits = np.random.default_rng(0), np.log(REFERENCE)
    for step in range(1500):
        probs = np.exp(logits) / np.exp(logits).sum()
        picks = rng.choice(len(probs), size=(64, 4), p=probs)
        ratios = np.log(probs / REFERENCE)[picks]
        rewards = online_rl.penalized_rewards(REWARDS[picks], ratios, BETA)
        advantages = online_rl.leave_one_out_advantages(rewards)
        scores = np.eye(len(probs))[picks] - probs  # (64, 4, K)
        logits = logits + 1 / (1 + step / 50) * (advantages[..., None] * scores).mean((0, 1))
    probs = np.exp(logits) / np.exp(logits).sum()
    optimum = kl_regularized_optimum(REFERENCE, REWARDS, BETA)
    assert np.abs(probs - optimum).sum() / 2 < 1e-2


# --- TRL ---


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    policy, tokenizer = load_causal_lm("tiny-gpt2")
    judge = load_reward_model("tiny-distilbert")
    prompts = [question.prompt for question in questions("train")[:24]]
    looked = []

    def look(step: int, model) -> dict:
        looked.append(step)
        return {}

    settings = {"learning_rate": 3e-3, "updates": 3, "prompts_per_update": 8, "beta": 0.5}
    done = online_rl.train_rl(policy, tokenizer, judge, prompts, **settings, look=look)
    return done, tokenizer, judge, looked


def test_advantages_are_trls(trained):
    done, tokenizer, judge, _ = trained
    assert online_rl.difference_from_trl(done, tokenizer, judge, 0.5) < 1e-3
    assert online_rl.difference_from_trl(done, tokenizer, judge, 0.0) > 1e-3  # beta is in it


def test_dropout_is_off_and_the_adapter_moves(trained):
    done, *_ = trained
    dropouts = [m for m in done.policy.modules() if isinstance(m, torch.nn.Dropout)]
    assert all(m.p == 0 for m in dropouts)
    assert done.policy.peft_config["default"].lora_dropout == 0
    moved = [x.abs().max().item() for name, x in done.policy.named_parameters() if "lora_B" in name]
    assert max(moved) > 1e-4


def test_it_is_looked_at_on_the_way_and_every_update_is_logged(trained):
    done, *_, looked = trained
    assert looked == [0, 1, 2, 3]
    curve = online_rl.training_curve(done, 0.5)
    assert len(curve["reward"]) == len(curve["optimized"]) == 3
    assert curve["optimized"][0] == pytest.approx(
        curve["reward"][0], abs=1e-3
    )  # it is the reference


def test_few_prompts_are_repeated_until_they_fill_an_update(trained):
    _, tokenizer, judge, _ = trained
    policy, _ = load_causal_lm("tiny-gpt2")
    settings = {"learning_rate": 1e-3, "updates": 1, "prompts_per_update": 4, "samples": 2}
    done = online_rl.train_rl(policy, tokenizer, judge, ["Why?", "How?", "Who?"], **settings)
    assert done.trainer.state.global_step == 1


# --- What the claims compare ---


def test_the_spread_is_that_of_the_means():
    rows = np.array([[0.0, 1.0, 5.0], [2.0, 1.0, 1.0]])
    assert spread(rows) == pytest.approx(2.0)
    rows = np.random.default_rng(0).normal(size=(30, 3))
    both = spread_over_rates(rows + np.array([0.0, 3.0, 1.0]), rows, (0.5, 1, 2))
    assert both["difference"]["mean"] == pytest.approx(
        both["rl_spread"]["mean"] - both["dpo_spread"]["mean"]
    )
    assert both["difference"]["ci95"][0] > 1


# --- The script ---


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    folder = tmp_path_factory.mktemp("online_rl")
    done = run_script("online_rl", "--smoke", "--claims", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_a_smoke_run_takes_every_path(smoke):
    folder, said = smoke
    results = json.loads((folder / "outputs/online_rl-smoke.json").read_text())
    assert (folder / "outputs/online_rl-smoke.png").is_file()
    assert all(check["passes"] for check in results["checks"])
    assert {claim["id"] for claim in results["claims"]} == {c.id for c in online_rl.CLAIMS}
    metrics = results["metrics"]
    assert set(metrics["curves"]) == set(online_rl.ARMS)
    points = metrics["frontier"]
    assert {point["biased"] for point in points} == {False, True}
    assert all({"kl", "gold", "good", "label", "update"} <= set(point) for point in points)
    assert "no KL term" in said and said.count("wrote ") == 1


def test_the_figure_is_drawn_from_several_seeds(smoke, tmp_path):
    from support.drawing.online_rl import draw_online_rl

    from common.intervals import over_seeds

    metrics = json.loads((smoke[0] / "outputs/online_rl-smoke.json").read_text())["metrics"]
    drawing = draw_online_rl(over_seeds([metrics] * 3), metrics)
    drawing.save(tmp_path / "seeds.png", "three seeds")
    assert (tmp_path / "seeds.png").stat().st_size > 20_000


def test_own_prompts(tmp_path):
    rows = [{"prompt": f"Why {k}?", "chosen": f"So {k}.", "rejected": "No."} for k in range(24)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    done = run_script("online_rl", "--smoke", "--dataset", "pairs.jsonl", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (results,) = (tmp_path / "outputs").glob("online_rl*.json")
    results = json.loads(results.read_text())
    assert results["claims"] == [] and all(check["passes"] for check in results["checks"])
    assert set(results["metrics"]["curves"]) == {"default"}
