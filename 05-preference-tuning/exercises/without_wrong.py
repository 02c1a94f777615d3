"""Open exercise: what happens to wrong answers when no pair shows one?

    python 05-preference-tuning/exercises/without_wrong.py
    python 05-preference-tuning/exercises/without_wrong.py --seed 1

Draws as many pairs as dpo_trainer.py has, but none in which an answer is wrong, and trains with the
same settings. About half a minute on one core; writes nothing.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the scripts

from support.evaluation import sample_answers, summarize
from support.training import training_settings

from dpo_trainer import train_dpo

from common import cli
from common.intervals import interval, percent
from common.models import load_causal_lm
from common.preferences import SIDES, make_pairs, questions, read_response


def shows_wrong(pair: dict) -> bool:
    """Whether an answer of the pair names a wrong fact."""
    readings = [read_response(pair["prompt"], pair[side]) for side in SIDES]
    return any(reading.on_topic and not reading.correct for reading in readings)


def main() -> None:
    """Train, sample, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=cli.whole_number(0), default=0, help="of pairs and training")
    seed = parser.parse_args().seed
    cli.quiet_libraries()
    settings = training_settings("dpo", model="tiny-gpt2")
    count = settings["pairs"]
    pairs = [pair for pair in make_pairs(4 * count, seed=seed) if not shows_wrong(pair)][:count]
    training = {name: settings[name] for name in ("learning_rate", "epochs", "batch_size")}

    reference, tokenizer = load_causal_lm("tiny-gpt2")
    prompts = [question.prompt for question in questions("test")[:256]]
    before = summarize(sample_answers(reference, tokenizer, prompts, 3, 48, seed)[1])
    policy = train_dpo(reference, tokenizer, pairs, **training, seed=seed).policy
    after = summarize(sample_answers(policy, tokenizer, prompts, 3, 48, seed)[1])
    print(f"{len(pairs)} pairs, none of which shows a wrong answer")
    for name, answers in (("before", before), ("after", after)):
        print(
            f"{name}: of the answers on topic {percent(answers['right_of_on_topic'])} are right; "
            f"without filler {percent(answers['plain'])}, "
            f"gold utility {interval(answers['utility'])}, KL {interval(answers['kl'])} nats"
        )


if __name__ == "__main__":
    cli.run(main)
