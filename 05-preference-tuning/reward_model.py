"""Reward models: can one number for an answer say what annotators prefer?

    python 05-preference-tuning/reward_model.py
    python 05-preference-tuning/reward_model.py --pairs 400                           # fewer
    python 05-preference-tuning/reward_model.py --model FOLDER --dataset pairs.jsonl  # yours

trained on   6,400 pairs of answers, labelled by noisy annotators without a bias
by           the loop below with bradley_terry_loss: a DistilBERT with a scalar head on [CLS]
judged by    1,000 held-out pairs, of which the better answer and the labels' noise are known
writes       outputs/reward_model.png, .json, and outputs/reward_model/ (with how to use it)

About 40 seconds on one core; `accelerate launch` trains in several processes. Left out (studies/):
biased annotators (what_a_reward_model_absorbs.py), other starts (reward_model_data_and_start.py).
"""

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path

import installed  # noqa: F401

import numpy as np
from own_data.look import SecondLook
from own_data.read import own_reward_pairs

from common import answers, figures, models, preferences, prompts, runs, saving, scoring, training
from common.basics import show_progress

OWN_EPOCHS = 3  # passes over your own pairs, since there are mostly fewer than in the world

# --- 1. The loss, and a training with it ---


def bradley_terry_loss(chosen_rewards, rejected_rewards):
    """Mean of -log sigmoid(r_chosen - r_rejected) in nats; tensors (B,). A margin of 0 costs ln 2.

    The margin is the difference of the two rewards: the model says that chosen wins with
    probability sigmoid(margin). Only differences enter, so the level of the rewards stays free.
    Bradley & Terry 1952.
    """
    from torch.nn.functional import logsigmoid

    return -logsigmoid(chosen_rewards - rejected_rewards).mean()


def train_reward_model(
    model,
    tokenizer,
    pairs: Sequence[dict],
    name: str = "reward model",
    *,
    learning_rate: float | None = None,
    epochs: int = 1,
    batch_size: int = 16,
    seed: int = 0,
) -> list[float]:
    """Train all weights in place on rows of prompt, chosen, rejected; the loss of every step.

    Several processes share each batch; where it cannot be shared evenly a row is repeated.
    """
    import torch
    from accelerate import Accelerator

    rate = learning_rate or (5e-4 if models.is_embedded(model.name_or_path) else 1e-4)
    batches = batches_of_similar_length(pairs, batch_size, epochs, random.Random(seed))
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.01, fused=True)
    steps, losses = len(batches) + 1, []  # OneCycleLR needs more than one step
    rise = max(0.1, 1.5 / steps)  # the share in which the rate rises; of few steps one and a half
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=rise)
    accelerator = Accelerator(device_placement=False)  # the model is where it should be
    shared, optimizer = accelerator.prepare(model, optimizer)
    shared.eval()  # no dropout, as in TRL: a fifth of the time, and pairs are hardly read twice
    for batch in show_progress(batches, name):
        with accelerator.split_between_processes(batch, apply_padding=True) as mine:
            rows = [pairs[i] for i in mine]
        texts = [row[side] for side in preferences.SIDES for row in rows]
        inputs = scoring.encode_for_reward(tokenizer, [row["prompt"] for row in rows] * 2, texts)
        with models.autocast(model):
            rewards = shared(**inputs.to(model.device)).logits.squeeze(-1).float()  # (2 B,)
        loss = bradley_terry_loss(*rewards.chunk(2))
        accelerator.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(accelerator.reduce(loss.detach(), "mean").item())
        training.check_finite(name, len(losses), losses[-1], rate)
    training.go_on_alone()  # of several processes the first one measures, draws and writes
    return losses


def batches_of_similar_length(pairs: Sequence[dict], batch_size: int, epochs: int, rng) -> list:
    """Row numbers, for little padding: shuffled, sorted within 16 batches, shuffled as batches."""
    lengths, batches = [], []
    for row in pairs:  # in characters
        longer = max(len(row[side]) for side in preferences.SIDES)
        lengths.append(len(prompts.as_text(row["prompt"])) + longer)
    for _ in range(epochs):
        order, of_epoch = rng.sample(range(len(pairs)), len(pairs)), []
        for start in range(0, len(order), 16 * batch_size):
            block = sorted(order[start : start + 16 * batch_size], key=lengths.__getitem__)
            of_epoch += [block[i : i + batch_size] for i in range(0, len(block), batch_size)]
        rng.shuffle(of_epoch)
        batches += of_epoch
    return batches


def fresh_reward_model(backbone: str, device: str, seed: int) -> tuple:
    """(model, tokenizer): the backbone with a scalar head that starts at random."""
    import torch

    torch.manual_seed(seed)
    return models.load_reward_model(backbone, device)


def reward_model_in(folder: Path, backbone: str, pairs, device="cpu", **hyperparameters) -> tuple:
    """(model, tokenizer) trained on the pairs: found in the folder, or trained into it."""
    settings = reward_settings(backbone, pairs, **hyperparameters)

    def train() -> tuple:
        model, tokenizer = fresh_reward_model(backbone, device, settings["seed"])
        train_reward_model(model, tokenizer, pairs, **hyperparameters)
        return model, tokenizer

    return models.load_reward_model(str(saving.load_or_train(folder, settings, train)), device)


def reward_settings(backbone: str, pairs: Sequence[dict], **hyperparameters) -> dict:
    """All that shapes the training of a reward model: equal settings, equal model."""
    data = {"model": models.fingerprint(backbone), "pairs": models.fingerprint(pairs)}
    return {**data, **train_reward_model.__kwdefaults__, **hyperparameters}


# --- 2. What is measured ---


def gold_order(pairs: Sequence[dict]) -> list[dict]:
    """The pairs with the better answer by gold utility as `chosen`; ties are left out."""
    rows = []
    for row in pairs:
        gap = row["chosen_utility"] - row["rejected_utility"]
        if abs(gap) > 1e-9:
            rows.append(row if gap > 0 else preferences.swap_sides(row))
    return rows


def pair_hits(rewards: np.ndarray) -> np.ndarray:
    """Per pair (N, 2): 1 where the first answer scores higher, 0 where lower, 1/2 at a tie."""
    return (1 + np.sign(rewards[:, 0] - rewards[:, 1])) / 2


def prefer_shorter(pairs: Sequence[dict]) -> np.ndarray:
    """Control: rewards (N, 2) that prefer the shorter answer, which this world mostly rewards."""
    words = [[answers.count_words(row[side]) for side in preferences.SIDES] for row in pairs]
    return -np.array(words, dtype=float)


def bayes_limits(gaps: np.ndarray) -> dict[str, float]:
    """The best expected accuracy and loss (nats) on labels drawn with p = sigmoid(gap).

    Gaps (N,) are differences of gold utility. The least loss is the labels' entropy: their noise.
    """
    size = np.abs(np.asarray(gaps, dtype=float))
    p = 1 / (1 + np.exp(-size))  # of the better answer
    loss = p * np.logaddexp(0, -size) + (1 - p) * np.logaddexp(0, size)
    return {"accuracy": float(p.mean()), "loss": float(loss.mean())}


def judge_rewards(judge: tuple, held: Sequence[dict], new_facts: list[dict]) -> tuple:
    """Rewards (N, 2) of held-out pairs, and what labels and, if it is known, gold utility say."""
    rewards = scoring.score_pairs(*judge, held)
    found = on_labels(rewards, held)
    if new_facts:  # pairs in gold order: of your own nobody knows it
        found |= by_gold(rewards, held, scoring.score_pairs(*judge, new_facts))
    return rewards, found


def on_labels(rewards: np.ndarray, pairs: Sequence[dict]) -> dict:
    """Rewards (N, 2) of pairs against their labels: what can be had without a gold standard.

    `calibration`: is p = sigmoid(margin) how often an answer is chosen? In tenths of p the mean
    prediction, the observed frequency, the count. Every pair counts from both sides.
    """
    margins = rewards[:, 0] - rewards[:, 1]
    p = 1 / (1 + np.exp(-np.concatenate([margins, -margins])))
    won = np.repeat([1.0, 0.0], len(margins))
    tenth = np.minimum((10 * p).astype(int), 9)
    within = [tenth == k for k in np.unique(tenth)]
    return {
        "accuracy": float(pair_hits(rewards).mean()),
        "loss": float(np.logaddexp(0, -margins).mean()),
        "shorter": float(pair_hits(prefer_shorter(pairs)).mean()),
        "calibration": [[p[rows].mean(), won[rows].mean(), float(rows.sum())] for rows in within],
    }


def by_gold(rewards: np.ndarray, held: list[dict], of_new_facts: np.ndarray) -> dict:
    """What gold utility says of the rewards (N, 2) of held-out pairs.

    `in_order`: the share in which the better answer gets more, by what is wrong with the worse one;
    `of_new_facts` are rewards of pairs in gold order whose facts no training pair asks about.
    """
    gold = np.array([[row[f"{side}_utility"] for side in preferences.SIDES] for row in held])
    styles = np.array([[row[f"{side}_style"] for side in preferences.SIDES] for row in held])
    gaps = gold[:, 0] - gold[:, 1]
    differ, sign = np.abs(gaps) > 1e-9, np.sign(gaps)[:, None]  # -1: the rejected one is better
    hits, shorter = (pair_hits(r * sign)[differ] for r in (rewards, prefer_shorter(held)))
    worse = np.where(gaps > 0, styles[:, 1], styles[:, 0])[differ]
    in_order = {"all": hits, "shorter": shorter, "new facts": pair_hits(of_new_facts)}
    by_style, centred = {}, rewards - rewards.mean()  # the level of the rewards is free
    for style in preferences.STYLES:
        in_order[style], its = hits[worse == style], styles == style
        if its.any():
            of_style = np.quantile(centred[its], (0.05, 0.25, 0.5, 0.75, 0.95))
            by_style[style] = {"rewards": of_style, "gold": gold[its].mean() - gold.mean()}
    in_order = {name: float(values.mean()) for name, values in in_order.items() if len(values)}
    return {"limits": bayes_limits(gaps), "in_order": in_order, "by_style": by_style}


def print_rewards(judge: tuple, prompt: prompts.Prompt, texts, before: dict, after: dict) -> None:
    """Answers to a prompt, the best by reward first; then what is made of held-out pairs."""
    rewards = scoring.score_texts(judge, [prompt], [list(texts)])[0]
    print(f"\n{answers.in_short(prompt)}")
    for reward, text in sorted(zip(rewards, texts, strict=True), reverse=True):
        marks = answers.marks(prompt, text)
        print(f"  {reward:+6.2f}  {answers.in_short(text, 90 - len(marks))}{marks}")
    limits, shorter, rows = after.get("limits", {}), after.get("in_order", after)["shorter"], []
    orders = {
        "all": "held-out pairs in the right order",
        "wrong": "... of which the worse answer is only wrong",
        "new facts": "... of facts that no training pair asks about",
    }
    for name, what in (orders if limits else {}).items():
        rows.append((what, before["in_order"][name], after["in_order"][name], 1.0, "%"))
    told = ("accuracy", "held-out labels predicted", "%"), ("loss", "loss on the labels", "nats")
    for name, what, unit in told:
        rows.append((what, before[name], after[name], limits.get(name), unit))
    rows.append(("preferring the shorter answer instead", None, shorter, None, "%"))
    answers.print_table(("", "untrained", "trained", "at best"), rows)


# --- 3. The figure ---


def draw(losses: list[float], look: dict):
    """Four panels of the run that was just done; two where nobody knows the better answer."""
    known = "in_order" in look
    what = "held-out pairs in the right order" if known else "your held-out labels predicted"
    right = look["in_order"]["all"] if known else look["accuracy"]
    shorter = look.get("in_order", look)["shorter"]  # by gold, else by labels
    title = f"Reward model: {100 * right:.0f} % of {what}"
    title += f"; preferring the shorter: {100 * shorter:.0f} %"
    figure, axes = figures.new_figure(2 if known else 1, 2, title)
    reward_loss_panel(axes[0], losses, look.get("limits"))

    # Predicted probabilities of held-out pairs, and how often the labels say so.
    ax = axes[2 if known else 1]
    predicted, observed, counts = np.transpose(look["calibration"])
    # Agresti and Coull's interval, honest for few pairs: as if two more had gone either way.
    middle = (observed * counts + 2) / (counts + 4)
    half = 1.96 * np.sqrt(middle * (1 - middle) / (counts + 4))
    ends = np.maximum([observed - middle + half, middle + half - observed], 0)
    ax.plot([0, 1], [0, 1], color="black", lw=0.8, ls=":")
    ax.text(0.62, 0.5, "dotted: as predicted\nbars: 95 % intervals", va="top", fontsize=8)
    ax.errorbar(predicted, observed, ends, fmt="o-", color="lab:reward", ms=4, lw=1.2)
    ax.set(title="Predicted probability and held-out labels", xlim=(0, 1), ylim=(0, 1))
    ax.set_xlabel("predicted: sigmoid(difference of the rewards)")
    ax.set_ylabel("how often the answer was chosen")
    if known:
        draw_gold(axes[1], axes[3], look["by_style"], look["in_order"])
    return figure


def reward_loss_panel(ax, losses: list[float], limits: dict | None) -> None:
    width, last = max(1, len(losses) // 20), len(losses)
    means = np.convolve(losses, np.full(width, 1 / width), "valid")
    ax.plot(np.arange(width, last + 1), means, color="lab:reward")
    ax.axhline(math.log(2), color="black", lw=0.8, ls=":")
    ax.text(last, math.log(2), "ln 2: both answers get the same ", ha="right", va="bottom")
    if limits:
        ax.axhline(limits["loss"], color="black", lw=0.8, ls=":")
        ax.text(0, limits["loss"], f" {limits['loss']:.2f}: the noise of the labels", va="top")
    ax.set(title="The loss of the training", ylabel="Bradley-Terry loss (nats a pair)")
    ax.set(xlabel=f"step (mean of {width})", xlim=(0, last), ylim=(0, 0.95))


def draw_gold(left, right, by_style: dict, in_order: dict) -> None:
    """Rewards by style beside what such answers are worth; which pairs are in the right order."""
    places, gold = range(len(by_style)), [row["gold"] for row in by_style.values()]
    low, lower, median, upper, high = np.transpose([row["rewards"] for row in by_style.values()])
    left.plot(gold, places, "D", color="lab:gold", ms=5, label="gold utility", zorder=3)
    left.hlines(places, low, high, color="lab:reward", lw=1)
    bars = {"color": "lab:reward", "alpha": 0.7, "label": "rewards: middle half, 90 %"}
    left.hlines(places, lower, upper, lw=8, **bars)
    left.plot(median, places, "|", color="white", ms=8, mew=2)
    left.axvline(0, ymin=0.15, color="black", lw=0.8)
    left.set_yticks(places, [name.replace("_", " ") for name in by_style])
    left.set(title="Rewards of held-out answers by style", ylim=(len(by_style) + 0.3, -0.5))
    left.set_xlabel(f"minus the mean; {figures.GOLD}")
    left.legend(loc="lower center", ncols=2, columnspacing=1)

    names = {"all": "all pairs", "new facts": "facts not in training"}
    names |= {"verbose": "it has filler", "off_topic": "it is off topic", "wrong": "it is wrong"}
    names |= {"sycophantic": "it agrees with\na wrong user", "expert": "expert's preamble"}
    names |= {"shorter": "(preferring\nthe shorter)"}
    shown = {label: 100 * in_order[name] for name, label in names.items() if name in in_order}
    colors = ["lab:reward"] * (len(shown) - 1) + ["lab:other"]
    bars = right.barh(list(shown), shown.values(), color=colors, alpha=0.8)
    right.bar_label(bars, fmt="%.0f %%", padding=-32)
    right.axvline(50, color="black", lw=0.8, ls=":")
    right.invert_yaxis()
    right.grid(axis="y", visible=False)
    right.set(title="Pairs in the right order, by the worse answer", xlim=(0, 100))
    right.set_xlabel("% of held-out pairs")


# --- 4. The run, and what is kept ---

OF_ENCODERS = 'inputs = tokenizer(prompt, answer, return_tensors="pt", truncation="only_second")'
OF_CAUSAL_MODELS = """\
chat = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
text = tokenizer.apply_chat_template(chat, tokenize=False)
inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt")"""


def readme_of(folder: Path, settings: dict, tokenizer, row: dict) -> str:
    """How to use the model without the lab, with the prompt and the answer of a row."""
    template = Path(__file__).with_name("how_to_use_a_reward_model.md")
    return template.read_text(encoding="utf-8").format(
        settings=", ".join(f"{k} {v}" for k, v in settings.items() if v is not None),
        folder=json.dumps(str(folder.resolve())),
        prompt=json.dumps(prompts.as_text(row["prompt"])),
        answer=json.dumps(row["chosen"]),
        encode=OF_ENCODERS if prompts.reads_pairs(tokenizer) else OF_CAUSAL_MODELS,
    )


def build_parser():
    parser = runs.make_parser(__file__, __doc__)
    backbone = "hub id or folder of an encoder or a causal LM; default: tiny-distilbert"
    parser.add_argument("--model", type=runs.non_empty, default="tiny-distilbert", help=backbone)
    parser.add_argument("--pairs", type=runs.whole_number(2), help="default: 6400, of yours all")
    runs.add_dataset_flags(parser)
    rate, passes = "5e-4 for the embedded models, 1e-4 for others", "1; over yours 3"
    runs.add_hyperparameters(parser, train_reward_model, learning_rate=rate, epochs=passes)
    parser.set_defaults(epochs=None)
    return parser


def main(argv: list[str] | None = None) -> dict:
    """Train, judge before and after, print, draw and save; returns the metrics."""
    args = runs.start(build_parser(), argv, "reward_model", train_reward_model, {"pairs": 64})
    passes = args.epochs or (OWN_EPOCHS if args.dataset else 1)
    args.training["epochs"] = args.settings["epochs"] = passes
    folder, seed, second, new_facts = args.output_dir / args.run_name, args.seed, None, []
    saving.check_ours(folder)
    model, tokenizer = judge = fresh_reward_model(args.model, args.device, seed)
    if args.dataset:
        reading = {"pairs": args.pairs, **args.reading}
        pairs, held = own_reward_pairs(args.dataset, tokenizer, seed, **reading)
        second = SecondLook(args.dataset, args.reading, args.model, args.learning_rate)
        second.before(pairs, held, tokenizer=tokenizer, seed=seed)
        asked, texts = held[0]["prompt"], {held[0]["chosen"], held[0]["rejected"]}
    else:
        pairs = preferences.make_pairs(args.pairs or 6400, seed=seed)
        held = preferences.make_pairs(100 if args.smoke else 1000, "test", seed=seed)
        unseen = preferences.make_pairs(2 * len(held) // 5, "test", seed=seed, unseen=True)
        new_facts = gold_order(unseen)
        contrasts = preferences.contrasts_of(preferences.wrong_users("test", 1)[0], seed)
        asked, texts = contrasts[0].prompt, {text for c in contrasts for text in (c.more, c.less)}

    print(f"{args.model} on {len(pairs)} pairs; {len(held)} held-out pairs to judge by")
    _, before = judge_rewards(judge, held, new_facts)
    losses = train_reward_model(model, tokenizer, pairs, **args.training)
    rewards, after = judge_rewards(judge, held, new_facts)
    print(f"{len(losses)} steps; loss of the first {losses[0]:.4f}, ln 2 = {math.log(2):.4f}")
    print_rewards(judge, asked, texts, before, after)
    metrics = {"train_pairs": len(pairs), "loss": losses, "before": before, "after": after}
    if second:
        second.after(tokenizer, held, margins=rewards[:, 0] - rewards[:, 1])
        metrics |= second.metrics()
    settings = reward_settings(args.model, pairs, **args.training)
    readme = readme_of(folder, settings, tokenizer, held[0])
    saving.save_model(folder, settings, model, tokenizer, readme=readme)
    next_step = "python 05-preference-tuning/studies/what_a_reward_model_absorbs.py: whose taste?"
    return runs.finish(args, metrics, draw(losses, after), next_step, [folder])


if __name__ == "__main__":
    runs.run(main)
