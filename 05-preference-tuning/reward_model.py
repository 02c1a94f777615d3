"""Reward models: can one number for an answer say what annotators prefer?

    python 05-preference-tuning/reward_model.py
    python 05-preference-tuning/reward_model.py --pairs 400                           # fewer
    python 05-preference-tuning/reward_model.py --model FOLDER --dataset pairs.jsonl  # yours

trained on   6,400 pairs of answers, labelled by noisy annotators without a bias
by           the loop below with bradley_terry_loss: a DistilBERT with a scalar head on [CLS]
judged by    1,000 held-out pairs, of which the better answer and the labels' noise are known
writes       outputs/reward_model.png, .json, and outputs/reward_model/ (with how to use it)

About 40 seconds on one core; `accelerate launch` trains in several processes. Left out: annotators
with a bias, and what the model takes over from them (studies/what_a_reward_model_absorbs.py);
fewer pairs, other models to start from (studies/reward_model_data_and_start.py).
"""

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path

import installed  # noqa: F401

import numpy as np

from common import (
    answers,
    figures,
    models,
    preferences,
    prompts,
    runs,
    saving,
    scoring,
    training,
)
from common.basics import show_progress

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
OWN_EPOCHS = 3  # passes over your own pairs, since there are mostly fewer than in the world

# --- 1. The loss ---


def bradley_terry_loss(chosen_rewards, rejected_rewards):
    """Mean of -log sigmoid(r_chosen - r_rejected) in nats; tensors (B,). A margin of 0 costs ln 2.

    The margin is the difference of the two rewards: the model says that chosen wins with
    probability sigmoid(margin). Only differences enter, so the level of the rewards stays free.
    Bradley & Terry 1952.
    """
    from torch.nn.functional import logsigmoid

    return -logsigmoid(chosen_rewards - rejected_rewards).mean()


# --- 2. Training ---


def train_reward_model(
    model,
    tokenizer,
    pairs: Sequence[dict],
    *,
    learning_rate: float | None = None,
    epochs: int = 1,
    batch_size: int = 16,
    seed: int = 0,
    name: str = "reward model",
) -> list[float]:
    """Train all weights in place on rows of prompt, chosen, rejected; the loss of every step.

    One forward pass reads chosen and rejected together. Under `accelerate launch` the processes
    share each batch, and a last one that cannot be shared evenly repeats a row.
    """
    import torch
    from accelerate import Accelerator

    learning_rate = learning_rate or (5e-4 if models.is_embedded(model.name_or_path) else 1e-4)
    batches = batches_of_similar_length(pairs, batch_size, epochs, random.Random(seed))
    optimizer = torch.optim.AdamW(model.parameters(), learning_rate, weight_decay=0.01, fused=True)
    one_cycle = {"total_steps": len(batches) + 1, "pct_start": 0.1}
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, **one_cycle)
    accelerator = Accelerator(device_placement=False)  # the model is where it should be
    shared, optimizer = accelerator.prepare(model, optimizer)
    shared.eval()  # no dropout, as in TRL: a fifth of the time, and pairs are hardly read twice
    losses = []
    for batch in show_progress(batches, name):
        with accelerator.split_between_processes(batch, apply_padding=True) as mine:
            rows = [pairs[i] for i in mine]
        asked = [row["prompt"] for row in rows]
        texts = [row["chosen"] for row in rows] + [row["rejected"] for row in rows]
        inputs = scoring.encode_for_reward(tokenizer, asked * 2, texts).to(model.device)
        with models.autocast(model):
            rewards = shared(**inputs).logits.squeeze(-1).float()  # (2 B,)
        loss = bradley_terry_loss(*rewards.chunk(2))
        accelerator.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(accelerator.reduce(loss.detach(), "mean").item())
        training.check_finite(name, len(losses), losses[-1], learning_rate)
    training.go_on_alone()  # of several processes the first one measures, draws and writes
    model.eval()
    return losses


def batches_of_similar_length(
    pairs: Sequence[dict], batch_size: int, epochs: int, rng: random.Random
) -> list[list[int]]:
    """Row numbers, for little padding: shuffled, sorted within 16 batches, shuffled as batches."""
    lengths = []  # in characters
    for row in pairs:
        longer = max(len(row["chosen"]), len(row["rejected"]))
        lengths.append(len(prompts.as_text(row["prompt"])) + longer)
    batches, block_size = [], 16 * batch_size
    for _ in range(epochs):
        order, of_epoch = rng.sample(range(len(pairs)), len(pairs)), []
        for start in range(0, len(order), block_size):
            block = sorted(order[start : start + block_size], key=lambda i: lengths[i])
            of_epoch += [block[i : i + batch_size] for i in range(0, len(block), batch_size)]
        rng.shuffle(of_epoch)
        batches += of_epoch
    return batches


def fresh_reward_model(backbone: str, device: str, seed: int) -> tuple:
    """(model, tokenizer): the backbone with a scalar head that starts at random."""
    import torch

    torch.manual_seed(seed)
    return models.load_reward_model(backbone, device)


def reward_model_in(
    folder: Path, backbone: str, pairs: Sequence[dict], *, device: str = "cpu", **hyperparameters
) -> tuple:
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
    settings = {**data, **train_reward_model.__kwdefaults__, **hyperparameters}
    return {key: value for key, value in settings.items() if key != "name"}


# --- 3. What is measured ---


def gold_order(pairs: Sequence[dict]) -> list[dict]:
    """The pairs with the better response by gold utility as `chosen`; labels are ignored.

    `reason` is the style of the worse one. Ties are left out.
    """
    rows = []
    for row in pairs:
        gap = row["chosen_utility"] - row["rejected_utility"]
        if abs(gap) > 1e-9:
            better, worse = ("chosen", "rejected") if gap > 0 else ("rejected", "chosen")
            sides = {"chosen": row[better], "rejected": row[worse]}
            rows.append({"prompt": row["prompt"], **sides, "reason": row[f"{worse}_style"]})
    return rows


def pair_hits(rewards: np.ndarray) -> np.ndarray:
    """Per pair (N, 2): 1 where the first response scores higher, 0 where lower, 1/2 at a tie."""
    return (1 + np.sign(rewards[:, 0] - rewards[:, 1])) / 2


def prefer_shorter(pairs: Sequence[dict]) -> np.ndarray:
    """Control: rewards (N, 2) that prefer the shorter response, which this world mostly rewards."""
    sides = ("chosen", "rejected")
    words = [[answers.count_words(row[side]) for side in sides] for row in pairs]
    return -np.array(words, dtype=float)


def bayes_limits(gaps: np.ndarray) -> dict[str, float]:
    """The best expected accuracy and loss (nats) on labels drawn with p = sigmoid(gap).

    Gaps (N,) are differences of gold utility. The least loss is the entropy of the labels: their
    noise.
    """
    p = 1 / (1 + np.exp(-np.asarray(gaps, dtype=float)))
    p_log_p = [share * np.log(np.clip(share, 1e-300, 1)) for share in (p, 1 - p)]
    return {"accuracy": float(np.maximum(p, 1 - p).mean()), "loss": float(-sum(p_log_p).mean())}


def on_labels(rewards: np.ndarray, pairs: Sequence[dict]) -> dict:
    """Rewards (N, 2) of pairs against their labels: what can be had without a gold standard."""
    margins = rewards[:, 0] - rewards[:, 1]
    return {
        "pairs": len(margins),
        "accuracy": float(pair_hits(rewards).mean()),
        "loss": float(np.logaddexp(0, -margins).mean()),
        "shorter": float(pair_hits(prefer_shorter(pairs)).mean()),
        "calibration": calibration(margins),
    }


def calibration(margins: np.ndarray, bins: int = 10) -> dict:
    """Is p = sigmoid(margin) how often chosen wins? Margins (N,), chosen minus rejected.

    Every pair counts from both sides, so that the outcome is not always 1. Per bin the mean
    prediction, the observed frequency and the count. The temperature is what best divides the
    margins: 1 where they are calibrated, above 1 where they are over-confident (Guo et al. 2017,
    arXiv 1706.04599).
    """
    p = 1 / (1 + np.exp(-np.concatenate([margins, -margins])))
    won = np.repeat([1.0, 0.0], len(margins))
    bin_of = np.minimum((p * bins).astype(int), bins - 1)
    counts = np.bincount(bin_of, minlength=bins)
    predicted, observed = (
        np.bincount(bin_of, values, minlength=bins) / np.maximum(counts, 1) for values in (p, won)
    )
    temperatures = np.exp(np.linspace(np.log(0.1), np.log(10), 2001))
    losses = [np.logaddexp(0, -margins / t).mean() for t in temperatures]
    return {
        "predicted": predicted.tolist(),
        "observed": observed.tolist(),
        "count": counts.tolist(),
        "temperature": float(temperatures[int(np.argmin(losses))]),
    }


def by_gold(model, tokenizer, rewards: np.ndarray, held: list[dict], new: list[dict]) -> dict:
    """What gold utility says of the rewards (N, 2) of held-out pairs.

    `in_order`: the share in which the better answer gets more, by what is wrong with the worse one;
    `new` are pairs of facts that no training pair asks about.
    """
    gold = np.array([[row["chosen_utility"], row["rejected_utility"]] for row in held])
    gaps, ordered = gold[:, 0] - gold[:, 1], gold_order(held)
    better_first = np.where(gaps[:, None] > 0, rewards, rewards[:, ::-1])
    hits = pair_hits(better_first[np.abs(gaps) > 1e-9])
    in_order = {"all": hits, "shorter": pair_hits(prefer_shorter(ordered))}
    in_order["new facts"] = pair_hits(scoring.score_pairs(model, tokenizer, gold_order(new)))
    reasons = np.array([row["reason"] for row in ordered])
    styles = np.array([[row["chosen_style"], row["rejected_style"]] for row in held])
    by_style = {}
    for style in preferences.STYLES:
        in_order[style] = hits[reasons == style]
        if (styles == style).any():
            # The level of the rewards is free, so both are told from their means.
            its_rewards = np.quantile(rewards[styles == style], QUANTILES) - rewards.mean()
            its_gold = float(gold[styles == style].mean() - gold.mean())
            by_style[style] = {"rewards": its_rewards.tolist(), "gold": its_gold}
    in_order = {name: float(values.mean()) for name, values in in_order.items() if len(values)}
    return {"limits": bayes_limits(gaps), "in_order": in_order, "by_style": by_style}


def reward_rows(before: dict, after: dict) -> list[tuple]:
    """Rows (what, untrained, trained, unit)."""
    rows = [
        ("held-out labels foretold", "accuracy", "%"),
        ("loss on held-out labels", "loss", "nats"),
    ]
    if "in_order" in after:
        limits = after["limits"]
        rows = [
            ("held-out pairs in the right order", "all", "% of pairs"),
            ("... of which the worse answer is only wrong", "wrong", "%"),
            ("... of facts that no training pair asks about", "new facts", "%"),
            (*rows[0][:2], f"%, of which {100 * limits['accuracy']:.0f} can be foretold"),
            (*rows[1][:2], f"nats, of which {limits['loss']:.2f} are noise"),
        ]
    read = [look | look.get("in_order", {}) for look in (before, after)]
    told = [(what, *(look[key] for look in read), unit) for what, key, unit in rows]
    shorter = after.get("in_order", after)["shorter"]
    return [*told, ("preferring the shorter answer instead", None, shorter, "%")]


def print_rewards(model, tokenizer, prompt: prompts.Prompt, texts: Sequence[str]) -> None:
    """Answers to a prompt, the one with the highest reward first."""
    rewards = scoring.score_texts((model, tokenizer), [prompt], [list(texts)])[0]
    print(f"\n{answers.in_short(prompt)}")
    for reward, text in sorted(zip(rewards, texts, strict=True), reverse=True):
        marks = answers.marks(prompt, text)
        print(f"  {reward:+6.2f}  {answers.in_short(text, 90 - len(marks))}{marks}")


# --- 4. The figure ---


def draw(losses: list[float], look: dict):
    """Four panels of the run that was just done."""
    in_order = look["in_order"]
    right, shorter = (100 * in_order[name] for name in ("all", "shorter"))
    title = f"Reward model: {right:.0f} % of held-out pairs in the right order"
    figure, axes = figures.new_figure(2, 2, f"{title}; preferring the shorter: {shorter:.0f} %")
    reward_loss_panel(axes[0], losses, look["limits"]["loss"])
    reward_by_style_panel(axes[1], look["by_style"])
    calibration_panel(axes[2], look["calibration"])
    reasons_panel(axes[3], in_order)
    return figure


def draw_own_rewards(losses: list[float], look: dict):
    """Two panels for pairs whose better answer nobody knows."""
    foretold, shorter = (100 * look[name] for name in ("accuracy", "shorter"))
    title = f"Reward model: {foretold:.0f} % of your {look['pairs']} held-out labels foretold"
    figure, axes = figures.new_figure(1, 2, f"{title}; preferring the shorter: {shorter:.0f} %")
    reward_loss_panel(axes[0], losses)
    calibration_panel(axes[1], look["calibration"])
    return figure


def reward_loss_panel(ax, losses: list[float], noise: float | None = None) -> None:
    """The loss of the training, between the two numbers that bound it."""
    width, last = max(1, len(losses) // 20), len(losses)
    means = np.convolve(losses, np.full(width, 1 / width), "valid")
    ax.plot(np.arange(width, last + 1), means, color="lab:reward")
    ax.axhline(math.log(2), color="black", lw=0.8, ls=":")
    ax.text(last, math.log(2), "ln 2: both answers get the same ", ha="right", va="bottom")
    if noise is not None:
        ax.axhline(noise, color="black", lw=0.8, ls=":")
        ax.text(0, noise, f" {noise:.2f}: the noise of the labels", va="top")
    ax.set(title="The loss of the training", ylabel="Bradley-Terry loss (nats a pair)")
    ax.set(xlabel=f"step (mean of {width})", xlim=(0, last), ylim=(0, 0.95))


def reward_by_style_panel(ax, by_style: dict) -> None:
    """Rewards of held-out answers by style, and what such answers are worth."""
    line = {"color": "lab:reward", "solid_capstyle": "butt"}
    for place, row in enumerate(by_style.values()):
        low, lower, median, upper, high = row["rewards"]
        ax.plot([low, high], [place] * 2, lw=1, **line)
        ax.plot([lower, upper], [place] * 2, lw=8, alpha=0.7, **line)
        ax.plot(median, place, "|", color="white", ms=8, mew=2)
    gold = [row["gold"] for row in by_style.values()]
    ax.plot(gold, range(len(gold)), "D", color="lab:gold", ms=5, label="gold utility")
    ax.plot([], [], lw=8, alpha=0.7, color="lab:reward", label="rewards: middle half, 90 %")
    ax.axvline(0, ymin=0.15, color="black", lw=0.8)
    ax.set_yticks(range(len(by_style)), [name.replace("_", " ") for name in by_style])
    ax.set(title="Rewards of held-out answers by style", ylim=(len(by_style) + 0.3, -0.5))
    worth = "3 if right,\n1 if on topic, -0.15 for a word of filler"
    ax.set_xlabel(f"log-odds, each minus its mean; gold utility: {worth}")
    ax.legend(loc="lower center", ncols=2, columnspacing=1)


def calibration_panel(ax, result: dict) -> None:
    """Predicted probabilities of held-out pairs, and how often the labels say so."""
    counts = np.array(result["count"])
    seen = counts > 0
    predicted, observed = (np.array(result[key])[seen] for key in ("predicted", "observed"))
    # Agresti and Coull's interval, honest for few pairs: as if two more had gone either way.
    middle = (observed * counts[seen] + 2) / (counts[seen] + 4)
    half = 1.96 * np.sqrt(middle * (1 - middle) / (counts[seen] + 4))
    ends = np.maximum([observed - middle + half, middle + half - observed], 0)
    ax.plot([0, 1], [0, 1], color="black", lw=0.8, ls=":")
    ax.text(0.62, 0.5, "dotted: as predicted\nbars: 95 % intervals", va="top", fontsize=8)
    ax.errorbar(predicted, observed, ends, fmt="o-", color="lab:reward", ms=4, lw=1.2)
    ax.set(title="Predicted probability and held-out labels", xlim=(0, 1), ylim=(0, 1))
    ax.set_xlabel("predicted: sigmoid(difference of the rewards)")
    ax.set_ylabel("how often the answer was chosen")


def reasons_panel(ax, in_order: dict) -> None:
    """How often the better answer gets more, by what is wrong with the other one."""
    names = {"all": "all pairs", "new facts": "facts not in training"}
    names |= {"verbose": "it has filler", "off_topic": "it is off topic", "wrong": "it is wrong"}
    names |= {"sycophantic": "it agrees with\na wrong user", "expert": "expert's preamble"}
    names |= {"shorter": "(preferring\nthe shorter)"}
    shown = {label: in_order[name] for name, label in names.items() if name in in_order}
    for place, (label, share) in enumerate(shown.items()):
        control = label.startswith("(")
        ax.barh(place, 100 * share, color="lab:other" if control else "lab:reward", alpha=0.8)
        black = {"color": "black" if control else "white", "ha": "right", "va": "center"}
        ax.text(100 * share - 2, place, f"{100 * share:.0f} %", **black)
    ax.axvline(50, color="black", lw=0.8, ls=":")
    ax.set_yticks(range(len(shown)), shown)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set(title="Pairs in the right order, by the worse answer", xlim=(0, 100))
    ax.set_xlabel("% of held-out pairs")


# --- 5. What is kept ---

SCORING_CODE = """\
# A reward model

Trained by reward_model.py of the preference-tuning lab with these settings:

    {settings}

This scores an answer to a prompt (`pip install transformers torch`). The number is in log-odds, and
only differences between answers to one prompt mean something: sigmoid(r1 - r2) is how often
annotators would choose the first one.

```python
from transformers import AutoModelForSequenceClassification, AutoTokenizer

folder = {folder}
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForSequenceClassification.from_pretrained(folder)
prompt, answer = {prompt}, {answer}
{encode}
print(model(**inputs).logits.item())
```
"""
OF_ENCODERS = """\
inputs = tokenizer(prompt, answer, return_tensors="pt", truncation="only_second")"""
OF_CAUSAL_MODELS = """\
chat = [{{"role": "user", "content": prompt}}]
text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
text += {blank}answer + (tokenizer.eos_token or "")
inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt")"""


def readme_of(folder: Path, settings: dict, tokenizer, row: dict) -> str:
    """How to use the model without the lab, with the prompt and the answer of a row."""
    blank = '" " + ' if not prompts.reads_pairs(tokenizer) and prompts.is_plain(tokenizer) else ""
    encode = OF_ENCODERS if prompts.reads_pairs(tokenizer) else OF_CAUSAL_MODELS
    return SCORING_CODE.format(
        settings=", ".join(f"{k} {v}" for k, v in settings.items() if v is not None),
        folder=json.dumps(str(folder.resolve())),
        prompt=json.dumps(prompts.as_text(row["prompt"])),
        answer=json.dumps(row["chosen"]),
        encode=encode.format(blank=blank),
    )


# --- Main ---


def build_parser():
    parser = runs.make_parser(__file__, __doc__)
    backbone = "hub id or folder of an encoder or a causal LM; default: tiny-distilbert"
    parser.add_argument("--model", type=runs.non_empty, default="tiny-distilbert", help=backbone)
    pairs = "to train on; default: 6400 of the world, all of yours"
    parser.add_argument("--pairs", type=runs.whole_number(2), help=pairs)
    runs.add_dataset_flags(parser)
    rate = "5e-4 for the embedded models, 1e-4 for others"
    runs.add_hyperparameters(parser, train_reward_model, learning_rate=rate)
    return parser


def main(argv: list[str] | None = None) -> dict:
    """Train, judge before and after, print, draw and save; returns the metrics."""
    args = runs.start(build_parser(), argv, "reward_model", train_reward_model, {"pairs": 64})
    folder, second = args.output_dir / args.run_name, None
    saving.check_ours(folder)
    model, tokenizer = fresh_reward_model(args.model, args.device, args.seed)
    if args.dataset:
        from own_data.look import SecondLook
        from own_data.read import own_reward_pairs

        reading = {"pairs": args.pairs, **args.reading}
        pairs, held = own_reward_pairs(args.dataset, tokenizer, args.seed, **reading)
        args.training["epochs"] = args.changed.get("epochs", OWN_EPOCHS)
        shown = [(row["prompt"], (row["chosen"], row["rejected"])) for row in list(held)[:2]]
        second = SecondLook(args.dataset, args.reading, args.model, args.learning_rate)
        second.before(pairs, held, tokenizer=tokenizer, seed=args.seed)
    else:
        pairs = preferences.make_pairs(args.pairs or 6400, seed=args.seed)
        held = preferences.make_pairs(100 if args.smoke else 1000, "test", seed=args.seed)
        new = preferences.make_pairs(2 * len(held) // 5, "test", seed=args.seed, unseen=True)
        question = preferences.wrong_users("test", 1)[0]
        contrasts = preferences.contrasts_of(question, args.seed)
        shown = [(question.prompt, {text for row in contrasts for text in (row.more, row.less)})]

    def look() -> tuple[np.ndarray, dict]:
        rewards = scoring.score_pairs(model, tokenizer, held)
        of_gold = {} if second else by_gold(model, tokenizer, rewards, held, new)
        return rewards, {**on_labels(rewards, held), **of_gold}

    steps = args.training["epochs"] * -(-len(pairs) // args.batch_size)
    print(f"{args.model} on {len(pairs)} pairs, {steps} steps; {len(held)} pairs to judge by")
    _, before = look()
    losses = train_reward_model(model, tokenizer, pairs, **args.training)
    rewards, after = look()
    print(f"loss of the first batch {losses[0]:.4f}, ln 2 = {math.log(2):.4f}")
    for prompt, texts in shown:
        print_rewards(model, tokenizer, prompt, texts)
    answers.print_table(("", "untrained", "trained"), reward_rows(before, after))
    metrics = {"train_pairs": len(pairs), "loss": losses, "before": before, "after": after}
    if second:
        second.after(tokenizer, held, margins=rewards[:, 0] - rewards[:, 1])
        metrics |= second.metrics()
    settings = reward_settings(args.model, pairs, **args.training)
    readme = readme_of(folder, settings, tokenizer, held[0])
    saving.save_model(folder, settings, model, tokenizer, readme=readme)
    figure = (draw_own_rewards if second else draw)(losses, after)
    next_step = "python 05-preference-tuning/studies/what_a_reward_model_absorbs.py: whose taste?"
    return runs.finish(args, metrics, figure, next_step, [folder])


if __name__ == "__main__":
    runs.run(main)
