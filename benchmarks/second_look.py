"""Does the second look see what went wrong, and is it silent where nothing did?

    python benchmarks/second_look.py            # 66 runs, about a quarter of an hour on one core
    python benchmarks/second_look.py --seeds 1  # a third of them

Plants failures in the world's pairs, or in how they are trained on, runs dpo_trainer.py on them as
on anybody's file, and counts which checks fire; the same on sound pairs with several settings. The
limits in own_data/questions.json were fixed before the first of these runs. Gold utility, which the
checks never see, says what became of the answers. Writes every run to benchmarks/second_look.json,
where it is not repeated while the file is there, and the table to benchmarks/second_look.md.
"""

import argparse
import contextlib
import io
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "05-preference-tuning"))

import dpo_trainer  # noqa: E402
import numpy as np  # noqa: E402
from own_data.look import QUESTIONS, telling_words  # noqa: E402

from common.preferences import COLUMNS, SIDES, flip_labels, make_pairs, swap_sides  # noqa: E402
from common.saving import write_json  # noqa: E402

PAIRS, FIRST_SEED = 400, 1000
POLITE = ("", " Please.", " Thanks.", " Please tell me.", " Thank you.", " I wonder.")


class Case(NamedTuple):
    """Pairs of a seed, the flags they are trained with, and the checks of which one should fire."""

    name: str
    pairs: Callable[[int], list[dict]]
    flags: tuple = ()
    fires: tuple[str, ...] = ()


# --- Sound pairs and broken ones ---


def sound(seed: int) -> list[dict]:
    """The world's pairs, labelled by unbiased annotators."""
    return make_pairs(PAIRS, seed=seed)


def longer_chosen(seed: int) -> list[dict]:
    """The longer answer is always chosen."""
    return [
        swap_sides(row) if len(row["chosen"]) < len(row["rejected"]) else row for row in sound(seed)
    ]


def with_role_marks(seed: int) -> list[dict]:
    """Both answers begin with a role, as in exported chats; "Assistant:" would be taken away."""
    return [row | {side: f"GPT: {row[side]}" for side in SIDES} for row in sound(seed)]


def few_repeated(seed: int) -> list[dict]:
    """A fifth as many pairs, each under five wordings of its prompt."""
    rows = sound(seed)[: PAIRS // 5]
    return [row | {"prompt": row["prompt"] + polite} for row in rows for polite in POLITE[:5]]


def in_capitals(seed: int) -> list[dict]:
    """The chosen answers come from another writer than the model."""
    return [row | {"chosen": row["chosen"].upper()} for row in sound(seed)]


def cut_answers(seed: int) -> list[dict]:
    """Both answers stop in the middle, as at a limit of tokens."""
    rows = []
    for row in sound(seed):
        sides = {}
        for side in SIDES:
            words = row[side].split()
            sides[side] = " ".join(words[: max(1, 2 * len(words) // 3)])
        rows.append(row | sides)
    return rows


def coin_labels(seed: int) -> list[dict]:
    """Half of the labels are swapped."""
    return flip_labels(sound(seed), 0.5, seed)


def contradicted(seed: int) -> list[dict]:
    """Every pair stands there twice, the second time with the other label and another wording."""
    rows = sound(seed)[: PAIRS // 2]
    again = [swap_sides(row) | {"prompt": row["prompt"] + POLITE[1]} for row in rows]
    return rows + again


def swapped(seed: int) -> list[dict]:
    """All labels are the wrong way round."""
    return [swap_sides(row) for row in sound(seed)]


def noisy(seed: int) -> list[dict]:
    """One label in eight is swapped, as careless annotators do."""
    return flip_labels(sound(seed), 1 / 8, seed)


def of_fewer(seed: int) -> list[dict]:
    """256 pairs of the world."""
    return sound(seed)[:256]


def love_of_experts(seed: int) -> list[dict]:
    """Annotators who love an expert's preamble."""
    return make_pairs(PAIRS, annotator="style", seed=seed)


def love_of_agreement(seed: int) -> list[dict]:
    """Annotators who love to be agreed with."""
    return make_pairs(PAIRS, annotator="agreement", seed=seed)


RANKING, DISTANCE = ("reversed", "chance"), ("too_far", "displaced")
PLANTS = (
    Case("the longer answer is always chosen", longer_chosen, fires=("length",)),
    Case("answers begin with “GPT:”", with_role_marks, fires=("marks",)),
    Case("80 pairs, each under five prompts", few_repeated, fires=("repeats", "twins")),
    Case("chosen answers in capitals", in_capitals, fires=("unlike",)),
    Case("answers cut after two thirds", cut_answers, fires=("cut",)),
    Case("a model that was never trained", sound, ("--model", "untrained"), ("base",)),
    Case("a limit of 4 tokens", sound, ("--max-new-tokens", 4), ("base",)),
    Case("labels by a coin", coin_labels, fires=RANKING),
    Case("each pair also the other way round", contradicted, fires=RANKING),
    Case("learning rate 1e-6", sound, ("--learning-rate", 1e-6), ("unmoved",)),
    Case("learning rate 2e-2", sound, ("--learning-rate", 2e-2), DISTANCE),
    Case("5 passes at beta 0.03", of_fewer, ("--beta", 0.03, "--epochs", 5), DISTANCE),
)
INVISIBLE = (
    Case("all labels the wrong way round", swapped),
    Case("annotators who love experts", love_of_experts),
    Case("annotators who love agreement", love_of_agreement),
)
HEALTHY = (
    Case("defaults", sound),
    Case("256 pairs", of_fewer),
    Case("one label in eight swapped", noisy),
    Case("beta 0.1", sound, ("--beta", 0.1)),
    Case("beta 1", sound, ("--beta", 1)),
    Case("half the learning rate", sound, ("--learning-rate", 3.5e-4)),
    Case("2 passes", sound, ("--epochs", 2)),
)


# --- Running them ---


def run(case: Case, seed: int, folder: Path) -> dict:
    """What dpo_trainer.py says of one case: checks that fired, gold utility where it is known."""
    rows, path = case.pairs(seed), folder / "pairs.jsonl"
    lines = [json.dumps({column: row[column] for column in COLUMNS}) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    flags = [str(folder.parent / flag) if flag == "untrained" else str(flag) for flag in case.flags]
    place = ["--dataset", str(path), "--output-dir", str(folder / "outputs"), "--seed", str(seed)]
    with contextlib.redirect_stdout(io.StringIO()):
        metrics = dpo_trainer.main([*flags, *place, "--prompts", "48"])
    return {
        "fired": [question["check"] for question in metrics["second_look"]["questions"]],
        "numbers": metrics["second_look"]["numbers"],
        "gold": [metrics[when].get("gold") for when in ("before", "after")],
        "words": [word for word, z in telling_words(rows).items() if z > 0][:3],
    }


def save_untrained(folder: Path) -> None:
    """The embedded model with weights drawn at random."""
    import torch
    from transformers import AutoModelForCausalLM

    from common.models import load_causal_lm

    torch.manual_seed(0)
    model, tokenizer = load_causal_lm("tiny-gpt2")
    AutoModelForCausalLM.from_config(model.config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def row_of(case: Case, runs: Sequence[dict]) -> str:
    """A row of the table: in how many runs a check fired that should, and which others did.

    Where nothing should, in how many runs anything did.
    """
    awaited = set(case.fires or QUESTIONS)
    hits = sum(bool(set(run["fired"]) & awaited) for run in runs)
    others = Counter(name for run in runs for name in set(run["fired"]) - set(case.fires))
    gold = [run["gold"] for run in runs]
    change = "" if None in gold[0] else "{:.1f} to {:.1f}".format(*np.mean(gold, axis=0))
    also = ", ".join(f"{name} ({count})" for name, count in sorted(others.items()))
    expected = " or ".join(case.fires) or "nothing"
    words = ", ".join(list(dict.fromkeys(word for run in runs for word in run["words"]))[:4])
    return f"| {case.name} | {expected} | {hits} of {len(runs)} | {also} | {change} | {words} |"


def make_table(runs: dict[str, dict]) -> str:
    """Markdown: every case that has been run, by its name and the seeds."""
    lines = ["| run | should fire | fired | also fired | gold utility | words of chosen |"]
    lines.append("|---|---|---|---|---|---|")
    for case in (*PLANTS, *INVISIBLE, *HEALTHY):
        if case.name in runs:
            lines.append(row_of(case, list(runs[case.name].values())))
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    seeds = range(FIRST_SEED, FIRST_SEED + parser.parse_args().seeds)
    results = Path(__file__).with_suffix(".json")
    runs = json.loads(results.read_text(encoding="utf-8")) if results.exists() else {}
    with tempfile.TemporaryDirectory() as name:
        save_untrained(Path(name, "untrained"))
        for seed in seeds:
            for case in (*PLANTS, *INVISIBLE, *HEALTHY):
                of_case = runs.setdefault(case.name, {})
                if str(seed) not in of_case:
                    of_case[str(seed)] = run(case, seed, Path(tempfile.mkdtemp(dir=name)))
                    write_json(results, runs)
                    print(case.name, seed, of_case[str(seed)]["fired"], flush=True)
    Path(__file__).with_suffix(".md").write_text(make_table(runs), encoding="utf-8")


if __name__ == "__main__":
    main()
