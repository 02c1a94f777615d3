"""Online RL beside DPO: does it get further, is it less stable, what does it cost?

    python 05-preference-tuning/studies/rl_beside_dpo.py            # one seed, 160 s
    python 05-preference-tuning/studies/rl_beside_dpo.py --seeds 0 1 2 3 4 5 6 7 --jobs 2
    python 05-preference-tuning/studies/rl_beside_dpo.py --claims

Online RL (TRL's RLOO) and DPO start from the same SFT model. Both are trained at half, once and
twice their default learning rate; online RL also against a reward model of annotators who prefer
long answers, with the KL term and without. All answer the same 128 held-out questions twice. DPO
learns from 768 labelled pairs, the reward models of online RL from 6,400.
"""

from collections.abc import Sequence
from typing import NamedTuple

import lessons  # noqa: F401

from common.claims import Claim, run_study, study_folder

# isort: split
import numpy as np
from dpo_trainer import dpo_policy, train_dpo
from online_rl import train_rl
from reward_model import reward_model_in

from common import answers, figures, preferences
from common.intervals import summary
from common.scoring import score_texts
from common.training import load_sft_model

SAMPLES = 2  # answers to each held-out prompt, at every look
RL_RATE, DPO_RATE, RL_BETA = 3e-3, 7e-4, 0.3  # the defaults of both
RATES = {"slow": 0.5, "default": 1.0, "fast": 2.0}  # times the default learning rate
# How often a training reads or writes each token of an answer; going backwards counts twice.
DPO_PASSES = {"policy": 1, "reference": 1, "backwards": 2}
RL_PASSES = {"sampling": 1, "old": 1, "reference": 1, "policy": 1, "backwards": 2, "judge": 1}


class RlArm(NamedTuple):
    """A training with online RL: whose reward model, how many times the learning rate and beta."""

    annotator: str = "human"
    rate: float = 1.0
    beta: float = 1.0


ARMS = {name: RlArm(rate=rate) for name, rate in sorted(RATES.items(), key=lambda x: x[1] != 1)}
ARMS |= {"biased": RlArm("length"), "biased_no_kl": RlArm("length", beta=0.0)}

CLAIMS = (
    Claim(
        "dpo_is_simpler",
        "DPO is simpler than PPO-based RLHF",
        "doublings from the tokens that DPO's training passes through models to online RL's",
        of=lambda m: m["cost"]["doublings"],
        smallest=0.5,
    ),
    Claim(
        "dpo_is_more_stable",
        "DPO is more stable than PPO-based RLHF",
        "range of gold utility over three learning rates, online RL minus DPO, log-odds",
        of=lambda m: m["spread"]["difference"],
        smallest=0.2,
    ),
    Claim(
        "rl_explores",
        "PPO can explore: it gets further than DPO on its fixed pairs",
        "gold utility, online RL minus DPO, log-odds",
        of=lambda m: m["rl_minus_dpo"],
        smallest=0.1,
    ),
    Claim(
        "kl_term_holds_the_policy",
        "without the KL term the policy overfits to the reward model's idiosyncrasies",
        "gold utility under a length-biased reward, with the KL term minus without, log-odds",
        of=lambda m: m["held_by_kl"],
        smallest=0.2,
    ),
)


class RlLook(NamedTuple):
    """Answers to the held-out prompts at one moment of a training, with their rewards (P, n)."""

    step: int
    answers: answers.Answers
    rewards: np.ndarray


def measure(seed: int, smoke: bool = False) -> dict:
    """All trainings of one seed, and what the claims, the plane and the page need of them."""
    prompts = [question.prompt for question in preferences.questions("test")[: 8 if smoke else 128]]
    kept, many = study_folder(seed, smoke), 64 if smoke else 6400
    judges = {}
    for annotator, name in (("human", "6400"), ("length", "length")):
        pairs = preferences.make_pairs(many, annotator=annotator, seed=seed)
        folder = kept / f"reward_model_{name}"
        judges[annotator] = reward_model_in(folder, "tiny-distilbert", pairs, seed=seed)

    pairs = preferences.make_pairs(64 if smoke else 768, seed=seed)
    dpo, dpo_tokens = {}, 0
    for name, rate in RATES.items():
        model, tokenizer = load_sft_model()
        if rate == 1:
            policy = dpo_policy(kept / "dpo", model, tokenizer, pairs, seed=seed)
        else:
            what = {"learning_rate": rate * DPO_RATE, "name": f"DPO at {rate:g} x its rate"}
            policy, history = train_dpo(model, tokenizer, pairs, seed=seed, **what)
            dpo_tokens = history[-1]["num_tokens"]
        dpo[name] = answers.sample_answers(policy, tokenizer, prompts, SAMPLES, seed)

    rl, tokens = {}, []
    for name, arm in ARMS.items():
        rl[name], history = train_arm(name, arm, judges[arm.annotator], prompts, seed, smoke)
        if name == "default":
            tokens = [row["num_tokens"] for row in history]
    points = look_points(rl, many)
    last = {name: looks[-1].answers for name, looks in rl.items()}
    return {
        "cost": token_passes(dpo_tokens, tokens),
        "spread": spread_over_rates(gold_of(last, RATES), gold_of(dpo, RATES)),
        "rl_minus_dpo": summary(gold_of(last, ["default"])[:, 0] - gold_of(dpo, ["default"])[:, 0]),
        "held_by_kl": summary(
            gold_of(last, ["biased"])[:, 0] - gold_of(last, ["biased_no_kl"])[:, 0]
        ),
        "dpo": answers.summarize(dpo["default"]),
        "looks": {name: curve_of(looks) for name, looks in rl.items()},
        "points": points,
        "answers": answers_at_looks(prompts, points, rl),
    }


def train_arm(name: str, arm: RlArm, judge: tuple, prompts: list, seed: int, smoke: bool) -> tuple:
    """(looks before, on the way and at the end, TRL's log) of online RL as the arm says."""
    model, tokenizer = load_sft_model()
    asked = [question.prompt for question in preferences.questions("train")]
    updates, looks = 3 if smoke else 20, []

    def look(step: int, policy) -> None:
        if arm.rate != 1 and step < updates:  # only its end is compared
            return
        seen = answers.sample_answers(policy, tokenizer, prompts, SAMPLES, seed + step)
        looks.append(RlLook(step, seen, score_texts(judge, prompts, seen.texts)))

    options = {"updates": updates, "prompts_per_update": 8 if smoke else 32, "seed": seed}
    options |= {"beta": arm.beta * RL_BETA, "learning_rate": arm.rate * RL_RATE}
    options |= {"name": f"online RL, {name}", "look": look}
    options["look_at"] = (updates // 3, 2 * updates // 3)
    _, history, _ = train_rl(model, tokenizer, judge, asked, **options)
    return looks, history


# --- What the claims compare ---


def token_passes(dpo_tokens: float, rl_tokens: Sequence[float]) -> dict:
    """Tokens that pass through models in each training, and the doublings between the two.

    Given are the tokens that TRL counted: of all pairs, and of answers up to each update.
    """
    dpo_passes = dpo_tokens * sum(DPO_PASSES.values())
    per_update = np.diff([0, *rl_tokens]) * sum(RL_PASSES.values())
    return {
        "dpo_passes": float(dpo_passes),
        "rl_passes": float(per_update.sum()),
        "doublings": summary(np.log2(len(per_update) * per_update / dpo_passes)),
    }


def gold_of(answered: dict[str, answers.Answers], names: Sequence[str]) -> np.ndarray:
    """Gold utility per prompt of each training, in log-odds: (P, names)."""
    return np.column_stack([answered[name].gold.mean(1) for name in names])


def gold_gap(ours: answers.Answers, theirs: answers.Answers) -> dict:
    """Gold utility of ours minus theirs, paired by prompt, in log-odds."""
    return summary(ours.gold.mean(1) - theirs.gold.mean(1))


def range_of_means(gold: np.ndarray, axis: int = 0) -> float:
    """The best mean over prompts minus the worst; gold (P, trainings)."""
    means = gold.mean(axis)
    return float(means.max() - means.min())


def spread_over_rates(rl: np.ndarray, dpo: np.ndarray) -> dict:
    """Gold utility (P, rates) at each learning rate: means, ranges, and their difference."""
    count = rl.shape[1]

    def difference(both: np.ndarray, axis: int = 0) -> float:
        return range_of_means(both[:, :count], axis) - range_of_means(both[:, count:], axis)

    return {
        "rl": [summary(values) for values in rl.T],
        "dpo": [summary(values) for values in dpo.T],
        "rl_range": summary(rl, range_of_means),
        "dpo_range": summary(dpo, range_of_means),
        "difference": summary(np.hstack([rl, dpo]), difference),
    }


# --- For the plane, the page and the figure ---


def curve_of(looks: list[RlLook]) -> list[dict]:
    """The means of every look, for the figure."""
    rows = []
    for look in looks:
        rows.append(
            {"step": look.step, "reward": float(look.rewards.mean()), **look.answers.means()}
        )
    return rows


def look_points(rl: dict[str, list[RlLook]], annotations: int) -> list[dict]:
    """Gold, good answers and KL along the arms at the default rate, as points of the plane."""
    points = []
    for name, arm in ARMS.items():
        if arm.rate != 1:
            continue
        shared = {"method": "online RL", "series": name, "annotations": annotations}
        shared["biased"] = arm.annotator != "human"
        for look in rl[name][1:]:
            label = f"update {look.step}" + ("" if arm.beta else ", no KL term")
            seen = answers.summarize(look.answers)
            measured = {what: seen[what] for what in ("kl", "gold", "good")}
            points.append({**shared, "label": label, "update": look.step, **measured})
    return points


def answers_at_looks(prompts: list[str], points: list[dict], rl: dict[str, list[RlLook]]) -> dict:
    """The answers and rewards at the looks that are the points of `look_points`."""
    texts, rewards = [], []
    for series in dict.fromkeys(point["series"] for point in points):
        before, *looks = rl[series]
        first = before.rewards[:, 0]
        texts += [look.answers.texts for look in looks]
        rewards += [{"before": first, "after": look.rewards[:, 0]} for look in looks]
    return answers.answers_of_points(prompts, points, texts, rewards)


def draw(runs: list[dict]):
    """Gold against KL, three learning rates, the biased reward model, the cost."""
    ends = [np.mean([run["spread"][name][1]["mean"] for run in runs]) for name in ("rl", "dpo")]
    title = f"Online RL ends at gold utility {ends[0]:.1f}, DPO at {ends[1]:.1f}"
    figure, axes = figures.new_figure(2, 2, title)
    paths_panel(axes[0], runs)
    rates_panel(axes[1], runs)
    biased_panel(axes[2], runs)
    passes_panel(axes[3], runs)
    return figure


def paths_panel(ax, runs: list[dict]) -> None:
    """Gold utility against KL: online RL on its way, and where DPO ended."""
    paths = []
    for run in runs:
        looks = run["looks"]["default"]
        paths.append([(look["kl"], look["gold"]) for look in looks])
        ax.plot(*np.array(paths[-1]).T, color="lab:rl", lw=0.7, alpha=0.4)
        dpo = run["dpo"]["kl"]["mean"], run["dpo"]["gold"]["mean"]
        ax.plot(
            *dpo, "s", color="lab:dpo", ms=3.5, alpha=0.6, label="DPO" if run is runs[0] else None
        )
    path = np.mean(paths, axis=0)
    ax.plot(*path.T, "o-", color="lab:rl", lw=2, ms=3, label="online RL, after so many updates")
    for place, look in zip(path, looks, strict=True):
        ax.annotate(look["step"], place, (4, -11), textcoords="offset points", fontsize=8)
    dpo = np.mean([run["dpo"]["kl"]["mean"] for run in runs])
    ax.set_title(f"Online RL goes {path[-1][0]:.1f} nats away, DPO {dpo:.1f}")
    ax.set(xlabel="measured KL from the SFT model (nats)", ylabel=figures.GOLD)
    figures.legend_below(ax, ncols=2)


def rates_panel(ax, runs: list[dict]) -> None:
    """Gold utility of both methods at three learning rates."""
    for name, color, shift in (("rl", "lab:rl", -0.15), ("dpo", "lab:dpo", 0.15)):
        label = {"rl": "online RL", "dpo": "DPO"}[name]
        for place in range(len(RATES)):
            values = [run["spread"][name][place]["mean"] for run in runs]
            figures.seed_dots(ax, place + shift, values, color, label if place == 0 else None)
    ax.set_xticks(range(len(RATES)), [f"x {rate:g}" for rate in RATES.values()])
    ranges = [
        np.mean([run["spread"][name]["mean"] for run in runs]) for name in ("rl_range", "dpo_range")
    ]
    title = f"Best minus worst rate: online RL {ranges[0]:.1f}, DPO {ranges[1]:.1f}"
    ax.set(title=title, xlabel="learning rate over the default", ylabel="gold utility (log-odds)")
    figures.legend_below(ax, ncols=2)


def biased_panel(ax, runs: list[dict]) -> None:
    """Gold and reward where the reward model comes from annotators who prefer length."""
    steps = [look["step"] for look in runs[0]["looks"]["biased"]]
    ends, lines = [], {"biased": ("-", "with the KL term"), "biased_no_kl": (":", "without")}
    for name, (dashes, how) in lines.items():
        for what, color in (("gold", "lab:gold"), ("reward", "lab:reward")):
            values = [[look[what] for look in run["looks"][name]] for run in runs]
            figures.seed_lines(ax, steps, values, color, f"{what}, {how}", ls=dashes)
        ends.append(np.mean([run["looks"][name][-1]["gold"] for run in runs]))
    ax.set_title(f"Biased rewards: gold {ends[0]:.1f} with the KL term, {ends[1]:.1f} without")
    ax.set(xlabel="update", ylabel="log-odds")
    figures.legend_below(ax, ncols=2)


def passes_panel(ax, runs: list[dict]) -> None:
    """Tokens through models in both trainings."""
    for place, (name, color) in enumerate((("dpo", "lab:dpo"), ("rl", "lab:rl"))):
        values = [run["cost"][f"{name}_passes"] / 1000 for run in runs]
        figures.seed_dots(ax, place, values, color)
        ax.annotate(
            f"{np.mean(values):,.0f}",
            (place, max(values)),
            (0, 6),
            textcoords="offset points",
            ha="center",
        )
    ax.set_xticks((0, 1), ("DPO", "online RL"))
    times = np.mean([run["cost"]["rl_passes"] / run["cost"]["dpo_passes"] for run in runs])
    ax.set(xlim=(-0.6, 1.6), ylim=(0, 1.2 * max(values)), ylabel="1,000 tokens through models")
    ax.set_title(f"Online RL takes {times:.1f} times the computing")


if __name__ == "__main__":
    run_study(CLAIMS, measure, draw)
