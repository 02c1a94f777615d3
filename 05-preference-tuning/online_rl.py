"""Online RL: what does PPO, the loop of RLHF, do to a model, seen from inside?

    python 05-preference-tuning/online_rl.py
    python 05-preference-tuning/online_rl.py --beta 1         # a stronger pull to the SFT model
    python 05-preference-tuning/online_rl.py --advantages leave-one-out --epochs 1 --updates 20
    python 05-preference-tuning/online_rl.py --model FOLDER --dataset pairs.jsonl   # your prompts
                                            (--reward-model FOLDER: what you trained yourself)

trained on   the model's own answers: in each of 8 updates 4 to each of 32 questions, scored by a
             reward model of 6,400 labelled pairs. No answer of this loop has a label
by           PPO, written out below, with LoRA: a reward for every token, a value head, the clipped
             objective, 4 passes over each batch. Its formulas are those of rlhf_objectives.py
judged by    sampled answers to 256 held-out questions, whose right answers are known
writes       outputs/online_rl.png, outputs/online_rl.json

About 40 seconds on one core, and 30 for the reward model where outputs/ has none. Left out: a value
model of its own (here a linear layer on the policy), several processes, other settings and a biased
reward model (studies/ppo_settings.py).
"""

import itertools
import math
import random
from typing import NamedTuple

import installed  # noqa: F401

import dpo_trainer
import numpy as np
import own_data.look  # and own_data.read with it
import reward_model
import rlhf_objectives as ppo

from common import answers, figures, models, preferences, runs, scoring, training
from common.sampling import sample

ADVANTAGES = ("gae", "leave-one-out")  # PPO, and RLOO
VALUE_RATE = 3e-3  # the value head's learning rate; it starts at 0, whatever the policy is

# --- 1. Reward and advantage: (N, T), a row for each answer, a column for each of its tokens ---


def token_rewards(scores, logps, ref_logps, mask, beta: float):
    """-beta log(pi / pi_ref) for each token, and on the last one the score of the answer as well.

    A row sums to the score minus beta times the log-ratio of the sequence, in nats: its mean is
    E[r] - beta KL(pi || pi_ref). `mask` is 1 on the answer's tokens. Ziegler et al. 2019 (arXiv
    1909.08593).
    """
    last = mask * (mask.cumsum(-1) == mask.sum(-1, keepdims=True))
    return last * scores[:, None] - beta * mask * ppo.kl_estimators(logps, ref_logps)["k1"]


def leave_one_out_advantages(rewards):
    """A_i = r_i - mean of the other K - 1 rewards to the same prompt; (P, K), sums to 0 over K.

    The baseline does not depend on the response, so the gradient stays unbiased; r_i - mean r would
    shrink it by (K - 1)/K. Kool et al. 2019; Ahmadian et al. 2024 (arXiv 2402.14740).
    """
    count = rewards.shape[-1]
    others = (rewards.sum(-1, keepdims=True) - rewards) / (count - 1)
    return rewards - others


def token_advantages(kind: str, rewards, values, mask, samples: int, lam: float):
    """How much better than expected each token was. "gae": than the value head expects.

    "leave-one-out": a whole answer, than the other answers to its prompt. Answers to one prompt
    are neighbours.
    """
    if kind == "gae":  # behind an answer rewards and values are 0: nothing flows back from there
        return mask * ppo.generalized_advantage_estimate(rewards, mask * values, 1.0, lam)
    totals = rewards.sum(-1).reshape(-1, samples)  # (P, K)
    return mask * leave_one_out_advantages(totals).reshape(-1, 1)


def ppo_loss(logps, old_logps, advantages, mask, epsilon: float) -> tuple:
    """(minus the clipped objective, how many tokens have no gradient), both summed over tokens."""
    ratio = (logps - old_logps).exp()
    objective = ppo.clipped_surrogate(ratio, advantages, epsilon)
    return -(mask * objective).sum(), (mask * (objective < ratio * advantages)).sum()


# --- 2. Training ---


class Update(NamedTuple):
    """What one update learned from: K answers to each of P prompts, and arrays (P, K)."""

    prompts: list
    sampled: list  # (P, K) of Response
    rewards: np.ndarray  # log-odds, without the KL term
    advantages: np.ndarray  # the mean over the answer's tokens


def train_rl(
    model,
    tokenizer,
    judge: tuple,
    asked: list,
    *,
    advantages: str = "gae",
    beta: float = 0.3,
    epsilon: float | None = 0.2,
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
    """(policy, history, what each Update saw): a LoRA adapter trained on its own answers.

    `judge`, a (reward model, tokenizer), scores answers to the prompts `asked`. `advantages` are
    those of PPO ("gae") or RLOO ("leave-one-out"); without `epsilon` nothing is clipped. Chosen
    on validation prompts: of rates 1e-3, 3e-3, 1e-2 and 1, 2, 4 epochs the highest gold utility; of
    beta 0.1, 0.3, 1 the least KL within 0.02 of the best share of good answers.
    `look(update, policy)` is called before, at `look_at` (else every sixth of the way) and after.
    A row of the history: means over the update's answers of `reward`, `kl` (nats, from samples) and
    `optimized` = reward - beta kl; `clipped`, the share of tokens without a gradient; `tokens` of
    answers and `prompt_tokens` (a prompt once for each answer) in all updates so far.
    """
    import torch
    from peft import get_peft_model
    from tqdm import tqdm

    learning_rate = learning_rate or (3e-3 if models.is_embedded(model.name_or_path) else 3e-4)
    if runs.process_count() > 1:
        print("online RL trains in one process: the first one goes on alone")
        training.go_on_alone()
    torch.manual_seed(seed)  # LoRA starts at random
    lora = dpo_trainer.lora_config(model)
    lora.lora_dropout = 0.0
    policy = get_peft_model(model, lora).eval()  # no dropout: the ratio compares like with like
    value_head = new_value_head(policy)
    own = [weight for weight in policy.parameters() if weight.requires_grad]
    rates = ((own, learning_rate), (list(value_head.parameters()), VALUE_RATE))
    optimizer = torch.optim.Adam([{"params": weights, "lr": rate} for weights, rate in rates])
    how = {"kind": advantages, "samples": samples, "beta": beta, "lam": lam, "epochs": epochs}
    how["epsilon"] = math.inf if epsilon is None else epsilon
    in_turn, history, seen = shuffled(asked, seed), [], []
    sixth = math.ceil(updates / 6)
    look_at = {0, *(look_at or range(sixth, updates, sixth)), updates} if look else ()
    if 0 in look_at:
        look(0, policy)
    for update in tqdm(range(1, updates + 1), "online RL", leave=False, delay=2, disable=None):
        some = list(itertools.islice(in_turn, prompts_per_update))
        draw_with = 1000 * (seed + 1) + update
        sampled = sample(policy, tokenizer, some, samples, max_new_tokens, seed=draw_with)
        rewards, batches = score_and_batch(tokenizer, judge, some, sampled)
        row, better = learn(policy, value_head, optimizer, batches, rewards.reshape(-1), **how)
        training.check_finite("online RL", update, row["loss"], learning_rate)
        for name in ("tokens", "prompt_tokens"):
            row[name] += history[-1][name] if history else 0
        history.append(row)
        seen.append(Update(some, sampled, rewards, better.reshape(rewards.shape)))
        if update in look_at:
            look(update, policy)
    return policy, history, seen


def score_and_batch(tokenizer, judge: tuple, asked: list, sampled: list) -> tuple:
    """(rewards (P, K), batches of answers with their prompts, of like length) to learn from."""
    texts = [[answer.text for answer in row] for row in sampled]
    rewards = scoring.score_texts(judge, asked, texts)
    rows = [answer.token_ids for row in sampled for answer in row]
    each = [prompt for prompt, row in zip(asked, sampled, strict=True) for _ in row]
    return rewards, list(scoring.response_batches(tokenizer, each, rows, 64))


def new_value_head(policy):
    """The reward still to come, linear in the policy's last hidden states; at first 0."""
    import torch

    head = torch.nn.Linear(policy.config.get_text_config().hidden_size, 1, device=policy.device)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    return head


def shuffled(asked: list, seed: int):
    """The prompts in a random order, without end: another order each time."""
    rng = random.Random(seed)
    while True:
        yield from rng.sample(asked, len(asked))


def read_tokens(policy, value_head, ids, attention_mask) -> tuple:
    """(log pi of each next token, the value before it), (B, T - 1).

    The value head reads hidden states that its gradient does not reach: it changes no answer.
    """
    import torch

    ids, attention_mask = ids.to(policy.device), attention_mask.to(policy.device)
    with models.autocast(policy):
        out = policy(input_ids=ids, attention_mask=attention_mask, output_hidden_states=True)
    logits = out.logits[:, :-1].float().transpose(1, 2)
    logps = -torch.nn.functional.cross_entropy(logits, ids[:, 1:], reduction="none")
    return logps, value_head(out.hidden_states[-1][:, :-1].detach().float()).squeeze(-1)


def read_all(policy, value_head, batches: list) -> tuple:
    """The same of all batches in one table each, and the mask of answers' tokens: (N, T)."""
    import torch

    size = sum(len(rows) for rows, *_ in batches), max(mask.shape[1] for *_, mask in batches)
    tables = torch.zeros(3, *size, device=policy.device)
    with torch.no_grad():
        for rows, ids, attention_mask, mask in batches:
            read = *read_tokens(policy, value_head, ids, attention_mask), mask.to(policy.device)
            tables[:, rows, : mask.shape[1]] = torch.stack(read)
    return tables.unbind()


def learn(
    policy, value_head, optimizer, batches, scores, *, kind, samples, beta, epsilon, lam, epochs
) -> tuple:
    """(row of the history, mean advantage of each answer): one update of policy and value head.

    An epoch is one step: the gradient of all batches. The reference is the policy without adapter.
    """
    import torch

    old_logps, values, mask = read_all(policy, value_head, batches)
    scores = torch.as_tensor(scores, dtype=torch.float32, device=mask.device)
    with policy.disable_adapter():
        ref_logps, _, _ = read_all(policy, value_head, batches)
    rewards = token_rewards(scores, old_logps, ref_logps, mask, beta)
    advantages = token_advantages(kind, rewards, values, mask, samples, lam)
    to_come = rewards.flip(-1).cumsum(-1).flip(-1)  # what the value head learns
    tokens, lost, clipped = mask.sum(), 0.0, 0.0
    for _ in range(epochs):
        for rows, ids, attention_mask, _ in batches:
            logps, values = read_tokens(policy, value_head, ids, attention_mask)
            width = logps.shape[1]
            old, better, answer = (x[rows, :width] for x in (old_logps, advantages, mask))
            loss, dead = ppo_loss(logps, old, better, answer, epsilon)
            value_loss = (answer * (values - to_come[rows, :width]) ** 2).sum()
            ((loss + value_loss) / tokens).backward()
            lost, clipped = lost + float(loss.detach()), clipped + float(dead)
        optimizer.step()
        optimizer.zero_grad()
    seen = epochs * float(tokens)
    kl = float((mask * ppo.kl_estimators(old_logps, ref_logps)["k1"]).sum(-1).mean())
    row = {"reward": float(scores.mean()), "kl": kl, "optimized": float(rewards.sum(-1).mean())}
    row |= {"loss": lost / seen, "clipped": clipped / seen, "tokens": int(tokens)}
    row["prompt_tokens"] = sum(int(mask.sum()) for *_, mask, _ in batches) - row["tokens"]
    return row, (advantages.sum(-1) / mask.sum(-1)).cpu().numpy()


# --- 3. The figure ---


def draw(metrics: dict, seen: list[Update], method: str):
    """Four panels: the reward in training, the answers, their quality, what an update sees."""
    curve, looks, dpo = (metrics[name] for name in ("training", "looks", "dpo"))
    steps, updates = [look["step"] for look in looks], range(1, len(curve["reward"]) + 1)
    figure, axes = figures.new_figure(2, 2, f"Online RL by {method}: {steps[-1]} updates")
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
            axes[2].set_xlim(0, 1.35 * max(dpo["kl"], looks[-1]["kl"]))
            figures.legend_below(axes[2])
    else:  # nobody knows how good the answers are
        units = {"words": "words of an answer", "kl": "measured KL from the start (nats)"}
        for ax, (name, unit) in zip(axes[1:], units.items(), strict=False):
            ax.plot(steps, [look[name] for look in looks], "o-", color="lab:rl")
            ax.set(title="Answers to held-out prompts", ylabel=unit, ylim=(0, None))
            ax.set(xlabel="update", xticks=steps)
    update_panel(axes[3], seen)
    return figure


def update_panel(ax, seen: list[Update]) -> None:
    """The answers to one prompt as an update sees them: the one whose advantages differ most.

    The second update: by then the value head has learned what to expect.
    """
    number = min(2, len(seen))
    update = seen[number - 1]
    row = np.ptp(update.advantages, axis=1).argmax()
    advantages, order = update.advantages[row], np.argsort(-update.rewards[row])
    for place, k in enumerate(order):
        advantage, text = advantages[k], update.sampled[row][k].text
        ax.barh(place, advantage, 0.35, color="lab:gold" if advantage > 0 else "lab:rejected")
        told = f"reward {update.rewards[row, k]:+.1f}, advantage {advantage:+.1f}"
        told += f":{answers.marks(update.prompts[row], text)}\n{answers.in_short(text, 58)}"
        ax.text(0.01, place - 0.23, told, fontsize=7, transform=ax.get_yaxis_transform())
    ax.axvline(0, color="lightgrey", lw=0.8, zorder=0)
    ax.grid(visible=False)
    ax.set(xlabel="mean advantage of its tokens (log-odds)", yticks=[])
    ax.set_ylim(len(order) - 0.5, -0.9)
    ax.set_title(
        f"Update {number}, one prompt:\n{answers.in_short(update.prompts[row], 52)}", fontsize=9
    )


# --- 4. The run ---


def find_reward_model(given, folder, backbone, dataset, reading, smoke, seed, device) -> tuple:
    """(reward model, tokenizer): the given one, or reward_model.py's, found or trained."""
    if given:
        return models.load_reward_model(str(given), device)
    if dataset:
        tokenizer, epochs = models.load_tokenizer(backbone), reward_model.OWN_EPOCHS
        pairs, _ = own_data.read.own_reward_pairs(dataset, tokenizer, seed, **reading)
    else:
        pairs, epochs = preferences.make_pairs(64 if smoke else 6400, seed=seed), 1
    how = {"device": device, "seed": seed, "epochs": epochs}
    return reward_model.reward_model_in(folder, backbone, pairs, **how)


def build_parser():
    parser = runs.make_parser(__file__, __doc__)
    parser.add_argument("--model", default="tiny-gpt2", help="hub id or folder of a causal LM")
    parser.add_argument("--reward-model", type=runs.folder, help="default: that of reward_model.py")
    parser.add_argument("--reward-backbone", default="tiny-distilbert", help="what it starts from")
    parser.add_argument("--prompts", type=runs.whole_number(1), help="default: 256, of your own 16")
    parser.add_argument("--sft-steps", type=runs.whole_number(0), help="before; default: 300")
    runs.add_dataset_flags(parser)
    runs.add_hyperparameters(parser, train_rl, learning_rate="3e-3 for tiny-gpt2, others 3e-4")
    return parser


def main(argv: list[str] | None = None) -> dict:
    """Train online, look on the way, print and draw; returns the metrics."""
    smoke = {"updates": 3, "prompts_per_update": 8, "prompts": 8}
    args = runs.start(build_parser(), argv, "online_rl", train_rl, smoke)
    if args.advantages not in ADVANTAGES:
        raise runs.UserError(f"--advantages is one of {', '.join(ADVANTAGES)}")
    if args.advantages == "leave-one-out" and args.samples < 2:
        raise runs.UserError("--samples: an answer is compared with others; give at least 2")
    sft = {"own_data": bool(args.dataset), "sft_steps": args.sft_steps, "seed": args.seed}
    sft["output_dir"] = args.output_dir
    model, tokenizer = training.load_sft_model(args.model, args.device, **sft)
    if args.dataset:
        limits = {"seed": args.seed, "prompts": args.prompts or 16, **args.reading}
        limits |= {"alone": bool(args.reward_model), "max_new_tokens": args.max_new_tokens}
        pairs, held, held_out = own_data.read.own_pairs(args.dataset, tokenizer, **limits)
        asked, rate = list(pairs["prompt"]), args.learning_rate or 3e-4
        second = own_data.look.SecondLook(args.dataset, args.reading, args.model, rate)
        if "chosen" in pairs.column_names:
            second.before(pairs, held, model, tokenizer, args.seed)
    else:
        pairs = preferences.make_pairs(64 if args.smoke else 768, seed=args.seed)
        asked, held_out = ([q.prompt for q in preferences.questions(s)] for s in ("train", "test"))
        held_out, second = held_out[: args.prompts or 256], None
    folder = runs.trained_folder(args, "reward_model", without=("model", "sft_steps"))
    judge = (args.reward_backbone, args.dataset, args.reading, args.smoke, args.seed, args.device)
    judge = find_reward_model(args.reward_model, folder, *judge)
    print(f"{args.model}: {args.updates} updates; {len(held_out)} held-out prompts to judge by")
    looks, seen = [], []

    def look(step: int, policy) -> None:
        ask = 3 if step in (0, args.updates) else 2, args.seed, args.max_new_tokens
        sampled = answers.sample_answers(policy, tokenizer, held_out, *ask)
        reward = float(scoring.score_texts(judge, held_out, sampled.texts).mean())
        looks.append({"step": step, "reward": reward, **sampled.means()})
        seen.append(sampled)

    policy, history, learned = train_rl(model, tokenizer, judge, asked, **args.training, look=look)
    columns, (first, *_, last) = {"before": looks[0], "after": looks[-1]}, seen
    folder = runs.trained_folder(args, "dpo", without=("reward_backbone",))
    if folder.exists() and "chosen" in pairs[0]:
        base = policy.unload()
        look(args.updates, dpo_trainer.dpo_policy(folder, base, tokenizer, pairs, seed=args.seed))
        columns["DPO"] = {**looks.pop(), "step": None}
    rows = answers.rows_of(list(columns.values()))
    answers.print_before_after(held_out, first.texts, last.texts, rows, 2, ["", *columns])
    curve = {name: [row[name] for row in history] for name in history[0]}
    metrics = {"looks": looks, "dpo": columns.get("DPO"), "training": curve}
    if second:
        second.after(tokenizer, held, last)
        metrics |= second.metrics()
    next_step = "python 05-preference-tuning/studies/rl_beside_dpo.py: does it get further?"
    method = "PPO" if args.advantages == "gae" else "RLOO"
    return runs.finish(args, metrics, draw(metrics, learned, method), next_step)


if __name__ == "__main__":
    runs.run(main)
