"""PPO's settings: which of learning rate, passes and clipping does it depend on?

    python 05-preference-tuning/studies/ppo_settings.py  # one seed, 2 minutes

PPO is trained by a reward model (it learned from 6,400 pairs which answers people choose), DPO on
768 pairs. Each has its default learning rate and 3.3 times that, and fewer or more passes (epochs)
over the same answers; PPO with the higher rate also without clipping (the limit to how far one
update may move a token's probability). DPO with the higher rate and three passes, ten times as
much, is left out. All answer the same 128 held-out questions twice, judged by gold utility (3 if
right, 1 if on topic, -0.15 for a word of filler; in log-odds). A training is finished if more of it
(rate or passes, and not less of the other) would not gain 0.15 on validation questions. Stability:
the best finished training minus the worst; PPO has four to choose from, DPO three. The KL term:
kl_term.py.
"""

import lessons  # noqa: F401

import numpy as np
from dpo_trainer import dpo_policy
from online_rl import train_rl
from reward_model import reward_model_in

from common import figures, preferences
from common.answers import sample_answers
from common.claims import Claim, run_study, study_folder
from common.training import load_sft_model

UPDATES = 8  # of PPO; after half of them the number of passes is judged
PPO_RATE, DPO_RATE, FAST = 3e-3, 7e-4, 10 / 3  # the default learning rates, and times the default
GRID = {  # times the default learning rate, and passes: the defaults come first
    "PPO": [(1, 4), (1, 1), (FAST, 4), (FAST, 1)],
    "DPO": [(1, 1), (FAST, 1), (1, 3)],
}
UNFINISHED = 0.15  # gold utility that more training of the same method still adds

CLAIMS = (
    Claim(
        "dpo_is_more_stable",
        "DPO is more stable than PPO-based RLHF",
        "range of gold utility over rates and passes, PPO (6,400 labels) minus DPO (768), log-odds",
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
        "PPO can use its answers several times, which saves samples",
        "gold utility after 512 answers, 4 passes minus 1 pass at the better of 2 rates, log-odds",
        of=lambda m: m["gained_by_passes"],
        smallest=0.1,
        predicted="no difference",  # with one seed a single pass at the high rate was as fast
    ),
)


def measure(seed: int, smoke: bool = False) -> dict:
    """All trainings of one seed, and what the claims and the figure need of them."""
    pairs = preferences.make_pairs(32 if smoke else 6400, seed=seed)
    folder = study_folder(seed, smoke) / "reward_model_6400"
    judge = reward_model_in(folder, "tiny-distilbert", pairs, seed=seed)
    draw_from, few = preferences.questions, 8 if smoke else 128
    splits = {"validation": draw_from("validation"), "test": draw_from("test", seed=seed)}
    prompts = {split: [q.prompt for q in splits[split][:few]] for split in splits}

    training = prompts, seed, smoke
    ppo = {key: ppo_end(judge, *training, *key) for key in GRID["PPO"]}
    unclipped = ppo_end(judge, *training, FAST, 4, epsilon=float("inf"))
    dpo = {key: dpo_end(*training, *key) for key in GRID["DPO"]}
    sft = sample_answers(*load_sft_model(), prompts["test"], 2, seed).gold.mean()
    passes = {}
    for key, end in ppo.items():
        gold = [float(sft), *end["path"].values()]
        passes[name_of(*key)] = {"step": [0, *end["path"]], "gold": gold}
    four, one, fast = (passes[name_of(*key)]["gold"][1] for key in ((1, 4), (1, 1), (FAST, 1)))
    return {
        "settings": {"PPO": with_finished(ppo), "DPO": with_finished(dpo)},
        "clipped": ppo[FAST, 4]["gold"],
        "unclipped": unclipped["gold"],
        "gained_by_passes": four - max(one, fast),
        "passes": passes,
    }


def gold_of(policy, tokenizer, prompts: list[str], n: int, seed: int) -> float:
    """Gold utility of n answers to each prompt; their KL, which takes as long, is not measured."""
    model = policy.get_base_model()  # with the adapter in it
    return float(sample_answers(model, tokenizer, prompts, n, seed).gold.mean())


def ppo_end(judge, prompts: dict, seed: int, smoke: bool, rate: float, epochs: int, **how) -> dict:
    """Gold utility half-way through PPO and at its end, and on validation prompts."""
    model, tokenizer = load_sft_model()
    asked, path = [question.prompt for question in preferences.questions("train")], {}

    def look(step: int, policy) -> None:
        if step > 0:  # before it is the SFT model's, each time
            path[step] = gold_of(policy, tokenizer, prompts["test"], 2, seed)

    how |= {"updates": 2, "prompts_per_update": 8} if smoke else {"updates": UPDATES}
    how |= {"learning_rate": rate * PPO_RATE, "epochs": epochs, "seed": seed}
    half = how["updates"] // 2
    policy, _ = train_rl(model, tokenizer, judge, asked, **how, look=look, look_at=(half,))
    validation = gold_of(policy, tokenizer, prompts["validation"], 1, seed)
    return {"path": path, "gold": path[how["updates"]], "validation": validation}


def dpo_end(prompts: dict, seed: int, smoke: bool, rate: float, epochs: int) -> dict:
    """Gold utility at the end of DPO, and on validation prompts; the policy is kept in a folder."""
    model, tokenizer = load_sft_model()
    pairs = preferences.make_pairs(32 if smoke else 768, seed=seed)
    name = "dpo" if (rate, epochs) == (1, 1) else f"dpo_x{rate:.0f}_{epochs}"
    how = {"learning_rate": rate * DPO_RATE, "epochs": epochs, "seed": seed}
    policy = dpo_policy(study_folder(seed, smoke) / name, model, tokenizer, pairs, **how)
    gold = gold_of(policy, tokenizer, prompts["test"], 2, seed)
    return {"gold": gold, "validation": gold_of(policy, tokenizer, prompts["validation"], 1, seed)}


def with_finished(ends: dict[tuple, dict]) -> list[dict]:
    """A row for each setting (rate, passes): its gold utility, and whether it is finished."""
    rows = []
    for (rate, epochs), end in ends.items():
        more = [ends[r, e]["validation"] for r, e in ends if r >= rate and e >= epochs]
        finished = all(gold - end["validation"] <= UNFINISHED for gold in more)
        rows.append({"rate": rate, "epochs": epochs, "finished": finished, "gold": end["gold"]})
    return rows


def range_of_finished(metrics: dict, method: str) -> float:
    """Gold utility of the best training minus that of the worst, of those that are finished."""
    return float(np.ptp([row["gold"] for row in metrics["settings"][method] if row["finished"]]))


def name_of(rate: float, passes: int) -> str:
    """Times the default learning rate, and passes: "x3.3, 4"."""
    return f"x{rate:.2g}, {passes}"


def draw(runs: list[dict]):
    """Settings of PPO and DPO, clipping, passes over the same answers."""
    ranges = {method: [range_of_finished(run, method) for run in runs] for method in GRID}
    told = ", ".join(f"{method} {np.mean(values):.1f}" for method, values in ranges.items())
    title = f"Best minus worst finished training, in gold utility: {told}"
    figure, axes = figures.new_figure(2, 2, title, height=3.4)
    grid_panel(axes[0], runs)
    figures.seed_columns(axes[1], ranges, ["lab:rl", "lab:dpo"], digits=1)
    axes[1].set(title="Best minus worst, a dot a seed", ylabel="gold utility (log-odds)")
    axes[1].set_ylim(0, 1.2 * max(map(max, ranges.values())))
    columns = {"default rate, clipped": [run["settings"]["PPO"][0]["gold"] for run in runs]}
    clipped = columns["x 3.3, clipped"] = [run["clipped"] for run in runs]
    unclipped = columns["x 3.3, unclipped"] = [run["unclipped"] for run in runs]
    figures.seed_columns(axes[2], columns, ["lab:rl", "lab:rl", "lab:rejected"])
    title = f"A high rate: {np.mean(clipped):.1f} with clipping, else {np.mean(unclipped):.1f}"
    axes[2].set(title=title, ylabel="gold utility (log-odds)")

    ax, halfway = axes[3], []  # gold utility against answers sampled, by passes over them
    styles = {(1, 4): ("lab:rl", "-"), (1, 1): ("lab:sft", "-"), (FAST, 1): ("lab:sft", ":")}
    for (rate, passes), (color, dashes) in styles.items():
        curves = [run["passes"][name_of(rate, passes)] for run in runs]
        answered = [128 * step for step in curves[0]["step"]]  # 32 prompts x 4
        gold = np.array([curve["gold"] for curve in curves])
        label = f"{passes} pass{'es' if passes > 1 else ''}, rate x {rate:.2g}"
        figures.seed_lines(ax, answered, gold, color, label, ls=dashes)
        halfway.append(gold[:, 1].mean())
    ax.set_title(f"Half-way: four passes {halfway[0]:.1f}, one pass {max(halfway[1:]):.1f}")
    ax.set(xlabel="answers sampled", ylabel="gold utility (log-odds)", xticks=answered)
    figures.legend_below(ax, ncols=2)
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
    ax.set_title("Every learning rate and number of passes")
    ax.set_xticks(range(len(names)), names, fontsize=7)
    ax.set(xlabel="learning rate over the default, and passes", ylabel=figures.GOLD)
    figures.legend_below(ax, ncols=3)


if __name__ == "__main__":
    run_study(CLAIMS, measure, draw)
