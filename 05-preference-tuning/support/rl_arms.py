"""The arms of online_rl.py: online RL and DPO from the same SFT checkpoint, read alike."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

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
    asked: Sequence[str],
    arms: dict[str, Arm],
    training: dict,
) -> tuple[Outcome, dict[str, Outcome]]:
    """(the SFT checkpoint, online RL by `train` as each arm says); asked are its prompts."""
    seed = training["seed"]
    first = {key: read_answers(start, start.reference, one, seed) for key, one in judges.items()}
    outcomes = {}
    for k, (name, arm) in enumerate(arms.items(), 1):
        judge, last = judges[arm.annotator], [first[arm.annotator]]

        def look(step: int, policy, judge=judge, last=last) -> dict:
            if step:
                last.append(read_answers(start, policy, judge, seed + step))
            return summarize(last[-1].values)

        settings = {"name": f"online RL {k} of {len(arms)}", "look": look}
        settings["learning_rate"] = arm.rate * training["learning_rate"]
        settings["beta"] = arm.beta * training["beta"]
        base, tokenizer = load_sft_checkpoint(*start.sft)
        trained = train(base, tokenizer, judge, asked, **(training | settings))
        outcomes[name] = last[-1]._replace(trained=trained)
    return first["human"], outcomes


# --- What the arms are compared by ---


def gold_of(outcomes: dict[str, Outcome], names: Sequence[str]) -> np.ndarray:
    """Gold utility per prompt of each arm: (P, arms)."""
    return np.column_stack([outcomes[name].values["utility"].mean(1) for name in names])


def spread(rows: np.ndarray, axis: int = 0) -> float:
    """The best mean over prompts minus the worst; rows (P, arms)."""
    means = rows.mean(axis)
    return float(means.max() - means.min())


def spread_over_rates(rl: np.ndarray, dpo: np.ndarray, factors: Sequence[float]) -> dict:
    """Gold utility (P, rates) at each factor of the learning rate: means, spreads, difference."""
    count = len(factors)

    def difference(rows: np.ndarray, axis: int = 0) -> float:
        return spread(rows[:, :count], axis) - spread(rows[:, count:], axis)

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
    rows = dpo.trainer.train_dataset
    sides = zip(rows["prompt_ids"], rows["chosen_ids"], rows["rejected_ids"], strict=True)
    tokens = sum(2 * len(prompt) + len(a) + len(b) for prompt, a, b in sides)
    dpo_passes = tokens * dpo.trainer.args.num_train_epochs * sum(PASSES["dpo"].values())
    seen = [entry["num_tokens"] for entry in rl_logs(rl)]
    per_update = np.diff([0, *seen]) * sum(PASSES["rl"].values())
    return {
        "dpo_passes": float(dpo_passes),
        "rl_passes": float(per_update.sum()),
        "doublings": summary(np.log2(len(seen) * per_update / dpo_passes)),
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
        about = {"method": "online RL", "series": name, "annotations": labels[arm.annotator]}
        about["biased"] = arm.annotator != "human"
        for seen in outcomes[name].trained.curve[1:] if arm.rate == 1 else ():
            label = f"update {seen['step']}" + ("" if arm.beta else ", no KL term")
            measured = {"kl": seen["kl"], "gold": seen["utility"], "good": seen["good"]}
            points.append({**about, "label": label, "update": seen["step"], **measured})
    return points


# --- Seconds and memory, which differ from run to run ---


def seconds_per_step(dpo: dict[str, Outcome], rl: dict[str, Outcome]) -> dict[str, float]:
    """Wall seconds of an update of online RL, and of a step of DPO where this run trained it."""
    seconds = {"rl_update": np.mean([x["step_time"] for x in rl_logs(rl["default"].trained)])}
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
