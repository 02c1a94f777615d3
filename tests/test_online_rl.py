"""online_rl.py: its formulas, PPO and RLOO against a known optimum, parity with TRL, commands."""

import contextlib
import json
from collections import Counter
from itertools import product
from types import SimpleNamespace

import dpo_trainer
import numpy as np
import online_rl
import pytest
import rlhf_objectives
import torch
from helpers import run_script
from rlhf_objectives import generalized_advantage_estimate, kl_regularized_optimum
from transformers import GPT2Config

from common.basics import UserError
from common.models import load_causal_lm, load_reward_model
from common.preferences import questions
from common.prompts import as_messages, encode_prompt
from common.scoring import log_ratios

RNG = np.random.default_rng(3)
MASK = np.array([[0, 1, 1, 1], [1, 1, 0, 0], [0, 0, 1, 0.0], [1, 1, 1, 1]])  # answers of 3, 2, 1, 4
LOGPS, REF_LOGPS, VALUES = -RNG.random((3, 4, 4))
SCORES = RNG.normal(size=4)
KINDS = pytest.mark.parametrize("kind", [np.asarray, torch.tensor])

# --- Reward and advantage ---


@KINDS
def test_the_rewards_of_an_answer_sum_to_its_score_minus_the_kl_term(kind):
    tables = kind(SCORES), kind(LOGPS), kind(REF_LOGPS), kind(MASK)
    rewards = np.asarray(online_rl.token_rewards(*tables, 0.4))
    ratios = (MASK * (LOGPS - REF_LOGPS)).sum(-1)
    np.testing.assert_allclose(rewards.sum(-1), SCORES - 0.4 * ratios, atol=1e-12)
    assert not rewards[MASK == 0].any()
    without = np.asarray(online_rl.token_rewards(0 * tables[0], *tables[1:], 0.4))
    np.testing.assert_allclose(without, -0.4 * MASK * (LOGPS - REF_LOGPS), atol=1e-12)
    places = [int(np.flatnonzero(row).item()) for row in rewards - without]
    assert places == [3, 1, 2, 3]  # the score stands on the last token


def test_a_worked_advantage():
    advantages = online_rl.leave_one_out_advantages(np.array([[1.0, 2.0, 6.0]]))
    np.testing.assert_allclose(advantages, [[-3.0, -1.5, 4.5]])


@KINDS
@pytest.mark.parametrize("count", [2, 4, 7])
def test_identities(kind, count):
    rewards = np.random.default_rng(count).normal(size=(5, count))
    advantages = np.asarray(online_rl.leave_one_out_advantages(kind(rewards)))
    centred = rewards - rewards.mean(1, keepdims=True)
    np.testing.assert_allclose(advantages.sum(1), 0, atol=1e-12)
    np.testing.assert_allclose(advantages, count / (count - 1) * centred, atol=1e-12)
    shifted = np.asarray(online_rl.leave_one_out_advantages(kind(rewards + 3.0)))
    np.testing.assert_allclose(shifted, advantages, atol=1e-12)


@KINDS
@pytest.mark.parametrize("lam", [0.0, 0.95, 1.0])
def test_every_answer_has_the_gae_of_its_own_tokens(kind, lam):
    rewards = MASK * RNG.normal(size=MASK.shape)
    tables = kind(rewards), kind(VALUES), kind(MASK)
    found = np.asarray(online_rl.token_advantages("gae", *tables, 2, lam))
    for k, row in enumerate(MASK > 0):
        alone = generalized_advantage_estimate(rewards[k, row], VALUES[k, row], 1.0, lam)
        np.testing.assert_allclose(found[k, row], alone, atol=1e-12)
        assert not found[k, ~row].any()


def test_leave_one_out_gives_every_token_the_advantage_of_its_answer():
    rewards = MASK * RNG.normal(size=MASK.shape)
    found = online_rl.token_advantages("leave-one-out", rewards, VALUES, MASK, 2, 0.95)
    totals = rewards.sum(-1)
    expected = totals - totals[[1, 0, 3, 2]]
    np.testing.assert_allclose(found, expected[:, None] * MASK, atol=1e-12)


def test_the_loss_is_minus_the_sum_of_the_clipped_objective():
    old, mask = torch.zeros(1, 4), torch.tensor([[1.0, 1.0, 1.0, 0.0]])
    new = torch.tensor([[1.5, 0.5, 1.1, 9.0]]).log().requires_grad_()
    advantages = torch.tensor([[1.0, -1.0, 3.0, 5.0]])
    loss = online_rl.ppo_loss(new, old, advantages, mask, 0.2)
    assert loss.item() == pytest.approx(-(1.2 - 0.8 + 3.3))
    loss.backward()
    np.testing.assert_allclose(new.grad, [[0, 0, -3.3, 0]], atol=1e-6)
    free = online_rl.ppo_loss(new, old, advantages, mask, float("inf"))
    assert free.item() == pytest.approx(-(1.5 - 0.5 + 3.3))


# --- A policy that is a table: one or two tokens, of three; a first token 0 ends the answer ---

FIRST, SECOND = np.array([0.5, 0.3, 0.2]), np.array([[1, 0, 0], [0.6, 0.3, 0.1], [0.2, 0.2, 0.6]])
WAYS = [way for way in product(range(3), repeat=2) if way[0] or not way[1]]  # 7 answers
REWARDS = np.array([0.0, -1.0, 0.5, 2.2, 0.5, -0.5, 1.0])
BETA = 0.5


class Table(torch.nn.Module):
    """Reads [prompt, first, second] as a language model does; its states are one-hot."""

    device, config = torch.device("cpu"), GPT2Config(n_embd=4)

    def __init__(self):
        super().__init__()
        start = np.log(np.vstack([FIRST, SECOND]).clip(1e-9))
        self.logits = torch.nn.Parameter(torch.tensor(start, dtype=torch.float32))
        self.reference, self.off = self.logits.detach().clone(), False

    def forward(self, input_ids, **_):
        states = torch.cat([torch.zeros_like(input_ids[:, :1]), input_ids[:, 1:] + 1], 1)
        table = self.reference if self.off else self.logits
        return SimpleNamespace(logits=table[states], hidden_states=[torch.eye(4)[states]])

    @contextlib.contextmanager
    def disable_adapter(self):
        self.off = True
        yield
        self.off = False

    def probs(self) -> np.ndarray:
        table = self.logits.detach().double().softmax(-1).numpy()
        return np.array([table[0, a] * (table[1 + a, b] if a else 1) for a, b in WAYS])


def distance_after_training(kind: str, epochs: int = 4, updates: int = 150) -> float:
    """Total variation from the optimum of a table that `online_rl.learn` trained."""
    policy, rng = Table(), np.random.default_rng(0)
    optimum = kl_regularized_optimum(policy.probs(), REWARDS, BETA)
    assert np.abs(policy.probs() - optimum).sum() / 2 > 0.6
    head = torch.nn.Linear(4, 1)
    for weight in head.parameters():
        torch.nn.init.zeros_(weight)
    optimizer = torch.optim.Adam([{"params": [policy.logits]}, {"params": head.parameters()}], 0.03)
    how = {"kind": kind, "beta": BETA, "epsilon": 0.2, "lam": 0.95, "epochs": epochs}
    for _ in range(updates):
        probs = policy.probs()
        picked = rng.choice(len(WAYS), 256, p=probs / probs.sum())
        ids = torch.tensor([[0, *WAYS[k]] for k in picked])
        mask = torch.stack([torch.ones(256), (ids[:, 1] > 0).float()], 1)
        batches = []
        for rows in (range(0, 100), range(100, 256)):
            batches.append(([*rows], ids[rows], torch.ones_like(ids[rows]), mask[rows]))
        online_rl.learn(policy, head, optimizer, batches, REWARDS[picked][None], **how)
    return np.abs(policy.probs() - optimum).sum() / 2


@pytest.mark.parametrize("kind", online_rl.ADVANTAGES)
def test_ppo_and_rloo_end_at_the_kl_regularised_optimum(kind):
    assert distance_after_training(kind) < 0.01


def estimators(change):
    """`kl_estimators` whose k1 is changed."""
    return lambda logp, ref_logp: {"k1": change(logp - ref_logp)}


def turned(*args):
    return -PPO_LOSS(*args)


def mean_for_sum(scores, logps, ref_logps, mask, beta):
    rewards = TOKEN_REWARDS(0 * scores, logps, ref_logps, mask, beta)
    return TOKEN_REWARDS(scores, logps, ref_logps, mask, 0) + rewards / mask.sum(-1, keepdims=True)


PPO_LOSS, TOKEN_REWARDS = online_rl.ppo_loss, online_rl.token_rewards
MISTAKES = {
    "beta is dropped": (rlhf_objectives, "kl_estimators", estimators(lambda x: 0 * x)),
    "the KL term has the wrong sign": (rlhf_objectives, "kl_estimators", estimators(lambda x: -x)),
    "the loss has the wrong sign": (online_rl, "ppo_loss", turned),
    "the log-ratio is a mean over tokens": (online_rl, "token_rewards", mean_for_sum),
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("kind", online_rl.ADVANTAGES)
def test_no_mistake_ends_there(mistake, kind, monkeypatch):
    monkeypatch.setattr(*MISTAKES[mistake])
    assert distance_after_training(kind) > 0.03


# --- A language model, and TRL ---


@pytest.fixture(scope="module")
def trained():
    """(policy, both updates, the adapter after the first one, tokenizer): by RLOO."""
    model, tokenizer = load_causal_lm("tiny-gpt2")
    torch.manual_seed(0)  # the head of the judge starts at random
    judge = load_reward_model("tiny-distilbert")
    asked = [question.prompt for question in questions("train")]
    length = {prompt: len(encode_prompt(tokenizer, prompt)) for prompt in asked}
    usual = Counter(length.values()).most_common(1)[0][0]  # TRL's padding would shift GPT-2
    asked = [prompt for prompt in asked if length[prompt] == usual][:24]
    after = {}

    def look(update: int, policy) -> None:
        after[update] = {k: v.clone() for k, v in policy.state_dict().items() if "lora" in k}

    settings = {"advantages": "leave-one-out", "learning_rate": 3e-3, "beta": 0.5, "updates": 2}
    options = {**settings, "prompts_per_update": 8, "look": look, "look_at": (1,)}
    policy, updates = online_rl.train_rl(model, tokenizer, judge, asked, **options)
    assert list(after) == [0, 1, 2]
    return policy, updates, after[1], tokenizer


def test_advantages_are_trls(trained, tmp_path):
    """TRL's own code on the second update's answers: the KL term of the first step is in them."""
    from datasets import Dataset
    from trl import RLOOConfig, RLOOTrainer

    _, (_, second), after_the_first, tokenizer = trained
    model, _ = load_causal_lm("tiny-gpt2")
    lora = dpo_trainer.lora_config(model)
    lora.lora_dropout = 0.0
    rows = [{"prompt": as_messages(prompt)} for prompt in second.prompts for _ in range(4)]
    config = RLOOConfig(
        str(tmp_path),
        beta=0.5,
        num_generations=4,
        per_device_train_batch_size=len(rows),
        disable_dropout=True,
        use_cpu=True,
        bf16=False,
        report_to="none",
    )
    rewards = second.rewards.reshape(-1).tolist()
    options = {"processing_class": tokenizer, "peft_config": lora, "args": config}
    trainer = RLOOTrainer(
        model, lambda **_: rewards, train_dataset=Dataset.from_list(rows), **options
    )
    trainer.model.load_state_dict(after_the_first, strict=False)
    answers = [answer.token_ids for row in second.sampled for answer in row]
    trainer._generate_single_turn = lambda *_: answers
    trainer.model.train()
    batch = trainer._generate_and_score_completions(rows)
    found = batch["advantages"].reshape(8, 4).numpy()
    np.testing.assert_allclose(second.advantages, found, atol=1e-4)
    without = online_rl.leave_one_out_advantages(second.rewards)
    assert np.abs(without - found).max() > 1e-2


def test_an_update_tells_the_kl_and_the_tokens_of_its_answers(trained):
    policy, (first, second), after_the_first, tokenizer = trained
    assert first.kl == 0 and first.rewards.shape == first.advantages.shape == (8, 4)
    policy.load_state_dict(after_the_first, strict=False)
    ids = [[answer.token_ids for answer in answers] for answers in second.sampled]
    kl = log_ratios(policy, tokenizer, second.prompts, ids).mean()
    assert abs(kl) > 1e-3 and second.kl == pytest.approx(kl, abs=1e-4)
    for update in (first, second):
        shown = sum(len(encode_prompt(tokenizer, prompt)) for prompt in update.prompts)
        answers = [len(answer.token_ids) for row in update.sampled for answer in row]
        assert update.tokens == 4 * shown + sum(answers)


def test_the_adapter_moves_without_dropout(trained):
    policy, *_ = trained
    modules = [m for m in policy.modules() if isinstance(m, torch.nn.Dropout)]
    assert all(module.p == 0 or not module.training for module in modules)
    moved = [x.abs().max().item() for name, x in policy.named_parameters() if "lora_B" in name]
    assert max(moved) > 1e-4


def test_prompts_come_in_turn(monkeypatch):
    def untrained(policy, head, optimizer, batches, scores, **how) -> dict:
        return {"advantages": scores, "loss": 0.0}

    monkeypatch.setattr(online_rl, "learn", untrained)
    model, tokenizer = load_causal_lm("tiny-gpt2")
    judge, asked = load_reward_model("tiny-distilbert"), ["Why?", "How?", "Who?"]
    options = {"updates": 3, "prompts_per_update": 4, "samples": 2, "max_new_tokens": 2}
    _, history = online_rl.train_rl(model, tokenizer, judge, asked, **options)
    drawn = [prompt for update in history for prompt in update.prompts]
    assert all(sorted(drawn[k : k + 3]) == ["How?", "Who?", "Why?"] for k in (0, 3, 6, 9))


# --- The commands ---


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("online_rl")


def test_rloo_by_command_and_without_dpo(folder):
    done = run_script("online_rl", "--smoke", "--advantages", "leave-one-out", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "DPO" not in done.stdout and done.stdout.count("first (") == 1
    assert len(done.stdout.splitlines()) <= 26  # one of them: the reward model
    (saved,) = (folder / "outputs").glob("online_rl*leave-one-out*.json")
    assert saved.with_suffix(".png").is_file()
    results = json.loads(saved.read_text(encoding="utf-8"))
    assert results["settings"]["advantages"] == "leave-one-out"
    looks, training = (results["metrics"][name] for name in ("looks", "training"))
    assert [look["step"] for look in looks] == [0, 1, 2, 3] and looks[0]["kl"] == 0
    optimized = np.array(training["reward"]) - 0.3 * np.array(training["kl"])
    assert training["optimized"] == pytest.approx(optimized) and training["kl"][0] == 0


@pytest.mark.parametrize(
    "flags", [("--advantages", "mean"), ("--advantages", "leave-one-out", "--samples", "1")]
)
def test_what_cannot_be_trained_is_said_before_training(flags, tmp_path):
    with pytest.raises(UserError, match=r"^--"):
        online_rl.main(["--smoke", "--output-dir", str(tmp_path / "outputs"), *flags])
    assert list(tmp_path.iterdir()) == []
