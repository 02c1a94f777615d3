"""Online RL: what does PPO, the loop of RLHF, do to a model, seen from inside?

    python 05-preference-tuning/online_rl.py
    python 05-preference-tuning/online_rl.py --beta 1         # a stronger pull to the SFT model
    python 05-preference-tuning/online_rl.py --advantages leave-one-out --epochs 1 --updates 20
    python 05-preference-tuning/online_rl.py --model FOLDER --dataset pairs.jsonl   # your prompts

trained on   the model's own answers: in each of 8 updates 4 to each of 32 questions, scored by a
             reward model of 6,400 labelled pairs. No answer of this loop has a label
by           PPO, written out below, with LoRA: a reward for every token, a value head, the clipped
             objective, 4 passes over each batch. Its formulas are those of rlhf_objectives.py
judged by    sampled answers to 256 held-out questions, whose right answers are known
writes       outputs/online_rl.png, outputs/online_rl.json

About 40 seconds on one core, and 30 for the reward model where outputs/ has none; --reward-model
FOLDER takes another. Left out: a value model of its own (here a linear layer on the policy),
several processes; other settings (studies/ppo_settings.py), a biased reward model (kl_term.py).
"""

import math
import random
from pathlib import Path
from typing import NamedTuple

import installed  # noqa: F401

import dpo_trainer
import numpy as np
import own_data.look  # and own_data.read with it
import reward_model
import rlhf_objectives as ppo
from tqdm import tqdm

from common import answers, figures, models, preferences, runs, scoring, training
from common.sampling import sample

ADVANTAGES = ("gae", "leave-one-out")  # PPO, and RLOO

# --- 1. Reward and advantage: (N, T), a row for each answer, a column for each of its tokens ---


def token_rewards(scores, logps, ref_logps, mask, beta: float):
    """-beta log(pi / pi_ref) for each token, and on the last one the answer's score (N,) as well.

    A row sums to the score minus beta times the log-ratio of the whole answer, in nats: its mean is
    E[r] - beta KL(pi || pi_ref). `mask`: 1 on the answer's tokens. Ziegler 2019, arXiv 1909.08593.
    """
    last = mask * (mask.cumsum(-1) == mask.sum(-1, keepdims=True))  # 1 on the last token
    return last * scores[:, None] - beta * mask * ppo.kl_estimators(logps, ref_logps)["k1"]


def leave_one_out_advantages(rewards):
    """A_i = r_i - mean of the other K - 1 rewards to the same prompt; (P, K), sums to 0 over K.

    The mean does not depend on the answer itself, so the gradient stays unbiased; r_i - mean r
    would shrink it by (K - 1)/K. Kool et al. 2019; Ahmadian et al. 2024 (arXiv 2402.14740).
    """
    count = rewards.shape[-1]
    others = (rewards.sum(-1, keepdims=True) - rewards) / (count - 1)
    return rewards - others


def token_advantages(kind: str, rewards, values, mask, samples: int, lam: float):
    """How much better than expected each token was.

    "gae" expects what the value head says; "leave-one-out" the mean of the other answers to the
    prompt, for a whole answer. Rows come in groups of `samples`: the answers to one prompt.
    """
    if kind == "gae":  # behind an answer rewards and values are 0: nothing flows back from there
        return mask * ppo.generalized_advantage_estimate(rewards, mask * values, 1.0, lam)
    totals = rewards.sum(-1).reshape(-1, samples)  # (P, K)
    return mask * leave_one_out_advantages(totals).reshape(-1, 1)


def ppo_loss(logps, old_logps, advantages, mask, epsilon: float):
    """Minus the clipped objective, summed over the tokens of all answers."""
    ratio = (logps - old_logps).exp()
    return -(mask * ppo.clipped_surrogate(ratio, advantages, epsilon)).sum()


# --- 2. Training ---


class Update(NamedTuple):
    """What one update learned from: K answers to each of P prompts."""

    prompts: list
    sampled: list  # (P, K) of Response
    rewards: np.ndarray  # (P, K), log-odds, without the KL term
    advantages: np.ndarray  # (P, K), the mean over an answer's tokens
    kl: float = 0.0  # nats, from these answers
    tokens: int = 0  # of all answers, each with its prompt


# The defaults are the best on validation prompts: of rates 1e-3, 3e-3, 1e-2 and 1, 2, 4 epochs by
# gold utility; of beta 0.1, 0.3, 1 the least KL within 0.02 of the best share of good answers.
def train_rl(
    model,
    tokenizer,
    judge: tuple,  # reward model, tokenizer
    asked: list,
    *,
    advantages: str = "gae",
    beta: float = 0.3,
    epsilon: float = 0.2,
    lam: float = 0.95,
    learning_rate: float | None = None,
    epochs: int = 4,
    updates: int = 8,
    prompts_per_update: int = 32,
    samples: int = 4,
    max_new_tokens: int = 48,
    seed: int = 0,
    look=None,
    look_at=(),
) -> tuple:
    """(policy, history): a LoRA adapter trained on its own answers, and an Update for each step.

    `look(update, policy)` is called before the first update, after those in `look_at`, at the end.
    """
    learning_rate = learning_rate or dpo_trainer.default_rate(model, 3e-3)
    policy, value_head, optimizer = new_policy(model, learning_rate, seed)
    how = {"kind": advantages, "beta": beta, "epsilon": epsilon, "lam": lam, "epochs": epochs}
    rng, in_turn, history = random.Random(seed), [], []
    if look:
        look(0, policy)
    for update in tqdm(range(1, updates + 1), "online RL", leave=False, delay=2, disable=None):
        # Generate and score here; advantage and update are in `learn`, below.
        while len(in_turn) < prompts_per_update:  # every prompt once, each time in another order
            in_turn += rng.sample(asked, len(asked))
        prompts, in_turn = in_turn[:prompts_per_update], in_turn[prompts_per_update:]
        draw_with = 1000 * (seed + 1) + update
        sampled = sample(policy, tokenizer, prompts, samples, max_new_tokens, seed=draw_with)
        texts = [[answer.text for answer in row] for row in sampled]
        rewards = scoring.score_texts(judge, prompts, texts)
        each = [prompt for prompt in prompts for _ in range(samples)]
        token_ids = [answer.token_ids for row in sampled for answer in row]
        batches = list(scoring.response_batches(tokenizer, each, token_ids, 64))
        learned = learn(policy, value_head, optimizer, batches, rewards, **how)
        training.check_finite("online RL", update, learned.pop("loss"), learning_rate)
        history.append(Update(prompts, sampled, rewards, **learned))
        if look and update in (*look_at, updates):
            look(update, policy)
    return policy, history


def learn(policy, value_head, optimizer, batches, scores, *, kind, beta, epsilon, lam, epochs):
    """One update by the scores (P, K) of the answers; returns the loss, and what Update keeps.

    `batches` are row numbers, ids and two masks, of all tokens and of those that come next in an
    answer. An epoch is one step: the gradient of all batches.
    """
    import torch

    old_logps, old_values, mask = read_all(policy, value_head, batches)
    with policy.disable_adapter():
        ref_logps, _, _ = read_all(policy, value_head, batches)
    # Reward: on every token its part of the KL term, on the last one of an answer also its score.
    of_answers = torch.as_tensor(scores.reshape(-1), dtype=torch.float32, device=mask.device)
    rewards = token_rewards(of_answers, old_logps, ref_logps, mask, beta)
    # Advantage: how much better than expected each token was.
    advantages = token_advantages(kind, rewards, old_values, mask, scores.shape[1], lam)
    # Update: what was better becomes likelier; the value head learns the reward still to come.
    to_come, tokens, total = rewards.flip(-1).cumsum(-1).flip(-1), mask.sum(), 0.0
    for _ in range(epochs):
        for rows, ids, attention_mask, _ in batches:
            logps, values = read_tokens(policy, value_head, ids, attention_mask)
            tables = (old_logps, advantages, mask, to_come)
            old, better, answer, target = (table[rows, : logps.shape[1]] for table in tables)
            loss = ppo_loss(logps, old, better, answer, epsilon)
            value_loss = (answer * (values - target) ** 2).sum()
            ((loss + value_loss) / tokens).backward()
            total += loss.item()
        optimizer.step()
        optimizer.zero_grad()
    mean = (advantages.sum(-1) / mask.sum(-1)).reshape(scores.shape)
    return {
        "advantages": mean.cpu().numpy(),
        "kl": (mask * (old_logps - ref_logps)).sum(-1).mean().item(),
        "loss": total / (epochs * tokens.item()),
        "tokens": sum(attention_mask.sum().item() for _, _, attention_mask, _ in batches),
    }


def new_policy(model, learning_rate: float, seed: int) -> tuple:
    """(policy, value head, optimizer): a new adapter on the model, and a head for its values."""
    import torch
    from peft import get_peft_model

    training.go_on_alone()  # of several processes the first one trains
    torch.manual_seed(seed)  # LoRA starts at random
    policy = get_peft_model(model, dpo_trainer.lora_config(model))
    policy.eval()  # no dropout: the ratio compares like with like
    adapter = [weight for weight in policy.parameters() if weight.requires_grad]
    # The value, the reward still to come, is linear in the last hidden states; at first 0.
    size = policy.config.get_text_config().hidden_size
    value_head = torch.nn.Linear(size, 1, device=policy.device)
    for weight in value_head.parameters():
        torch.nn.init.zeros_(weight)
    values = {"params": value_head.parameters(), "lr": 3e-3}  # whatever the policy is
    optimizer = torch.optim.Adam([{"params": adapter, "lr": learning_rate}, values])
    return policy, value_head, optimizer


def read_tokens(policy, value_head, ids, attention_mask) -> tuple:
    """(log pi of each next token, the value before it), (B, T - 1)."""
    import torch

    ids, attention_mask = ids.to(policy.device), attention_mask.to(policy.device)
    with models.autocast(policy):
        out = policy(input_ids=ids, attention_mask=attention_mask, output_hidden_states=True)
    logits = out.logits[:, :-1].float().transpose(1, 2)
    logps = -torch.nn.functional.cross_entropy(logits, ids[:, 1:], reduction="none")
    states = out.hidden_states[-1][:, :-1].detach()  # so the value head changes no answer
    return logps, value_head(states.float()).squeeze(-1)


def read_all(policy, value_head, batches: list) -> tuple:
    """Three tables (N, T) of all answers: log pi, the values, and 1 on the tokens of the answer."""
    import torch

    size = sum(len(rows) for rows, *_ in batches), max(mask.shape[1] for *_, mask in batches)
    tables = torch.zeros(3, *size, device=policy.device)
    with torch.no_grad():
        for rows, ids, attention_mask, mask in batches:
            read = *read_tokens(policy, value_head, ids, attention_mask), mask.to(policy.device)
            tables[:, rows, : mask.shape[1]] = torch.stack(read)
    return tables.unbind()


# --- 3. The figure ---


def draw(metrics: dict, history: list[Update], method: str):
    """Four panels of the run; two where nobody knows how good the answers are."""
    curve, looks, dpo = (metrics[name] for name in ("training", "looks", "dpo"))
    steps, updates = [look["step"] for look in looks], range(1, len(curve["reward"]) + 1)
    rows, title = 2 if "kinds" in looks[0] else 1, f"Online RL by {method}: {steps[-1]} updates"
    figure, axes = figures.new_figure(rows, 2, title)
    label, color = "reward minus the KL term: what is optimised", "lab:reward"
    axes[0].plot(updates, curve["reward"], color=color, label="reward")
    axes[0].plot(updates, curve["optimized"], "--", color=color, label=label)
    axes[0].set(title="Reward of the answers sampled in training", ylabel="log-odds")
    axes[0].set(xlabel="update", xticks=steps)
    figures.legend_below(axes[0])
    if "kinds" in looks[0]:
        dpo_trainer.kinds_panel(axes[1], looks)
        axes[1].set(title="Answers to held-out questions", xlabel="update", xticks=steps)
        dpo_trainer.distance_panel(axes[2], looks, "lab:rl", "update")
        if dpo:
            good = 100 * dpo["kinds"][answers.KINDS[0]]
            label = f"right and concise after DPO: {good:.0f} %"
            axes[1].axhline(good, color="black", ls="--", lw=1, label=label)
            figures.legend_below(axes[1], ncols=2)
            axes[2].plot(dpo["kl"], dpo["gold"], "s", color="lab:dpo", label="DPO")
            axes[2].set_xlim(0, 1.35 * max(look["kl"] for look in (dpo, *looks)))
            figures.legend_below(axes[2])
    # One prompt of the second update, whose value head can guess: that with the widest advantages.
    ax, update, number = axes[-1], history[:2][-1], min(2, len(history))
    row = np.ptp(update.advantages, axis=1).argmax()
    order = np.argsort(-update.rewards[row])
    for place, k in enumerate(order):
        reward, advantage = update.rewards[row, k], update.advantages[row, k]
        ax.barh(place, advantage, 0.35, color="lab:gold" if advantage > 0 else "lab:rejected")
        text = update.sampled[row][k].text
        told = f"reward {reward:+.1f}, advantage {advantage:+.1f}"
        told += f":{answers.marks(update.prompts[row], text)}\n{answers.in_short(text, 58)}"
        ax.text(0.01, place - 0.23, told, fontsize=7, transform=ax.get_yaxis_transform())
    ax.axvline(0, color="lightgrey", lw=0.8, zorder=0)
    ax.grid(visible=False)
    ax.set(xlabel="mean advantage of its tokens (log-odds)", yticks=[])
    ax.set_ylim(len(order) - 0.5, -0.9)
    title = f"Update {number}, one prompt:\n{answers.in_short(update.prompts[row], 52)}"
    ax.set_title(title, fontsize=9)
    return figure


# --- 4. The run ---


def find_reward_model(given, folder, backbone, dataset, reading, smoke, seed, device) -> tuple:
    """(reward model, tokenizer): the given one, or reward_model.py's, found or trained."""
    if given:
        return models.load_reward_model(str(given), device, trained=True)
    if dataset:
        tokenizer, epochs = models.load_tokenizer(backbone), reward_model.OWN_EPOCHS
        pairs, _ = own_data.read.own_reward_pairs(dataset, tokenizer, seed, **reading)
    else:
        pairs, epochs = preferences.make_pairs(64 if smoke else 6400, seed=seed), 1
    how = {"device": device, "seed": seed, "epochs": epochs}
    return reward_model.reward_model_in(folder, backbone, pairs, **how)


def train_and_compare(model, tokenizer, judge, data: tuple, hyper: dict, dpo: Path) -> tuple:
    """(metrics, history, last answers) of data = (prompts, held-out prompts, pairs), printed."""
    (asked, held_out, pairs), looks, seen, end = data, [], [], hyper["updates"]

    def look(step: int, policy) -> None:
        ask = 2 + (step in (0, end)), hyper["seed"], hyper["max_new_tokens"]
        sampled = answers.sample_answers(policy, tokenizer, held_out, *ask)
        reward = float(scoring.score_texts(judge, held_out, sampled.texts).mean())
        looks.append({"step": step, "reward": reward, **sampled.means()})
        seen.append(sampled)

    on_the_way = {"look": look, "look_at": range(0, end, math.ceil(end / 6))}
    policy, history = train_rl(model, tokenizer, judge, asked, **hyper, **on_the_way)
    columns, (first, *_, last) = {"before": looks[0], "after": looks[-1]}, seen
    if dpo.exists() and "chosen" in pairs[0]:  # DPO stands beside where its lesson has run
        base = policy.unload()
        look(end, dpo_trainer.dpo_policy(dpo, base, tokenizer, pairs, seed=hyper["seed"]))
        columns["DPO"] = {**looks.pop(), "step": None}
    rows = answers.rows_of(list(columns.values()))
    answers.print_before_after(held_out, first.texts, last.texts, rows, 2, ["", *columns])
    reward = np.array([update.rewards.mean() for update in history])
    kl = np.array([update.kl for update in history])
    curve = {"reward": reward, "kl": kl, "optimized": reward - hyper["beta"] * kl}
    return {"looks": looks, "dpo": columns.get("DPO"), "training": curve}, history, last


def build_parser():
    parser = runs.make_parser(__file__, __doc__)
    parser.add_argument("--model", default="tiny-gpt2", help="hub id or folder of a causal LM")
    parser.add_argument("--reward-model", type=runs.folder, help="default: that of reward_model.py")
    parser.add_argument("--reward-backbone", default="tiny-distilbert", help="what it starts from")
    parser.add_argument("--prompts", type=runs.whole_number(1), help="default: 256, of your own 16")
    parser.add_argument("--sft-steps", type=runs.whole_number(0), help="before; default: 300")
    runs.add_dataset_flags(parser)
    texts = {"learning_rate": "3e-3 for tiny-gpt2, others 3e-4"}
    texts["epochs"] = "passes over the answers of an update; default: 4"
    texts["epsilon"] = "the clip: how far a ratio may go from 1; default: 0.2"
    texts["lam"] = "lambda of the advantages; default: 0.95"
    runs.add_hyperparameters(parser, train_rl, **texts)
    return parser


def main(argv: list[str] | None = None) -> dict:
    """Train online, look on the way, print and draw; returns the metrics."""
    smoke = {"updates": 3, "prompts_per_update": 8, "prompts": 8}
    args = runs.start(build_parser(), argv, "online_rl", train_rl, smoke)
    if args.advantages not in ADVANTAGES:
        raise runs.UserError(f"--advantages is one of {', '.join(ADVANTAGES)}")
    if args.advantages == "leave-one-out" and args.samples < 2:
        raise runs.UserError("--samples: an answer is compared with others; give at least 2")
    model, tokenizer = training.load_sft_model(args.model, args.device, **args.sft)
    if args.dataset:
        limits = {"seed": args.seed, "prompts": args.prompts or 16, **args.reading}
        limits |= {"alone": bool(args.reward_model), "max_new_tokens": args.max_new_tokens}
        pairs, held, held_out = own_data.read.own_pairs(args.dataset, tokenizer, **limits)
        asked = list(pairs["prompt"])
        rate = args.learning_rate or dpo_trainer.default_rate(model, 3e-3)
        second = own_data.look.SecondLook(args.dataset, args.reading, args.model, rate)
        if "chosen" in pairs.column_names:
            second.before(pairs, held, model, tokenizer, args.seed)
    else:
        pairs, second = preferences.make_pairs(64 if args.smoke else 768, seed=args.seed), None
        asked = [q.prompt for q in preferences.questions("train")]
        held_out = [q.prompt for q in preferences.questions("test")[: args.prompts or 256]]
    folder = runs.trained_folder(args, "reward_model", without=("model", "sft_steps"))
    about = (args.reward_backbone, args.dataset, args.reading, args.smoke, args.seed, args.device)
    judge = find_reward_model(args.reward_model, folder, *about)
    print(f"{args.model}: {args.updates} updates; {len(held_out)} held-out prompts to judge by")
    dpo = runs.trained_folder(args, "dpo", without=("reward_backbone",))
    data, hyper = (asked, held_out, pairs), args.training
    metrics, history, last = train_and_compare(model, tokenizer, judge, data, hyper, dpo)
    if second:
        second.after(tokenizer, held, last)
        metrics |= second.metrics()
    next_step = "python 05-preference-tuning/studies/rl_beside_dpo.py: does it get further?"
    method = "PPO" if args.advantages == "gae" else "RLOO"
    return runs.finish(args, metrics, draw(metrics, history, method), next_step)


if __name__ == "__main__":
    runs.run(main)
