"""Open exercise: what happens to wrong answers when no pair shows one?

    python 05-preference-tuning/exercises/without_wrong.py
    python 05-preference-tuning/exercises/without_wrong.py --seed 1

Draws as many pairs as dpo_trainer.py has, but none in which an answer is wrong, and trains with the
same settings. About half a minute on one core; writes nothing.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the lessons

import installed  # noqa: F401

from dpo_trainer import train_dpo

from common import answers, runs
from common.intervals import interval, percent
from common.models import load_causal_lm, quiet_libraries
from common.preferences import SIDES, make_pairs, questions, read_response


def shows_wrong(pair: dict) -> bool:
    """Whether an answer of the pair names a wrong fact."""
    readings = [read_response(pair["prompt"], pair[side]) for side in SIDES]
    return any(reading.on_topic and not reading.correct for reading in readings)


def main() -> None:
    parser = runs.OneLineParser(description=__doc__)
    of = "of pairs and training"
    parser.add_argument("--seed", type=runs.whole_number(0), default=0, help=of)
    seed = parser.parse_args().seed
    quiet_libraries()
    pairs = [pair for pair in make_pairs(3072, seed=seed) if not shows_wrong(pair)][:768]
    print(f"{len(pairs)} pairs, none of which shows a wrong answer")
    model, tokenizer = load_causal_lm("tiny-gpt2")
    prompts = [question.prompt for question in questions("test")[:256]]
    policy = model
    for when in ("before", "after"):
        if when == "after":
            policy, _ = train_dpo(model, tokenizer, pairs, seed=seed)
        sampled = answers.sample_answers(policy, tokenizer, prompts, n=3, seed=seed)
        found = answers.summarize(sampled)
        print(
            f"{when}: of the answers on topic {percent(found['right_of_on_topic'])} are right; "
            f"without filler {percent(found['plain'])}, "
            f"gold utility {interval(found['gold'])}, KL {interval(found['kl'])} nats"
        )


if __name__ == "__main__":
    runs.run(main)
