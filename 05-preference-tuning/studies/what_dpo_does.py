"""What DPO does: which answers become likelier, which answers are given, and is it style or facts?

    python 05-preference-tuning/studies/what_dpo_does.py  # one seed, 2 minutes

The default training of dpo_trainer.py: one pass over 768 pairs of unbiased annotators. Judged by
500 held-out pairs, by three sampled answers to each of 256 held-out questions before and after, and
by pairs of texts that differ in one thing alone: a right and a wrong answer in the same sentence,
the right answer with and without filler. Beside it stands one pass over 6,400 pairs at a lower
learning rate, 3e-4: it does less (why: likelihood_term.py).
"""

import lessons  # noqa: F401

import numpy as np
from dpo_trainer import dpo_policy, measure_pairs

from common.answers import Answers, sample_answers
from common.claims import Claim, run_study, study_folder
from common.figures import new_figure, seed_columns
from common.preferences import SIDES, WORTH, contrasts_of, make_pairs, questions
from common.scoring import pair_logps
from common.training import load_sft_model

CLAIMS = (
    Claim(
        "dpo_raises_chosen",
        "DPO raises log p of chosen responses",
        "how far log p rose in one pass, held-out pairs, nats",
        of=lambda m: m["pairs"]["chosen"],
        smallest=0.1,
    ),
    Claim(
        "dpo_lowers_rejected",
        "DPO lowers log p of rejected responses",
        "how far log p fell in one pass, held-out pairs, nats",
        of=lambda m: -m["pairs"]["rejected"],
        smallest=0.1,
    ),
    Claim(
        "style_more_than_substance",
        "preference tuning changes style more than substance",
        "share of what there was to gain: on-topic answers without filler, minus right ones",
        of=lambda m: m["of_room"]["style"] - m["of_room"]["substance"],
        smallest=0.05,
    ),
)


def measure(seed: int, smoke: bool = False) -> dict:
    """The default policy of a seed beside the SFT model."""
    pairs = make_pairs(32 if smoke else 768, seed=seed)
    held = make_pairs(32 if smoke else 500, "test", seed=seed)
    asked = questions("test", seed=seed)[: 16 if smoke else 256]
    prompts, n = [question.prompt for question in asked], 1 if smoke else 3
    model, tokenizer = load_sft_model()
    before = sample_answers(model, tokenizer, prompts, n, seed)
    folder = study_folder(seed, smoke)
    policy = dpo_policy(folder / "dpo", model, tokenizer, pairs, seed=seed)
    after = sample_answers(policy, tokenizer, prompts, n, seed)
    of_pairs = measure_pairs(policy, tokenizer, held, beta=0.3)  # the default of train_dpo
    contrasts = [pair for question in asked[:96] for pair in contrasts_of(question, seed)]
    model, _ = load_sft_model()
    many, rate = make_pairs(32 if smoke else 6400, seed=seed), {"learning_rate": 3e-4}
    more = dpo_policy(folder / "dpo_6400", model, tokenizer, many, seed=seed, **rate)
    return {
        "before": before.means(),
        "after": after.means(),
        "after_6400": sample_answers(more, tokenizer, prompts, n, seed).means(),
        "pairs": {name: float(values.mean()) for name, values in of_pairs.items()},
        "contrasts": {
            name: read_contrasts(policy, tokenizer, contrasts, name) for name in ("right", "filler")
        },
        "of_room": gained_of_room(before, after),
    }


def read_contrasts(policy, tokenizer, contrasts: list, component: str, beta: float = 0.3) -> dict:
    """log p of a text minus that of one that differs in one thing, before and after, nats a unit.

    `share` is what the implicit reward, beta times the change, has of the gold utility of that
    difference: 1 is where DPO ends on pairs without limit.
    """
    chosen = [contrast for contrast in contrasts if contrast.component == component]
    rows = [{"prompt": c.prompt, "chosen": c.more, "rejected": c.less} for c in chosen]
    units = np.array([contrast.units for contrast in chosen])
    read = pair_logps(policy, tokenizer, rows)
    after, before = ((logps[0] - logps[1]).numpy() / units for logps in read)
    share = beta * (after - before) / WORTH[component]
    return {"before": before.mean(), "after": after.mean(), "share": share.mean()}


def gained_of_room(before: Answers, after: Answers) -> dict[str, float]:
    """What answers gained from the SFT model to the policy, as a share of what there was to gain.

    Style: the share without filler or preamble of on-topic answers; substance: that of right ones.
    """
    gained = {}
    for name, read in (("style", "plain"), ("substance", "correct")):
        then = np.average(getattr(before, read), weights=before.on_topic)
        now = np.average(getattr(after, read), weights=after.on_topic)
        gained[name] = float((now - then) / max(1 - then, 0.01))
    return gained


def draw(runs: list[dict]):
    """Answers, log-probabilities, style beside substance; a dot is a seed."""
    looks = ("before", "after", "after_6400")
    good = 100 * np.array([[run[look]["good"] for run in runs] for look in looks])
    before, after, with_many = good.mean(1)
    title = f"DPO takes right and concise answers from {before:.0f} % to {after:.0f} %"
    figure, (answers, likelier, mended, learned) = new_figure(2, 2, title)
    answers.plot([0, 1, 2], good, "o-", color="lab:dpo", lw=1, alpha=0.6)
    answers.set_xticks([0, 1, 2], ["SFT model", "768 pairs", "6,400 pairs"])
    answers.set_title(f"Good answers: {after:.0f} %, and {with_many:.0f} % with more pairs")
    answers.set_xlim(-0.3, 2.3)
    answers.set_ylabel("% of answers right and concise")
    pairs = {f"{side} answers": [run["pairs"][side] for run in runs] for side in SIDES}
    seed_columns(likelier, pairs, ("lab:chosen", "lab:rejected"), digits=1)
    likelier.axhline(0, color="black", lw=0.8)
    chosen, rejected = map(np.mean, pairs.values())
    likelier.set_title(f"log p: chosen {chosen:+.1f}, rejected {rejected:+.1f} nats")
    likelier.set_ylabel("change of log p, held-out pairs (nats)")
    of_room = {
        "style: no filler, no preamble": [100 * run["of_room"]["style"] for run in runs],
        "substance: right answers": [100 * run["of_room"]["substance"] for run in runs],
    }
    seed_columns(mended, of_room, ("lab:dpo", "lab:gold"), digits=0)
    style, facts = map(np.mean, of_room.values())
    mended.set_title(f"Mended: style {style:.0f} %, wrong facts {facts:.0f} %")
    mended.set_ylabel("% of what there was to gain")
    shares = {
        "style: a word of filler": [100 * run["contrasts"]["filler"]["share"] for run in runs],
        "substance: right, not wrong": [100 * run["contrasts"]["right"]["share"] for run in runs],
    }
    seed_columns(learned, shares, ("lab:dpo", "lab:gold"), digits=0)
    style, facts = map(np.mean, shares.values())
    learned.set_title(f"In DPO's reward: filler {style:.0f} %, facts {facts:.0f} %")
    learned.set_ylabel("% of its gold utility in the implicit\nreward beta log(pi / SFT model)")
    for ax in (answers, mended, learned):
        ax.set_ylim(0, 100)
    return figure


if __name__ == "__main__":
    run_study(CLAIMS, measure, draw)
