"""How much preference tuning is right: what is seen along a training, and lost after its best."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from support.answers import FRONTIER_PROMPTS, answers_of_points
from support.start import Start
from support.training import load_sft_checkpoint

import numpy as np

from common.intervals import summary
from common.preferences import make_pairs


class Arm(NamedTuple):
    """A training at a constant learning rate: whose labels, which beta, for how many epochs."""

    name: str
    annotator: str
    times_beta: float  # of the default
    epochs: int


# More of it: whose labels, how many times the default's beta, for how many epochs.
AMOUNTS = (
    Arm("unbiased", "human", 1, 5),
    Arm("biased", "length", 1, 5),
    Arm("low_beta", "human", 1 / 3, 2),
    Arm("high_beta", "human", 10 / 3, 2),
)


class Look(NamedTuple):
    """What is seen at one step of a training."""

    step: int
    texts: list[list[str]]  # sampled answers (prompts, n)
    answers: dict[str, np.ndarray]  # their readings, arrays (prompts, n)
    pairs: dict[str, np.ndarray]  # what training pairs show, arrays (pairs,)


# --- Along a training ---


def study_amounts(
    train: Callable,
    read_pairs: Callable,
    start: Start,
    answers: dict[str, np.ndarray],
    texts: tuple,
    bars: Iterator[str],
) -> dict:
    """What there is to say of more of it, with the points of `frontier.py` and their answers.

    `train` is train_dpo, `read_pairs` says what pairs show, `answers` are readings of the default
    policy's, `texts` the SFT checkpoint's answers and the default policy's. All start from the SFT
    checkpoint, on the same texts labelled by their annotators. `bars` are names of progress bars.
    """
    amounts, looks = {}, {}
    for arm in AMOUNTS:
        bar = next(bars)
        amounts[arm.name], looks[arm.name] = study_amount(arm, train, read_pairs, start, bar)
    points = frontier_points(amounts, answers, start)
    seen = [look for arm in looks.values() for look in arm[1:]]
    before, after = texts
    point_texts = [before, *(look.texts for look in seen), after]
    return {
        "amounts": amounts,
        "frontier": points,
        "answers": answers_of_points(start.data.prompts, points, point_texts),
        "unbiased_lost": amounts["unbiased"]["gold_lost"],
        "biased_lost": amounts["biased"]["gold_lost"],
        "rose_late": amounts["unbiased"]["chosen_rose"],
    }


def study_amount(
    arm: Arm, train: Callable, read_pairs: Callable, start: Start, name: str
) -> tuple[dict, list[Look]]:
    """One arm and its looks: a third of the default's pairs, answers to the plane's prompts."""
    count, training = max(1, len(start.data.train) // 3), start.training
    rows = make_pairs(count, annotator=arm.annotator, seed=training["seed"])
    beta, epochs = arm.times_beta * training["beta"], 1 if start.smoke else arm.epochs
    prompts, looks = start.data.prompts[:FRONTIER_PROMPTS], []

    def look(step: int, policy) -> dict:
        answers = start.answer(policy, prompts, 2, step)
        looks.append(Look(step, *answers, read_pairs(policy, start.tokenizer, rows[:96], beta)))
        return {}

    per_epoch = -(-count // training["batch_size"])
    steps = [max(1, round(epoch * per_epoch)) for epoch in epochs_looked_at(epochs)]
    settings = {**training, "beta": beta, "epochs": epochs, "schedule": "constant"}
    reference, tokenizer = load_sft_checkpoint(*start.sft)
    train(reference, tokenizer, rows, **settings, name=name, look=look, look_at=steps)
    about = {"beta": beta, "pairs": count, "biased": arm.annotator != "human"}
    return {**about, **describe(looks, per_epoch)}, looks


def epochs_looked_at(epochs: int) -> tuple[float, ...]:
    """When to look: early, where most happens, and after every epoch."""
    return (0.25, 0.5, *range(1, epochs + 1))


def describe(looks: Sequence[Look], steps_per_epoch: int) -> dict:
    """The curve of a training, and from its best look to its last: what was lost and gained.

    Gold utility and good answers are those of sampled answers; accuracy and loss, which training
    shows, are those of training pairs.
    """
    gold, good = _by_prompt(looks, "utility"), _by_prompt(looks, "good")  # (looks, prompts)
    peak = int(gold.mean(1).argmax())
    best, last = looks[peak].pairs, looks[-1].pairs
    return {
        "curve": [_point(look, steps_per_epoch) for look in looks],
        "peak_epoch": looks[peak].step / steps_per_epoch,
        "gold_lost": lost_after_peak(gold),
        "good_lost": lost_after_peak(good),
        "accuracy_gained": summary(last["accuracy"] - best["accuracy"]),
        "loss_saved": summary(best["loss"] - last["loss"]),
        "chosen_rose": summary(last["chosen"]),
    }


def _by_prompt(looks: Sequence[Look], name: str) -> np.ndarray:
    return np.array([look.answers[name].mean(1) for look in looks])


def _point(look: Look, steps_per_epoch: int) -> dict:
    answers = {"kl": "kl", "gold": "utility", "good": "good", "words": "words"}
    return {
        "step": look.step,
        "epoch": look.step / steps_per_epoch,
        **{name: summary(look.answers[key].mean(1)) for name, key in answers.items()},
        **{name: summary(values) for name, values in look.pairs.items()},
    }


def lost_after_peak(values: np.ndarray) -> dict:
    """What was lost from the best look to the last; values (looks, prompts).

    The best of many noisy looks is partly luck. So each half of the prompts is measured at the look
    that is best for the other half.
    """
    lost = np.empty(values.shape[1])
    for half in (0, 1):
        peak = values[:, half::2].mean(1).argmax()
        lost[1 - half :: 2] = (values[peak] - values[-1])[1 - half :: 2]
    return summary(lost)


def frontier_points(amounts: dict, answers: dict[str, np.ndarray], start: Start) -> list[dict]:
    """The SFT checkpoint, every look of every arm, and the default policy, for `frontier.py`.

    Gold utility and good answers against KL on the same prompts; `answers` are readings of the
    default policy's (prompts, n).
    """
    training = start.training
    first = next(iter(amounts.values()))["curve"][0]
    first = {**first, "beta": None, "pairs": 0, "biased": False}
    points = [_frontier_point(first, "SFT", "sft", "SFT checkpoint")]
    for series, arm in amounts.items():
        about = {name: arm[name] for name in ("beta", "pairs", "biased")}
        for seen in arm["curve"][1:]:
            point = {**seen, **about, "pairs": round(min(1, seen["epoch"]) * arm["pairs"])}
            label = f"{seen['epoch']:.3g} epochs, beta {arm['beta']:.3g}"
            points.append(_frontier_point(point, "DPO", series, label))
    same = {name: values[:FRONTIER_PROMPTS, :2] for name, values in answers.items()}
    about = {"epoch": training["epochs"], "beta": training["beta"], "biased": False}
    point = {**_point(Look(0, [], same, {}), 1), **about, "pairs": len(start.data.train)}
    label = f"default: {training['epochs']} epochs, beta {training['beta']:.3g}, falling rate"
    return [*points, _frontier_point(point, "DPO", "default", label)]


def _frontier_point(seen: dict, method: str, series: str, label: str) -> dict:
    names = ("kl", "gold", "good", "biased", "beta", "epoch")
    measured = {name: seen[name] for name in names}
    about = {"method": method, "series": series, "label": label}
    return {**about, **measured, "annotations": seen["pairs"]}
