"""Three hacks: does a bias of the annotators reach the answers, and is their quality lost on it?

    python 05-preference-tuning/studies/three_hacks.py                     # one seed, 100 seconds
    python 05-preference-tuning/studies/three_hacks.py --seeds 0 1 2 3 4 5 6 7
    python 05-preference-tuning/studies/three_hacks.py --claims            # what is claimed

Annotators who prefer long answers, an expert's tone, or agreement with the user label the same
pairs as unbiased ones. Their reward models choose the best of n answers of the SFT model, and DPO
trains on their labels. In every question the user is wrong, so that all three hacks are open. Each
step is measured for each hack: a table of cells, and a claim for a row, the mean of its three.

One more question: does a reward without a bias, but with an error, do the same?
"""

from functools import partial

import lessons  # noqa: F401

import numpy as np
from best_of_n import best_of_n_curve, best_of_n_kl_bound
from dpo_trainer import dpo_policy
from reward_hacking import AMONG
from reward_model import reward_model_in

from common import figures
from common.answers import KINDS, SHOWN, answers_of_points, sample_answers
from common.claims import Claim, run_study, study_folder
from common.intervals import mean_of, summary
from common.preferences import BIASES, COMPONENT_OF, pairs_of_wrong_users, questions, wrong_users
from common.scoring import contrast_rewards, score_texts
from common.training import load_sft_model

HACK_NAMES = {"length": "verbosity", "style": "style mimicry", "agreement": "sycophancy"}
LABELLED_BY = {"human": "unbiased", **HACK_NAMES}
STEPS_OF_HACK = {  # of the table, where each cell is above 0 as the tutorial says
    "bias_is_encoded": "share of the bias in\nthe reward model",
    "reward_goes_up": "DPO: reward gained",
    "quality_goes_down": "DPO: quality lost",
    "bias_costs_quality": "DPO: quality lost\nto the bias",
    "chosen_harder_it_falls": "quality lost from\nbest of 16 to 64",
    "small_n_foretells_it": "0.5 minus the error\nof the forecast",
}
FIRST_PROMPTS = [question.prompt for question in questions("test")[:SHOWN]]
FITTED = 8  # the law of over-optimisation is fitted up to this n
FORECAST_ERROR = 0.5  # log-odds by which its forecast may be wrong
ERRORS = {"sd_3": 3.0, "sd_6": 6.0}  # sd of an error of the reward; that of gold utility is 1.5
DRAWS = 10  # of noise, to average over
LATE_LOSS = "gold utility of the best of 16 minus that of the best of 64"
OVER_HACKS = "mean of the three hacks"

CLAIMS = (  # that of the first row stands in what_a_reward_model_absorbs.py
    Claim(
        "biased_reward_goes_up",
        "the reward goes up",
        f"reward by the flawed model, DPO's answers minus SFT's, log-odds; {OVER_HACKS}",
        of=lambda m: mean_of(m["reward_goes_up"].values()),
        smallest=0.05,
    ),
    Claim(
        "biased_quality_goes_down",
        "the actual quality goes down",
        f"gold utility of SFT's answers minus DPO's, log-odds; {OVER_HACKS}",
        of=lambda m: mean_of(m["quality_goes_down"].values()),
        smallest=0.05,
        published="agrees, milder there: sycophancy, Sharma et al. (arXiv 2310.13548)",
    ),
    Claim(
        "bias_costs_quality",
        "a bias of the annotators costs quality",
        f"gold utility of DPO on unbiased labels minus on biased ones, log-odds; {OVER_HACKS}",
        of=lambda m: mean_of(m["bias_costs_quality"].values()),
        smallest=0.05,
    ),
    Claim(
        "biased_reward_is_overoptimised",
        "chosen harder by a flawed reward, quality falls",
        f"{LATE_LOSS}, log-odds; {OVER_HACKS}",
        of=lambda m: mean_of(m["chosen_harder_it_falls"].values()),
        smallest=0.05,
        published="agrees: Gao et al. (arXiv 2210.10760)",
    ),
    Claim(
        "law_foretells_large_n",
        "a law fitted to small n foretells the fall at n = 64",
        f"{FORECAST_ERROR} log-odds minus the forecast's error, fit to n <= {FITTED}; {OVER_HACKS}",
        of=lambda m: mean_of(m["small_n_foretells_it"].values()),
        smallest=0.05,
        published="it fits at scale: Gao et al. (arXiv 2210.10760); here quality levels off",
    ),
    Claim(
        "mere_noise_is_overoptimised",
        "an error of the reward without a bias is exploited, too",
        f"{LATE_LOSS}, by gold utility plus an error of sd 6 for each text, log-odds",
        of=lambda m: m["noise"]["sd_6"]["late_loss"],
        smallest=0.05,
        published="compatible: errors with light tails are safe, Kwa et al. (arXiv 2407.14503)",
    ),
    Claim(
        "only_errors_of_texts_are_exploited",
        "an error is exploited where it belongs to a text, not to a sample",
        f"{LATE_LOSS}, error of sd 3 for each text minus a new one for each sample, log-odds",
        of=lambda m: m["noise"]["text_minus_sample"],
        smallest=0.05,
    ),
)


# --- The measurement ---


def measure(seed: int, smoke: bool = False) -> dict:
    """Label, train, choose and read: the cells of the table by row and hack, and what is drawn."""
    pairs, labels, epochs, count, n = (32, 16, 1, 10, 16) if smoke else (1200, 384, 3, 64, 64)
    folder, ns = study_folder(seed, smoke), [k for k in AMONG if k <= n]
    asked = wrong_users("test", count)
    prompts = [question.prompt for question in asked]
    sft, tokenizer = load_sft_model()
    pool = sample_answers(sft, tokenizer, prompts, 3 * n // 2, seed)
    judges, rewards, dpo, dpo_rewards, points = {}, {}, {}, {}, []
    for group in LABELLED_BY:
        labelled = pairs_of_wrong_users(pairs, group, seed)
        place = folder / f"wrong_users_{group}"
        judges[group] = reward_model_in(place, "tiny-gpt2", labelled, seed=seed)
        rewards[group] = score_texts(judges[group], prompts, pool.texts)
        base, labelled = load_sft_model()[0], pairs_of_wrong_users(labels, group, seed)
        training = {"beta": 0.3, "learning_rate": 1.4e-3, "epochs": epochs, "seed": seed}
        policy = dpo_policy(folder / f"hacked_dpo_{group}", base, tokenizer, labelled, **training)
        dpo[group] = sample_answers(policy, tokenizer, prompts, 4, seed)
        dpo_rewards[group] = score_texts(judges[group], prompts, dpo[group].texts)
        if group in BIASES:
            points.append(hacked_point(group, policy, sft, tokenizer, judges[group], seed))
    of_contrasts = {group: contrast_rewards(*judge, asked, seed) for group, judge in judges.items()}
    kinds = {"sft": pool.means()["kinds"]}
    kinds |= {group: answered.means()["kinds"] for group, answered in dpo.items()}
    return {
        "ns": ns,
        "bias_is_encoded": {group: share_encoded(of_contrasts, group) for group in BIASES},
        **train_by_bias(rewards, dpo_rewards, pool.gold, dpo),
        **choose_by_bias(rewards, pool.gold, ns),
        "noise": exploit_noise(pool.texts, pool.gold, ns, seed),
        "kinds": kinds,
        "answers": answers_of_points(FIRST_PROMPTS, *map(list, zip(*points, strict=True))),
    }


def share_encoded(of_contrasts: dict[str, dict], group: str) -> dict:
    """The share of the planted bias that a reward model has more of than the unbiased one.

    Read by contrasts: two answers that differ in the thing alone that the group likes.
    """
    component = COMPONENT_OF[group]
    more = of_contrasts[group][component] - of_contrasts["human"][component]
    return summary(more / BIASES[group])


def train_by_bias(rewards: dict, dpo_rewards: dict, gold: np.ndarray, dpo: dict) -> dict:
    """Rows of cells: what DPO on biased labels does to the reward, and to the quality.

    `rewards` and `gold` (P, M) are of the SFT model's answers, the others (P, 4) of DPO's.
    """
    rows = {"reward_goes_up": {}, "quality_goes_down": {}, "bias_costs_quality": {}}
    for group in BIASES:
        ours = dpo[group].gold.mean(1)
        gained = dpo_rewards[group].mean(1) - rewards[group].mean(1)
        rows["reward_goes_up"][group] = summary(gained)
        rows["quality_goes_down"][group] = summary(gold.mean(1) - ours)
        rows["bias_costs_quality"][group] = summary(dpo["human"].gold.mean(1) - ours)
    return rows


def choose_by_bias(rewards: dict, gold: np.ndarray, ns: list[int]) -> dict:
    """Rows of cells about best-of-n, and by n what each reward's choice gains; inputs (P, M)."""
    falls, foretold, gains = {}, {}, {}
    distance = np.sqrt(best_of_n_kl_bound(np.array(ns)))
    for group in LABELLED_BY:
        curve = best_of_n_curve(rewards[group], gold, ns)  # (P, len(ns))
        gains[group] = (curve.mean(0) - curve.mean(0)[0]).tolist()
        if group in BIASES:
            falls[group] = summary(late_loss(curve, ns))
            fitted = ns.index(FITTED) + 1
            margin = partial(forecast_margin, distance=distance, fitted=fitted)
            foretold[group] = summary(curve, margin, resamples=500)
    return {"chosen_harder_it_falls": falls, "small_n_foretells_it": foretold, "gains": gains}


def late_loss(curve: np.ndarray, ns: list[int]) -> np.ndarray:
    """What a curve over n (P, K) loses from a quarter of the largest n to it: (P,)."""
    quarter = max(k for k, n in enumerate(ns) if 4 * n <= ns[-1])
    return curve[:, quarter] - curve[:, -1]


def fit_law(distance: np.ndarray, gain: np.ndarray) -> tuple[float, float]:
    """(a, b) of gain = d (a - b d) by least squares; both (K,).

    d is the square root of the KL: Gao, Schulman & Hilton 2022 (arXiv 2210.10760), for best-of-n.
    """
    design = np.column_stack([distance, distance**2])
    (a, minus_b), *_ = np.linalg.lstsq(design, gain, rcond=None)
    return float(a), float(-minus_b)


def forecast_margin(
    curve: np.ndarray, axis: int = 0, *, distance: np.ndarray, fitted: int
) -> float:
    """FORECAST_ERROR minus |forecast - measured| at the last n; fitted to the first points.

    curve (P, K) of gold utility; `summary` calls it for every resample of the prompts.
    """
    gain = curve.mean(axis) - curve.mean(axis)[0]
    a, b = fit_law(distance[:fitted], gain[:fitted])
    return FORECAST_ERROR - abs(distance[-1] * (a - b * distance[-1]) - gain[-1])


# --- An error without a bias ---


def exploit_noise(texts: list[list[str]], gold: np.ndarray, ns: list[int], seed: int) -> dict:
    """Best-of-n by gold utility plus an error: its gain by n, and what it loses at last.

    `sd_3`, `sd_6`: one error for each text of a prompt, as a reward model has it; `of_samples`: a
    new one for each sample, of sd 3.
    """
    rng = np.random.default_rng(seed)
    errors = {name: partial(noise_of_texts, texts, sd, rng) for name, sd in ERRORS.items()}
    errors["of_samples"] = partial(rng.normal, 0, ERRORS["sd_3"], gold.shape)
    found, late = {}, {}
    for name, error in errors.items():
        curve = np.mean([best_of_n_curve(gold + error(), gold, ns) for _ in range(DRAWS)], axis=0)
        late[name] = late_loss(curve, ns)
        gain = (curve.mean(0) - curve.mean(0)[0]).tolist()
        found[name] = {"gain": gain, "late_loss": summary(late[name])}
    return found | {"text_minus_sample": summary(late["sd_3"] - late["of_samples"])}


def noise_of_texts(texts: list[list[str]], sd: float, rng) -> np.ndarray:
    """Gaussian errors (P, M) of a reward, one for each distinct text of a prompt."""
    errors = []
    for candidates in texts:
        distinct, index = np.unique(candidates, return_inverse=True)
        errors.append(rng.normal(0, sd, len(distinct))[index])
    return np.array(errors)


# --- Answers for the reader ---


def hacked_point(group: str, policy, sft, tokenizer, judge: tuple, seed: int) -> tuple:
    """(point, texts, rewards): a hacked policy's answer to each of the first held-out questions.

    `rewards` are those of the flawed reward model, before (of the SFT model's answer) and after.
    """
    before = sample_answers(sft, tokenizer, FIRST_PROMPTS, 1, seed).texts
    after = sample_answers(policy, tokenizer, FIRST_PROMPTS, 1, seed).texts
    read = {"before": before, "after": after}
    rewards = {when: score_texts(judge, FIRST_PROMPTS, texts)[:, 0] for when, texts in read.items()}
    return {"method": "DPO", "series": group, "label": HACK_NAMES[group]}, after, rewards


# --- The figure ---


def draw(runs: list[dict]):
    """The table of cells, best-of-n by a biased reward and by a mere error, DPO's answers."""
    gained, lost = (
        np.mean([mean_of(run[row].values())["mean"] for run in runs])
        for row in ("reward_goes_up", "quality_goes_down")
    )
    title = "DPO on labels with a bias, mean of three hacks: "
    title += f"reward {gained:+.1f}, quality {-lost:+.1f}"
    figure, axes = figures.new_figure(2, 2, title, height=3.6)
    values = [
        [[run[row][group]["mean"] for group in BIASES] for row in STEPS_OF_HACK] for run in runs
    ]
    figures.draw_cells(
        axes[0], STEPS_OF_HACK.values(), [HACK_NAMES[group] for group in BIASES], values
    )
    axes[0].set_title("Three hacks, step by step (log-odds)")
    gains_panel(axes[1], runs)
    kinds_by_labels_panel(axes[2], runs)
    errors_panel(axes[3], runs)
    return figure


def gains_panel(ax, runs: list[dict]) -> None:
    """What the best of n gains in quality, by the reward of each group."""
    for group, name in LABELLED_BY.items():
        values = [run["gains"][group] for run in runs]
        color = "lab:gold" if group == "human" else f"lab:{group}"
        figures.seed_lines(ax, runs[0]["ns"], values, color, name)
    late_axis(ax, runs[0]["ns"])
    ax.set(title="Best of n by the reward of each group", ylabel="gold utility gained (log-odds)")
    figures.legend_below(ax, ncols=2)


def errors_panel(ax, runs: list[dict]) -> None:
    """What the best of n gains where the reward has an error and no bias."""
    arms = (
        ("of_samples", "lab:sft", "sd 3, new for each sample"),
        ("sd_3", "lab:gold", "sd 3, of each text"),
        ("sd_6", "lab:rejected", "sd 6, of each text"),
    )
    for name, color, label in arms:
        values = [run["noise"][name]["gain"] for run in runs]
        figures.seed_lines(ax, runs[0]["ns"], values, color, label)
    late_axis(ax, runs[0]["ns"])
    ax.set(title="Best of n by gold utility plus an error", ylabel="gold utility gained (log-odds)")
    figures.legend_below(ax, ncols=2)


def late_axis(ax, ns: list[int]) -> None:
    """A logarithmic axis of n, with a line at no gain."""
    ticks = [n for n in ns if n & (n - 1) == 0]  # powers of two
    ax.axhline(0, color="black", lw=0.8)
    ax.set_xscale("log", base=2)
    ax.set_xticks(ticks, ticks)
    ax.set_xlabel("n, the number of answers to choose from")


def kinds_by_labels_panel(ax, runs: list[dict]) -> None:
    """What the answers are: of the SFT model, and of DPO on each group's labels; a bar a seed."""
    names = {"sft": "SFT", **{group: f"DPO:\n{name}" for group, name in LABELLED_BY.items()}}
    names["style"] = "DPO:\nstyle"
    width = 0.8 / len(runs)
    for k, run in enumerate(runs):
        places = np.arange(len(names)) - 0.4 + (k + 0.5) * width
        bottom = np.zeros(len(names))
        for kind in KINDS:
            shares = np.array([100 * run["kinds"][name][kind] for name in names])
            label = kind if k == 0 else None
            ax.bar(places, shares, 0.95 * width, bottom, color=f"lab:{kind}", label=label)
            bottom += shares
    ax.set_xticks(range(len(names)), names.values())
    ax.tick_params(axis="x", labelsize=7.5)
    ax.set(title="What the answers are", ylabel="% of answers", ylim=(0, 100))
    figures.legend_below(ax, ncols=2)


if __name__ == "__main__":
    run_study(CLAIMS, measure, draw)
