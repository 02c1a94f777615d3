"""The exercises as a reader may solve them: other ways than the scripts', with the same results."""

import itertools
import math

import dpo_trainer
import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, softplus
from transformers import get_linear_schedule_with_warmup

from common.claims import Claim
from common.figures import new_figure, seed_dots
from common.intervals import percent, t_interval
from common.prompts import encode_prompt, encode_response


def plackett_luce_nll(scores_in_rank_order):
    scores = np.asarray(scores_in_rank_order)
    loss = 0.0
    for k in range(scores.shape[-1]):
        rest = scores[..., k:] - scores[..., k : k + 1]
        largest = rest.max(-1, keepdims=True)
        loss = loss + largest[..., 0] + np.log(np.exp(rest - largest).sum(-1))
    return loss


def bradley_terry_loss(chosen_rewards, rejected_rewards):
    margins = chosen_rewards - rejected_rewards
    return binary_cross_entropy_with_logits(margins, torch.ones_like(margins))


def kl_regularized_optimum(ref_probs, rewards, beta):
    logits = np.where(ref_probs > 0, rewards / beta, -np.inf)
    weights = ref_probs * np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def clipped_surrogate(ratio, advantage, epsilon):
    limit = np.where(advantage > 0, np.minimum(ratio, 1 + epsilon), np.maximum(ratio, 1 - epsilon))
    return limit * advantage


def generalized_advantage_estimate(rewards, values, gamma, lam):
    steps, later = len(rewards), [*values[1:], 0.0]
    deltas = [rewards[t] + gamma * later[t] - values[t] for t in range(steps)]
    advantages = []
    for t in range(steps):
        advantages.append(sum((gamma * lam) ** k * delta for k, delta in enumerate(deltas[t:])))
    return np.array(advantages)


def kl_estimators(logp, ref_logp):
    x = ref_logp - logp
    return {"k1": logp - ref_logp, "k2": 0.5 * x * x, "k3": np.expm1(x) - x}


def leave_one_out_advantages(rewards):
    advantages = np.empty(rewards.shape)
    for k in range(rewards.shape[1]):
        advantages[:, k] = rewards[:, k] - np.delete(rewards, k, axis=1).mean(1)
    return advantages


def dpo_loss(
    policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps, beta
):
    policy = policy_chosen_logps - policy_rejected_logps
    return softplus(-beta * (policy - (ref_chosen_logps - ref_rejected_logps)))


def ipo_loss(
    policy_chosen_logps,
    policy_rejected_logps,
    ref_chosen_logps,
    ref_rejected_logps,
    beta,
    chosen_lengths=1,
    rejected_lengths=1,
):
    chosen = policy_chosen_logps / chosen_lengths - ref_chosen_logps / chosen_lengths
    rejected = policy_rejected_logps / rejected_lengths - ref_rejected_logps / rejected_lengths
    return (chosen - rejected - 0.5 / beta).square()


def kto_loss(
    policy_logps, ref_logps, labels, kl, beta, desirable_weight=1.0, undesirable_weight=1.0
):
    losses = []
    for ratio, good in zip(policy_logps - ref_logps, labels, strict=True):
        sign, weight = (1, desirable_weight) if good else (-1, undesirable_weight)
        losses.append(weight - weight * torch.sigmoid(beta * sign * (ratio - kl)))
    return torch.stack(losses)


def expected_best_of_n(rewards, n, values=None):
    if n < 1 or n > len(rewards):
        raise ValueError("n")
    values = rewards if values is None else values
    shared = [values[rewards == reward].mean() for reward in rewards]
    subsets = math.comb(len(rewards), n)
    mean = 0.0
    for rank, i in enumerate(np.argsort(rewards)):
        mean += math.comb(rank, n - 1) / subsets * shared[i]
    return mean


def best_of_n_policy(ref_probs, rewards, n):
    policy = np.zeros(len(ref_probs))
    for draws in itertools.product(range(len(ref_probs)), repeat=n):
        chance = np.prod(ref_probs[list(draws)])
        best = max(rewards[k] for k in draws)
        ties = [k for k in range(len(rewards)) if rewards[k] == best]
        for k in ties:
            if chance > 0:
                policy[k] += chance * ref_probs[k] / ref_probs[ties].sum()
    return policy


def best_of_n_kl_bound(n):
    return np.log(n) - 1 + 1 / n


def response_logps(model, tokenizer, prompts, responses):
    asked = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    answers = [encode_response(tokenizer, response) for response in responses]
    width = max(len(a) + len(b) for a, b in zip(asked, answers, strict=True))
    ids = torch.full((len(asked), width), tokenizer.pad_token_id)
    mask = torch.zeros(len(asked), width, dtype=torch.long)
    counted = torch.zeros(len(asked), width)
    for row, (a, b) in enumerate(zip(asked, answers, strict=True)):
        ids[row, : len(a) + len(b)] = torch.tensor(a + b)
        mask[row, : len(a) + len(b)] = 1
        counted[row, len(a) : len(a) + len(b)] = 1
    logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1]
    logps = logits.log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
    return (logps * counted[:, 1:]).sum(-1)


def train_dpo(policy, tokenizer, pairs, *, learning_rate, beta, batch_size):
    weights = [weight for weight in policy.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=learning_rate, weight_decay=0.0)
    steps = math.ceil(len(pairs) / batch_size)
    schedule = get_linear_schedule_with_warmup(optimizer, math.ceil(0.1 * steps), steps)
    losses = []
    for start in range(0, len(pairs), batch_size):
        batch = pairs[start : start + batch_size]
        texts = (
            [row["prompt"] for row in batch] * 2,
            [row["chosen"] for row in batch] + [row["rejected"] for row in batch],
        )
        chosen, rejected = response_logps(policy, tokenizer, *texts).chunk(2)
        with torch.no_grad(), policy.disable_adapter():
            ref_chosen, ref_rejected = response_logps(policy, tokenizer, *texts).chunk(2)
        loss = dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses


def answer_logps(logits, ids, attention_mask, prompt_lengths):
    sums = []
    for row in range(len(ids)):
        first, end = int(prompt_lengths[row]), int(attention_mask[row].sum())
        predicted = logits[row, first - 1 : end - 1].log_softmax(-1)
        sums.append(predicted[range(end - first), ids[row, first:end]].sum())
    return torch.stack(sums)


def token_rewards(scores, logps, ref_logps, mask, beta):
    rewards = torch.where(mask > 0, beta * (ref_logps - logps), 0.0)
    for row, score in enumerate(scores):
        rewards[row, mask[row].nonzero().max()] += score
    return rewards


def ppo_loss(logps, old_logps, advantages, mask, epsilon):
    tokens = mask > 0
    ratio, advantage = (logps - old_logps).exp()[tokens], advantages[tokens]
    pessimistic = torch.minimum(
        ratio * advantage, ratio.clamp(1 - epsilon, 1 + epsilon) * advantage
    )
    return -pessimistic.mean()


# --- The study; its gaps are filled at the end of its file ---

SEEDS = (0, 1, 2, 3, 4, 5, 6, 7)


def measure(seed, smoke=False):
    from common.answers import sample_answers
    from common.preferences import make_pairs, questions
    from common.training import load_sft_model

    pairs = make_pairs(64 if smoke else 768, seed=seed)
    asked = [question.prompt for question in questions("test", seed=seed)[: 16 if smoke else 256]]
    good = {}
    for rank in (2, 32):
        policy, tokenizer = load_sft_model()
        policy, _ = dpo_trainer.train_dpo(policy, tokenizer, pairs, lora_r=rank, seed=seed)
        answers = sample_answers(policy, tokenizer, asked, 1, seed=seed)
        good[f"rank {rank}"] = float(answers.good.mean())
    return good


def draw(runs):
    gained = [run["rank 32"] - run["rank 2"] for run in runs]
    figure, axes = new_figure(1, 1, f"A larger rank gains {percent(t_interval(gained))}")
    seed_dots(axes[0], 0, gained, "lab:dpo")
    axes[0].set_ylabel("share of right and concise answers: rank 32 minus rank 2")
    return figure


CLAIMS = (
    Claim(
        "a_larger_rank_learns_more",
        "a larger LoRA rank changes what DPO learns",
        "share of right and concise answers with the larger rank, minus that with the smaller",
        of=lambda m: m["rank 32"] - m["rank 2"],
        smallest=0.03,
        predicted="no difference",
    ),
)
