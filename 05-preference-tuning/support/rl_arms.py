"""The arms of online_rl.py: online RL and DPO from the same SFT checkpoint, read alike."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from support.answers import answers_of_points
from support.artifacts import load_adapter
from support.evaluation import score_texts, summarize
from support.start import Start
from support.training import Trained, load_sft_checkpoint

import numpy as np

from common.intervals import summary

SAMPLES = 2  # answers to each held-out prompt, at every look
# How often a training reads or writes each token of a response; going backwards counts twice.
PASSES = {
    "dpo": {"policy": 1, "reference": 1, "backwards": 2},
    "rl": {"sampling": 1, "old": 1, "reference": 1, "policy": 1, "backwards": 2, "reward model": 1},
}


class Arm(NamedTuple):
    """A training: whose reward model, how many times the learning rate and beta."""

    annotator: str = "human"
    rate: float = 1.0
    beta: float = 1.0


class Outcome(NamedTuple):
    """A training, where this run did it, with the last answers to the held-out prompts."""

    trained: Trained | None
    texts: list[list[str]]
    values: dict[str, np.ndarray]  # readings (P, SAMPLES), and the reward model's `reward`
    looks: tuple = ()  # the outcomes before, on the way and at the end


# --- Training ---


def read_answers(start: Start, policy, judge: tuple, seed: int, trained=None) -> Outcome:
    """Answers to the held-out prompts, read and scored."""
    texts, values = start.answer(policy, start.data.prompts, SAMPLES, seed)
    rewards = score_texts(judge, start.data.prompts, texts)
    return Outcome(trained, texts, {**values, "reward": rewards})


def train_dpo_arms(
    train: Callable, start: Start, judge: tuple, adapter: Path, arms: dict[str, Arm]
) -> dict[str, Outcome]:
    """DPO by `train` at the learning rate of each arm; at the default one it is the adapter."""
    outcomes, training = {}, start.training
    for name, arm in arms.items():
        base, tokenizer = load_sft_checkpoint(*start.sft)
        if arm.rate == 1:
            trained, policy = None, load_adapter(base, adapter)
        else:
            rate = arm.rate * training["learning_rate"]
            settings = {**training, "learning_rate": rate, "name": f"DPO, {arm.rate:g} x the rate"}
            trained = train(base, tokenizer, start.data.train, **settings)
            policy = trained.policy
        outcomes[name] = read_answers(start, policy, judge, training["seed"], trained)
    return outcomes


def train_rl_arms(
    train: Callable,
    start: Start,
    judges: dict[str, tuple],
    prompts: Sequence[str],
    arms: dict[str, Arm],
    training: dict,
) -> tuple[Outcome, dict[str, Outcome]]:
    """(the SFT checkpoint, online RL by `train` as each arm says), answers to held-out prompts.

    `judges` are (reward model, tokenizer) by annotator, `prompts` those that RL trains on.
    """
    before = {}
    for annotator, judge in judges.items():
        before[annotator] = read_answers(start, start.reference, judge, training["seed"])
    outcomes = {}
    for k, (name, arm) in enumerate(arms.items(), 1):
        judge, first = judges[arm.annotator], before[arm.annotator]
        settings = {**training, "name": f"online RL {k} of {len(arms)}"}
        outcomes[name] = train_rl_arm(train, start, judge, prompts, arm, first, **settings)
    return before["human"], outcomes


def train_rl_arm(
    train: Callable,
    start: Start,
    judge: tuple,
    prompts: Sequence[str],
    arm: Arm,
    before: Outcome,
    **training,
) -> Outcome:
    """Online RL by `train` as the arm says; `before` are the answers of the SFT checkpoint."""
    outcomes = [before]

    def look(step: int, policy) -> dict:
        if step:
            outcomes.append(read_answers(start, policy, judge, training["seed"] + step))
        return summarize(outcomes[-1].values)

    base, tokenizer = load_sft_checkpoint(*start.sft)
    settings = {
        **training,
        "learning_rate": arm.rate * training["learning_rate"],
        "beta": arm.beta * training["beta"],
    }
    trained = train(base, tokenizer, judge, prompts, **settings, look=look)
    return outcomes[-1]._replace(trained=trained, looks=tuple(outcomes))


# --- What the arms are compared by ---


def compare_methods(dpo: dict, rl: dict, arms: dict[str, Arm], rates: Sequence[str]) -> dict:
    """What the claims compare: tokens, and gold utility in log-odds, paired by prompt.

    `dpo` and `rl` are outcomes by arm; `rates` names those that differ in the learning rate alone.
    """
    rl_gold, dpo_gold = gold_of(rl, rates), gold_of(dpo, rates)  # (P, rates)
    with_kl, without_kl = gold_of(rl, ("biased", "biased_no_kl")).T
    at_default = rates.index("default")
    return {
        "cost": token_passes(dpo["slow"].trained, rl["default"].trained),
        "spread": spread_over_rates(rl_gold, dpo_gold, [arms[name].rate for name in rates]),
        "rl_minus_dpo": summary(rl_gold[:, at_default] - dpo_gold[:, at_default]),
        "held_by_kl": summary(with_kl - without_kl),
    }


def gold_of(outcomes: dict[str, Outcome], names: Sequence[str]) -> np.ndarray:
    """Gold utility per prompt of each arm, in log-odds: (P, arms)."""
    return np.column_stack([outcomes[name].values["utility"].mean(1) for name in names])


def spread(gold: np.ndarray, axis: int = 0) -> float:
    """The best mean over prompts minus the worst; gold (P, arms)."""
    means = gold.mean(axis)
    return float(means.max() - means.min())


def spread_over_rates(rl: np.ndarray, dpo: np.ndarray, factors: Sequence[float]) -> dict:
    """Gold utility (P, rates) at each factor of the learning rate: means, spreads, difference."""
    count = len(factors)

    def difference(both: np.ndarray, axis: int = 0) -> float:
        return spread(both[:, :count], axis) - spread(both[:, count:], axis)

    return {
        "factors": list(factors),
        "rl": [summary(values) for values in rl.T],
        "dpo": [summary(values) for values in dpo.T],
        "rl_spread": summary(rl, spread),
        "dpo_spread": summary(dpo, spread),
        "difference": summary(np.hstack([rl, dpo]), difference),
    }


def token_passes(dpo: Trained, rl: Trained) -> dict:
    """Tokens that pass through models in each training, and the doublings between the two."""
    pairs = dpo.trainer.train_dataset
    columns = zip(pairs["prompt_ids"], pairs["chosen_ids"], pairs["rejected_ids"], strict=True)
    tokens = sum(2 * len(prompt) + len(a) + len(b) for prompt, a, b in columns)
    dpo_passes = tokens * dpo.trainer.args.num_train_epochs * sum(PASSES["dpo"].values())
    tokens_so_far = [entry["num_tokens"] for entry in rl_logs(rl)]
    per_update = np.diff([0, *tokens_so_far]) * sum(PASSES["rl"].values())
    return {
        "dpo_passes": float(dpo_passes),
        "rl_passes": float(per_update.sum()),
        "doublings": summary(np.log2(len(per_update) * per_update / dpo_passes)),
    }


def rl_logs(trained: Trained) -> list[dict]:
    """What TRL logged of each update."""
    return [entry for entry in trained.trainer.state.log_history if "reward" in entry]


def training_curve(trained: Trained, beta: float) -> dict[str, list[float]]:
    """Per update: the mean reward of the sampled answers, and as it is optimised, log-odds."""
    logs = rl_logs(trained)
    rewards = [entry["reward"] for entry in logs]
    # TRL logs the mean of log pi/pi_ref per token.
    penalties = [beta * entry["kl"] * entry["completions/mean_length"] for entry in logs]
    return {"reward": rewards, "optimized": np.subtract(rewards, penalties).tolist()}


def frontier_points(
    outcomes: dict[str, Outcome], arms: dict[str, Arm], labels: dict[str, int | None]
) -> list[dict]:
    """Gold, good answers and KL along the arms at the default rate; labels: the judges' pairs."""
    points = []
    for name, arm in arms.items():
        if arm.rate != 1:
            continue
        shared = {"method": "online RL", "series": name, "annotations": labels[arm.annotator]}
        shared["biased"] = arm.annotator != "human"
        for seen in outcomes[name].trained.curve[1:]:
            label = f"update {seen['step']}" + ("" if arm.beta else ", no KL term")
            measured = {"kl": seen["kl"], "gold": seen["utility"], "good": seen["good"]}
            points.append({**shared, "label": label, "update": seen["step"], **measured})
    return points


def frontier_answers(
    prompts: Sequence[str], points: Sequence[dict], outcomes: dict[str, Outcome]
) -> dict:
    """The answers and rewards at the looks that are the points of `frontier_points`."""
    texts, rewards = [], []
    for series in dict.fromkeys(point["series"] for point in points):
        before, *looks = outcomes[series].looks
        first = before.values["reward"][:, 0]
        texts += [look.texts for look in looks]
        rewards += [{"before": first, "after": look.values["reward"][:, 0]} for look in looks]
    return answers_of_points(prompts, points, texts, rewards)


# --- Seconds and memory, which differ from run to run ---


def seconds_per_step(dpo: dict[str, Outcome], rl: dict[str, Outcome]) -> dict[str, float]:
    """Wall seconds of an update of online RL, and of a step of DPO where this run trained it."""
    updates = rl_logs(rl["default"].trained)
    seconds = {"rl_update": np.mean([update["step_time"] for update in updates])}
    for outcome in dpo.values():
        if outcome.trained:
            state = outcome.trained.trainer.state
            seconds["dpo_step"] = state.log_history[-1]["train_runtime"] / state.max_steps
    return {name: round(float(value), 3) for name, value in seconds.items()}


def peak_memory() -> int:
    """The most memory that this process ever held, in MB."""
    import resource
    import sys

    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KB on Linux
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6)
