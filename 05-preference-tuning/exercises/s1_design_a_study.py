"""Design a study: does a larger LoRA rank change what DPO learns?

A lesson shows one run; a study decides. Say first what you expect. Then plan the seeds, measure
both ranks in the same way, and draw the difference with its interval. The checker has your
functions measure trainings that are made up, so it answers at once. The real study:

    python 05-preference-tuning/exercises/s1_design_a_study.py --seeds 0 1 2 3 4  # 1 minute a seed

Predict first: a verdict for the claim below, and which difference you would not care about.
"""

import check  # noqa: F401  # the lessons are found from here on
import numpy as np  # noqa: F401
from dpo_trainer import train_dpo  # noqa: F401

from common.answers import sample_answers  # noqa: F401
from common.claims import VERDICTS, Claim, run_study  # noqa: F401
from common.figures import new_figure, seed_dots  # noqa: F401
from common.intervals import interval, t_interval  # noqa: F401
from common.preferences import make_pairs, questions  # noqa: F401
from common.training import load_sft_model  # noqa: F401

RANKS = (2, 32)  # the lessons have 8
SEEDS = ()  # a gap: those that you are going to run
CLAIMS = (
    Claim(
        "a_larger_rank_learns_more",
        "a larger LoRA rank changes what DPO learns",
        "share of right and concise answers with the larger rank, minus that with the smaller",
        of=lambda m: 0.0,  # a gap: this difference, in what `measure` returns for one seed
        smallest=0.0,  # a gap: the smallest difference that is worth calling one
        predicted="",  # a gap: one of VERDICTS, written before the run
    ),
)


def measure(seed: int, smoke: bool = False) -> dict:
    """What both ranks give with one seed, ready for JSON.

    The seed draws pairs, training, and the questions of the "test" split; with `smoke` they are
    few. A training puts its adapter into the model that it is given.
    """
    raise NotImplementedError


def draw(runs: list[dict]):
    """A figure of what `measure` returned for each seed, with the mean difference's interval."""
    raise NotImplementedError


if __name__ == "__main__":
    run_study(CLAIMS, measure, draw)
