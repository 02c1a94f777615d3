"""How scripts start and end (common/runs.py), the device (common/models.py)."""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import run_all
from helpers import SCRIPTS

from common import models, runs


def train(
    model,
    pairs,
    *,
    beta: float = 0.5,
    rate: float | None = None,
    epochs: int = 1,
    kind: str = "a",
    seed: int = 0,
    look=None,
    name: str = "x",
):
    """What a training function looks like to `add_hyperparameters`."""


def make_parser() -> argparse.ArgumentParser:
    parser = runs.make_parser("/some/where/x.py", "What it does")
    parser.add_argument("--model", type=runs.non_empty, default=None)
    parser.add_argument("--pairs", type=runs.whole_number(2))
    runs.add_dataset_flags(parser)
    runs.add_hyperparameters(parser, train, rate="7 for small ones")
    return parser


def start(folder: Path, *flags: object, smoke=None) -> argparse.Namespace:
    where = ["--output-dir", str(folder / "outputs")]
    return runs.start(make_parser(), [*where, *map(str, flags)], "x_figure", train, smoke)


# --- Flags ---


def test_hyperparameters_are_read_from_the_signature(capsys, tmp_path):
    args = start(tmp_path, "--beta", 0.1, "--epochs", 3)
    expected = {"beta": 0.1, "rate": None, "epochs": 3, "kind": "a", "seed": 0}
    assert args.training == expected
    with pytest.raises(SystemExit):
        make_parser().parse_args(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "default: 7 for small ones" in text and "default: 0.5" in text
    assert "--look" not in text and "--name" not in text and "What it does" in text


@pytest.mark.parametrize(
    "flags",
    [
        ["--seed", "-1"],
        ["--seed", "x"],
        ["--device", "tpu"],
        ["--nonsense"],
        ["word"],
        ["--seed"],
        ["--beta", "0"],
        ["--beta", "nan"],
        ["--epochs", "0"],
        ["--model", " "],
        ["--dataset", ""],
        ["--pairs", "1"],
    ],
)
def test_bad_flags_are_one_line_and_exit_code_2(capsys, flags):
    with pytest.raises(SystemExit) as stop:
        make_parser().parse_args(flags)
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and "--help" in err


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (runs.whole_number(0), {"0": 0, "7": 7}, ["-1", "1.5", "x", "", str(2**32)]),
        (runs.whole_number(1), {"1": 1, "7": 7}, ["0", "-1", "1.5", "x"]),
        (runs.positive_float, {"1e-3": 1e-3, "2": 2.0}, ["0", "-1", "nan", "inf", "x"]),
    ],
)
def test_types_of_flags(kind, good, bad):
    assert {text: kind(text) for text in good} == good
    for text in bad:
        with pytest.raises((argparse.ArgumentTypeError, ValueError)):
            kind(text)


def test_a_second_data_set_is_an_error_and_not_read_alone(tmp_path, capsys):
    for second in (["--dataset", "b"], ["--dataset=b"]):
        with pytest.raises(SystemExit) as stop:
            start(tmp_path, "--dataset", "a", *second)
        assert stop.value.code == 2 and "--dataset is given twice" in capsys.readouterr().err


# --- The start ---


def test_start(tmp_path):
    args = start(tmp_path)
    assert (args.script, args.run_name, args.changed) == ("x.py", "x_figure", {})
    assert time.time() - args.started < 60
    assert args.settings["beta"] == 0.5 and "output_dir" not in args.settings
    other = start(tmp_path, "--beta", 0.1, "--seed", 1)
    assert other.run_name == "x_figure-beta-0.1-seed-1"
    assert other.changed == {"beta": 0.1, "seed": 1}
    assert start(tmp_path, "--beta", 0.5).run_name == "x_figure"  # given, but no change


def test_smoke_limits_what_is_asked_for(tmp_path):
    few = {"pairs": 64}
    args = start(tmp_path, "--smoke", smoke=few)
    assert (args.pairs, args.run_name, args.settings["pairs"]) == (64, "x_figure-smoke", 64)
    assert start(tmp_path, "--smoke", "--pairs", 8, smoke=few).pairs == 8
    assert start(tmp_path, "--pairs", 800, smoke=few).pairs == 800


def test_how_data_are_read_needs_data(tmp_path):
    args = start(tmp_path, "--dataset", "some/pairs", "--split", "test", "--chosen-column", "good")
    assert args.reading == {"split": "test", "chosen_column": "good"}
    with pytest.raises(runs.UserError, match="--split says how your data are read"):
        start(tmp_path, "--split", "test")


def test_another_lessons_model_is_found_by_the_flags_that_shape_it(tmp_path):
    args = start(tmp_path, "--seed", 3, "--beta", 0.1, "--smoke")
    assert runs.trained_folder(args, "dpo").name == "dpo-seed-3-smoke"  # beta is this run's own
    assert runs.trained_folder(args, "dpo", without=("seed",)).name == "dpo-smoke"
    assert runs.trained_folder(start(tmp_path), "dpo") == tmp_path / "outputs" / "dpo"


VALUES = [
    *("a", "a b", "a_b", "./a", "a/", "/a", "a.", ".a", "A", "日本", "日本 ", "", "-"),
    *("x" * 39, "x" * 40, "x" * 41, "y" + "x" * 40, "z" + "x" * 40, "x" * 300),
    *(1, 2, 0.1, 0.100001, 1e-5, 1e-05 + 1e-13, [1, 2], [12], ["a", "b"], True),
]


def test_two_values_never_share_a_name():
    names = [runs.name_run("dpo", {"model": value}) for value in VALUES]
    assert len(set(names)) == len(names)
    for name in names:
        assert "/" not in name and name.startswith("dpo-model") and len(name.encode()) < 200
    assert runs.name_run("dpo", {}) == "dpo"
    changed = {"smoke": True, "learning_rate": 1e-5, "n": [1, 4]}
    assert runs.name_run("dpo", changed) == "dpo-learning-rate-1e-05-n-1-4-smoke"
    many = [dict.fromkeys("abc", "x" * 40) | {"d": "y" * 30 + last} for last in "12"]
    first, second = (runs.name_run("dpo", changed) for changed in many)
    assert first != second and len(first) < 150


# --- The end ---


def test_finish_writes_both_and_tells(tmp_path, capsys):
    from common.figures import new_figure

    args = start(tmp_path, "--seed", 2)
    figure, _ = new_figure(1, 1, "A title")
    runs.finish(args, {"share": 0.5}, figure, "python next.py")
    place = tmp_path / "outputs" / "x_figure-seed-2"
    content = json.loads(place.with_suffix(".json").read_text())
    assert content["metrics"] == {"share": 0.5} and content["settings"]["beta"] == 0.5
    assert content["seed"] == 2 and content["script"] == "x.py" and "numpy" in content["versions"]
    assert "claims" not in content and place.with_suffix(".png").stat().st_size > 1000
    out = capsys.readouterr().out
    assert "x_figure-seed-2.png" in out and out.rstrip().endswith("next  python next.py")
    start(tmp_path, "--seed", 2)  # what the lab wrote may be replaced


def test_a_user_error_is_one_line_and_exit_code_2(capsys):
    def main():
        raise runs.UserError("row 3:\n  nothing\tin it")

    with pytest.raises(SystemExit) as stop:
        runs.run(main)
    assert stop.value.code == 2
    assert capsys.readouterr() == ("", "error: row 3: nothing in it\n")


def test_an_interrupt_is_one_line_and_exit_code_130(capsys):
    def main():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stop:
        runs.run(main)
    assert stop.value.code == 130 and capsys.readouterr().err == "interrupted\n"


def test_other_errors_are_not_hidden():
    with pytest.raises(ZeroDivisionError):
        runs.run(lambda: 1 / 0)
    with pytest.raises(ModuleNotFoundError):
        runs.run(lambda: __import__("common.nothing"))


def test_a_reader_that_leaves_is_no_error():
    code = "from common.runs import run\nrun(lambda: [print('x' * 100) for _ in range(100_000)])"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait(30) == 0


@pytest.mark.parametrize("script", ["dpo_trainer", "run_all", "studies/too_much_dpo"])
def test_a_python_without_packages_is_told_in_one_line(tmp_path, script):
    command = [sys.executable, "-S", "-E", str(SCRIPTS / f"{script}.py")]  # no site-packages
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: no package ") and "; type: " in done.stderr
    assert list(tmp_path.iterdir()) == []


# --- Device and precision ---


def test_device(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert models.init_compute("auto") == models.init_compute("cpu") == "cpu"
    for name in ("cuda", "mps"):
        with pytest.raises(runs.UserError, match=f"--device {name}"):
            models.init_compute(name)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert models.init_compute("auto") == "mps"


@pytest.mark.parametrize(("slowness", "gains"), [(0.5, True), (2.0, False)])
def test_bfloat16_is_used_where_a_product_is_measured_to_be_faster(monkeypatch, slowness, gains):
    import torch

    clock = iter([0.0, 1.0, 5.0, 5.0 + slowness])  # begin and end: float32, then bfloat16
    monkeypatch.setattr(models.time, "perf_counter", lambda: next(clock))
    models.gains_from_bfloat16.cache_clear()
    assert models.gains_from_bfloat16("cpu") is gains
    models.gains_from_bfloat16.cache_clear()
    assert not models.gains_from_bfloat16("mps")
    assert isinstance(torch.ones(1), torch.Tensor)


def test_a_path_that_is_not_there_is_told_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs.v2").mkdir()
    for there in ("pairs.v2", str(tmp_path), "somebody/some-pairs", "imdb", "a/b-v1.5"):
        assert runs.data_place(there) == there  # the last three may be of the hub
    for missing in ("d.csv", "./a/b", "a/b.jsonl", "a/b/c", "~nobody-here/d.csv", "x.json.gz"):
        with pytest.raises(runs.UserError, match=r"there is no such file or folder$"):
            runs.data_place(missing)


def test_who_waits_is_a_script():
    assert set(run_all.WAVES) <= {*run_all.LESSONS, *run_all.STUDIES}
