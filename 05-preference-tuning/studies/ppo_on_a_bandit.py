"""PPO on a bandit: does PPO find the optimum that the formula gives, and what leads it astray?

    python 05-preference-tuning/studies/ppo_on_a_bandit.py  # one seed, 2 seconds

A bandit is one choice without further steps: here a softmax over ten answers to each of the 20
questions of rlhf_objectives.py, rewarded by an annotator who likes long answers. First PPO with the
KL term (beta 1) and without it, for 200 updates. Then, with it, five learning rates and one to
sixteen epochs over each batch, clipped and not: how far from the optimum does PPO end after 100
updates, in total variation (the probability that lies elsewhere than the optimum's)?

What this cannot tell: which settings suit a language model. Here a step is a plain gradient step on
ten logits, without Adam, and the advantage needs no value model.
"""

import lessons  # noqa: F401

import numpy as np
from rlhf_objectives import kl_regularized_optimum, make_bandit, read_bandit, train_bandit

from common.claims import Claim, run_study
from common.figures import legend_below, new_figure, seed_lines

KL_WEIGHT, EPSILON = 1.0, 0.2
LEARNING_RATES, EPOCHS = (0.1, 0.3, 1.0, 3.0, 10.0), (1, 2, 4, 8, 16)
CONVERGED = 0.01  # of total variation

CLAIMS = (
    Claim(
        "no_kl_lowers_gold",
        "without the KL penalty the policy overfits to the reward model, and quality falls",
        "gold utility at the start minus at the end of PPO without the KL term, log-odds",
        of=lambda m: m["gold_lost_without_kl"],
        smallest=0.1,
    ),
    Claim(
        "ppo_is_sensitive",
        "PPO is sensitive to how learning rate and epochs per batch meet",
        "total variation of 16 epochs at the learning rate that suits 1, minus at their own best",
        of=lambda m: m["distance_added_by_epochs"],
        true=(CONVERGED, float("inf")),
        smallest=0.002,
    ),
)


def measure(seed: int, smoke: bool = False) -> dict:
    """PPO with the KL term and without, and 50 settings of it."""
    count, updates = (5, 40) if smoke else (20, 200)
    bandit = make_bandit(count, seed)
    optimum = kl_regularized_optimum(bandit.ref, bandit.reward, KL_WEIGHT)
    looks = [0, *np.unique(np.geomspace(1, updates, 25).round().astype(int)).tolist()]
    end, curves = {}, {}
    for name, beta in (("without_kl", 0.0), ("with_kl", KL_WEIGHT)):
        settings = {"beta": beta, "epsilon": EPSILON, "updates": updates, "seed": seed}
        history = train_bandit(bandit.ref, bandit.reward, **settings)
        read = read_bandit(history, bandit, optimum)
        curves[name] = {key: read[key][looks].mean(-1).tolist() for key in ("reward", "gold")}
        end[name] = {key: float(values[-1].mean()) for key, values in read.items()}
    # All learning rates, with clipping and without, are trained side by side.
    rates = np.reshape(LEARNING_RATES, (-1, 1, 1))
    clips = np.reshape([EPSILON, np.inf], (2, 1, 1, 1))
    distances = []
    for epochs in EPOCHS:
        settings = {"learning_rate": rates, "epsilon": clips, "epochs": epochs}
        settings |= {"beta": KL_WEIGHT, "updates": updates // 2, "seed": seed}
        history = train_bandit(bandit.ref, bandit.reward, **settings)
        distances.append(read_bandit(history[-1], bandit, optimum)["distance"])
    clipped, unclipped = np.mean(distances, -1).swapaxes(0, 1)  # each (EPOCHS, LEARNING_RATES)
    added = clipped[-1, clipped[0].argmin()] - clipped[-1].min()
    return {
        "end": end,
        "gold_lost_without_kl": curves["without_kl"]["gold"][0] - end["without_kl"]["gold"],
        "updates": looks,
        "curves": curves,
        "distance": {"clipped": clipped.tolist(), "unclipped": unclipped.tolist()},
        "distance_added_by_epochs": float(added),
    }


def draw(runs: list[dict]):
    """Reward and quality by update; the distance by settings, clipped or not."""
    ends = [np.mean([run["end"][arm]["gold"] for run in runs]) for arm in ("with_kl", "without_kl")]
    title = "PPO ends at a gold utility of {:.1f} with the KL term, of {:.1f} without it (no KL)"
    figure, (left, right) = new_figure(1, 2, title.format(*ends), height=4)

    for name, what in (("reward", "reward"), ("gold", "gold utility")):
        for arm, line, told in (("with_kl", "-", ""), ("without_kl", "--", ", no KL")):
            values = [run["curves"][arm][name] for run in runs]
            style = {"ls": line, "marker": ""}
            seed_lines(left, runs[0]["updates"], values, f"lab:{name}", f"{what}{told}", **style)
    left.set(title="Without the KL term reward rises, quality falls", xscale="symlog")
    left.set(xlabel="PPO updates", ylabel="log-odds")
    left.set_xticks((0, 1, 10, 100), (0, 1, 10, 100))

    farthest = []
    for arm, color in (("unclipped", "lab:biased"), ("clipped", "lab:rl")):
        for epochs, line in ((1, ":"), (4, "--"), (16, "-")):
            values = [run["distance"][arm][EPOCHS.index(epochs)] for run in runs]
            label = f"{arm}, {epochs} {'epoch' if epochs == 1 else 'epochs'}"
            seed_lines(right, LEARNING_RATES, values, color, label, ls=line)
        farthest.append(max(np.max(run["distance"][arm]) for run in runs))
    right.set_title("Unclipped PPO ends up to {:.2f} away, clipped {:.2f}".format(*farthest))
    right.set(xscale="log", xlabel="learning rate")
    right.set_ylabel("distance to the optimum\n(total variation)")
    right.set_xticks(LEARNING_RATES, [f"{rate:g}" for rate in LEARNING_RATES])
    right.minorticks_off()
    for ax in (left, right):
        legend_below(ax, ncols=2)
    return figure


if __name__ == "__main__":
    run_study(CLAIMS, measure, draw)
