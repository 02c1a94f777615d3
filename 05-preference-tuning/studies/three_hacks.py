"""Three hacks: does a bias of the annotators reach the answers, and is their quality lost on it?

    python 05-preference-tuning/studies/three_hacks.py                     # one seed, 100 seconds
    python 05-preference-tuning/studies/three_hacks.py --seeds 0 1 2 3 4 5 6 7
    python 05-preference-tuning/studies/three_hacks.py --claims            # what is claimed

Annotators who prefer long answers, an expert's tone, or agreement with the user label the same
pairs as unbiased ones. Their reward models choose the best of n answers of the SFT model, and DPO
trains on their labels. In every question the user is wrong, so that all three hacks are open. Each
step is measured for each hack: a table of cells, and a claim for a row, the mean of its three. (The
first step, how much of a bias is in the reward model, is in what_a_reward_model_absorbs.py.)

One more question: does a reward without a bias, but with an error, do the same?
"""

from functools import partial

import lessons  # noqa: F401

import numpy as np
from best_of_n import best_of_n_curve, best_of_n_kl_bound
from dpo_trainer import dpo_policy
from reward_hacking import AMONG, axis_of_n
from reward_model import reward_model_in

from common import figures
from common.answers import KINDS, SHOWN, answers_of_points, sample_answers
from common.claims import Claim, run_study, study_folder
from common.intervals import mean_of, summary
from common.preferences import BIASES, pairs_of_wrong_users, questions, wrong_users
from common.scoring import score_texts
from common.training import load_sft_model

HACK_NAMES = {"length": "verbosity", "style": "style mimicry", "agreement": "sycophancy"}
LABELLED_BY = {"human": "unbiased", **HACK_NAMES}
ERRORS = {  # of a reward without a bias; the sd of gold utility is 1.5
    "of_samples": "sd 3, new for each sample",
    "sd_3": "sd 3, of each text",
    "sd_6": "sd 6, of each text",
}
STEPS_OF_HACK = {  # of the table, where each cell is above 0 as the tutorial says
    "reward_goes_up": "DPO: reward gained",
    "quality_goes_down": "DPO: quality lost",
    "bias_costs_quality": "DPO: quality lost\nto the bias",
    "chosen_harder_it_falls": "quality lost from\nbest of 16 to 64",
    "small_n_foretells_it": "0.5 minus the error\nof the forecast",
}
FITTED = 8  # the law of over-optimisation is fitted up to this n
FORECAST_ERROR = 0.5  # log-odds by which its forecast may be wrong
LATE_LOSS = "gold utility of the best of 16 minus that of the best of 64"
OVER_HACKS = "mean of the three hacks"

claim_on_hacks = partial(Claim, smallest=0.05)  # log-odds: less is not worth calling a difference
CLAIMS = (
    claim_on_hacks(
        "biased_reward_goes_up",
        "the reward goes up",
        f"reward by the flawed model, DPO's answers minus SFT's, log-odds; {OVER_HACKS}",
        of=lambda m: mean_of(m["reward_goes_up"].values()),
    ),
    claim_on_hacks(
        "biased_quality_goes_down",
        "the actual quality goes down",
        f"gold utility of SFT's answers minus DPO's, log-odds; {OVER_HACKS}",
        of=lambda m: mean_of(m["quality_goes_down"].values()),
        published="agrees, milder there: sycophancy, Sharma et al. (arXiv 2310.13548)",
    ),
    claim_on_hacks(
        "bias_costs_quality",
        "a bias of the annotators costs quality",
        f"gold utility of DPO on unbiased labels minus on biased ones, log-odds; {OVER_HACKS}",
        of=lambda m: mean_of(m["bias_costs_quality"].values()),
    ),
    claim_on_hacks(
        "biased_reward_is_overoptimised",
        "chosen harder by a flawed reward, quality falls",
        f"{LATE_LOSS}, log-odds; {OVER_HACKS}",
        of=lambda m: mean_of(m["chosen_harder_it_falls"].values()),
        published="agrees: Gao et al. (arXiv 2210.10760)",
    ),
    claim_on_hacks(
        "law_foretells_large_n",
        "a law fitted to small n foretells the fall at n = 64",
        f"{FORECAST_ERROR} log-odds minus the forecast's error, fit to n <= {FITTED}; {OVER_HACKS}",
        of=lambda m: mean_of(m["small_n_foretells_it"].values()),
        published="it fits at scale: Gao et al. (arXiv 2210.10760); here quality levels off",
    ),
    claim_on_hacks(
        "mere_noise_is_overoptimised",
        "an error of the reward without a bias is exploited, too",
        f"{LATE_LOSS}, by gold utility plus an error of sd 6 for each text, log-odds",
        of=lambda m: m["error_falls"],
        published="compatible: errors with light tails are safe, Kwa et al. (arXiv 2407.14503)",
    ),
    claim_on_hacks(
        "only_errors_of_texts_are_exploited",
        "an error is exploited where it belongs to a text, not to a sample",
        f"{LATE_LOSS}, error of sd 3 for each text minus a new one for each sample, log-odds",
        of=lambda m: m["text_minus_sample"],
    ),
)


# --- The measurement ---


def measure(seed: int, smoke: bool = False) -> dict:
    """Label, train, choose and read: the cells of the table by row and hack, and what is drawn."""
    pairs, labels, epochs, count, n = (32, 16, 1, 10, 16) if smoke else (1200, 384, 3, 64, 64)
    folder, ns = study_folder(seed, smoke), [k for k in AMONG if k <= n]
    prompts = [question.prompt for question in wrong_users("test", count)]
    sft, tokenizer = load_sft_model()
    pool = sample_answers(sft, tokenizer, prompts, 3 * n // 2, seed)
    shown = [question.prompt for question in questions("test")[:SHOWN]]
    first = sample_answers(sft, tokenizer, shown, 1, seed).texts
    rewards, dpo, dpo_rewards, kept = {}, {}, {}, []
    for group in LABELLED_BY:
        labelled = pairs_of_wrong_users(pairs, group, seed)
        place = folder / f"wrong_users_{group}"
        judge = reward_model_in(place, "tiny-gpt2", labelled, seed=seed)
        rewards[group] = score_texts(judge, prompts, pool.texts)
        base, labelled = load_sft_model()[0], pairs_of_wrong_users(labels, group, seed)
        training = {"beta": 0.3, "learning_rate": 1.4e-3, "epochs": epochs, "seed": seed}
        policy = dpo_policy(folder / f"hacked_dpo_{group}", base, tokenizer, labelled, **training)
        dpo[group] = sample_answers(policy, tokenizer, prompts, 4, seed)
        dpo_rewards[group] = score_texts(judge, prompts, dpo[group].texts)
        if group in BIASES:  # answers for the reader: a hacked policy's, with the flawed rewards
            point = {"method": "DPO", "series": group, "label": HACK_NAMES[group]}
            last = sample_answers(policy, tokenizer, shown, 1, seed).texts
            texts = {"before": first, "after": last}
            liked = {when: score_texts(judge, shown, of)[:, 0] for when, of in texts.items()}
            kept.append((point, last, liked))
    curves = {group: best_of_n_curve(rewards[group], pool.gold, ns) for group in LABELLED_BY}
    kinds = {name: answered.means()["kinds"] for name, answered in {"sft": pool, **dpo}.items()}
    return {
        "ns": ns,
        **train_by_bias(rewards, dpo_rewards, pool.gold, dpo),
        **choose_harder(curves | curves_by_errors(pool.texts, pool.gold, ns, seed), ns),
        "kinds": kinds,
        "answers": answers_of_points(shown, *map(list, zip(*kept, strict=True))),
    }


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


def choose_harder(curves: dict[str, np.ndarray], ns: list[int]) -> dict:
    """What the best of n gains by n, and loses from a quarter of the largest n to it.

    Curves (P, len(ns)) are of gold utility, by the reward of each group and by ERRORS.
    """
    gains = {name: curve.mean(0) - curve.mean(0)[0] for name, curve in curves.items()}
    quarter = max(k for k, n in enumerate(ns) if 4 * n <= ns[-1])
    late = {name: curve[:, quarter] - curve[:, -1] for name, curve in curves.items()}
    distance, fitted = np.sqrt(best_of_n_kl_bound(np.array(ns))), ns.index(FITTED) + 1
    margin = partial(forecast_margin, distance=distance, fitted=fitted)
    return {
        "gains": {name: gain.tolist() for name, gain in gains.items()},
        "chosen_harder_it_falls": {group: summary(late[group]) for group in BIASES},
        "small_n_foretells_it": {g: summary(curves[g], margin, resamples=500) for g in BIASES},
        "error_falls": summary(late["sd_6"]),
        "text_minus_sample": summary(late["sd_3"] - late["of_samples"]),
    }


def forecast_margin(curve, axis: int = 0, *, distance: np.ndarray, fitted: int) -> float:
    """FORECAST_ERROR minus |forecast - measured| at the last n; curve (P, K) of gold utility.

    The law is gain = d (a - b d), fitted to the first points; d, the distance, is the square root
    of the KL (Gao, Schulman & Hilton 2022, arXiv 2210.10760, for best-of-n). `summary` calls this
    for every resample of the prompts.
    """
    gain = curve.mean(axis) - curve.mean(axis)[0]
    design = np.column_stack([distance, distance**2])
    law, *_ = np.linalg.lstsq(design[:fitted], gain[:fitted], rcond=None)  # (a, -b)
    return FORECAST_ERROR - abs(design[-1] @ law - gain[-1])


# --- An error without a bias ---


def curves_by_errors(texts: list[list[str]], gold: np.ndarray, ns: list[int], seed: int) -> dict:
    """Gold utility of the best of n by gold utility plus an error: {name of ERRORS: (P, len(ns))}.

    `sd_3`, `sd_6`: one error for each text of a prompt, as a reward model has it; `of_samples`: a
    new one for each sample, of sd 3.
    """
    rng = np.random.default_rng(seed)
    draw_error = {
        "sd_3": partial(noise_of_texts, texts, 3.0, rng),
        "sd_6": partial(noise_of_texts, texts, 6.0, rng),
        "of_samples": partial(rng.normal, 0, 3.0, gold.shape),
    }
    curves = {}
    for name, error in draw_error.items():  # the mean of ten draws
        curves[name] = np.mean(
            [best_of_n_curve(gold + error(), gold, ns) for _ in range(10)], axis=0
        )
    return curves


def noise_of_texts(texts: list[list[str]], sd: float, rng) -> np.ndarray:
    """Gaussian errors (P, M) of a reward, one for each distinct text of a prompt."""
    errors = []
    for candidates in texts:
        distinct, index = np.unique(candidates, return_inverse=True)
        errors.append(rng.normal(0, sd, len(distinct))[index])
    return np.array(errors)


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
    cells = [[[run[row][g]["mean"] for g in BIASES] for row in STEPS_OF_HACK] for run in runs]
    figures.draw_cells(axes[0], STEPS_OF_HACK.values(), HACK_NAMES.values(), cells)
    axes[0].set_title("Three hacks, step by step (log-odds)")
    colors = {"human": "lab:gold", **{group: f"lab:{group}" for group in BIASES}}
    colors |= {"of_samples": "lab:sft", "sd_3": "lab:gold", "sd_6": "lab:rejected"}
    for ax, names, of in (
        (axes[1], LABELLED_BY, "the reward of each group"),
        (axes[3], ERRORS, "gold utility plus an error"),
    ):
        for name, label in names.items():
            gains = [run["gains"][name] for run in runs]
            figures.seed_lines(ax, runs[0]["ns"], gains, colors[name], label)
        ax.axhline(0, color="black", lw=0.8)
        ax.set(title=f"Best of n by {of}", ylabel="gold utility gained (log-odds)")
        axis_of_n(ax, runs[0]["ns"])
    kinds_by_labels_panel(axes[2], runs)
    for ax in axes[1:]:
        figures.legend_below(ax, ncols=2)
    return figure


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


if __name__ == "__main__":
    run_study(CLAIMS, measure, draw)
