"""Methods at the limit: which one gets most out of how far it moves the model, at equal labels?

    python 05-preference-tuning/run_all.py --studies                      # measures what it reads
    python 05-preference-tuning/studies/methods_at_the_limit.py           # a second

Trains nothing: it reads what the other studies measured with the same seed. The limit is pi*, the
policy that gains most gold utility (3 if right, 1 if on topic, -0.15 for a word of filler) at each
KL (how far its answers have moved from the SFT model's, in nats). A method is judged by its share
of pi*'s gain at its own KL. All learn from the same labelled pairs, 768 or 6,400: online RL and
best-of-16 by a reward model of these. A reward model starts as was better on validation questions;
DPO has a likelihood term where that was better there by more than 0.1, which is with 6,400 pairs.
"""

import lessons  # noqa: F401

import numpy as np
from frontier import JUDGE, RECIPE, SOURCES, Method, gain_and_share, limit_curve, point_for

from common import claims
from common.basics import UserError
from common.claims import Claim, run_study
from common.figures import legend_below, new_figure, seed_dots
from common.saving import read_json

SERIES = {  # for each budget: what stands for a method
    budget: {
        "best of n": Method("best of n", JUDGE[budget], "best_of_n"),
        "DPO": Method(RECIPE[budget], budget, "dpo"),
        "PPO": Method("PPO", JUDGE[budget], "rl"),
        "DPO + best of n": Method("DPO + best of n", budget, "dpo_best_of_n"),
    }
    for budget in JUDGE
}


def nearer_than_dpo(m: dict, name: str) -> float:
    """A method's share of pi*'s gain minus DPO's; the smaller of both budgets."""
    return min(of[name]["share"] - of["DPO"]["share"] for of in m["methods"].values())


CLAIMS = (
    Claim(
        "best_of_n_is_a_strong_baseline",
        "best-of-n is a strong baseline: a large part of the gain of tuning with as many labels",
        "share of the best tuned policy's gain, DPO or PPO, that best-of-16 has; smaller of both",
        of=lambda m: min(
            of["best of n"]["gain"] / max(of["DPO"]["gain"], of["PPO"]["gain"])
            for of in m["methods"].values()
        ),
        true=(0.5, float("inf")),
        smallest=0.05,
    ),
    Claim(
        "best_of_n_spends_kl_better",
        "with as many labels best-of-n is nearer to the limit at its KL than DPO is at its own",
        "share of pi*'s gain at the same KL, best-of-16 minus DPO; the smaller of both in a seed",
        of=lambda m: nearer_than_dpo(m, "best of n"),
        smallest=0.05,
        predicted="does not hold",
    ),
    Claim(
        "online_rl_spends_kl_better",
        "with as many labels PPO is nearer to the limit at its KL than DPO is at its own",
        "share of pi*'s gain at the same KL, PPO minus DPO; the smaller of both in a seed",
        of=lambda m: nearer_than_dpo(m, "PPO"),
        smallest=0.05,
        predicted="does not hold",
    ),
)


def measure(seed: int, smoke: bool = False) -> dict:
    """Gain and share of the limit's gain, by budget and method, from what SOURCES measured."""
    points, found = [], {}
    for study in SOURCES:
        name = f"{study}-smoke" if smoke else study
        path = claims.OUTPUT["folder"] / "studies" / name / f"seed-{seed}.json"
        metrics = read_json(path).get("metrics")
        if metrics is None:
            command = f"python 05-preference-tuning/studies/{study}.py --seeds {seed}"
            raise UserError(f"{path} is missing; {command} makes it")
        points += metrics["points"]
    limit = limit_curve(points)
    for budget, methods in SERIES.items():
        of = {name: point_for(method, points) for name, method in methods.items()}
        found[budget] = {name: gain_and_share(point, limit) for name, point in of.items()}
    return {"methods": found}


def draw(runs: list[dict]):
    """The share of the limit's gain of every method with few and with many labels."""
    few = [run["methods"]["768"] for run in runs]
    dpo, best = (100 * np.mean([of[name]["share"] for of in few]) for name in ("DPO", "best of n"))
    title = f"With few labels DPO has {dpo:.0f} % of the limit's gain, best-of-n {best:.0f} %"
    figure, (ax,) = new_figure(1, 1, title, 3.4)
    for k, (budget, methods) in enumerate(SERIES.items()):
        for place, (name, method) in enumerate(methods.items()):
            shares = [run["methods"][budget][name]["share"] for run in runs]
            seed_dots(ax, 3 * k + place * 0.6, shares, f"lab:{method.color}", None if k else name)
    ax.axhline(1, color="black", lw=0.8)
    ax.text(4.9, 1, "the limit", ha="right", va="bottom")
    ax.set_xticks([0.9, 3.9], ["768 labelled pairs", "6,400 labelled pairs"])
    ax.set(ylim=(0, 1.1), ylabel="share of pi*'s gain in gold utility\nat the same KL")
    legend_below(ax, ncols=4)
    return figure


if __name__ == "__main__":
    run_study(CLAIMS, measure, draw)
