"""The exercises: every mistake has its name, right answers pass, and nothing breaks the checker."""

import importlib.util
import inspect
import json
import math
import re
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import check
import grade as grading
import mistakes_of_training as loop
import numpy as np
import pytest
import solved_exercises
from grade import Graded, compare, grade
from helpers import SCRIPTS, run_script
from mistakes_of_formulas import FORMULAS
from rlhf_objectives import kl_regularized_optimum, make_bandit

from common.runs import COMMITTED, UserError
from common.saving import read_json
from common.scoring import response_logps

FOLDER = SCRIPTS / "exercises"
EXERCISES = {exercise.file: exercise for exercise in FORMULAS}
FILES = tuple(sorted([*EXERCISES, loop.FILE]))
ALL = {file: f"{file}.py" for file in FILES}  # by name, the file to write in
ALL |= {name: f"{name}.toml" for name in loop.DEBUGS} | {loop.STUDY: f"{loop.STUDY}.py"}
MISTAKES = [(file, name) for file in sorted(EXERCISES) for name in EXERCISES[file].mistakes]
SOLVED = Path(solved_exercises.__file__).read_text(encoding="utf-8")
ANY = Path("answer.py")


def solved_copy(folder: Path, file: str) -> Path:
    """A copy of an exercise whose gaps are filled."""
    path = folder / f"{file}.py"
    gaps = (FOLDER / f"{file}.py").read_text(encoding="utf-8")
    path.write_text(f"{gaps}\n\n{SOLVED}", encoding="utf-8")
    return path


# --- The files ---


def test_there_is_a_file_for_every_exercise():
    with pytest.raises(UserError, match=f"no exercise e99; there are {', '.join(ALL)}$"):
        check.grade_all(FOLDER, ["e99"])
    assert {path.name for path in FOLDER.glob("[eds][0-9]*_*")} == {*ALL.values()}


@pytest.mark.parametrize("file", FILES)
def test_a_file_says_what_is_asked(file):
    text = (FOLDER / f"{file}.py").read_text(encoding="utf-8")
    assert text.startswith(f'"""Exercise {int(file[1:3])}. ') and "Predict first: " in text
    module = load(FOLDER / f"{file}.py")
    functions = [module.response_logps, module.train_dpo] if file == loop.FILE else []
    if file in EXERCISES:
        right = EXERCISES[file].right
        functions = [getattr(module, right.__name__)]
        assert inspect.signature(functions[0]).parameters.keys() == parameters(right)
    for function in functions:
        assert function.__annotations__["return"] and function.__doc__


def load(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parameters(function):
    return inspect.signature(function).parameters.keys()


# --- Right answers, and mistakes ---


@pytest.mark.parametrize("file", sorted(EXERCISES))
def test_right_answers_pass(file, tmp_path):
    exercise = EXERCISES[file]
    assert compare(exercise, exercise.right, ANY) == Graded("right")
    solved_copy(tmp_path, file)
    assert grade(exercise, tmp_path) == Graded("right")


@pytest.mark.parametrize(("file", "name"), MISTAKES)
def test_every_mistake_is_told_from_all_others(file, name):
    exercise = EXERCISES[file]
    mistake = exercise.mistakes[name]
    assert compare(exercise, mistake, ANY) == Graded("wrong", name)
    for other in exercise.mistakes:
        alone = exercise._replace(mistakes={other: exercise.mistakes[other]})
        assert (compare(alone, mistake, ANY).reason == other) == (other == name)


# A reader's own words: in a solved copy, what is written instead, and what must be said of it.
SLIPS = (
    ("e01_plackett_luce_nll", "scores[..., k:] -", "scores -", "stays in the pool"),
    ("e02_bradley_terry_loss", "ones_like", "zeros_like", "swapped"),
    ("e02_bradley_terry_loss", " - rejected_rewards", "", "the rejected reward is missing"),
    ("e03_kl_regularized_optimum", "rewards / beta", "rewards * beta", "beta multiplies"),
    ("e03_kl_regularized_optimum", "rewards / beta", "rewards", "beta is dropped"),
    ("e03_kl_regularized_optimum", " - logits.max(-1, keepdims=True)", "", "exp overflows"),
    ("e04_clipped_surrogate", "np.maximum(ratio, 1 - epsilon)", "ratio", "from above only"),
    ("e05_generalized_advantage_estimate", "(gamma * lam) **", "lam **", "gamma is missing in"),
    ("e05_generalized_advantage_estimate", "gamma * later", "lam * later", "are exchanged"),
    ("e06_kl_estimators", "np.expm1(x) - x", "np.exp(x) - 1 - x", "expm1"),
    ("e06_kl_estimators", "0.5 * x", "x", "the half of k2"),
    ("e07_leave_one_out_advantages", "np.delete(rewards, k, axis=1)", "rewards", "its baseline"),
    ("e08_dpo_loss", "-beta * (policy", "-(policy", "beta is dropped"),
    ("e08_dpo_loss", "-beta * (policy", "beta * (policy", "swapped"),
    ("e08_dpo_loss", " - (ref_chosen_logps - ref_rejected_logps)", "", "lack the reference"),
    ("e09_ipo_loss", "0.5 / beta", "1 / beta", "not 1 / beta"),
    ("e09_ipo_loss", "ref_chosen_logps / chosen_lengths", "ref_chosen_logps", "right is"),
    ("e10_kto_loss", "sign * (ratio - kl)", "(sign * ratio - kl)", "for bad responses"),
    ("e10_kto_loss", "beta * sign", "sign", "beta is dropped"),
    ("e11_expected_best_of_n", "math.comb(rank, n - 1)", "math.comb(rank, n)", "right is"),
    ("e11_expected_best_of_n", "shared[i]", "values[i]", "share; the first is taken"),
    ("e12_best_of_n_policy", "max(rewards", "min(rewards", "the worst of n"),
    ("e13_best_of_n_kl_bound", "- 1 + 1 / n", "", "this is log n"),
    ("e15_answer_logps", "first - 1 : end - 1", "first:end", "no shift"),
    (
        "e15_answer_logps",
        "first, end = int(prompt_lengths[row])",
        "first, end = 1",
        "the prompt is",
    ),
    ("e15_answer_logps", "int(attention_mask[row].sum())", "ids.shape[1]", "the padding is"),
    (
        "e15_answer_logps",
        "ids[row, first:end]].sum()",
        "ids[row, first:end]].mean()",
        "a mean over",
    ),
    (
        "e15_answer_logps",
        "first - 1 : end - 1].log_softmax(-1)",
        "first - 1 : end - 1]",
        "log_softmax",
    ),
    ("e16_token_rewards", "ref_logps - logps", "logps - ref_logps", "are exchanged"),
    ("e16_token_rewards", ".max()] += score", ".min()] += score", "on the answer's first token"),
    ("e16_token_rewards", "mask[row].nonzero().max()", "-1", "behind the padding"),
    ("e17_ppo_loss", "return -pess", "return pess", "its sign is turned"),
    ("e17_ppo_loss", "torch.minimum(", "torch.maximum(", "the larger of the two"),
    ("e17_ppo_loss", ".exp()[tokens]", "[tokens]", "exp is missing"),
    ("e17_ppo_loss", "pessimistic.mean()", "pessimistic.sum()", "a sum over the tokens"),
    ("e17_ppo_loss", "tokens = mask > 0", "tokens = mask > -1", "the mask is missing"),
)


@pytest.mark.parametrize(("file", "right", "wrong", "said"), SLIPS)
def test_a_slip_in_a_readers_own_words_is_named(file, right, wrong, said, tmp_path):
    path = solved_copy(tmp_path, file)
    text = path.read_text(encoding="utf-8")
    assert right in text
    path.write_text(text.replace(right, wrong), encoding="utf-8")
    verdict = grade(EXERCISES[file], tmp_path)
    assert verdict.state == "wrong" and said in verdict.reason


def test_a_mistake_without_a_name_is_shown_on_the_smallest_input(tmp_path):
    exercise = EXERCISES["e08_dpo_loss"]
    verdict = compare(exercise, lambda *inputs: 2 * exercise.right(*inputs), ANY)
    assert verdict.state == "wrong"
    assert verdict.reason == (
        "it gives [1.152], right is [0.5759], for policy_chosen_logps = [-3], "
        "policy_rejected_logps = [-4], ref_chosen_logps = [-4], ref_rejected_logps = [-4.5], "
        "beta = 0.5"
    )


def test_a_mistake_has_its_name_also_where_a_number_overflows():
    def without_beta(pw, pl, rw, rl, beta):
        return -loop.torch.log(loop.torch.sigmoid(pw - rw - pl + rl))

    assert compare(EXERCISES["e08_dpo_loss"], without_beta, ANY).reason == "beta is dropped"


# --- Whatever a reader writes is answered in one line ---

SIGNATURE = "def bradley_terry_loss(chosen_rewards, rejected_rewards):\n    "
LINE_2 = "(line 2 of e02_bradley_terry_loss.py)"
ODD_ANSWERS = {
    "def bradley_terry_loss(:": "raises SyntaxError: ",
    "import no_such_package": "raises ModuleNotFoundError: No module named 'no_such_package'",
    "x = 1": "has no function bradley_terry_loss",
    "bradley_terry_loss = 1": "has no function bradley_terry_loss",
    "def bradley_terry_loss(a):\n    return a": "raises TypeError: ",
    SIGNATURE + "return 1 / 0": f"raises ZeroDivisionError: division by zero {LINE_2}",
    SIGNATURE + "raise ValueError": f"raises ValueError {LINE_2}, for chosen_rewards = [1]",
    SIGNATURE
    + "int(); raise NotImplementedError('no such dtype')": "raises NotImplementedError: no such",
    SIGNATURE + "exit()": "raises SystemExit",
    SIGNATURE + "while True: pass": "does not end: stopped after 0 s",
    SIGNATURE + "while True:\n        try: 1 / 0\n        except Exception: pass": "does not end",
    SIGNATURE + "return bradley_terry_loss(1, 2)": "raises RecursionError: ",
    SIGNATURE + "pass": "returns None: is there a return?",
    SIGNATURE + "return 'text'": "returns a str, which is no array",
    SIGNATURE + "return chosen_rewards": "returns shape (1,) where () is right",
    SIGNATURE + "return chosen_rewards.bfloat16()": "returns a Tensor, which is no array",
    SIGNATURE + "x = chosen_rewards.exp(); return x.add_(1).mean()": "modified by an inplace",
    SIGNATURE + "return {'loss': 1}": "returns loss where one array is right",
    SIGNATURE + "return chosen_rewards, 1": "returns a tuple, which is no array",
    SIGNATURE + "import math; return math.log1p(math.exp(-1))": "no gradient flows",
}


@pytest.mark.parametrize("text", ODD_ANSWERS, ids=range(len(ODD_ANSWERS)))
def test_an_odd_answer_is_answered_in_one_line(text, tmp_path, monkeypatch):
    monkeypatch.setattr("grade.SECONDS_OF_A_FORMULA", 0.3 if "while" in text else 10)
    exercise = EXERCISES["e02_bradley_terry_loss"]
    exercise = exercise._replace(cases=exercise.cases[:1])
    (tmp_path / f"{exercise.file}.py").write_text(text, encoding="utf-8")
    verdict = grade(exercise, tmp_path)
    assert verdict.state == "wrong" and ODD_ANSWERS[text] in verdict.reason
    assert "\n" not in verdict.reason and len(verdict.reason) < 300


def test_a_file_that_is_gone_or_does_not_end_when_read(tmp_path):
    assert "git checkout" in grade(EXERCISES["e08_dpo_loss"], tmp_path).reason
    (tmp_path / "endless.py").write_text("while True: pass", encoding="utf-8")
    with pytest.raises(grading.Failed, match="does not end"):
        grading.load_function(tmp_path / "endless.py", "f", seconds=0.2)


def test_a_missing_gradient_and_lost_digits_are_seen():
    exercise = EXERCISES["e08_dpo_loss"]

    def cut(*inputs):
        return exercise.right(*inputs).detach()

    def narrow(*inputs):
        return exercise.right(*inputs).float()

    assert compare(exercise, cut, ANY).reason.startswith(
        "it has the right values, but no gradient flows: "
    )
    assert "returns float32 where float64" in compare(exercise, narrow, ANY).reason


def test_of_two_gaps_one_may_be_filled(tmp_path, monkeypatch):
    path = tmp_path / f"{loop.FILE}.py"
    gaps = (FOLDER / f"{loop.FILE}.py").read_text(encoding="utf-8")
    path.write_text(gaps, encoding="utf-8")
    assert loop.grade_training(tmp_path) == Graded("not begun")
    path.write_text(f"{gaps}\n\nresponse_logps = print\n", encoding="utf-8")
    no_case = grading.Exercise(loop.FILE, print, [], {})
    monkeypatch.setattr(loop, "exercise_on_logps", lambda *_: no_case)
    assert loop.grade_training(tmp_path) == Graded("not begun", "response_logps is right")


def test_ctrl_c_is_left_alone():
    with pytest.raises(KeyboardInterrupt), grading.careful(ANY, 1):
        raise KeyboardInterrupt


# --- The loop ---


@pytest.fixture(scope="module")
def traces():
    """A short comparison with TRL: the losses and margins by each mistake, run once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "STEPS", 6)
        patch.setattr(loop, "BATCH", 4)
        pairs = loop.make_pairs(loop.BATCH, seed=1)
        right = loop.trace_of_trl(pairs)
        mistaken = {name: loop.trace_of_trl(pairs, **how) for name, how in loop.OF_LOOPS.items()}
        patch.setattr(loop, "trace_of_trl", lambda _, known=right: known)
        known = {name: {"known": trace} for name, trace in mistaken.items()}
        patch.setattr(loop, "OF_LOOPS", known)
        yield {"right": right, **mistaken}


def test_mistakes_in_the_loop_are_told_from_each_other(traces):
    for name, trace in traces.items():
        assert [other for other in traces if loop.equal_nats(trace, traces[other])] == [name]


LOOP_SLIPS = (
    ("", "", None),
    ("ref_rejected, beta)", "ref_rejected, -beta)", "swapped"),
    ("ref_rejected, beta)", "ref_rejected, 1.0)", "beta is dropped"),
    ("ref_rejected, beta)", "ref_rejected, beta * beta)", "beta is squared"),
    ("counted[:, 1:]).sum(-1)", "counted[:, 1:]).sum(-1) / counted.sum(-1)", "a mean over the tok"),
    ("        schedule.step()\n", "", "no weight has changed"),
    ("        optimizer.zero_grad()\n", "", "gradients add up"),
    ("        optimizer.step()\n", "", "no weight has changed"),
    ("torch.no_grad(), policy.disable_adapter()", "torch.no_grad()", "moves with the policy"),
    ("beta).mean()", "beta).sum()", "a sum over the batch"),
    ("ref_chosen, ref_rejected, beta", "0, 0, beta", "the first loss is "),
    ("        losses.append(loss.item())\n", "", "returns 0 losses"),
    ("rejected, ref_chosen", "rejected.detach(), ref_chosen", "the loss of step "),
    ("loss.backward()", "loss.backwards()", "raises AttributeError"),
)


@pytest.mark.parametrize(("right", "wrong", "said"), LOOP_SLIPS)
def test_a_slip_in_the_loop_is_named(traces, right, wrong, said, tmp_path):
    path = solved_copy(tmp_path, loop.FILE)
    path.write_text(path.read_text(encoding="utf-8").replace(right, wrong), encoding="utf-8")
    train = grading.load_function(path, "train_dpo")
    try:
        fault = loop.fault_of_steps(train, path)
    except grading.Failed as failed:
        fault = str(failed)
    assert fault is None if said is None else said in fault


LOGPS_SLIPS = (
    ("counted[row, len(a) :", "counted[row, 0 :", "the prompt is counted"),
    ("counted[row, len(a) : len(a) + len(b)]", "counted[row, len(a) :]", "the padding is counted"),
    ("counted[row, len(a) : len(a) + len(b)]", "counted[row, len(a) : len(a) + len(b) - 1]", "EOS"),
    (".logits[:, :-1]", ".logits[:, 1:]", "no shift"),
    (".log_softmax(-1).gather", ".gather", "log_softmax is missing"),
    ("return (logps * counted[:, 1:]).sum(-1)", "return logps * counted[:, 1:]", "returns shape"),
    (
        "    logits = model(",
        "    torch.set_grad_enabled(False)\n    logits = model(",
        "no gradient",
    ),
)


@pytest.mark.parametrize(("right", "wrong", "said"), LOGPS_SLIPS)
def test_a_slip_in_the_log_probabilities_is_named(right, wrong, said, tmp_path):
    path = solved_copy(tmp_path, loop.FILE)
    path.write_text(path.read_text(encoding="utf-8").replace(right, wrong), encoding="utf-8")
    try:
        model = loop.load_causal_lm("tiny-gpt2")
        logps = partial(grading.load_function(path, "response_logps"), *model)
        graded = compare(loop.exercise_on_logps(*model), logps, path)
    finally:
        loop.torch.set_grad_enabled(True)
    assert said in graded.reason


def test_log_probabilities_are_told_from_each_other():
    exercise = loop.exercise_on_logps(*loop.load_causal_lm("tiny-gpt2"))
    for name, mistake in exercise.mistakes.items():
        assert compare(exercise, mistake, ANY) == Graded("wrong", name)


def test_the_right_log_probabilities_are_the_labs():
    model, tokenizer = loop.load_causal_lm("tiny-gpt2")
    exercise = loop.exercise_on_logps(model, tokenizer)
    (case,) = exercise.cases
    ids = [loop.encode_response(tokenizer, text) for text in case["responses"]]
    of_lab = response_logps(model, tokenizer, case["prompts"], ids)
    assert loop.equal_nats(exercise.right(**case).detach(), of_lab.detach())


@pytest.mark.parametrize(
    ("good", "kl", "state"), [(0.86, 1.2, "right"), (0.36, 0.0, "wrong"), (0.86, 9.0, "wrong")]
)
def test_a_solved_loop_is_judged_by_its_answers(traces, good, kl, state, tmp_path, monkeypatch):
    """The training itself is compared with TRL's above; here it is short, and answers are given."""
    solved_copy(tmp_path, loop.FILE)
    answers = SimpleNamespace(good=np.array([good]), kl=np.array([kl]))
    measured = {"good": (0.8, 0.9), "kl": (1.0, 1.4)}
    monkeypatch.setattr(loop, "WHOLE", 8)
    monkeypatch.setattr(loop, "sample_answers", lambda *_, **__: answers)
    monkeypatch.setattr(loop, "next_seed", measured.get)
    verdict = loop.grade_training(tmp_path)
    assert verdict.state == state
    assert f"{good:.0%}".replace("%", " %") + f" good answers at a KL of {kl:.2f}" in verdict.reason


def test_where_one_more_seed_lies(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "MEASURED", tmp_path / "what_dpo_does.json")
    with pytest.raises(UserError, match="git checkout figures"):
        loop.next_seed("good")
    runs = [{"metrics": {"after": {"good": good, "kl": 1.0}}} for good in (1.0, 2.0, 3.0)]
    loop.MEASURED.write_text(json.dumps({"runs": runs}), encoding="utf-8")
    reach = 4.30 * math.sqrt(4 / 3)
    assert loop.next_seed("good") == pytest.approx((2 - reach, 2 + reach))


# --- The command ---


def test_the_shipped_gaps_are_not_begun_and_no_error():
    run = run_script("exercises/check", cwd=FOLDER)
    lines = run.stdout.splitlines()
    for file, line in zip(ALL, lines, strict=False):
        assert line.startswith(file)
        text = (FOLDER / ALL[file]).read_text(encoding="utf-8")
        if "NotImplementedError" in text or 'fault = ""' in text:
            assert line.split(maxsplit=1)[1] == "not begun"
    assert (run.returncode, run.stderr) == (int(" wrong: " in run.stdout), "")


def test_states_and_names(tmp_path, capsys):
    for file in FILES[:3]:
        (tmp_path / f"{file}.py").write_bytes((FOLDER / f"{file}.py").read_bytes())
    solved_copy(tmp_path, FILES[0])
    (tmp_path / f"{FILES[2]}.py").write_text("kl_regularized_optimum = print", encoding="utf-8")
    names = ["plackett_luce_nll", "e02", f"some/folder/{FILES[2]}.py"]
    assert check.grade_all(tmp_path, names) == ["right", "not begun", "wrong"]
    assert "1 right, 1 wrong, 1 not begun" in capsys.readouterr().out


@pytest.mark.parametrize(("states", "code"), [(["right", "not begun"], 0), (["wrong"], 1)])
def test_exit_codes(states, code, monkeypatch):
    check = load(FOLDER / "check.py")
    monkeypatch.setattr(check, "grade_all", lambda *_: states)
    monkeypatch.setattr(sys, "argv", ["check.py"])
    with pytest.raises(SystemExit) as ended:
        check.main()
    assert ended.value.code == code


# --- The read-along of the exercises ---

README = (FOLDER / "README.md").read_text(encoding="utf-8")


def says(sentence: str) -> bool:
    return sentence.replace("%", " %") in " ".join(README.split())


def committed_points(study: str, method: str) -> dict[tuple, dict]:
    """Of the points of the committed run by series and label: KL, gold utility, ..., over seeds."""
    runs = read_json(COMMITTED / "studies" / f"{study}.json").get("runs")
    by_place = {}
    for run in runs or pytest.skip("not measured"):
        for point in run["metrics"]["points"]:
            if point["method"] == method:
                place = point["series"], point["label"].replace("1 epochs", "1 epoch")
                by_place.setdefault(place, []).append(point)
    return {place: mean_point(points) for place, points in by_place.items()}


def mean_point(points: list[dict]) -> dict:
    def number(value):  # what is uncertain has its mean beside its interval
        return value["mean"] if isinstance(value, dict) else value

    known = [name for name in ("kl", "gold", "annotations", "epoch") if points[0].get(name)]
    return {name: np.mean([number(point[name]) for point in points]) for name in known}


def test_the_answer_on_the_beta_of_the_optimum():
    betas, kls = np.geomspace(1, 3, 21), []
    for seed in range(8):
        bandit = make_bandit(20, seed)
        for beta in betas:
            optimum = kl_regularized_optimum(bandit.ref, bandit.reward, beta)
            kls.append((optimum * np.log(optimum / bandit.ref)).sum(-1).mean())
    mean = np.reshape(kls, (8, -1)).mean(0)
    beta = np.exp(np.interp(-0.5, -mean, np.log(betas)))
    assert says(f"With a beta of {beta:.1f} the optimum lies 0.5 nats from the reference")


def test_the_answer_on_beta_is_that_of_the_committed_run():
    points = committed_points("too_much_dpo", "DPO")
    for series, beta in (("unbiased", "0.3"), ("high_beta", "1")):
        once, twice = (
            points[series, f"{epochs}, beta {beta}"]["kl"] for epochs in ("1 epoch", "2 epochs")
        )
        assert says(f"| beta {beta} | {once:.1f} | {twice:.1f} |")


def test_the_answer_on_annotations_is_that_of_the_committed_run():
    best = committed_points("best_of_n_and_the_limit", "best of n")
    dpo = one_pass(committed_points("too_much_dpo", "DPO"))
    dpo += [committed_points("likelihood_term", "DPO")["768", "768 pairs"]]
    few, many = (best[judge, "n = 8"]["gold"] for judge in ("768", "6400"))
    assert says(f"| best of 8 | 768 | {few:.2f} |") and says(f"| best of 8 | 6,400 | {many:.2f} |")
    golds = {point["annotations"]: point["gold"] for point in dpo}
    for labels in (128, 256):
        assert says(f"| DPO, constant rate | {labels} | {golds[labels]:.2f} |")
    assert says(f"| DPO, falling rate | 768 | {golds[768]:.2f} |")
    labels = np.interp(few, list(golds.values()), list(golds))
    assert says(f"About {round(labels, -1):.0f} comparisons buy as much") and many > golds[768]


def one_pass(points: dict) -> list[dict]:
    """DPO's points within its first pass over unbiased pairs."""
    rows = [point for (series, _), point in points.items() if series == "unbiased"]
    return sorted((row for row in rows if row["epoch"] <= 1), key=lambda row: row["annotations"])


def test_the_ladder_lists_every_exercise_and_rises():
    row = r"^\| \[(\w+)\]\((\1\.\w+)\) \|[^|]+\| ([123]) \| (\d+) \| \[hints\]\(HINTS\.md#\w+\)"
    rows = re.findall(row, README, re.MULTILINE)
    assert {name: file for name, file, *_ in rows} == ALL and len(rows) == len(ALL)
    difficulties = [int(difficulty) for _, _, difficulty, _ in rows]
    assert difficulties == sorted(difficulties)
    assert {int(minutes) for *_, minutes in rows} <= {*range(5, 65, 5)}
    assert len(MISTAKES) > 100 and "more than a hundred named" in " ".join(README.split())


def test_three_hints_fold_open_one_by_one():
    text = (FOLDER / "HINTS.md").read_text(encoding="utf-8")
    parts = re.split(r'^<a id="(\w+)"></a>$', text, flags=re.MULTILINE)
    hints = dict(zip(parts[1::2], parts[2::2], strict=True))
    assert hints.keys() == {name.split("_")[0] for name in ALL} - {"d2", "d3", "d4"}
    for text in hints.values():
        assert re.findall(r"<summary>(.+?)</summary>", text) == ["Hint 1", "Hint 2", "Hint 3"]
        assert text.count("<details>") == text.count("</details>") == 3
        assert text.index("</details>") > text.index("Hint 3")


# --- Debug a run ---

EVIDENCE = read_json(FOLDER / "evidence.json")


def debugged(name: str, folder: Path, fault: str = "", look_at: str = "") -> Graded:
    said = f'fault = "{fault}"\nlook_at = "{look_at}"\n'
    (folder / f"{name}.toml").write_text(said, encoding="utf-8")
    return loop.grade_debug(name, folder)


@pytest.mark.parametrize("name", loop.DEBUGS)
def test_a_fault_is_found_and_evidence_speaks_against_every_other(name, tmp_path):
    fault = read_json(FOLDER / "runs" / f"{name[:2]}.json")["fault"]
    assert debugged(name, tmp_path) == Graded("not begun")
    assert debugged(name, tmp_path, fault).state == "not begun"
    assert debugged(name, tmp_path, fault, EVIDENCE["first"][fault]).state == "right"
    said = [debugged(name, tmp_path, fault, place) for place in EVIDENCE["places"]]
    assert sorted(verdict.state for verdict in said) == ["right"] + 4 * ["wrong"]
    wrong = [debugged(name, tmp_path, guess) for guess in EVIDENCE["shows"] if guess != fault]
    assert len({verdict.reason for verdict in wrong}) == 5
    assert all(verdict.state == "wrong" and "{" not in verdict.reason for verdict in wrong)


def test_the_runs_are_those_that_the_evidence_speaks_of():
    runs = [read_json(path) for path in sorted((FOLDER / "runs").glob("*.json"))]
    read = {run["fault"]: run for run in runs}
    assert read.keys() == EVIDENCE["first"].keys() == EVIDENCE["against"].keys()
    labels, marks, passes = read["labels"], read["marks"], read["passes"]
    assert labels["after"]["gold"] < labels["before"]["gold"]
    assert labels["after"]["words"] > labels["before"]["words"] and labels["after"]["kl"] < 2
    assert 0.75 < labels["trained"] < 0.9 and labels["loss"] < 0.6
    assert marks["trained"] == 1 and marks["loss"] < 0.1 and marks["after"]["marked"] > 2
    assert math.isclose(read["reference"]["loss"], math.log(2), abs_tol=1e-4)
    assert passes["after"]["good"] == 0
    told = {fault: loop.told_by(run, "{beta:.3f}, {passes:.0f}") for fault, run in read.items()}
    assert told.pop("passes") == "0.010, 5" and {text[-3:] for text in told.values()} == {", 1"}


def test_the_files_of_the_runs_are_small():
    assert sum(path.stat().st_size for path in (FOLDER / "runs").iterdir()) < 60_000


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('fault = "labels', "d1_debug.toml cannot be read: "),
        ('fault = "bug"', "fault is one of labels, passes,"),
        ('fault = "marks"\nlook_at = "here"', "look_at is one of pairs, ratios,"),
    ],
)
def test_odd_guesses_are_answered_in_one_line(text, said, tmp_path):
    assert "cannot be read" in loop.grade_debug("d1_debug", tmp_path).reason
    (tmp_path / "d1_debug.toml").write_text(text, encoding="utf-8")
    verdict = loop.grade_debug("d1_debug", tmp_path)
    assert verdict.state == "wrong" and said in verdict.reason and "\n" not in verdict.reason


# --- Design a study ---

SEEDS, DIFFERENCE = "SEEDS = (0, 1, 2, 3, 4, 5, 6, 7)", 'm["rank 32"] - m["rank 2"]'
PLANS = (
    ("", "", None),
    ('predicted="no difference"', 'predicted=""', "no prediction"),
    ("smallest=0.03", "smallest=0.0", "no smallest difference"),
    (SEEDS, "SEEDS = (0, 1, 2)", "too few seeds: 3"),
    (SEEDS, "SEEDS = (0, 1, 2, 3, 3)", "too few seeds: 4"),
    ("lora_r=rank, ", "", "not called with two ranks"),
    ("lora_r=rank, seed=seed", "lora_r=rank, seed=rank", "the trainings differ in seed"),
    ("lora_r=rank, ", "lora_r=rank, epochs=rank, ", "the trainings differ in epochs"),
    (
        "tokenizer, pairs, lora_r",
        "tokenizer, pairs[rank:], lora_r",
        "the trainings differ in pairs",
    ),
    ("asked, 1, seed=seed", "asked, 1, seed=rank", "the same questions"),
    ('questions("test", seed=seed)', 'questions("train")', "what they were trained on"),
    ("smoke else 768, seed=seed", "smoke else 768, seed=0", "every seed has the same pairs"),
    ("lora_r=rank, seed=seed", "lora_r=rank, seed=0", "every seed has the same seed"),
    (DIFFERENCE, 'm["rank 32"]', "is no difference"),
    (DIFFERENCE, 'm["rank 32"] / m["rank 2"]', "is no difference"),
    (DIFFERENCE, 'm["rank 2"] - m["rank 32"]', "the wrong sign"),
    (DIFFERENCE, 'm["rank 33"]', "raises KeyError: 'rank 33'"),
    ("percent(t_interval(gained))", "t_interval(gained)['mean']", "no interval"),
    ('gained = [run["rank 32"] - run["rank 2"]', 'gained = [run["rank 32"]', "no interval"),
    ("    return figure\n", "", "returns no figure"),
)


@pytest.mark.parametrize(("right", "wrong", "said"), PLANS)
def test_a_plan_is_judged_by_the_first_item_that_fails(right, wrong, said, tmp_path):
    path = solved_copy(tmp_path, loop.STUDY)
    start, seeds, study = path.read_text(encoding="utf-8").rpartition(SEEDS)
    assert right in seeds + study
    path.write_text(start + (seeds + study).replace(right, wrong), encoding="utf-8")
    verdict = loop.grade_study(tmp_path)
    assert verdict.state == ("wrong" if said else "right") and (said or "") in verdict.reason


def test_the_second_training_needs_a_model_of_its_own(tmp_path):
    path = solved_copy(tmp_path, loop.STUDY)
    text = path.read_text(encoding="utf-8")
    load = "policy, tokenizer = load_sft_model()\n"
    text = text.replace(f"        {load}", "").replace(
        "    good = {}", f"    {load}    good = {{}}"
    )
    path.write_text(text, encoding="utf-8")
    assert "goes on with the first one's model" in loop.grade_study(tmp_path).reason


def test_the_template_is_a_study_with_gaps():
    study = load(FOLDER / f"{loop.STUDY}.py")
    (claim,) = study.CLAIMS
    assert (claim.predicted, claim.smallest, study.SEEDS) == ("", 0.0, ())
    for gap in (lambda: study.measure(0), lambda: study.draw([])):
        with pytest.raises(NotImplementedError):
            gap()


def test_a_study_with_gaps_says_so_in_one_line(tmp_path):
    done = run_script("exercises/s1_design_a_study", "--smoke", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "error: a gap of this exercise is still to be filled\n"
