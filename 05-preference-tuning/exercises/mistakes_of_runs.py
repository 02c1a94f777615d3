"""The exercises on runs: what is wrong with a training, and is a study planned well?"""

import re
import tomllib
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import grade
import numpy as np
from grade import Graded, careful

from common.claims import FEWEST, VERDICTS, judge
from common.preferences import questions
from common.saving import read_json

RUNS = Path(__file__).resolve().parent / "runs"
DEBUGS = tuple(f"d{number}_debug" for number in (1, 2, 3, 4))

# --- Debug a run ---


def grade_debug(name: str, folder: Path) -> Graded:
    """Is the fault of a run named, and if not, what in the run speaks against the guess?"""
    file, known = folder / f"{name}.toml", read_json(RUNS.with_name("evidence.json"))
    run = read_json(RUNS / f"{name[:2]}.json")
    try:
        said = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return Graded("wrong", f"{file.name} cannot be read: {error}")
    fault, place = (str(said.get(key, "")).strip().lower() for key in ("fault", "look_at"))
    if not fault:
        return Graded("not begun")
    for key, value, names in (("fault", fault, "shows"), ("look_at", place, "places")):
        if value and value not in known[names]:
            return Graded("wrong", f"{key} is one of {', '.join(known[names])}")
    if fault != run["fault"]:
        return Graded("wrong", f"{fault}? {told_by(run, known['against'][run['fault']][fault])}")
    if not place:
        return Graded("not begun", f"{fault} is right; where would you look first?")
    if place != known["first"][fault]:
        return Graded("wrong", f"{fault} is right, but {place}: {known['places'][place]}")
    return Graded("right", told_by(run, known["shows"][fault]))


def told_by(run: dict, sentence: str) -> str:
    """A sentence of evidence.json with the numbers of a run."""
    after = run["after"]
    beta = after["margin"] / (after["chosen"] - after["rejected"])
    passes = 8 * run["steps"] / run["pairs"]
    return sentence.format(beta=beta, passes=passes, **run).replace("%", " %")


# --- Design a study ---

STUDY = "s1_design_a_study"
READ = ("good", "gold", "correct", "on_topic", "plain", "kl", "words")  # in answers


def measured(file: Path, seed: int = 0, exchanged: bool = False) -> tuple[dict, dict, list, list]:
    """(the study's names, what it measures, its trainings, what it asks the trained).

    The trainings are made up: the larger rank answers better, or the smaller, if exchanged.
    """
    trained, asked = [], []

    def load(*_, **__) -> tuple:
        return SimpleNamespace(rank=0, seed=0, name_or_path="tiny-gpt2"), SimpleNamespace()

    def train(model, _, pairs, *, lora_r=8, seed=0, **how) -> tuple:
        begun = {"again": model.rank > 0, "lora_r": lora_r, "pairs": list(pairs), "seed": seed}
        trained.append(begun | how)
        model.rank, model.seed = lora_r, seed
        return model, []

    def sample(policy, _, prompts, n, seed=0, *__, **___):
        if policy.rank:
            asked.append({"prompts": list(prompts), "n": n, "seed": seed})
        luck, change = np.random.default_rng(policy.seed).normal([0.5, 0.05], [0.05, 0.02])
        value = luck + change * ((policy.rank > 8) != exchanged)
        of = {name: np.full((len(prompts), n), value) for name in READ}
        return SimpleNamespace(**of, means=lambda: dict.fromkeys(READ, float(value)))

    with (
        mock.patch("dpo_trainer.train_dpo", train),
        mock.patch("common.training.load_sft_model", load),
        mock.patch("common.answers.sample_answers", sample),
    ):
        measure = grade.load_function(file, "measure")
        with careful(file, 60):
            return measure.__globals__, measure(seed), trained, asked


def grade_study(folder: Path) -> Graded:
    """Whether what was planned can decide the question."""
    try:
        fault = fault_of_study(folder / f"{STUDY}.py")
    except grade.Failed as error:
        return Graded(*error.args)
    return Graded("wrong", fault) if fault else Graded("right")


def fault_of_study(file: Path) -> str | None:
    """The first item of the list that fails; None where none does."""
    study, metrics, trained, asked = measured(file)
    _, _, of_other_seed, _ = measured(file, seed=1)
    _, exchanged, *_ = measured(file, exchanged=True)
    with careful(file, 60):
        claim, seeds = study["CLAIMS"][0], list(study["SEEDS"])
        if claim.predicted not in VERDICTS:
            return f"no prediction: write one of {', '.join(VERDICTS)} before the run"
        if not 0 < claim.smallest < 0.3:
            shares = "as a share: below which you would call two ranks the same"
            return f"no smallest difference, {shares}"
        if (count := len(set(seeds))) < FEWEST:
            return f"too few seeds: {count}; with fewer than {FEWEST} an interval misleads"
        if fault := fault_of_pairing(trained, of_other_seed, asked):
            return fault
        value = claim.of(metrics)
        if value == 0 or not np.isclose(value, -claim.of(exchanged)):
            return "`of` is no difference: it is 0, or keeps its sign where the ranks are exchanged"
        if value < 0:
            return "`of` has the wrong sign: the larger rank minus the smaller"
    runs = [measured(file, seed)[1] for seed in seeds]
    with careful(file, 60):
        figure, ends = study["draw"](runs), judge(claim, runs)["ci95"]
        if not any(ax.get_ylabel() for ax in getattr(figure, "axes", [])):
            return "`draw` returns no figure with a named y axis"
        texts = figure.findobj(lambda part: hasattr(part, "get_text"))
        told = "\n".join(text.get_text() for text in texts)
    for times, digits in ((1, 2), (1, 3), (100, 0), (100, 1)):
        low, high = (re.escape(f"{times * end:.{digits}f}") for end in ends)
        if re.search(rf"{low}\D{{1,6}}{high}", told):
            return None
    return "no interval: write in the figure that of the differences, t_interval over the seeds"


def fault_of_pairing(trained: list[dict], of_other_seed: list, asked: list[dict]) -> str | None:
    """Whether two trainings, and what is asked of them, differ in the rank alone."""
    first, *others = trained or [{}]
    if len({training["lora_r"] for training in trained}) < 2:
        return "nothing to compare: train_dpo is not called with two ranks (lora_r)"
    if any(training["again"] for training in others):
        return "the second training goes on with the first one's model: load one for each"
    for key in first.keys() - {"lora_r", "name"}:
        if any(training.get(key) != first[key] for training in others):
            return f"not paired: the trainings differ in {key}, too"
    if not asked or any(questioned != asked[0] for questioned in asked):
        return "not paired: ask both policies the same questions, with the same sampling seed"
    if {*asked[0]["prompts"]} & {question.prompt for question in questions("train")}:
        return "they are asked what they were trained on: take questions of the test split"
    for key in ("pairs", "seed"):
        if of_other_seed[0][key] == first[key]:
            return f"every seed has the same {key}: the interval would not know of their luck"
    return None
