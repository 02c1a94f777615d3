"""Exercises on trainings: DPO from scratch, runs with a fault, a study to plan.

DPO from scratch on the embedded model stands beside TRL's trainer: first the log-probabilities;
then a few steps, whose losses must be TRL's; then the whole training, judged by sampled answers. A
mistake in the loop is looked for by training with TRL the same way.
"""

import contextlib
import math
import re
import tomllib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import grade
import numpy as np
import torch
from dpo_trainer import lora_config, train_dpo
from grade import Exercise, Graded, careful
from mistakes_of_formulas import OF_LOGITS, answer_logps

from common import runs
from common.answers import sample_answers
from common.claims import FEWEST, VERDICTS, judge
from common.intervals import half_width
from common.models import load_causal_lm, quiet_libraries
from common.preferences import make_pairs, questions, swap_sides
from common.prompts import encode_prompt, encode_response
from common.saving import read_json
from common.scoring import pair_logps

FILE = "e14_train_dpo"
SETTINGS_OF_DPO = {"learning_rate": 7e-4, "beta": 0.3}  # dpo_trainer.py's for the embedded model
WHOLE = 768  # pairs of the whole training
BATCH, STEPS = 8, 12  # of the training that is compared step by step
RUNS = Path(__file__).resolve().parent / "runs"
DEBUGS = tuple(f"d{number}_debug" for number in (1, 2, 3, 4))
MEASURED = runs.COMMITTED / "studies" / "what_dpo_does.json"
equal_nats = partial(np.allclose, rtol=0, atol=1e-3)  # rounding makes 1e-6


def grade_training(folder: Path) -> Graded:
    """What is said of a reader's `response_logps` and `train_dpo`; trains half a minute."""
    file, begun = folder / f"{FILE}.py", ""
    quiet_libraries()
    model, tokenizer = load_causal_lm("tiny-gpt2")
    try:
        logps = partial(grade.load_function(file, "response_logps"), model, tokenizer)
        graded = grade.compare(exercise_on_logps(model, tokenizer), logps, file)
        if graded.state == "wrong":
            return Graded("wrong", f"response_logps: {graded.reason}")
        begun = "response_logps is right"
        train = grade.load_function(file, "train_dpo")
        fault = fault_of_steps(train, file)
        return Graded("wrong", f"train_dpo: {fault}") if fault else judge_training(train, file)
    except grade.Failed as error:
        state, reason = Graded(*error.args)
        return Graded(state, reason or begun)


def exercise_on_logps(model, tokenizer) -> Exercise:
    """Responses of different lengths, and the mistakes of exercise 15 or a lost EOS."""
    pairs = make_pairs(3, seed=0)
    prompts, responses = [row["prompt"] for row in pairs], [row["chosen"] for row in pairs]
    asked = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    told = [encode_response(tokenizer, response) for response in responses]
    rows = {"input_ids": [a + b for a, b in zip(asked, told, strict=True)]}
    ids, mask = tokenizer.pad(rows, padding_side="right", return_tensors="pt").values()
    without_eos = torch.nn.functional.pad(mask[:, 1:], (0, 1))
    logits, lengths = model(ids, attention_mask=mask).logits, torch.tensor([len(a) for a in asked])

    def by(formula: Callable, counted: torch.Tensor = mask) -> Callable:
        return lambda prompts, responses: formula(logits, ids, counted, lengths)

    mistakes = {name: by(formula) for name, formula in OF_LOGITS.items()}
    mistakes["the EOS that ends the response is missing"] = by(answer_logps, without_eos)
    cases = [{"prompts": prompts, "responses": responses}]
    return Exercise(FILE, by(answer_logps), cases, mistakes)


# --- The training: some steps of it beside TRL's, then all ---


def fresh_policy() -> tuple:
    """(policy, tokenizer): the embedded model with LoRA as TRL makes it, without dropout."""
    from peft import get_peft_model
    from trl.trainer.utils import disable_dropout_in_model

    model, tokenizer = load_causal_lm("tiny-gpt2")
    torch.manual_seed(0)  # LoRA starts at random
    policy = get_peft_model(model, lora_config(model))
    disable_dropout_in_model(policy)
    return policy, tokenizer


def trace_of(losses: Sequence[float], policy, tokenizer, pairs: list[dict]) -> np.ndarray:
    """The loss of every step, then how far each pair's log-ratios lie apart at the end, in nats."""
    logps, ref_logps = pair_logps(policy, tokenizer, pairs)
    chosen, rejected = (logps - ref_logps).numpy()
    return np.concatenate([losses, chosen - rejected])


def trace_of_trl(pairs: list[dict], relabel=dict, add_up: bool = False, **other) -> np.ndarray:
    """TRL's trace with all pairs in each step; it trains on what `relabel` makes of each."""
    model, tokenizer = load_causal_lm("tiny-gpt2")
    training = {**SETTINGS_OF_DPO, "batch_size": BATCH, "epochs": STEPS, "seed": 0, **other}
    pairs_of_trl, name = [relabel(pair) for pair in pairs], "TRL, to compare with"
    kept = mock.patch.object(torch.nn.Module, "zero_grad", lambda *_, **__: None)
    with kept if add_up else contextlib.nullcontext():
        policy, history = train_dpo(model, tokenizer, pairs_of_trl, **training, name=name)
    return trace_of([row["loss"] for row in history], policy, tokenizer, pairs)


OF_LOOPS = {  # by each mistake, what TRL is given to make it
    "chosen and rejected are swapped": {"relabel": swap_sides},
    "beta is dropped": {"beta": 1.0},
    "beta is squared": {"beta": SETTINGS_OF_DPO["beta"] ** 2},
    "a mean over the tokens for a sum": {"loss_type": ["sigmoid_norm"]},
    "the learning rate stays: it rises for a tenth of the steps, then falls to 0": {
        "schedule": "constant"
    },
    "gradients add up from step to step: zero_grad is missing": {"add_up": True},
}


def fault_of_steps(train: Callable, file: Path) -> str | None:
    policy, tokenizer = fresh_policy()
    pairs = make_pairs(BATCH, seed=1)
    before = [weight.detach().clone() for weight in policy.parameters()]
    with careful(file, 120):
        losses = train(policy, tokenizer, pairs * STEPS, **SETTINGS_OF_DPO, batch_size=BATCH)
    losses = grade.as_array([] if losses is None else losses)
    if losses.shape != (STEPS,) or losses.dtype.kind != "f":
        return f"returns {losses.size} losses for {STEPS} steps: append loss.item() in each"
    if not np.isfinite(losses).all():
        return f"a loss is not finite: {grade.in_digits(losses)}"
    if all(map(torch.equal, before, policy.parameters())):
        return "no weight has changed: backward, optimizer.step or schedule.step is missing"
    if equal_nats(losses[0], BATCH * math.log(2)):
        return "a sum over the batch for a mean: the first loss is 8 ln 2"
    if not equal_nats(losses[0], math.log(2)):
        why = "policy and reference are still the same, so that it is ln 2"
        return f"the first loss is {losses[0]:.4f}; {why}: are all four log-probabilities in it?"
    if equal_nats(losses, math.log(2)):
        return "the loss stays ln 2 though weights change: the reference moves with the policy"
    theirs, right = trace_of(losses, policy.eval(), tokenizer, pairs), trace_of_trl(pairs)
    if equal_nats(theirs, right):
        return None
    for name, mistaken in OF_LOOPS.items():
        if equal_nats(theirs, trace_of_trl(pairs, **mistaken)):
            return name
    step = next(k for k in range(len(right)) if not equal_nats(theirs[k], right[k]))
    what = f"the loss of step {step + 1}" if step < STEPS else "a pair's gap at the end"
    return f"{what} is {theirs[step]:.4f}, TRL's is {right[step]:.4f}"


def judge_training(train: Callable, file: Path) -> Graded:
    """Answers to held-out prompts after the default number of steps, beside TRL's over seeds."""
    pairs = make_pairs(WHOLE, seed=0)  # dpo_trainer.py's, as prompts and sampling below
    policy, tokenizer = fresh_policy()
    print(f"{FILE} trains on {len(pairs)} pairs, half a minute", flush=True)
    with careful(file, 600):
        train(policy, tokenizer, pairs, **SETTINGS_OF_DPO, batch_size=8)
    prompts = [question.prompt for question in questions("test")[:256]]
    answers = sample_answers(policy.eval(), tokenizer, prompts, n=3, seed=0)
    good, kl = answers.good.mean(), answers.kl.mean()
    (least_good, most_good), (least_kl, most_kl) = next_seed("good"), next_seed("kl")
    reached = f"{good:.0%} good answers at a KL of {kl:.2f} nats"
    of_trl = f"{least_good:.0%} to {most_good:.0%} at {least_kl:.2f} to {most_kl:.2f}"
    said = f"{reached}; TRL's trainer gives, in 95 of 100 seeds, {of_trl}".replace("%", " %")
    is_right = least_good <= good <= most_good and least_kl <= kl <= most_kl
    return Graded("right" if is_right else "wrong", said)


def next_seed(quantity: str) -> tuple[float, float]:
    """Where one more seed of TRL's trainer lies in 95 of 100 cases, by the committed run."""
    values = [run["metrics"]["after"][quantity] for run in read_json(MEASURED).get("runs", ())]
    if not values:
        raise runs.UserError(f"{MEASURED} holds no results; git checkout figures brings them back")
    reach = half_width(values) * math.sqrt(len(values) + 1)  # of one seed, not of their mean
    return np.mean(values) - reach, np.mean(values) + reach


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
    measured_by = [measured(file, seed)[1] for seed in seeds]
    with careful(file, 60):
        figure, ends = study["draw"](measured_by), judge(claim, measured_by)["ci95"]
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
