"""Methods at the limit: which one gets most out of how far it moves the model, at equal labels?

    python 05-preference-tuning/run_all.py --studies                      # measures what it reads
    python 05-preference-tuning/studies/methods_at_the_limit.py           # a second
    python 05-preference-tuning/studies/methods_at_the_limit.py --claims  # what is claimed

Trains nothing: it reads what the other studies measured with the same seed, each method at its own
KL (how far its answers have moved from the SFT model's, in nats). The limit is pi*, the policy that
gains most gold utility (3 if right, 1 if on topic, -0.15 for a word of filler) at each KL. A method
is judged by its share of pi*'s gain at the same KL. All learn from the same number of labelled
pairs, 768 or 6,400: online RL and best-of-16 by a reward model of these pairs. Where a method has
two recipes (how a reward model starts, DPO with a likelihood term), the one that was better on
validation questions stands for it (see best_of_n_and_the_limit.py).
"""

import lessons  # noqa: F401

import frontier
import numpy as np
from frontier import JUDGE, RECIPE

from common import claims
from common.basics import UserError
from common.claims import Claim, run_study
from common.figures import legend_below, new_figure, seed_dots
from common.saving import read_json

SERIES = {  # for each budget: what stands for a method
    budget: {"best of n": ("best of n", JUDGE[budget]), "DPO": (RECIPE[budget], budget)}
    | {"PPO": ("PPO", JUDGE[budget]), "DPO + best of n": ("DPO + best of n", budget)}
    for budget in JUDGE
}

CLAIMS = (
    Claim(
        "best_of_n_is_a_strong_baseline",
        "best-of-n is a strong baseline: a large part of the gain of tuning with as many labels",
        "share of the best tuned policy's gain, DPO or PPO, that best-of-16 has; smaller of both",
        of=lambda m: min(m["best_of_n_share"].values()),
        true=(0.5, float("inf")),
        smallest=0.05,
    ),
    Claim(
        "best_of_n_spends_kl_better",
        "with as many labels best-of-n is nearer to the limit at its KL than DPO is at its own",
        "share of pi*'s gain at the same KL, best-of-16 minus DPO; the smaller of 768 and 6,400",
        of=lambda m: min(m["best_of_n_minus_dpo"].values()),
        smallest=0.05,
        predicted="does not hold",
    ),
    Claim(
        "online_rl_spends_kl_better",
        "with as many labels PPO is nearer to the limit at its KL than DPO is at its own",
        "share of pi*'s gain at the same KL, PPO minus DPO; the smaller of 768 and 6,400",
        of=lambda m: min(m["online_rl_minus_dpo"].values()),
        smallest=0.05,
        predicted="does not hold",
    ),
)


def measure(seed: int, smoke: bool = False) -> dict:
    """Gain and share of the limit's gain by budget and method, and what the claims compare."""
    points = points_of_seed(seed, smoke)
    limit, found = frontier.limit_curve(points), {"methods": {}, "best_of_n_share": {}}
    found |= {"best_of_n_minus_dpo": {}, "online_rl_minus_dpo": {}}
    for budget, methods in SERIES.items():
        rows = {}
        for name, (method, series) in methods.items():
            point = frontier.point_for(frontier.Method(method, series, ""), points)
            rows[name] = frontier.gain_and_share(point, limit)
        most = max(rows["DPO"]["gain"], rows["PPO"]["gain"])
        found["methods"][budget] = rows
        found["best_of_n_share"][budget] = rows["best of n"]["gain"] / most
        for name, method in (("best_of_n", "best of n"), ("online_rl", "PPO")):
            difference = rows[method]["share"] - rows["DPO"]["share"]
            found[f"{name}_minus_dpo"][budget] = difference
    return found


def points_of_seed(seed: int, smoke: bool) -> list[dict]:
    """What the studies that frontier.py names measured with this seed."""
    points = []
    for study in frontier.SOURCES:
        name = f"{study}-smoke" if smoke else study
        path = claims.OUTPUT["folder"] / "studies" / name / f"seed-{seed}.json"
        metrics = read_json(path).get("metrics")
        if metrics is None:
            command = f"python 05-preference-tuning/studies/{study}.py --seeds {seed}"
            raise UserError(f"{path} is missing; {command} makes it")
        points += metrics["points"]
    return points


def draw(runs: list[dict]):
    """The share of the limit's gain of every method with few and with many labels."""
    colors, shares = {"best of n": "best_of_n", "DPO": "dpo", "PPO": "rl"}, {}
    colors["DPO + best of n"] = "dpo_best_of_n"
    for budget in SERIES:
        for name in colors:
            shares[budget, name] = [run["methods"][budget][name]["share"] for run in runs]
    dpo, best = (100 * np.mean(shares["768", name]) for name in ("DPO", "best of n"))
    title = f"With few labels DPO has {dpo:.0f} % of the limit's gain, best-of-n {best:.0f} %"
    figure, (ax,) = new_figure(1, 1, title, 3.4)
    for k, budget in enumerate(SERIES):
        for place, (name, color) in enumerate(colors.items()):
            of_method, label = shares[budget, name], None if k else name
            seed_dots(ax, 3 * k + place * 0.6, of_method, f"lab:{color}", label)
    ax.axhline(1, color="black", lw=0.8)
    ax.text(4.9, 1, "the limit", ha="right", va="bottom")
    ax.set_xticks([0.9, 3.9], ["768 labelled pairs", "6,400 labelled pairs"])
    ax.set(ylim=(0, 1.1), ylabel="share of pi*'s gain in gold utility\nat the same KL")
    legend_below(ax, ncols=4)
    return figure


if __name__ == "__main__":
    run_study(CLAIMS, measure, draw)
