"""PPO beside DPO: which gets further with as many labels, and what does it cost?

    python 05-preference-tuning/studies/rl_beside_dpo.py  # 5 minutes; 1.5 after likelihood_term

PPO, RLOO (PPO without a value model: an answer is compared with the others to the same prompt) and
DPO start from the same SFT model and have the same labelled pairs: 6,400, or 768 (not RLOO). DPO
trains on them; PPO and RLOO train on answers of their own, which a reward model of these pairs
scores. It starts from a small encoder; with 768 pairs there is also one that starts from the SFT
model. With 6,400 pairs there is also DPO with a likelihood term, which makes chosen answers
likelier; the rates were chosen on validation questions. All answer 128 held-out questions twice.

The cost is counted in tokens that pass through a model; going backwards counts twice. A pair costs
a reward model less than DPO, whose reference reads it, too: at 6,400 that pays for PPO's answers.
"""

import lessons  # noqa: F401

import numpy as np
from dpo_trainer import dpo_policy
from online_rl import train_rl
from reward_model import reward_model_in

from common import answers, figures, preferences
from common.claims import Claim, run_study, study_folder
from common.prompts import encode_answers
from common.scoring import encode_for_reward, score_texts
from common.training import load_sft_model

LABELS = {"768": 768, "6400": 6400}  # labelled pairs
# Reward models: where the studies of a seed keep them, what they start from, whose labels they use.
REWARD_MODELS = {
    "768": ("reward_model_768", "tiny-distilbert", "768"),
    "768, SFT start": ("reward_model_768_sft", "tiny-gpt2", "768"),
    "6400": ("reward_model_6400", "tiny-distilbert", "6400"),
}
RLOO = {"advantages": "leave-one-out", "epochs": 1, "updates": 20}  # as much computing as PPO
# By method and reward model, what is not the lesson's default; one is looked at on the way, too.
TRAINED_ONLINE = {
    ("PPO", "768"): {},
    ("PPO", "768, SFT start"): {},
    ("PPO", "6400"): {"look_at": (2, 4, 6)},
    ("RLOO", "6400"): RLOO,
}
LIKELIHOOD_TERM = {"loss_type": ("sigmoid", "sft"), "learning_rate": 3e-4}
DPO = {  # where they are kept, whose labels they use, and what is not the lesson's default
    "768": ("dpo", "768", {}),
    "6400": ("dpo_6400", "6400", {"learning_rate": 3e-4}),
    "6400, likelihood term": ("dpo_6400_sft", "6400", LIKELIHOOD_TERM),
}


def times_of_dpo(metrics: dict, labels: str) -> float:
    """How many times DPO's tokens PPO takes, with its reward model and as many labels."""
    tokens = metrics["cost"]["tokens"]
    return tokens[f"PPO, {labels}"] / tokens[f"DPO, {labels}"]


CLAIMS = (
    Claim(
        "dpo_is_simpler",
        "DPO is simpler than PPO-based RLHF",
        "doublings of tokens through models, DPO to PPO with its reward model, 768 labels for both",
        of=lambda m: float(np.log2(times_of_dpo(m, "768"))),
        smallest=0.5,
    ),
    Claim(
        "rl_explores_768",
        "with few labels PPO gets further than DPO, because it can explore",
        "gold utility, PPO (reward model from the SFT model) minus DPO, 768 labels, log-odds",
        of=lambda m: m["gold"]["PPO, 768, SFT start"] - m["gold"]["DPO, 768"],
        smallest=0.1,
        predicted="does not hold",
    ),
    Claim(
        "rl_explores",
        "PPO can explore: it gets further than DPO on its fixed pairs",
        "gold utility, PPO minus plain DPO, 6,400 labels for both, log-odds",
        of=lambda m: m["gold"]["PPO, 6400"] - m["gold"]["DPO, 6400"],
        smallest=0.1,
    ),
    Claim(
        "rl_explores_better_dpo",
        "PPO gets further than DPO with a likelihood term, too",
        "gold utility, PPO minus DPO with a likelihood term, 6,400 labels for both, log-odds",
        of=lambda m: m["gold"]["PPO, 6400"] - m["gold"]["DPO, 6400, likelihood term"],
        smallest=0.15,
        predicted="no difference",
    ),
)


def measure(seed: int, smoke: bool = False) -> dict:
    """All trainings of one seed, and what the claims, the plane and the page need of them."""
    asked = preferences.questions("test", seed=seed)[: 8 if smoke else 128]
    prompts, kept, pairs = [question.prompt for question in asked], study_folder(seed, smoke), {}
    for name, count in LABELS.items():
        pairs[name] = preferences.make_pairs(32 if smoke else count, seed=seed)
    ends, looks, tokens, points, texts, rewards = {}, {}, {}, [], [], []
    for series, (folder, labels, recipe) in DPO.items():
        model, tokenizer = load_sft_model()
        how, name = {"seed": seed, **recipe}, f"DPO, {series}"
        policy = dpo_policy(kept / folder, model, tokenizer, pairs[labels], **how)
        ends[name] = answers.sample_answers(policy, tokenizer, prompts, 2, seed)
        tokens[name] = 4 * tokens_of_pairs(tokenizer, pairs[labels])  # policy, reference, backwards
    for (method, series), recipe in TRAINED_ONLINE.items():
        (folder, backbone, labels), name = REWARD_MODELS[series], f"{method}, {series}"
        judge = reward_model_in(kept / folder, backbone, pairs[labels], seed=seed)
        looks[name], tokens[name] = train_online(judge, prompts, seed, smoke, recipe)
        tokens[name] += 3 * tokens_of_reward_model(judge[1], pairs[labels])  # forwards, backwards
        first, *later = looks[name]
        ends[name] = later[-1]["answers"]
        for look in later:
            about = method, series, f"update {look['step']}", look["answers"], LABELS[labels]
            points.append(answers.point_of(*about))
            texts.append(look["answers"].texts)
            rewards.append({"before": first["rewards"], "after": look["rewards"]})
    return {
        "gold": {name: float(end.gold.mean()) for name, end in ends.items()},
        "kl": {name: float(end.kl.mean()) for name, end in ends.items()},
        "path": [{key: look[key] for key in ("step", "kl", "gold")} for look in looks["PPO, 6400"]],
        "cost": {"tokens": tokens},
        "points": points,
        "answers": answers.answers_of_points(prompts, points, texts, rewards),
    }


def train_online(judge: tuple, prompts: list, seed: int, smoke: bool, recipe: dict) -> tuple:
    """(looks, tokens through models) of a training that `judge`, a reward model, scores."""
    model, tokenizer = load_sft_model()
    asked, looks = [question.prompt for question in preferences.questions("train")], []

    def look(step: int, policy) -> None:
        seen = answers.sample_answers(policy, tokenizer, prompts, 2, seed)
        rewards = score_texts(judge, prompts, seen.texts)[:, 0]  # of the first answers
        looks.append({"step": step, **seen.means(), "answers": seen, "rewards": rewards})

    how = recipe | ({"updates": 3, "prompts_per_update": 8} if smoke else {})
    _, history = train_rl(model, tokenizer, judge, asked, **how, seed=seed, look=look)
    epochs = how.get("epochs", train_rl.__kwdefaults__["epochs"])
    # To sample, to remember log p, by the reference, by the reward model; 3 more in an epoch.
    return looks, (4 + 3 * epochs) * sum(update.tokens for update in history)


def tokens_of_pairs(tokenizer, pairs: list[dict]) -> int:
    """Tokens of both answers of each pair, with the prompt, as the policy reads them."""
    count = 0
    for row in pairs:
        for side in preferences.SIDES:
            count += sum(map(len, encode_answers(tokenizer, row["prompt"], [row[side]])))
    return count


def tokens_of_reward_model(tokenizer, pairs: list[dict]) -> int:
    """Tokens of both answers of each pair, with the prompt, as the reward model reads them."""
    asked = [row["prompt"] for row in pairs]
    texts = [row[side] for side in preferences.SIDES for row in pairs]
    return int(encode_for_reward(tokenizer, asked * 2, texts)["attention_mask"].sum())


def draw(runs: list[dict]):
    """Final gold utility with 768 and with 6,400 labels, the distance it took, the cost."""
    figure, axes = figures.new_figure(2, 2, "PPO and DPO from the same labels", height=3.4)
    ends = {name: [run["gold"][name] for run in runs] for name in runs[0]["gold"]}
    for ax, (labels, count) in zip(axes, LABELS.items(), strict=False):
        columns, colors = {}, []
        for name, gold in ends.items():
            method, its_labels, *rest = name.split(", ")
            if its_labels == labels:
                columns[", ".join([method, *rest])] = gold
                colors.append("lab:dpo" if method == "DPO" else "lab:rl")
        figures.seed_columns(ax, columns, colors)
        ax.set(title=f"The same {count:,} labels", ylabel=figures.GOLD)
        ax.set_ylim(min(map(min, ends.values())) - 0.2, 4.2)
    told = "SFT start: the reward model starts from the SFT model,\nelse from an encoder"
    axes[0].set_xlabel(told)
    ends_panel(axes[2], runs)

    columns = {}  # tokens through models, reward models included
    for labels, count in LABELS.items():
        for method in ("DPO", "PPO"):
            tokens = [run["cost"]["tokens"][f"{method}, {labels}"] for run in runs]
            columns[f"{method}, {count:,} labels"] = np.divide(tokens, 1000)
    figures.seed_columns(axes[3], columns, ["lab:dpo", "lab:rl"] * 2, digits=0)
    times = [np.mean([times_of_dpo(run, labels) for run in runs]) for labels in LABELS]
    axes[3].set(title="PPO takes {:.1f} or {:.1f} times DPO's computing".format(*times))
    axes[3].set(ylabel="1,000 tokens through models", ylim=(0, None))
    return figure


def ends_panel(ax, runs: list[dict]) -> None:
    """Gold utility against KL with 6,400 labels: PPO on its way, and where the others ended."""
    kl, gold = ([[look[key] for look in run["path"]] for run in runs] for key in ("kl", "gold"))
    ax.plot(np.transpose(kl), np.transpose(gold), color="lab:rl", lw=0.7, alpha=0.4)
    kl, gold = np.mean(kl, axis=0), np.mean(gold, axis=0)
    ax.plot(kl, gold, "o-", color="lab:rl", lw=2, ms=3, label="PPO, every second update")
    for name, label, marker, color in (
        ("RLOO, 6400", "RLOO", "^", "lab:rl"),
        ("DPO, 6400", "DPO", "s", "lab:dpo"),
        ("DPO, 6400, likelihood term", "DPO, likelihood term", "D", "lab:ipo"),
    ):
        x, y = ([run[key][name] for run in runs] for key in ("kl", "gold"))
        ax.plot(x, y, marker, color=color, ms=4, alpha=0.6, label=label)
    away = np.mean([run["kl"]["DPO, 6400"] for run in runs])
    ax.set_title(f"Many labels: PPO ends at KL {kl[-1]:.1f}, DPO at {away:.1f}")
    ax.set(xlabel="measured KL from the SFT model (nats)", ylabel="gold utility (log-odds)")
    ax.margins(0.1)
    figures.legend_below(ax, ncols=2)


if __name__ == "__main__":
    run_study(CLAIMS, measure, draw)
