"""A likelihood term: does DPO on many pairs need one?

    python 05-preference-tuning/studies/likelihood_term.py  # 3 minutes; 2 after what_dpo_does

DPO may make chosen answers less likely, if rejected ones fall faster (too_much_dpo.py). The term
pulls the other way: it adds the negative log-likelihood of the chosen answers, the mean over their
tokens, to the loss (TRL's loss types "sigmoid" and "sft"; Pang et al. 2024, arXiv 2404.19733). With
and without it the SFT model is trained for one pass over 768 pairs of unbiased annotators, or over
6,400. Judged by eight sampled answers to each of 128 held-out questions: gold utility (3 if right,
1 if on topic, -0.15 for a word of filler; in log-odds), and KL (how far from the SFT model, in
nats).

Learning rates were chosen by gold utility on 128 validation questions with seed 0. DPO keeps its
default, 7e-4, with 768 pairs; with 6,400 pairs it reached 3.5 with 3e-4, and 3.2 with 7e-4. With
the term 1.4e-3 was the best of four with 768 pairs; with 6,400 pairs only 3e-4 was tried.
"""

import lessons  # noqa: F401

import numpy as np
from dpo_trainer import dpo_policy
from frontier import BUDGETS

from common.answers import answers_of_points, point_of, sample_answers
from common.claims import Claim, run_study, study_folder
from common.figures import GOLD, legend_below, new_figure, seed_lines
from common.preferences import make_pairs, questions
from common.training import load_sft_model

PLAIN, WITH_TERM = "DPO", "DPO + likelihood term"
TERM = {"loss_type": ("sigmoid", "sft")}
# Each policy, by method and pairs: where it is kept, and what is not default in its training.
POLICIES = {
    (PLAIN, 768): ("dpo", {}),
    (WITH_TERM, 768): ("dpo_768_sft", TERM | {"learning_rate": 1.4e-3}),
    (PLAIN, 6400): ("dpo_6400", {"learning_rate": 3e-4}),
    (WITH_TERM, 6400): ("dpo_6400_sft", TERM | {"learning_rate": 3e-4}),
}

CLAIMS = (
    Claim(
        "likelihood_term_with_many_pairs",
        "with many pairs a likelihood term on the chosen answers makes DPO better",
        "gold utility with the term minus without it, one pass over the same 6,400 pairs, log-odds",
        of=lambda m: m["gold"][WITH_TERM][1] - m["gold"][PLAIN][1],  # of BUDGETS the second
        smallest=0.1,
    ),
)


def measure(seed: int, smoke: bool = False) -> dict:
    """The four policies of a seed as points of KL and gold utility, with their answers."""
    asked = questions("test", seed=seed)[: 8 if smoke else 128]
    prompts, points, texts = [question.prompt for question in asked], [], []
    for (method, count), (name, training) in POLICIES.items():
        model, tokenizer = load_sft_model()  # a fresh one: the adapter is put into it
        pairs, folder = make_pairs(32 if smoke else count, seed=seed), study_folder(seed, smoke)
        policy = dpo_policy(folder / name, model, tokenizer, pairs, seed=seed, **training)
        answers = sample_answers(policy, tokenizer, prompts, 8, seed)
        points.append(point_of(method, f"{count}", f"{count} pairs", answers, count))
        texts.append(answers.texts)
    gold = {method: [p["gold"] for p in points if p["method"] == method] for method, _ in POLICIES}
    answers = answers_of_points(prompts, points, texts)
    return {"gold": gold, "points": points, "answers": answers}


def draw(runs: list[dict]):
    """Gold utility by the number of pairs, and against KL; a line is a seed."""
    few, many = np.mean([run["gold"][PLAIN] for run in runs], axis=0)
    gained = np.mean([CLAIMS[0].of(run) for run in runs])
    title = f"More pairs change DPO's gold utility by {many - few:+.2f}; the term by {gained:+.2f}"
    figure, (by_pairs, distance) = new_figure(1, 2, title)
    for method, dashes in ((PLAIN, "-"), (WITH_TERM, ":")):
        gold = [run["gold"][method] for run in runs]
        seed_lines(by_pairs, [0, 1], gold, "lab:dpo", method, ls=dashes)
        for run in runs:
            kl = [point["kl"] for point in run["points"] if point["method"] == method]
            distance.plot(kl, run["gold"][method], lw=0.8, color="lab:dpo", ls=dashes)
            distance.plot(kl[-1], run["gold"][method][-1], "o", ms=4, color="lab:dpo")
    by_pairs.set_xticks([0, 1], [f"{pairs:,}" for pairs in BUDGETS])
    by_pairs.set(title="How good sampled answers are", xlabel="pairs, one pass", ylabel=GOLD)
    by_pairs.set_xlim(-0.3, 1.3)
    distance.set(title="From 768 pairs to 6,400 (dot)", ylabel=GOLD)
    distance.set_xlabel("measured KL from the SFT model (nats)")
    legend_below(by_pairs, ncols=2)
    return figure


if __name__ == "__main__":
    run_study(CLAIMS, measure, draw)
