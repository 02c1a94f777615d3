"""Online RL beside DPO: does it get further, is it less stable, what does it cost?

    python 05-preference-tuning/studies/rl_beside_dpo.py            # one seed, 170 s
    python 05-preference-tuning/studies/rl_beside_dpo.py --seeds 0 1 2 3 4 5 6 7 --jobs 2
    python 05-preference-tuning/studies/rl_beside_dpo.py --claims

Online RL (TRL's RLOO) and DPO start from the same SFT model. Both are trained at half, once and
twice their default learning rate; online RL also against a reward model of annotators who prefer
long answers, with the KL term and without. All answer the same 128 held-out questions twice. DPO
learns from 768 labelled pairs, the reward models of online RL from 6,400.
"""

import lessons  # noqa: F401

import numpy as np
from dpo_trainer import dpo_policy, train_dpo
from online_rl import train_rl
from reward_model import reward_model_in

from common import answers, figures, preferences
from common.claims import Claim, run_study, study_folder
from common.intervals import summary
from common.scoring import score_texts
from common.training import load_sft_model

SAMPLES = 2  # answers to each held-out prompt, at every look
RL_RATE, DPO_RATE, RL_BETA = 3e-3, 7e-4, 0.3  # the defaults of both
RATES = {"slow": 0.5, "default": 1.0, "fast": 2.0}  # times the default learning rate
# How often a training reads or writes each token of an answer; going backwards counts twice.
DPO_PASSES = {"policy": 1, "reference": 1, "backwards": 2}
RL_PASSES = {"sampling": 1, "old": 1, "reference": 1, "policy": 1, "backwards": 2, "judge": 1}

# Trainings with online RL: whose reward model, how many times the learning rate, and beta.
ARMS = {
    "default": ("human", 1.0, 1.0),
    "slow": ("human", 0.5, 1.0),
    "fast": ("human", 2.0, 1.0),
    "biased": ("length", 1.0, 1.0),
    "biased_no_kl": ("length", 1.0, 0.0),
}

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


def measure(seed: int, smoke: bool = False) -> dict:
    """All trainings of one seed, and what the claims, the plane and the page need of them."""
    prompts = [question.prompt for question in preferences.questions("test")[: 8 if smoke else 128]]
    kept, many, judges = study_folder(seed, smoke), 64 if smoke else 6400, {}
    for annotator, name in (("human", "6400"), ("length", "length")):
        pairs = preferences.make_pairs(many, annotator=annotator, seed=seed)
        folder = kept / f"reward_model_{name}"
        judges[annotator] = reward_model_in(folder, "tiny-distilbert", pairs, seed=seed)

    pairs = preferences.make_pairs(64 if smoke else 768, seed=seed)
    dpo, rl, tokens = {}, {}, {}
    for name, rate in RATES.items():
        model, tokenizer = load_sft_model()
        if rate == 1:
            policy = dpo_policy(kept / "dpo", model, tokenizer, pairs, seed=seed)
        else:
            what = {"learning_rate": rate * DPO_RATE, "name": f"DPO at {rate:g} x its rate"}
            policy, history = train_dpo(model, tokenizer, pairs, seed=seed, **what)
            tokens["dpo"] = history[-1]["num_tokens"]
        dpo[name] = answers.sample_answers(policy, tokenizer, prompts, SAMPLES, seed)
    for name, (annotator, rate, beta) in ARMS.items():
        how = {"learning_rate": rate * RL_RATE, "beta": beta * RL_BETA, "seed": seed}
        rl[name], history = train_arm(judges[annotator], prompts, smoke, rate == 1, how)
        tokens[name] = [row["num_tokens"] for row in history]
    gold = {name: looks[-1]["answers"].gold.mean(1) for name, looks in rl.items()}
    dpo_gold = {name: answered.gold.mean(1) for name, answered in dpo.items()}
    points, kept_answers = points_of_looks(prompts, rl, many)
    return {
        "cost": token_passes(tokens["dpo"], tokens["default"]),
        "spread": spread_over_rates(gold, dpo_gold),
        "rl_minus_dpo": summary(gold["default"] - dpo_gold["default"]),
        "held_by_kl": summary(gold["biased"] - gold["biased_no_kl"]),
        "dpo": dpo["default"].means(),
        "looks": {name: [look["means"] for look in looks] for name, looks in rl.items()},
        "points": points,
        "answers": kept_answers,
    }


def train_arm(judge: tuple, prompts: list, smoke: bool, on_the_way: bool, how: dict) -> tuple:
    """(looks, TRL's log) of online RL; looks before, `on_the_way` and at the end, or only there."""
    model, tokenizer = load_sft_model()
    asked = [question.prompt for question in preferences.questions("train")]
    updates, looks = 3 if smoke else 20, []

    def look(step: int, policy) -> None:
        if on_the_way or step == updates:
            seen = answers.sample_answers(policy, tokenizer, prompts, SAMPLES, how["seed"] + step)
            rewards = score_texts(judge, prompts, seen.texts)  # (P, n)
            means = {"step": step, "reward": float(rewards.mean()), **seen.means()}
            looks.append({"means": means, "answers": seen, "rewards": rewards})

    sizes = {"updates": updates, "prompts_per_update": 8 if smoke else 32}
    sizes["look_at"] = (updates // 3, 2 * updates // 3)
    _, history, _ = train_rl(model, tokenizer, judge, asked, **sizes, **how, look=look)
    return looks, history


# --- What the claims compare ---


def token_passes(dpo_tokens: float, rl_tokens: list[float]) -> dict:
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


def spread_over_rates(rl: dict[str, np.ndarray], dpo: dict[str, np.ndarray]) -> dict:
    """Gold utility (P,) of trainings by their rate: the means, and how much more RL's range."""
    table = np.column_stack([gold[rate] for gold in (rl, dpo) for rate in RATES])

    def difference(table: np.ndarray, axis: int = 0) -> float:
        """The best mean over prompts minus the worst, online RL minus DPO."""
        of_rl, of_dpo = np.ptp(table.mean(axis).reshape(2, -1), axis=1)
        return float(of_rl - of_dpo)

    means = table.mean(0).reshape(2, -1).tolist()
    return {"rl": means[0], "dpo": means[1], "difference": summary(table, difference)}


# --- For the plane, the page and the figure ---


def points_of_looks(prompts: list[str], rl: dict[str, list[dict]], labels: int) -> tuple:
    """(points, answers): of every look after the first, where there are any on the way."""
    points, texts, rewards = [], [], []
    for name, (annotator, _, beta) in ARMS.items():
        for look in rl[name][1:]:
            label = f"update {look['means']['step']}" + ("" if beta else ", no KL term")
            about = "online RL", name, label, look["answers"], labels
            points.append(answers.point_of(*about, biased=annotator != "human"))
            texts.append(look["answers"].texts)
            first = rl[name][0]["rewards"][:, 0]
            rewards.append({"before": first, "after": look["rewards"][:, 0]})
    return points, answers.answers_of_points(prompts, points, texts, rewards)


# --- The figure ---


def draw(runs: list[dict]):
    """Gold against KL, three learning rates, the biased reward model, the cost."""
    ends = [np.mean([run["spread"][name][1] for run in runs]) for name in ("rl", "dpo")]
    title = f"Online RL ends at gold utility {ends[0]:.1f}, DPO at {ends[1]:.1f}"
    figure, axes = figures.new_figure(2, 2, title)
    paths_panel(axes[0], runs)
    rates_panel(axes[1], [run["spread"] for run in runs])
    biased_panel(axes[2], [run["looks"] for run in runs])
    names = {"DPO": "dpo_passes", "online RL": "rl_passes"}
    passes = {label: [run["cost"][name] / 1000 for run in runs] for label, name in names.items()}
    figures.seed_columns(axes[3], passes, ["lab:dpo", "lab:rl"], digits=0)
    times = np.mean(np.divide(passes["online RL"], passes["DPO"]))
    axes[3].set(title=f"Online RL takes {times:.1f} times the computing", ylim=(0, None))
    axes[3].set(ylabel="1,000 tokens through models")
    return figure


def paths_panel(ax, runs: list[dict]) -> None:
    """Gold utility against KL: online RL on its way, and where DPO ended."""
    looks = [run["looks"]["default"] for run in runs]
    kl, gold = ([[look[name] for look in of_run] for of_run in looks] for name in ("kl", "gold"))
    ax.plot(np.transpose(kl), np.transpose(gold), color="lab:rl", lw=0.7, alpha=0.4)
    kl, gold = np.mean(kl, axis=0), np.mean(gold, axis=0)
    ax.plot(kl, gold, "o-", color="lab:rl", lw=2, ms=3, label="online RL, after so many updates")
    for place, look in enumerate(looks[0]):
        at = {"xytext": (4, -11), "textcoords": "offset points"}
        ax.annotate(look["step"], (kl[place], gold[place]), fontsize=8, **at)
    ax.margins(0.1)
    dpo_kl, dpo_gold = ([run["dpo"][name] for run in runs] for name in ("kl", "gold"))
    ax.plot(dpo_kl, dpo_gold, "s", color="lab:dpo", ms=3.5, alpha=0.6, label="DPO")
    ax.set_title(f"Online RL goes {kl[-1]:.1f} nats away, DPO {np.mean(dpo_kl):.1f}")
    ax.set(xlabel="measured KL from the SFT model (nats)", ylabel=figures.GOLD)
    figures.legend_below(ax, ncols=2)


def rates_panel(ax, spreads: list[dict]) -> None:
    """Gold utility of both methods at three learning rates."""
    for name, label, shift in (("rl", "online RL", -0.15), ("dpo", "DPO", 0.15)):
        for place, values in enumerate(zip(*(spread[name] for spread in spreads), strict=True)):
            shown = label if place == 0 else None
            figures.seed_dots(ax, place + shift, values, f"lab:{name}", shown)
    ax.set_xticks(range(len(RATES)), [f"x {rate:g}" for rate in RATES.values()])
    ranges = [np.mean([np.ptp(spread[name]) for spread in spreads]) for name in ("rl", "dpo")]
    title = f"Best minus worst rate: online RL {ranges[0]:.1f}, DPO {ranges[1]:.1f}"
    ax.set(title=title, xlabel="learning rate over the default", ylabel="gold utility (log-odds)")
    figures.legend_below(ax, ncols=2)


def biased_panel(ax, seeds: list[dict]) -> None:
    """Gold and reward where the reward model comes from annotators who prefer length."""
    steps, ends = [look["step"] for look in seeds[0]["biased"]], []
    for name, dashes in (("biased", "-"), ("biased_no_kl", ":")):
        for what in ("gold", "reward"):
            values = np.array([[look[what] for look in looks[name]] for looks in seeds])
            label = f"{what}, {'with the KL term' if name == 'biased' else 'without'}"
            figures.seed_lines(ax, steps, values, f"lab:{what}", label, ls=dashes)
            ends.append(values[:, -1].mean())
    ax.set_title(f"Biased rewards: gold {ends[0]:.1f} with the KL term, else {ends[2]:.1f}")
    ax.set(xlabel="update", ylabel="log-odds", xticks=steps)
    figures.legend_below(ax, ncols=2)


if __name__ == "__main__":
    run_study(CLAIMS, measure, draw)
