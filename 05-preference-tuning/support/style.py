"""Style and substance: what tuning does to texts that differ in one of them alone."""

from support.contrasts import GOLD, contrast_rewards
from support.evaluation import response_logps
from support.start import Start

import numpy as np

from common.intervals import summary
from common.models import encode_response
from common.preferences import questions


def log_odds(policy, start: Start) -> dict:
    """log p of a text minus that of one that differs in one thing, before and after tuning, nats.

    `right`: the right answer and a wrong one in the same sentence; `filler`: the right answer with
    and without filler, per word. `share` is what the implicit reward, beta times the change, has of
    the gold utility of that difference: 1 is where DPO ends on pairs without limit.
    """
    tokenizer, beta, seed = start.tokenizer, start.training["beta"], start.training["seed"]
    asked = questions("test")[: min(96, len(start.data.prompts))]

    def logps(prompts: list[str], texts: list[str]) -> np.ndarray:
        responses = [encode_response(tokenizer, text) for text in texts]
        return response_logps(policy, tokenizer, prompts, responses).numpy()

    after = contrast_rewards(logps, asked, seed)
    with policy.disable_adapter():
        before = contrast_rewards(logps, asked, seed)
    measured = {}
    for name in ("right", "filler"):
        change = after[name] - before[name]
        measured[name] = {
            "before": summary(before[name]),
            "after": summary(after[name]),
            "share": summary(beta * change / GOLD[name]),
        }
    return measured
