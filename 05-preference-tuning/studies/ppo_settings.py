"""PPO's settings: which of learning rate, passes, clipping and KL term does it depend on?

    python 05-preference-tuning/studies/ppo_settings.py  # one seed, 4 minutes

PPO is trained by a reward model of 6,400 pairs, with its default learning rate and with 3.3 times
that, and with four passes (epochs) over the answers of an update or one; with the higher rate also
without clipping. DPO is trained on 768 pairs with its default rate and with 3.3 times that, and
with the default rate for three passes. All answer the same 128 held-out questions twice.

A training may look bad because it is not finished. It counts as finished unless one of the same
method with a higher rate or more passes, and not less of the other, gets more than 0.15 log-odds
more gold utility on validation prompts. Stability is the range of gold utility among trainings
that are finished. It grows with the grid, which goes to about 3.3 times the usual training in both
methods: DPO with the higher rate and three passes, ten times as much, is not in it.

Then PPO with smaller batches is trained by a reward model of annotators who prefer long answers,
with the KL term and without, and looked at often. The KL term makes it move less; the question is
whether it is better once it has moved as far: gold utility is compared at equal KL.
"""

from pathlib import Path

import lessons  # noqa: F401

import numpy as np
from dpo_trainer import dpo_policy
from online_rl import train_rl
from reward_model import reward_model_in

from common import answers, figures, preferences
from common.claims import Claim, run_study, study_folder
from common.scoring import score_texts
from common.training import load_sft_model

UPDATES = 8  # of PPO; after half of them the number of passes is judged
PPO_RATE, DPO_RATE, FAST = 3e-3, 7e-4, 10 / 3  # the default learning rates, and times the default
GRID = {  # times the default learning rate, and passes: PPO's usual ones come first, and DPO's
    "PPO": [(1, 4), (1, 1), (FAST, 4), (FAST, 1)],
    "DPO": [(1, 1), (FAST, 1), (1, 3)],
}
UNFINISHED = 0.15  # gold utility that more training of the same method still adds
KL_TERM = {"with the KL term": 0.3, "without": 0.0}  # beta
# Steps small enough to look often.
SMALL = {"epochs": 1, "updates": 16, "prompts_per_update": 16, "look_at": range(2, 16, 2)}

CLAIMS = (
    Claim(
        "dpo_is_more_stable",
        "DPO is more stable than PPO-based RLHF",
        "range of gold utility over learning rates and passes, PPO minus DPO, log-odds",
        of=lambda m: range_of_finished(m, "PPO") - range_of_finished(m, "DPO"),
        smallest=0.2,
        predicted="undecided",
    ),
    Claim(
        "clipping_helps_at_high_rates",
        "clipping keeps PPO stable where its steps are too large",
        "gold utility at 3.3 times the learning rate, with clipping minus without, log-odds",
        of=lambda m: m["clipped"] - m["unclipped"],
        smallest=0.2,
    ),
    Claim(
        "more_passes_save_samples",
        "clipping lets PPO use its answers several times, which saves samples",
        "gold utility after 512 answers, 4 passes minus 1 pass at the better of 2 rates, log-odds",
        of=lambda m: m["gained_by_passes"],
        smallest=0.1,
        predicted="no difference",  # with one seed a single pass at the high rate was as fast
    ),
    Claim(
        "kl_term_holds_the_policy",
        "without the KL term the policy overfits to the reward model's idiosyncrasies",
        "gold utility at equal KL, length-biased rewards, with the KL term minus without, log-odds",
        of=lambda m: m["kl_term_at_equal_kl"],
        smallest=0.2,
        predicted="no difference",
    ),
)


def measure(seed: int, smoke: bool = False) -> dict:
    """All trainings of one seed, and what the claims and the figure need of them."""
    kept, many, judges = study_folder(seed, smoke), 64 if smoke else 6400, {}
    for annotator, name in (("human", "6400"), ("length", "length")):
        pairs = preferences.make_pairs(many, annotator=annotator, seed=seed)
        folder = kept / f"reward_model_{name}"
        judges[annotator] = reward_model_in(folder, "tiny-distilbert", pairs, seed=seed)
    asked, few = preferences.questions, 8 if smoke else 128
    splits = {"validation": asked("validation"), "test": asked("test", seed=seed)}
    prompts = {split: [q.prompt for q in splits[split][:few]] for split in splits}

    ppo, length, training = {}, {}, (prompts, seed, smoke)
    for rate, epochs in GRID["PPO"]:
        how = {"learning_rate": rate * PPO_RATE, "epochs": epochs}
        ppo[rate, epochs] = ppo_looks(judges["human"], *training, how)
    how = {"learning_rate": FAST * PPO_RATE, "epsilon": float("inf")}
    unclipped = ppo_looks(judges["human"], *training, how)
    pairs = preferences.make_pairs(64 if smoke else 768, seed=seed)
    rows = {"PPO": with_finished({key: looks[-1] for key, looks in ppo.items()})}
    rows["DPO"] = with_finished(dpo_ends(kept, pairs, prompts, seed))
    for name, beta in KL_TERM.items():
        length[name] = ppo_looks(judges["length"], *training, {**SMALL, "beta": beta}, n=1)
    start = length["without"][0]
    early = {key: looks[1]["gold"] for key, looks in ppo.items()}
    points, kept_answers = points_of_ends(prompts["test"], length, many)
    return {
        "settings": rows,
        "clipped": ppo[FAST, 4][-1]["gold"],
        "unclipped": unclipped[-1]["gold"],
        "gained_by_passes": early[1, 4] - max(early[1, 1], early[FAST, 1]),
        "passes": {name_of(*key): curve_of([start, *looks[1:]]) for key, looks in ppo.items()},
        "kl_term": {name: curve_of(looks) for name, looks in length.items()},
        "kl_term_at_equal_kl": gap_at_equal_kl(*map(curve_of, length.values())),
        "points": points,
        "answers": kept_answers,
    }


def ppo_looks(judge: tuple, prompts: dict, seed: int, smoke: bool, how: dict, n: int = 2) -> list:
    """PPO's n answers to each test prompt before, half-way (or at `look_at`) and at the end.

    At the end also one answer to each validation prompt.
    """
    model, tokenizer = load_sft_model()
    asked, looks = [question.prompt for question in preferences.questions("train")], []
    how = {"updates": UPDATES, **how} | ({"updates": 2, "prompts_per_update": 8} if smoke else {})

    def look(step: int, policy) -> None:
        seen = answers.sample_answers(policy, tokenizer, prompts["test"], n, seed)
        rewards = score_texts(judge, prompts["test"], seen.texts)[:, 0]  # of the first answers
        looks.append({"step": step, **seen.means(), "answers": seen, "rewards": rewards})

    how = {"look_at": (how["updates"] // 2,), **how, "look": look, "seed": seed}
    policy, _ = train_rl(model, tokenizer, judge, asked, **how)
    validation = answers.sample_answers(policy, tokenizer, prompts["validation"], 1, seed)
    looks[-1]["validation"] = float(validation.gold.mean())
    return looks


def dpo_ends(kept: Path, pairs: list[dict], prompts: dict, seed: int) -> dict:
    """What DPO's answers are after each of its settings; the policies are kept in a folder."""
    ends = {}
    for rate, epochs in GRID["DPO"]:
        model, tokenizer = load_sft_model()
        how = {"learning_rate": rate * DPO_RATE, "epochs": epochs, "seed": seed}
        folder = kept / ("dpo" if (rate, epochs) == (1, 1) else f"dpo_x{rate:.0f}_{epochs}")
        policy = dpo_policy(folder, model, tokenizer, pairs, **how)
        seen = answers.sample_answers(policy, tokenizer, prompts["test"], 2, seed)
        validation = answers.sample_answers(policy, tokenizer, prompts["validation"], 1, seed)
        ends[rate, epochs] = seen.means() | {"validation": float(validation.gold.mean())}
    return ends


def with_finished(ends: dict[tuple, dict]) -> list[dict]:
    """A row for each setting (rate, passes): its gold utility, and whether it is finished.

    It is not where more training, of rate or passes and not less of the other, is better by
    UNFINISHED on validation prompts.
    """
    rows = []
    for (rate, epochs), end in ends.items():
        more = [ends[r, e]["validation"] for r, e in ends if r >= rate and e >= epochs]
        finished = all(gold - end["validation"] <= UNFINISHED for gold in more)
        rows.append({"rate": rate, "epochs": epochs, "finished": finished, "gold": end["gold"]})
    return rows


def range_of_finished(metrics: dict, method: str) -> float:
    """Gold utility of the best training minus that of the worst, of those that are finished."""
    return float(np.ptp([row["gold"] for row in metrics["settings"][method] if row["finished"]]))


def curve_of(looks: list[dict]) -> dict[str, list[float]]:
    """Step, measured KL and gold utility of each look."""
    return {name: [look[name] for look in looks] for name in ("step", "kl", "gold")}


def gap_at_equal_kl(ours: dict, theirs: dict) -> float:
    """Gold utility of our curve minus theirs, the mean over KLs that both have reached.

    Between looks it is interpolated. Both start at the same model, where they cannot differ: the
    first quarter of the KLs is left out.
    """
    reached = min(max(ours["kl"]), max(theirs["kl"]))
    at = np.linspace(reached / 4, reached, 100)
    gold = []
    for curve in (ours, theirs):
        order = np.argsort(curve["kl"])
        gold.append(np.interp(at, *(np.array(curve[name])[order] for name in ("kl", "gold"))))
    return float(np.mean(gold[0] - gold[1]))


def points_of_ends(prompts: list[str], length: dict[str, list[dict]], labels: int) -> tuple:
    """(points, answers) of PPO by length-biased rewards, for the plane and the page."""
    points, texts, rewards = [], [], []
    for name, (first, *_, last) in length.items():
        about = "PPO", f"length, {name}", f"update {last['step']}", last["answers"], labels
        points.append(answers.point_of(*about, biased=True, beta=KL_TERM[name]))
        texts.append(last["answers"].texts)
        rewards.append({"before": first["rewards"], "after": last["rewards"]})
    return points, answers.answers_of_points(prompts, points, texts, rewards)


def name_of(rate: float, passes: int) -> str:
    """Times the default learning rate, and passes: "x3.3, 4"."""
    return f"x{rate:.2g}, {passes}"


def draw(runs: list[dict]):
    """Settings of PPO and DPO, clipping, passes over the same answers, the KL term."""
    figure, axes = figures.new_figure(2, 2, "What PPO depends on", height=3.4)
    grid_panel(axes[0], runs)
    columns = {"default rate, clipped": [run["settings"]["PPO"][0]["gold"] for run in runs]}
    clipped = columns["x 3.3, clipped"] = [run["clipped"] for run in runs]
    unclipped = columns["x 3.3, unclipped"] = [run["unclipped"] for run in runs]
    figures.seed_columns(axes[1], columns, ["lab:rl", "lab:rl", "lab:rejected"])
    title = f"A high rate: {np.mean(clipped):.1f} with clipping, else {np.mean(unclipped):.1f}"
    axes[1].set(title=title, ylabel="gold utility (log-odds)")
    reuse_panel(axes[2], [run["passes"] for run in runs])
    equal_kl_panel(axes[3], runs)
    return figure


def grid_panel(ax, runs: list[dict]) -> None:
    """Gold utility of every setting of both methods; hollow where a training is not finished."""
    names = []
    for method, color in (("PPO", "lab:rl"), ("DPO", "lab:dpo")):
        for rows in zip(*(run["settings"][method] for run in runs), strict=True):  # of all seeds
            spread = np.linspace(-0.15, 0.15, len(rows)) if len(rows) > 1 else [0]
            for shift, row in zip(spread, rows, strict=True):
                face = color if row["finished"] else "white"
                ax.plot(len(names) + shift, row["gold"], "o", color=color, mfc=face, ms=3.5)
            names.append(name_of(rows[0]["rate"], rows[0]["epochs"]))
        ax.plot([], [], "o", color=color, label=method)
    ax.plot([], [], "o", color="black", mfc="white", label="not finished")
    ranges = [np.mean([range_of_finished(run, method) for run in runs]) for method in GRID]
    ax.set_title(f"Best minus worst: PPO {ranges[0]:.1f}, DPO {ranges[1]:.1f}")
    ax.set_xticks(range(len(names)), names, fontsize=7)
    ax.set(xlabel="learning rate over the default, and passes", ylabel=figures.GOLD)
    figures.legend_below(ax, ncols=3)


def reuse_panel(ax, seeds: list[dict]) -> None:
    """Gold utility against the number of answers that were sampled, by passes over them."""
    styles = {(1, 4): ("lab:rl", "-"), (1, 1): ("lab:sft", "-"), (FAST, 1): ("lab:sft", ":")}
    for (rate, passes), (color, dashes) in styles.items():
        name = name_of(rate, passes)
        answered = [128 * step for step in seeds[0][name]["step"]]  # 32 prompts x 4
        values = [of_seed[name]["gold"] for of_seed in seeds]
        label = f"{passes} pass{'es' if passes > 1 else ''}, rate x {rate:.2g}"
        figures.seed_lines(ax, answered, values, color, label, ls=dashes)
    ends = [np.mean([of_seed[name_of(*key)]["gold"][1] for of_seed in seeds]) for key in styles]
    ax.set_title(f"Half-way: four passes {ends[0]:.1f}, one pass {max(ends[1:]):.1f}")
    ax.set(xlabel="answers sampled", ylabel="gold utility (log-odds)", xticks=answered)
    figures.legend_below(ax, ncols=2)


def equal_kl_panel(ax, runs: list[dict]) -> None:
    """Gold utility against KL where annotators prefer length, with the KL term and without."""
    for name, color in zip(KL_TERM, ("lab:rl", "lab:biased"), strict=True):
        for k, run in enumerate(runs):
            curve, label = run["kl_term"][name], name if k == 0 else None
            ax.plot(curve["kl"], curve["gold"], "o-", color=color, ms=2.5, lw=0.8, label=label)
    gap = np.mean([run["kl_term_at_equal_kl"] for run in runs])
    ax.set_title(f"With the KL term at equal KL: gold {gap:+.2f}")
    ax.set(xlabel="measured KL (nats; annotators prefer length)", ylabel="gold utility (log-odds)")
    ax.set_xscale("function", functions=(lambda kl: np.sqrt(np.maximum(kl, 0)), np.square))
    ax.set_xlim(0, None)
    figures.legend_below(ax, ncols=2)


if __name__ == "__main__":
    run_study(CLAIMS, measure, draw)
