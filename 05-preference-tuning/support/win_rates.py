"""Win rates as a judge reports them, and as it would between answers of equal length."""

import argparse
from pathlib import Path

from support.evaluation import score_texts
from support.judging import averaged_preference, judge_pairs

import numpy as np

from common.cli import UserError, non_empty
from common.intervals import summary
from common.models import load_causal_lm, load_reward_model


def length_controlled_win_rate(preferences: np.ndarray, length_differences: np.ndarray) -> float:
    """Win rate that a judge would report between answers of equal length.

    A logistic regression of the judge's preferences for ours (N,) in [0, 1] on tanh of the
    standardised differences in length (N,), ours minus theirs, read off at difference 0. Dubois et
    al. 2024 (arXiv 2404.04475), without their term for the difficulty of the prompt. Newton's
    method; a ridge of 1e-3 keeps a length-only judge finite.
    """
    x = np.tanh(length_differences / max(np.std(length_differences), 1e-12))
    design, weights = np.column_stack([np.ones_like(x), x]), np.zeros(2)
    for _ in range(100):
        p = 1 / (1 + np.exp(-design @ weights))
        gradient = design.T @ (p - preferences) + 1e-3 * weights
        hessian = design.T @ (design * (p * (1 - p))[:, None]) + 1e-3 * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        weights = weights - step / max(1, np.abs(step).max())
    return float(1 / (1 + np.exp(-weights[0])))


def raw_and_controlled(wins: np.ndarray, length_differences: np.ndarray) -> dict:
    """Win rates raw and length-controlled; wins (P, k) in [0, 1], differences in length (P, k)."""
    table = np.stack([wins, length_differences], axis=-1)  # (P, k, 2)

    def controlled(rows: np.ndarray, axis: int = 0) -> float:
        return length_controlled_win_rate(*rows.reshape(-1, 2).T)

    def inflation(rows: np.ndarray, axis: int = 0) -> float:
        return rows[..., 0].mean() - controlled(rows)

    return {
        "raw": summary(table[..., 0].mean(1)),
        "length_controlled": summary(table, controlled, resamples=300),
        "raw_minus_controlled": summary(table, inflation, resamples=300),
    }


def judged_win_rates(ours: dict, theirs: dict) -> dict:
    """Win rates by `reward`, raw and length-controlled, and by gold `utility`; ties count half.

    Both hold arrays (P, n) of reward, words and utility; as many samples of each are paired.
    """
    k = min(ours["reward"].shape[1], theirs["reward"].shape[1])
    names = ("reward", "words", "utility")
    reward, words, gold = (ours[name][:, :k] - theirs[name][:, :k] for name in names)
    rates = raw_and_controlled(share_won(reward), words)
    return {"raw": rates["raw"], "gold": summary(share_won(gold).mean(1)), **rates}


def share_won(differences: np.ndarray) -> np.ndarray:
    """1 where ours is ahead of theirs, 0 where it is behind, 1/2 at a tie; any shape."""
    return (1 + np.sign(differences)) / 2


# --- The tuned answers against those of the reference ---


def add_judge_flags(group: "argparse._ArgumentGroup") -> None:
    """--judge and --reward-model, which compare the answers before and after."""
    judge = "a language model that compares the answers before and after, in both orders"
    group.add_argument("--judge", type=non_empty, help=judge)
    scorer = "a trained reward model that does the same"
    group.add_argument("--reward-model", type=Path, help=scorer)


def load_judges(judge: str | None, reward_model: Path | None, device: str) -> dict[str, tuple]:
    """(model, tokenizer) of a language model and of a reward model; what is None is left out.

    Raises UserError where there is none, and for a model without a trained head.
    """
    judges = {}
    if judge:
        judges["judge"] = load_causal_lm(judge, device)
    if reward_model:
        judges["reward_model"] = scorer = load_reward_model(str(reward_model), device)
        if "ForSequenceClassification" not in str(scorer[0].config.architectures):
            reason = f"{reward_model} is a model without a head that scores"
            raise UserError(f"--reward-model: {reason}; train one with reward_model.py")
    return judges


def win_rates_without_gold(
    judges: dict[str, tuple], prompts: list[str], ours: tuple, theirs: tuple
) -> dict:
    """Win rates of our answers over theirs by each of the judges, see `load_judges`.

    Answers are texts (P, n) and their readings. The language model sees both orders, whose mean
    decides; two equal texts tie.
    """
    rates, longer = {}, ours[1]["words"] - theirs[1]["words"]
    for name, judge in judges.items():
        if name == "reward_model":
            rewards = [score_texts(judge, prompts, texts) for texts, _ in (ours, theirs)]
            rates[name] = raw_and_controlled(share_won(rewards[0] - rewards[1]), longer)
        else:
            verdicts = ask_judge(judge, prompts, ours[0], theirs[0])
            rates[name] = {
                **raw_and_controlled(share_won(verdicts["preference"] - 0.5), longer),
                "verdict_depends_on_order": summary(verdicts["by_order"].mean(1)),
                "answers_a_or_b": summary((verdicts["answered"] > 0.5).mean(1)),
            }
    return {"win_rates": rates} if rates else {}


def ask_judge(judge: tuple, prompts: list[str], ours: list[list[str]], theirs) -> dict:
    """How the judge compares texts (P, n), arrays (P, n).

    `preference` is P(ours is better), both orders averaged; `by_order` says whether the order
    decides; `answered` is the mean of P(A) + P(B).
    """
    pairs = []
    for prompt, first, second in zip(prompts, ours, theirs, strict=True):
        for chosen, rejected in zip(first, second, strict=True):
            pairs.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
    verdicts = judge_pairs(*judge, pairs)
    equal = np.array([row["chosen"] == row["rejected"] for row in pairs])
    forward, backward = verdicts["forward"], verdicts["backward"]
    table = {
        "preference": np.where(equal, 0.5, averaged_preference(forward, backward)),
        "by_order": ~equal & ((forward > 0.5) != (backward < 0.5)),
        "answered": verdicts["answered"].reshape(3, -1).mean(0),  # of both orders, and of equals
    }
    return {name: values.reshape(len(prompts), -1) for name, values in table.items()}
