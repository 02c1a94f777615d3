"""Questions with ten responses each: a policy over them is a softmax, and its optimum is known."""

import random

import numpy as np

from common.intervals import summaries, summary
from common.preferences import (
    STYLE_SHARES,
    annotator_utility,
    gold_utility,
    holds_wrong_belief,
    questions,
    write_response,
)

STYLES = ("concise", "concise", "verbose", "verbose", "verbose", "expert", "expert", "wrong")
STYLES += ("sycophantic", "off_topic")


def make_bandit(count: int, seed: int) -> dict[str, np.ndarray]:
    """Questions with K responses: reference probabilities, gold and proxy utilities, (count, K).

    In all of them the user holds a wrong belief, so that every style can answer. `favourite` marks
    the responses that the proxy likes best; where they tie, several.
    """
    rng = random.Random(f"bandit {seed}")
    pool = [question for question in questions("test") if holds_wrong_belief(question)]
    gold, proxy = [], []
    for question in rng.sample(pool, count):
        texts: list[str] = []
        for style in STYLES:
            while (text := write_response(question, style, rng)) in texts:
                pass
            texts.append(text)
        gold.append([gold_utility(question.prompt, text) for text in texts])
        proxy.append([annotator_utility(question.prompt, text, "length") for text in texts])
    shares = np.array([STYLE_SHARES[style] / STYLES.count(style) for style in STYLES])
    gold, proxy = np.array(gold), np.array(proxy)
    favourite = np.isclose(proxy, proxy.max(-1, keepdims=True))
    ref = np.tile(shares / shares.sum(), (count, 1))
    return {"ref": ref, "gold": gold, "proxy": proxy, "favourite": favourite}


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities over the last axis."""
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def describe(log_probs: np.ndarray, world: dict, optimum: np.ndarray) -> dict[str, np.ndarray]:
    """What policies (..., N, K) earn, their KL from the reference, total variation from pi*."""
    probs = np.exp(log_probs)
    readings = {name: (probs * world[name]).sum(-1) for name in ("gold", "proxy", "favourite")}
    readings["kl"] = (probs * (log_probs - np.log(world["ref"]))).sum(-1)
    return readings | {"distance": np.abs(probs - optimum).sum(-1) / 2}


def moments(probs: np.ndarray, values: np.ndarray) -> dict:
    """Expectation and standard deviation of values under a policy, both (N, K)."""
    mean = (probs * values).sum(-1)
    spread = np.sqrt((probs * (values - mean[:, None]) ** 2).sum(-1))
    return {"average": summary(mean), "spread": summary(spread)}


def curve_at(readings: dict[str, np.ndarray], places=slice(None)) -> dict:
    """Readings (T, N) at some places of T, each as a quantity over the questions."""
    return {name: summaries(values[places]) for name, values in readings.items()}
