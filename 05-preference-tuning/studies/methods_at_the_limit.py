"""Methods at the limit: which one gets most out of how far it moves the model?

    python 05-preference-tuning/run_all.py --studies                      # measures what it reads
    python 05-preference-tuning/studies/methods_at_the_limit.py           # a second
    python 05-preference-tuning/studies/methods_at_the_limit.py --claims  # what is claimed

Trains nothing: it reads what the other studies measured with the same seed, each method at its own
KL (how far its answers have moved from the SFT model's, in nats). The limit is pi*, the policy that
gains most gold utility (3 if right, 1 if on topic, -0.15 for a word of filler) at each KL. A method
is judged by its share of pi*'s gain at the same KL. Best-of-16 and online RL use the 6,400 labels
of their reward model here, DPO 768.
"""

import lessons  # noqa: F401

import frontier
import numpy as np

from common import claims
from common.basics import UserError
from common.claims import Claim, run_study
from common.figures import new_figure, seed_dots
from common.saving import read_json

CLAIMS = (
    Claim(
        "best_of_n_is_a_strong_baseline",
        "best-of-n is a strong baseline: a large part of the gain of tuning",
        "gold utility gained by best-of-16, as a share of what the best tuned policy gains",
        of=lambda m: m["best_of_n_share"],
        true=(0.5, float("inf")),
        smallest=0.05,
        published="agrees (second hand): WebGPT found best of 64 above RL",
    ),
    Claim(
        "best_of_n_spends_kl_better",
        "best-of-n is nearer to the limit at its KL than DPO is at its own",
        "share of pi*'s gain at the same KL, best-of-16 minus DPO",
        of=lambda m: m["best_of_n_minus_dpo"],
        smallest=0.05,
        published="agrees (abstract): Gui et al. 2024 (arXiv 2406.00832), near-optimal for its KL",
    ),
    Claim(
        "online_rl_spends_kl_better",
        "online RL is nearer to the limit at its KL than DPO is at its own",
        "share of pi*'s gain at the same KL, online RL minus DPO",
        of=lambda m: m["online_rl_minus_dpo"],
        smallest=0.05,
    ),
)


def measure(seed: int, smoke: bool = False) -> dict:
    """Gain and share of the limit's gain of every method, and the comparisons of the claims."""
    points = points_of_seed(seed, smoke)
    limit, rows = frontier.limit_curve(points), {}
    for method in frontier.METHODS:
        rows[method.name] = frontier.gain_and_share(frontier.point_for(method, points), limit)
    one_answer = [rows[method.name] for method in frontier.METHODS if method.samples == 1]
    most = max(row["gain"]["mean"] for row in one_answer)
    best, dpo, rl = (rows[name] for name in ("best of n", "DPO", "online RL"))
    of_best = np.array([best["gain"]["mean"], *best["gain"]["ci95"]]) / most
    return {
        "methods": rows,
        "best_of_n_share": {"mean": of_best[0], "ci95": list(of_best[1:])},
        "best_of_n_minus_dpo": difference(best["share"], dpo["share"]),
        "online_rl_minus_dpo": difference(rl["share"], dpo["share"]),
    }


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


def difference(first: dict, second: dict) -> dict:
    """first - second of two quantities, their errors taken as independent."""
    mean = first["mean"] - second["mean"]
    half = float(np.hypot(*((q["ci95"][1] - q["ci95"][0]) / 2 for q in (first, second))))
    return {"mean": mean, "ci95": [mean - half, mean + half]}


def draw(runs: list[dict]):
    """The share of the limit's gain of every method that moved, a dot for each seed."""
    shares = {}
    for method in frontier.METHODS:
        if method.name != "random labels":  # it hardly moves, so its share says nothing
            shares[method] = [run["methods"][method.name]["share"]["mean"] for run in runs]
    order = sorted(shares, key=lambda method: -np.mean(shares[method]))
    title = f"{order[0].name} comes nearest to the limit at its KL".capitalize()
    figure, (ax,) = new_figure(1, 1, title.replace("Dpo", "DPO"), 3.4)
    for place, method in enumerate(order):
        seed_dots(ax, place, shares[method], f"lab:{method.color}")
    ax.axhline(1, color="black", lw=0.8)
    ax.text(len(order) - 0.6, 1, "the limit", ha="right", va="bottom")
    ax.set_xticks(range(len(order)), [method.name.replace(" ", "\n") for method in order])
    ax.set(ylim=(0, 1.1), ylabel="share of pi*'s gain in gold utility\nat the same KL")
    return figure


if __name__ == "__main__":
    run_study(CLAIMS, measure, draw)
