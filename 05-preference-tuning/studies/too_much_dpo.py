"""Too much DPO: does the model get worse when it is trained on and on, and would you notice?

    python 05-preference-tuning/studies/too_much_dpo.py                 # one seed, 80 seconds
    python 05-preference-tuning/studies/too_much_dpo.py --seeds 0 1 2 3 4 5 6 7
    python 05-preference-tuning/studies/too_much_dpo.py --claims        # what is claimed and found

Five passes over 256 pairs at a constant learning rate, twice: once the pairs are labelled by
unbiased annotators, once by annotators who prefer long answers. Then two passes with beta, the pull
to the SFT model, at 0.1 and at 1 (usual: 0.3). On the way the model gives two answers to each of
128 held-out questions, and reads 96 of the pairs that it is trained on, as a training log does.
"""

from typing import NamedTuple

import lessons  # noqa: F401

import numpy as np
from dpo_trainer import dpo_policy, read_pairs, train_dpo

from common.answers import KINDS, Answers, answers_of_points, point_of, sample_answers
from common.claims import Claim, run_study, study_folder
from common.figures import GOLD, new_figure, seed_lines
from common.intervals import summary
from common.preferences import make_pairs, questions
from common.training import load_sft_model

# The trainings, all at a constant learning rate: whose labels, which beta, how many passes.
AMOUNTS = {
    "unbiased": ("human", 0.3, 5),
    "biased": ("length", 0.3, 5),
    "low_beta": ("human", 0.1, 2),
    "high_beta": ("human", 1.0, 2),
}
ANNOTATORS = {"unbiased": "unbiased annotators", "biased": "annotators who prefer long answers"}
HUES = {"unbiased": "lab:dpo", "biased": "lab:biased"}

CLAIMS = (
    Claim(
        "optimal_amount_exists",
        "there is an optimal amount of tuning",
        "gold utility lost from the best measurement to the last, unbiased annotators, log-odds",
        of=lambda m: m["amounts"]["unbiased"]["gold_lost"],
        smallest=0.1,
        published="agrees: Rafailov et al. 2024 (arXiv 2406.02900)",
    ),
    Claim(
        "optimal_amount_of_biased_labels",
        "beyond it a bias of the annotators is exploited",
        "gold utility lost from the best measurement to the last, annotators for length, log-odds",
        of=lambda m: m["amounts"]["biased"]["gold_lost"],
        smallest=0.1,
    ),
    Claim(
        "dpo_raises_chosen_to_the_end",
        "longer training still raises log p of chosen answers",
        "change of log p of chosen answers after five passes, pairs of the training, nats",
        of=lambda m: m["amounts"]["unbiased"]["chosen_rose"],
        smallest=0.1,
        published="does not: Pal et al. 2024 (arXiv 2402.13228)",
    ),
    Claim(
        "training_does_not_show_it",
        "the training log does not show that answers get worse",
        "share of training pairs ranked as labelled, gained since gold utility was best (length)",
        of=lambda m: m["amounts"]["biased"]["ranked_gained"],
        smallest=0.02,
        published="agrees: Chen et al. 2024 (arXiv 2405.19534)",
    ),
)


# --- The experiment ---


class Look(NamedTuple):
    """What is seen at one step of a training."""

    epoch: float
    answers: Answers
    pairs: dict[str, np.ndarray]  # what training pairs show, arrays (pairs,)


def measure(seed: int, smoke: bool = False) -> dict:
    """Every amount, and the points of `frontier.py` with their answers."""
    count = 64 if smoke else 768
    prompts = [question.prompt for question in questions("test")[: 16 if smoke else 256]]
    model, tokenizer = load_sft_model()
    pairs, folder = make_pairs(count, seed=seed), study_folder(seed, smoke) / "dpo"
    default = dpo_policy(folder, model, tokenizer, pairs, seed=seed)
    # The plane has two answers to a prompt, so of the default policy's three the first two.
    of_default = sample_answers(default, tokenizer, prompts, 1 if smoke else 3, seed)
    few = max(1, count // 3), prompts[:128]
    looks = {name: train_on(name, *few, seed, smoke) for name in AMOUNTS}
    points, texts = frontier_points(looks, of_default, count)
    return {
        "amounts": {name: describe(of_amount) for name, of_amount in looks.items()},
        "points": points,
        "answers": answers_of_points(prompts, points, texts),
    }


def train_on(amount: str, count: int, prompts: list, seed: int, smoke: bool) -> list[Look]:
    """One training of AMOUNTS from the SFT model, and what is seen on the way."""
    annotator, beta, passes = AMOUNTS[amount]
    rows = make_pairs(count, annotator=annotator, seed=seed)
    model, tokenizer = load_sft_model()
    epochs, per_epoch, looks = 1 if smoke else passes, -(-count // 8), []

    def look(step: int, policy) -> None:
        answers = sample_answers(policy, tokenizer, prompts, 2, seed=step)
        of_pairs = read_pairs(policy, tokenizer, rows[:96], beta)
        looks.append(Look(step / per_epoch, answers, of_pairs))

    # Early, where most happens, and after every pass.
    at = [max(1, round(epoch * per_epoch)) for epoch in (0.25, 0.5, *range(1, epochs + 1))]
    settings = {"beta": beta, "epochs": epochs, "schedule": "constant", "seed": seed}
    train_dpo(model, tokenizer, rows, **settings, look=look, look_at=at)
    return looks


def describe(looks: list[Look]) -> dict:
    """The curve of a training, and from its best look to its last: what was lost, gained."""
    gold = np.array([look.answers.gold.mean(1) for look in looks])  # (looks, prompts)
    best, last = looks[gold.mean(1).argmax()].pairs, looks[-1].pairs
    curve = []
    for look in looks:
        of_pairs = {name: float(values.mean()) for name, values in look.pairs.items()}
        curve.append({"epoch": look.epoch, **of_pairs, **look.answers.means()})
    return {
        "curve": curve,
        "gold_lost": summary(lost_after_best(gold)),
        "ranked_gained": summary(last["ranked"] - best["ranked"]),
        "chosen_rose": summary(last["chosen"]),
    }


def lost_after_best(values: np.ndarray) -> np.ndarray:
    """What each prompt lost from the best look to the last; values (looks, prompts).

    The best of many noisy looks is partly luck. So each half of the prompts is measured at the look
    that is best for the other half.
    """
    lost = np.empty(values.shape[1])
    for half in (0, 1):
        best = values[:, half::2].mean(1).argmax()
        lost[1 - half :: 2] = (values[best] - values[-1])[1 - half :: 2]
    return lost


def frontier_points(looks: dict[str, list[Look]], default: Answers, count: int) -> tuple:
    """(points, texts): the SFT model, every look of every amount, and the default policy."""
    before, per_amount = looks["unbiased"][0].answers, max(1, count // 3)
    points, texts = [point_of("SFT", "sft", "SFT checkpoint", before, 0, epoch=0.0)], [before.texts]
    for series, (annotator, beta, _) in AMOUNTS.items():
        for look in looks[series][1:]:
            label = f"{look.epoch:.3g} epoch{'s' * (look.epoch != 1)}, beta {beta:.3g}"
            labels = round(min(1, look.epoch) * per_amount)
            about = {"biased": annotator != "human", "beta": beta, "epoch": look.epoch}
            points.append(point_of("DPO", series, label, look.answers, labels, **about))
            texts.append(look.answers.texts)
    label = "default: 1 epoch, beta 0.3, falling rate"
    first_two = {name: getattr(default, name)[:, :2] for name in ("kl", "gold", "good")}
    default = default._replace(**first_two)
    points.append(point_of("DPO", "default", label, default, count, beta=0.3, epoch=1))
    return points, [*texts, default.texts]


# --- The figure ---


def draw(runs: list[dict]):
    """What training shows, how good the answers are, and what they are; every seed is visible."""
    lost = [np.mean([run["amounts"][name]["gold_lost"]["mean"] for run in runs]) for name in HUES]
    title = f"Five passes of DPO: answers lose {lost[0]:.1f} and {lost[1]:.1f} of gold utility"
    title += "\nafter their best measurement; the training log does not fall with them"
    figure, (log, quality, *answers) = new_figure(2, 2, title)
    for (name, label), ax in zip(ANNOTATORS.items(), answers, strict=True):
        kinds_by_look(ax, runs, name)
        curves = [run["amounts"][name]["curve"] for run in runs]
        epochs = [look["epoch"] for look in curves[0]]
        ranked, gold = ([[look[key] for look in c] for c in curves] for key in ("ranked", "gold"))
        ranked = np.array(ranked)[:, 1:]  # before the training no pair is ranked
        seed_lines(log, epochs[1:], ranked, HUES[name], label)
        seed_lines(quality, epochs, gold, HUES[name], label)
    x = "passes over the pairs"
    log.set(title="What the log shows", xlabel=x, ylabel="share of pairs ranked as labelled")
    log.legend(loc="lower right")
    quality.set(title="How good sampled answers are", xlabel=x, ylabel=GOLD)
    handles = answers[0].get_legend_handles_labels()[0][: len(KINDS)]  # of the first seed
    figure.legend(handles, KINDS, loc="outside lower center", ncols=len(KINDS))
    return figure


def kinds_by_look(ax, runs: list[dict], amount: str) -> None:
    """What the answers are at each look: a stacked bar per seed, side by side."""
    width = 0.8 / len(runs)
    for k, run in enumerate(runs):
        looks = run["amounts"][amount]["curve"]
        places, bottom = np.arange(len(looks)) - 0.4 + (k + 0.5) * width, np.zeros(len(looks))
        for kind in KINDS:
            shares = np.array([100 * look["kinds"][kind] for look in looks])
            ax.bar(places, shares, 0.95 * width, bottom, color=f"lab:{kind}", label=kind)
            bottom += shares
    ax.set_xticks(range(len(looks)), [f"{look['epoch']:.2g}" for look in looks])
    ax.set(title=f"Answers: {ANNOTATORS[amount]}", xlabel="passes over the pairs")
    ax.set(ylabel="% of answers", ylim=(0, 100))


if __name__ == "__main__":
    run_study(CLAIMS, measure, draw)
