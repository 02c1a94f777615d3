"""online_rl.py and its study: the advantage, its gradient, parity with TRL, the commands."""

import json
from itertools import product

import numpy as np
import online_rl
import pytest
import rl_beside_dpo as study
import torch
from helpers import run_script
from rlhf_objectives import kl_regularized_optimum

from common.models import load_causal_lm, load_reward_model
from common.preferences import questions
from common.scoring import log_ratios

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
    for _ in range(2000):
        logits = logits + 2 * expected_gradient(logits, BETA)
    probs = np.exp(logits) / np.exp(logits).sum()
    optimum = kl_regularized_optimum(REFERENCE, REWARDS, BETA)
    assert np.abs(probs - optimum).sum() / 2 < 1e-3
    assert np.abs(REFERENCE - optimum).sum() / 2 > 0.1  # it had a way to go


# --- TRL ---


@pytest.fixture(scope="module")
def trained():
    """(policy, history, what updates saw, the adapter after the first one, tokenizer)."""
    model, tokenizer = load_causal_lm("tiny-gpt2")
    torch.manual_seed(0)  # the head of the judge starts at random
    judge = load_reward_model("tiny-distilbert")
    asked = [question.prompt for question in questions("train")[:24]]
    after = {}

    def look(step: int, policy) -> None:
        after[step] = {k: v.clone() for k, v in policy.state_dict().items() if "lora" in k}

    settings = {"learning_rate": 3e-3, "updates": 2, "prompts_per_update": 8, "beta": 0.5}
    options = {**settings, "look": look, "look_at": (1,)}
    policy, history, updates = online_rl.train_rl(model, tokenizer, judge, asked, **options)
    assert list(after) == [0, 1, 2]
    return policy, history, updates, after[1], tokenizer


def test_advantages_are_trls(trained):
    """The second update was sampled from the policy after the first: the KL term is in it."""
    policy, _, (first, second), after_the_first, tokenizer = trained
    policy.load_state_dict(after_the_first, strict=False)
    token_ids = [[answer.token_ids for answer in row] for row in second.sampled]
    ratios = log_ratios(policy, tokenizer, second.prompts, token_ids)
    for beta, same in ((0.5, True), (0.0, False)):
        rewards = online_rl.penalized_rewards(second.rewards, ratios, beta)
        difference = online_rl.leave_one_out_advantages(rewards) - second.advantages
        assert (np.abs(difference).max() < 1e-3 * second.advantages.std()) == same
    plain = online_rl.leave_one_out_advantages(first.rewards)  # the policy is the reference
    np.testing.assert_allclose(plain, first.advantages, atol=1e-4)


def test_dropout_is_off_and_the_adapter_moves(trained):
    policy, *_ = trained
    assert all(m.p == 0 for m in policy.modules() if isinstance(m, torch.nn.Dropout))
    moved = [x.abs().max().item() for name, x in policy.named_parameters() if "lora_B" in name]
    assert max(moved) > 1e-4


def test_every_update_is_logged(trained):
    _, history, updates, *_ = trained
    curve = online_rl.training_curve(history, 0.5)
    assert curve["reward"] == pytest.approx([u.rewards.mean() for u in updates], abs=1e-4)
    assert curve["optimized"][0] == pytest.approx(curve["reward"][0], abs=1e-3)
    assert curve["optimized"][1] != pytest.approx(curve["reward"][1], abs=1e-3)


def test_few_prompts_are_repeated_until_they_fill_an_update():
    assert len(online_rl.prompt_rows(["Why?", "How?", "Who?"], 4)) == 6


# --- The study's arithmetic ---


def test_the_spread_is_that_of_the_means():
    rows = np.random.default_rng(0).normal(size=(30, 3))
    dpo = dict(zip(study.RATES, rows.T, strict=True))
    rl = {name: gold + more for (name, gold), more in zip(dpo.items(), (0, 3, 1), strict=True)}
    found = study.spread_over_rates(rl, dpo)
    assert found["dpo"] == pytest.approx(rows.mean(0)) and found["rl"][1] > found["dpo"][1] + 2
    assert found["difference"]["mean"] == pytest.approx(np.ptp(found["rl"]) - np.ptp(found["dpo"]))
    assert found["difference"]["ci95"][0] > 1


def test_tokens_through_models():
    found = study.token_passes(100, [50, 100, 150])
    assert found["dpo_passes"] == 400 and found["rl_passes"] == 150 * 7
    assert found["doublings"]["mean"] == pytest.approx(np.log2(150 * 7 / 400))


# --- The commands ---


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("online_rl")


def test_the_lesson_without_dpo(folder):
    done = run_script("online_rl", "--smoke", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "DPO" not in done.stdout and done.stdout.count("first (") == 1
    assert len(done.stdout.splitlines()) <= 26  # one of them: the reward model
    results = json.loads((folder / "outputs/online_rl-smoke.json").read_text(encoding="utf-8"))
    assert (folder / "outputs/online_rl-smoke.png").is_file()
    looks = results["metrics"]["looks"]
    assert [look["step"] for look in looks] == [0, 1, 2, 3] and looks[0]["kl"] == 0


def test_one_answer_has_no_siblings(folder):
    done = run_script("online_rl", "--smoke", "--samples", "1", cwd=folder)
    assert done.returncode == 2 and done.stderr.startswith("error: --samples")


def test_the_study(folder):
    done = run_script("studies/rl_beside_dpo", "--smoke", cwd=folder)
    assert done.returncode == 0, done.stderr
    saved = folder / "outputs/studies/rl_beside_dpo-smoke.json"
    results = json.loads(saved.read_text(encoding="utf-8"))
    metrics = results["runs"][0]["metrics"]
    assert set(metrics["looks"]) == set(study.ARMS)
    points = metrics["points"]
    assert {point["series"] for point in points} == {"default", "biased", "biased_no_kl"}
    assert {point["biased"] for point in points} == {False, True}
    assert any("no KL term" in point["label"] for point in points)
    assert [claim["id"] for claim in results["claims"]] == [claim.id for claim in study.CLAIMS]


def test_own_prompts(tmp_path):
    rows = [{"prompt": f"Why {k}?", "chosen": f"So {k}.", "rejected": "No."} for k in range(24)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    done = run_script("online_rl", "--smoke", "--dataset", "pairs.jsonl", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (results,) = (tmp_path / "outputs").glob("online_rl*.json")
    metrics = json.loads(results.read_text())["metrics"]
    assert "second_look" in metrics and "gold" not in metrics["looks"][0]
