"""Too much DPO: log p of the chosen answers falls; is that normal, and where does probability go?

    python 05-preference-tuning/studies/too_much_dpo.py  # one seed, 2 minutes

Yes, it is normal: the loss sees only how far chosen is above rejected, so both may fall. But all
probabilities sum to 1: what these answers lose, other texts gain. Here one can see which, since all
texts that this world can write are known. A text with a word pair or a sentence that is in none of
them is called malformed: mostly known texts joined at a word that they share ("Yes, it is Cuba is
Cuba is Havana."). Gold utility reads words, not grammar, so it can count as right. A remedy helps
by moving the model less: at equal KL (how far it is from the SFT model, in nats) it has as many
malformed answers, or more. Five trainings, each of five passes over 256 pairs at a constant rate;
on the way the model gives two answers to each of 128 held-out questions, and reads 96 of the pairs
that it is trained on, as a training log does.
"""

import re
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import lessons  # noqa: F401

import numpy as np
from dpo_trainer import measure_pairs, train_dpo

from common import preferences
from common.answers import KINDS, Answers, answers_of_points, point_of, sample_answers
from common.claims import Claim, run_study
from common.figures import legend_below, new_figure, seed_lines
from common.intervals import around_the_best
from common.sampling import sample_pairs
from common.training import load_sft_model


class Arm(NamedTuple):
    """A training from the SFT model, with beta 0.3 where nothing else is said."""

    label: str
    line: str  # its style in the figure
    pairs: str  # of which annotators; "sampled": the SFT model's own answers
    settings: dict  # those of train_dpo that differ


TRAININGS = {
    "unbiased": Arm("unbiased annotators", "-", "human", {}),
    "biased": Arm("annotators prefer long answers", "-", "length", {}),
    "likelihood": Arm("likelihood term", "--", "human", {"loss_type": ("sigmoid", "sft")}),
    "high_beta": Arm("beta 1", ":", "human", {"beta": 1.0}),
    "on_policy": Arm("pairs sampled by the SFT model", "-.", "sampled", {}),
}
MALFORMED = "malformed"

CLAIMS = (
    Claim(
        "optimal_amount_exists",
        "there is an optimal amount of tuning",
        "gold utility lost from the best look to the last, unbiased annotators, log-odds",
        of=lambda m: m["arms"]["unbiased"]["gold_lost"],
        smallest=0.1,
    ),
    Claim(
        "optimal_amount_of_biased_labels",
        "beyond it a bias of the annotators is exploited",
        "gold utility lost after the best look, annotators for length minus unbiased, log-odds",
        of=lambda m: m["arms"]["biased"]["gold_lost"] - m["arms"]["unbiased"]["gold_lost"],
        smallest=0.1,
    ),
    Claim(
        "dpo_raises_chosen_to_the_end",
        "longer training still raises log p of chosen answers",
        "change of log p of chosen answers after five passes, pairs of the training, nats",
        of=lambda m: m["arms"]["unbiased"]["curve"][-1]["chosen"],
        smallest=0.1,
        predicted="does not hold",
    ),
    Claim(
        "training_does_not_show_it",
        "the training log does not show that answers get worse",
        "share of training pairs ranked as labelled, gained since gold utility was best (length)",
        of=lambda m: m["arms"]["biased"]["ranked_gained"],
        smallest=0.02,
    ),
    Claim(
        "mass_goes_to_malformed_texts",
        "what chosen and rejected answers lose goes to texts that nobody wrote",
        "share of malformed answers after five passes, minus that of the SFT model",
        of=lambda m: malformed(m, "unbiased") - malformed(m, "unbiased", look=0),
        smallest=0.02,
    ),
    Claim(
        "likelihood_term_keeps_the_mass",
        "in as many passes less goes there with a likelihood term on chosen answers",
        "share of malformed answers after five passes, without the term minus with it",
        of=lambda m: malformed(m, "unbiased") - malformed(m, "likelihood"),
        smallest=0.02,
    ),
)


def malformed(metrics: dict, arm: str, look: int = -1) -> float:
    """The share of malformed answers at a look."""
    return metrics["arms"][arm]["curve"][look]["kinds"][MALFORMED]


@cache
def writable() -> tuple[set, set]:
    """(word pairs, sentences) of all texts that the world can write, whatever the question."""
    texts = [*preferences.CHATTER]
    around = list(zip(preferences.OPENERS, preferences.CLOSERS, strict=True))
    for relation in preferences.RELATIONS.values():
        preambles = [preamble.format(field=relation["field"]) for preamble in preferences.PREAMBLES]
        for subject, right in relation["answers"].items():
            for answer in relation["answers"].values():
                full = relation["sentence"].format(subject=subject, answer=answer)
                forms = (full, f"It is {answer}.", f"The answer is {answer}.")
                lower = [form[0].lower() + form[1:] for form in forms]
                short = [*forms, *(f"{reply}, {form}" for reply in ("Yes", "No") for form in lower)]
                texts += [*short, *(f"{preamble} {lower[0]}" for preamble in preambles)]
                texts += [form.format(belief=answer) for form in preferences.AGREEMENTS]
                if answer == right:  # only right answers are written with filler around them
                    texts += [f"{opener} {text} {end}" for opener, end in around for text in short]
    pairs = {pair for text in texts for pair in word_pairs(text)}
    return pairs, {sentence for text in texts for sentence in in_sentences(text)}


def word_pairs(text: str) -> set[tuple]:
    """Neighbouring words of a text, its start and its end included."""
    return set(pairwise(["<start>", *text.split(), "<end>"]))


def in_sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.!?]) ", text.strip())


def label_answers(answers: Answers) -> np.ndarray:
    """Which of KINDS each answer is, or malformed, (P, n).

    A text without a new word pair can be malformed too, as "The capital of gold is Au.".
    """
    pairs, sentences = writable()
    labels = answers.kind.astype(object)
    for place in np.ndindex(labels.shape):
        text = answers.texts[place[0]][place[1]]
        if word_pairs(text) - pairs or set(in_sentences(text)) - sentences:
            labels[place] = MALFORMED
    return labels


def measure(seed: int, smoke: bool = False) -> dict:
    """Every training, and as points for frontier.py: SFT, and every look."""
    count, most = (10, 16) if smoke else (256, 128)
    prompts = [question.prompt for question in preferences.questions("test", seed=seed)[:most]]
    looks = {name: train_arm(arm, count, prompts, seed) for name, arm in TRAININGS.items()}
    before = looks["unbiased"][0]["answers"]
    points, texts = [point_of("SFT", "sft", "SFT model", before, 0, epoch=0.0)], [before.texts]
    for series, arm in TRAININGS.items():
        differs = f", {arm.label}" if series in ("likelihood", "on_policy") else ""
        about = {"biased": arm.pairs == "length", "beta": arm.settings.get("beta", 0.3)}
        for look in looks[series][1:]:
            epoch, answers = look["epoch"], look["answers"]
            label = f"{epoch:.3g} epoch{'s' * (epoch != 1)}, beta {about['beta']:.3g}{differs}"
            labels = round(min(1, epoch) * count)
            points.append(point_of("DPO", series, label, answers, labels, epoch=epoch, **about))
            texts.append(answers.texts)
    return {
        "arms": {name: describe(of_arm) for name, of_arm in looks.items()},
        "points": points,
        "answers": answers_of_points(prompts, points, texts),
    }


def train_arm(arm: Arm, count: int, prompts: list, seed: int) -> list[dict]:
    """One training from the SFT model on `count` pairs; what is seen before and on the way."""
    model, tokenizer = load_sft_model()
    if arm.pairs == "sampled":
        rows = sample_pairs(model, tokenizer, count, seed)
    else:
        rows = preferences.make_pairs(count, annotator=arm.pairs, seed=seed)
    settings = {"beta": 0.3, "epochs": 1 if count < 200 else 5, **arm.settings}  # 1: --smoke
    per_epoch, looks = -(-count // 8), []

    def look(step: int, policy) -> None:
        answers = sample_answers(policy, tokenizer, prompts, 2, seed + step)
        of_pairs = measure_pairs(policy, tokenizer, rows[:96], settings["beta"])
        looks.append({"epoch": step / per_epoch, "answers": answers, "pairs": of_pairs})

    at = [round(epoch * per_epoch) for epoch in (0.5, 1, 2, 3)]  # and at the end
    settings |= {"schedule": "constant", "seed": seed, "name": arm.label}
    train_dpo(model, tokenizer, rows, **settings, look=look, look_at=at)
    return looks


def describe(looks: list[dict]) -> dict:
    """The curve of a training; from its best look to its last, what was lost and gained."""
    curve = []
    for look in looks:
        labels = label_answers(look["answers"])
        sides = {side: float(look["pairs"][side].mean()) for side in preferences.SIDES}
        kinds = {kind: float((labels == kind).mean()) for kind in (*KINDS, MALFORMED)}
        far = {"loss": look["pairs"]["loss"].mean(), "kl": look["answers"].kl.mean()}
        curve.append({"epoch": look["epoch"], **sides, **far, "kinds": kinds})
    gold = np.transpose([look["answers"].gold.mean(1) for look in looks])  # (prompts, looks)
    best = 1 + gold[:, 1:].mean(0).argmax()  # not the first look: there no pair is ranked
    ranked = [float(look["pairs"]["ranked"].mean()) for look in looks]
    lost = around_the_best(gold)[1]
    return {"curve": curve, "gold_lost": lost, "ranked_gained": ranked[-1] - ranked[best]}


def draw(runs: list[dict]):
    """What answers become under two groups of annotators, what the log shows, what helps."""
    shares = [100 * np.mean([malformed(run, arm) for run in runs]) for arm in TRAININGS]
    title = f"Five passes of DPO: {shares[0]:.0f} % of the answers are texts that nobody wrote;\n"
    title += f"with a likelihood term on the chosen answers {shares[2]:.0f} %"
    figure, (unbiased, biased, log, arms) = new_figure(2, 2, title, 3.6)
    kinds, epochs = (*KINDS, MALFORMED), over_looks(runs, "unbiased", "epoch")[0]
    for ax, name in ((unbiased, "unbiased"), (biased, "biased")):
        of_runs = over_looks(runs, name, "kinds")
        table = [[[100 * look[kind] for look in looks] for kind in kinds] for looks in of_runs]
        percent = np.mean(table, axis=0)  # over seeds: (kinds, looks)
        ax.stackplot(epochs, percent, colors=[f"lab:{kind}" for kind in kinds], labels=kinds)
        ax.text(epochs[-1], 96, f"{percent[-1, -1]:.0f} % ", color="white", ha="right", va="top")
        ax.set(title=f"Answers: {TRAININGS[name].label}", ylabel="% of answers", ylim=(0, 100))
        ax.set(xlabel="passes over the pairs", xlim=(0, epochs[-1]))
        legend_below(ax, ncols=2)
    for name in ("unbiased", "likelihood"):
        for side in ("chosen", "rejected"):
            label, line = f"{side}, {TRAININGS[name].label}", TRAININGS[name].line
            seed_lines(log, epochs, over_looks(runs, name, side), f"lab:{side}", label, ls=line)
    log.axhline(0, color="black", lw=0.8)
    log.set(title="Meanwhile: log p of the trained pairs", ylabel="change of log p (nats)")
    for name, arm in TRAININGS.items():
        of_runs = over_looks(runs, name, "kinds")
        percent = [[100 * look[MALFORMED] for look in looks] for looks in of_runs]
        color = "lab:biased" if name == "biased" else "lab:dpo"
        seed_lines(arms, epochs, percent, color, arm.label, ls=arm.line)
    arms.set(title="Malformed answers in every training", ylabel="% of answers", ylim=(0, None))
    for ax in (log, arms):
        legend_below(ax, handlelength=3.5)
        ax.set_xlabel("passes over the pairs")
    return figure


def over_looks(runs: list[dict], arm: str, name: str) -> list:
    """One entry of the curve of an arm, by run and look."""
    return [[look[name] for look in run["arms"][arm]["curve"]] for run in runs]


if __name__ == "__main__":
    run_study(CLAIMS, measure, draw)
