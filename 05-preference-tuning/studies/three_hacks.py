"""Three hacks: does a bias of the annotators reach the answers, and is their quality lost on it?

    python 05-preference-tuning/studies/three_hacks.py  # one seed, 2 minutes

Annotators who prefer long answers, an expert's tone, or agreement with the user label the same
pairs as unbiased ones; in all questions the user is wrong, so that each can be hacked. Their reward
models (of 1,200 pairs, from the SFT model) choose the best of n of its answers, and DPO trains on
384 of these pairs in three passes: a table of steps by hacks, and claims on means of its rows. How
strong must a bias be? The liking for length is also planted in the reward in ten strengths: gold
utility plus so many log-odds for each word of filler, whose true worth is -0.15. Three strengths
are trained as well. Where quality rises and falls, a law is fitted to small n and judged by what it
foretells of n = 64. And: does a reward without a bias, but with an error, do the same?
"""

from functools import partial

import lessons  # noqa: F401

import numpy as np
from best_of_n import best_of_n_curve, best_of_n_kl_bound
from dpo_trainer import dpo_policy
from reward_hacking import AMONG, axis_of_n
from reward_model import reward_model_in

from common import figures
from common.answers import SHOWN, answers_of_points, sample_answers
from common.claims import Claim, run_study, study_folder
from common.intervals import around_the_best
from common.preferences import BIASES, liked_amount, pairs_of_wrong_users, questions, wrong_users
from common.scoring import score_texts
from common.training import load_sft_model

HACK_NAMES = {"length": "verbosity", "style": "style mimicry", "agreement": "sycophancy"}
LABELLED_BY = {"human": "unbiased", **HACK_NAMES}
PLANTED = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.5, 0.7)  # log-odds a word of filler
TRAINED = {0.2: "length_0.2", 0.3: "length", 0.5: "length_0.5"}  # whose reward model has which
ERRORS = {  # of a reward without a bias; the sd of gold utility is 1.5
    "of_samples": "sd 3, new for each sample",
    "sd_3": "sd 3, of each text",
    "sd_6": "sd 6, of each text",
}
STEPS_OF_HACK = {  # of the table, where each cell is above 0 as the tutorial says
    "reward_goes_up": "DPO: reward gained",
    "quality_goes_down": "DPO: quality lost",
    "bias_costs_quality": "DPO: lost to the bias",
    "rises_first": "gained at the best n",
    "chosen_harder_it_falls": "lost from there to 64",
}
HUMP = 0.1  # a gold curve has a hump where it rises by so much and then falls by so much
FITTED = 8  # the law of over-optimisation is fitted up to this n
FORECAST_ERROR = 0.5  # log-odds by which its forecast may be wrong
LATE_LOSS = "gold utility of the best of n, at its best n minus at n = 64"
OVER_HACKS = "mean of the three hacks"

claim_on_hacks = partial(Claim, smallest=0.05)  # log-odds: less is not worth calling a difference
CLAIMS = (
    claim_on_hacks(
        "biased_reward_goes_up",
        "the reward goes up",
        f"reward by the flawed model, DPO's answers minus SFT's, log-odds; {OVER_HACKS}",
        of=lambda m: mean_of_hacks(m["reward_goes_up"]),
    ),
    claim_on_hacks(
        "biased_quality_goes_down",
        "the actual quality goes down",
        f"gold utility of SFT's answers minus DPO's, log-odds; {OVER_HACKS}",
        of=lambda m: mean_of_hacks(m["quality_goes_down"]),
    ),
    claim_on_hacks(
        "biased_reward_is_overoptimised",
        "chosen harder by a flawed reward, quality falls",
        f"{LATE_LOSS}, log-odds; {OVER_HACKS}",
        of=lambda m: mean_of_hacks(m["chosen_harder_it_falls"]),
    ),
    claim_on_hacks(
        "law_foretells_large_n",
        "a law fitted to small n foretells the fall at n = 64",
        f"{FORECAST_ERROR} log-odds minus the forecast's error, fit to n <= {FITTED}; at humps",
        of=lambda m: m["forecast_margin"],
        predicted="does not hold",
    ),
    claim_on_hacks(
        "mere_noise_is_overoptimised",
        "an error of the reward without a bias is exploited, too",
        f"{LATE_LOSS}, log-odds, by gold utility plus an error of sd 6 for each text",
        of=lambda m: m["chosen_harder_it_falls"]["sd_6"],
    ),
)


def mean_of_hacks(row: dict[str, float]) -> float:
    """The mean of a row of cells."""
    return float(np.mean([row[group] for group in BIASES]))


def measure(seed: int, smoke: bool = False) -> dict:
    """Label, train, choose and read: the cells of the table by row and hack, and what is drawn."""
    count, n = (10, 16) if smoke else (64, 64)
    prompts = [question.prompt for question in wrong_users("test", count, seed)]
    sft, tokenizer = load_sft_model()
    pool = sample_answers(sft, tokenizer, prompts, 3 * n // 2, seed)
    judges, policies = train_models(seed, smoke)
    rewards = {name: score_texts(judge, prompts, pool.texts) for name, judge in judges.items()}
    gained, gold = {}, {"sft": pool.gold.mean()}
    for group, policy in policies.items():
        answered = sample_answers(policy, tokenizer, prompts, 4, seed, with_kl=False)
        of_dpo = score_texts(judges[group], prompts, answered.texts)
        gained[group], gold[group] = of_dpo.mean() - rewards[group].mean(), answered.gold.mean()
    ns = [k for k in AMONG if k <= n]
    rewards |= planted_rewards(prompts, pool)
    curves = {name: best_of_n_curve(reward, pool.gold, ns) for name, reward in rewards.items()}
    # For the reader: answers before and after each hacked DPO, with the flawed rewards.
    shown = [question.prompt for question in questions("test", seed=seed)[:SHOWN]]
    first = sample_answers(sft, tokenizer, shown, 1, seed).texts
    points, texts, of_shown = [], [], []
    for group, name in HACK_NAMES.items():
        points.append({"method": "DPO", "series": group, "label": name})
        last = sample_answers(policies[group], tokenizer, shown, 1, seed, with_kl=False).texts
        before, after = (score_texts(judges[group], shown, of)[:, 0] for of in (first, last))
        of_shown.append({"before": before, "after": after})
        texts.append(last)
    return {
        "ns": ns,
        "reward_goes_up": {g: float(gained[g]) for g in BIASES},
        "quality_goes_down": {g: float(gold["sft"] - gold[g]) for g in BIASES},
        "bias_costs_quality": {g: float(gold["human"] - gold[g]) for g in BIASES},
        **choose_harder(curves | curves_by_errors(pool.texts, pool.gold, ns, seed), ns),
        "answers": answers_of_points(shown, points, texts, of_shown),
    }


def train_models(seed: int, smoke: bool) -> tuple[dict, dict]:
    """(reward models with their tokenizers, DPO's policies) on the labels of each group.

    Of other strengths of the liking for length, those of TRAINED, there are reward models only.
    """
    few, many, epochs = (16, 32, 1) if smoke else (384, 1200, 3)
    folder, judges, policies = study_folder(seed, smoke), {}, {}
    whose = {group: (group, None) for group in LABELLED_BY}
    whose |= {name: ("length", strength) for strength, name in TRAINED.items()}
    for name, (group, strength) in whose.items():
        labelled = pairs_of_wrong_users(many, group, seed, strength=strength)
        place = folder / f"wrong_users_{name}"
        judges[name] = reward_model_in(place, "tiny-gpt2", labelled, seed=seed)
    training = {"beta": 0.3, "learning_rate": 1.4e-3, "epochs": epochs, "seed": seed}
    for group in LABELLED_BY:
        base, tokenizer = load_sft_model()
        labelled = pairs_of_wrong_users(few, group, seed)
        place = folder / f"hacked_dpo_{group}"
        policies[group] = dpo_policy(place, base, tokenizer, labelled, **training)
    return judges, policies


def planted_rewards(prompts: list[str], pool) -> dict[str, np.ndarray]:
    """Rewards (P, M) with a bias that is planted exactly: gold utility and so much for filler."""
    rows = zip(prompts, pool.texts, strict=True)
    filler = np.array([[liked_amount(prompt, t, "length") for t in row] for prompt, row in rows])
    return {f"planted_{strength}": pool.gold + strength * filler for strength in PLANTED}


def choose_harder(curves: dict[str, np.ndarray], ns: list[int]) -> dict:
    """What the best of n gains up to its best n, and loses from there to the last.

    Curves (P, len(ns)) are of gold utility. Where that by a trained reward has a hump, the law is
    judged by it.
    """
    gains = {name: curve.mean(0) - curve.mean(0)[0] for name, curve in curves.items()}
    around = {name: around_the_best(curve) for name, curve in curves.items()}
    distance, fitted = np.sqrt(best_of_n_kl_bound(np.array(ns))), ns.index(FITTED) + 1
    trained = [name for name in curves if name in (*LABELLED_BY, *TRAINED.values())]
    humps = [name for name in trained if has_hump(gains[name])]
    margins = [forecast_margin(gains[name], distance, fitted) for name in humps or trained]
    return {
        "gains": {name: gain.tolist() for name, gain in gains.items()},
        "rises_first": {name: gained for name, (gained, _) in around.items()},
        "chosen_harder_it_falls": {name: lost for name, (_, lost) in around.items()},
        "forecast_margin": float(np.mean(margins)),
    }


def has_hump(gain: np.ndarray) -> bool:
    """Whether a mean gold curve, which starts at 0, rises first by HUMP, and falls by as much."""
    return bool(gain.max() >= HUMP and gain.max() - gain[-1] >= HUMP)


def forecast_margin(gain: np.ndarray, distance: np.ndarray, fitted: int) -> float:
    """FORECAST_ERROR minus |forecast - measured| at the last n; gain (K,) of gold utility.

    The law is gain = d (a - b d), fitted to the first points; d, the distance, is the square root
    of the KL bound (Gao, Schulman & Hilton 2022, arXiv 2210.10760, for best-of-n).
    """
    design = np.column_stack([distance, distance**2])
    law, *_ = np.linalg.lstsq(design[:fitted], gain[:fitted], rcond=None)  # (a, -b)
    return float(FORECAST_ERROR - abs(design[-1] @ law - gain[-1]))


def curves_by_errors(texts: list[list[str]], gold: np.ndarray, ns: list[int], seed: int) -> dict:
    """Gold utility of the best of n by gold utility plus an error: {name of ERRORS: (P, len(ns))}.

    `sd_3`, `sd_6`: one error for each text of a prompt, as a reward model has it; `of_samples`: a
    new one for each sample, of sd 3. Each curve is the mean of ten draws.
    """
    rng, curves = np.random.default_rng(seed), {}
    samples = [range(row.size) for row in gold]  # as if each were a text of its own
    for name, of, sd in (("sd_3", texts, 3.0), ("sd_6", texts, 6.0), ("of_samples", samples, 3.0)):
        errors = [noise_of_texts(of, sd, rng) for _ in range(10)]
        drawn = [best_of_n_curve(gold + error, gold, ns) for error in errors]
        curves[name] = np.mean(drawn, axis=0)
    return curves


def noise_of_texts(texts: list[list[str]], sd: float, rng) -> np.ndarray:
    """Gaussian errors (P, M) of a reward, one for each distinct text of a prompt."""
    errors = []
    for candidates in texts:
        distinct, index = np.unique(candidates, return_inverse=True)
        errors.append(rng.normal(0, sd, len(distinct))[index])
    return np.array(errors)


def draw(runs: list[dict]):
    """The table of cells, gold utility by the strength of a bias and by n, and a mere error."""
    cells = [[[run[row][g] for g in BIASES] for row in STEPS_OF_HACK] for run in runs]
    means, ns = np.mean(cells, axis=(0, 2)), runs[0]["ns"]
    title = "DPO on labels with a bias, mean of three hacks: "
    title += f"reward gained {means[0]:.2f}, quality lost {means[1]:.2f}"
    figure, (table, strength, groups, errors) = figures.new_figure(2, 2, title, height=3.6)
    steps = zip(STEPS_OF_HACK.values(), means, strict=True)
    rows = [f"{step}\nmean {mean:+.2f}" for step, mean in steps]
    figures.draw_cells(table, rows, HACK_NAMES.values(), cells)
    table.set_title("Three hacks, step by step (log-odds)")
    for label, color, gained in (
        ("at the best n", "lab:gold", lambda run, name: run["rises_first"][name]),
        (f"at n = {ns[-1]}", "lab:biased", lambda run, name: run["gains"][name][-1]),
    ):
        planted = [[gained(run, f"planted_{bias}") for bias in PLANTED] for run in runs]
        figures.seed_lines(strength, PLANTED, planted, color, f"{label}, planted")
        trained = [gained(run, name) for run in runs for name in TRAINED.values()]
        places = [*TRAINED] * len(runs)
        strength.plot(places, trained, "x", color=color, label=f"{label}, trained")
    strength.axvline(0.15, color="black", lw=0.8, ls=":")
    strength.set_title("How strong must a liking for length be?")
    strength.set_xlabel("log-odds for a word of filler; dotted: its cost")
    colors = {"human": "lab:gold", **{group: f"lab:{group}" for group in BIASES}}
    colors |= {"of_samples": "lab:sft", "sd_3": "lab:gold", "sd_6": "lab:rejected"}
    for ax, names, of in (
        (groups, LABELLED_BY, "the reward of each group"),
        (errors, ERRORS, "gold utility plus an error"),
    ):
        for name, label in names.items():
            gains = [run["gains"][name] for run in runs]
            figures.seed_lines(ax, ns, gains, colors[name], label)
        ax.set_title(f"Best of n by {of}")
        axis_of_n(ax, ns)
    for ax in (strength, groups, errors):
        ax.axhline(0, color="black", lw=0.8)
        ax.set_ylabel("gold utility gained (log-odds)")
        figures.legend_below(ax, ncols=2)
    return figure


if __name__ == "__main__":
    run_study(CLAIMS, measure, draw)
