"""Intervals, verdicts and files of common/reporting.py, and the errors and flags of common/cli.py."""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import drawing
import numpy as np
import pytest

from common import cli, reporting
from common.reporting import bootstrap_ci, make_claim, seed_ci, write_json, write_results

# ---------------------------------------------------------------------------------------------------------
# Intervals
# ---------------------------------------------------------------------------------------------------------


def test_bootstrap_covers_the_truth_in_95_of_100_cases():
    rng, runs = np.random.default_rng(0), 400
    intervals = [bootstrap_ci(rng.exponential(size=60), resamples=300, seed=k) for k in range(runs)]
    covered = np.mean([low < 1 < high for low, high in intervals])
    assert abs(covered - 0.93) < 4 * np.sqrt(0.93 * 0.07 / runs)  # percentile intervals of 60 skewed values: 93 %
    low, high = np.array(intervals).T
    assert np.mean(high < 1) < 0.1 and np.mean(low > 1) < 0.05


def test_bootstrap_has_the_width_of_the_normal_interval():
    values = np.random.default_rng(1).normal(5, 3, size=2000)
    low, high = bootstrap_ci(values)
    half = 1.96 * values.std() / np.sqrt(2000)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)
    assert all(isinstance(end, float) for end in (low, high))


def test_bootstrap_is_deterministic():
    values = np.random.default_rng(2).normal(size=50)
    np.random.seed(3)
    assert bootstrap_ci(values) == bootstrap_ci(list(values)) != bootstrap_ci(values, seed=1)
    assert bootstrap_ci([2.5] * 7) == (2.5, 2.5)
    assert bootstrap_ci(np.array([True, False] * 50))[0] > 0.35


def test_bootstrap_resamples_rows():
    rng = np.random.default_rng(4)
    table = np.column_stack([rng.normal(10, 1, 300), rng.normal(5, 1, 300)])
    table[:, 1] += table[:, 0]  # columns belong together: their difference has mean 5, deviation 1

    def difference(rows, axis):
        assert axis == 0 and rows.shape == (300, 2)
        return (rows[:, 1] - rows[:, 0]).mean()

    low, high = bootstrap_ci(table, difference)
    assert high - low == pytest.approx(2 * 1.96 / np.sqrt(300), rel=0.15) and low < 5 < high
    low, high = bootstrap_ci(table[:, 0], np.median)
    assert low < np.median(table[:, 0]) < high


def test_seed_interval_is_students():
    assert seed_ci([1.0, 2.0, 3.0]) == pytest.approx((2 - 4.30 / 3**0.5, 2 + 4.30 / 3**0.5), abs=1e-2)
    assert seed_ci([0.0, 1.0]) == pytest.approx((0.5 - 12.71 * 0.5, 0.5 + 12.71 * 0.5), abs=1e-2)
    five = [0.1, 0.4, 0.2, 0.3, 0.5]  # mean 0.3, deviation sqrt(0.025), t(4) = 2.776
    assert seed_ci(five) == pytest.approx((0.3 - 2.776 * 0.005**0.5, 0.3 + 2.776 * 0.005**0.5), abs=1e-3)
    rng = np.random.default_rng(5)
    covered = np.mean([low < 0 < high for low, high in (seed_ci(rng.normal(size=3)) for _ in range(4000))])
    assert abs(covered - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 4000)


# ---------------------------------------------------------------------------------------------------------
# Claims
# ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ci95", "region", "verdict"),
    [
        ((0.1, 0.5), (0, np.inf), "holds"),
        ((-0.5, -0.1), (0, np.inf), "does not hold"),
        ((-0.1, 0.5), (0, np.inf), "no difference"),
        ((0.0, 0.5), (0, np.inf), "no difference"),  # touches the border from inside
        ((-0.5, 0.0), (0, np.inf), "does not hold"),  # nothing above it
        ((0.0, 0.0), (0, np.inf), "does not hold"),
        ((0.0, 0.0), (-1e-12, 1e-12), "holds"),
        ((0.9, 1.1), (0.85, 1.15), "holds"),
        ((0.8, 1.1), (0.85, 1.15), "no difference"),
        ((0.9, 1.2), (0.85, 1.15), "no difference"),
        ((0.8, 1.2), (0.85, 1.15), "no difference"),
        ((1.15, 1.3), (0.85, 1.15), "does not hold"),
        ((0.2, 0.85), (0.85, 1.15), "does not hold"),
        ((-2, -1), (-np.inf, 0), "holds"),
        ((1, 2), (-np.inf, 0), "does not hold"),
    ],
)
def test_verdicts(ci95, region, verdict):
    claim = make_claim("id", "claim", "predicted", 0.0, ci95, region)
    assert claim["verdict"] == verdict
    assert reporting.verdict(ci95, json.loads(json.dumps(claim["holds_between"]))) == verdict  # as run_all reads it


def test_a_claim_is_ready_for_json():
    claim = make_claim("a", "b", "c", np.float32(1 / 3), (np.float64(0.1234567), 1))
    assert claim == {
        "id": "a",
        "claim": "b",
        "predicted": "c",
        "holds_between": [0.0, None],
        "measured": 0.333333,
        "ci95": [0.123457, 1.0],
        "verdict": "holds",  # above 0, where nothing else is said
    }
    assert json.loads(json.dumps(claim)) == claim
    tiny = make_claim("a", "b", "c", 1e-9, (1e-9, 2e-9))
    assert tiny["verdict"] == "holds" and tiny["ci95"] == [0.0, 0.0]  # judged before rounding


def test_claims_and_summary_are_printed_one_per_line(capsys):
    claim = make_claim("a", "the claim", "c", 0.25, (-0.5, -0.125))
    reporting.print_claims([claim, claim])
    reporting.print_summary(["one", "two"], [Path("a/b.png"), Path("b.json")])
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 6 and printed[0] == printed[1]
    assert "does not hold" in printed[0] and "the claim: 0.25 [-0.5, -0.125]" in printed[0]
    assert printed[2:] == ["", "one", "two", f"wrote {Path('a/b.png')}, b.json"]


# ---------------------------------------------------------------------------------------------------------
# Files
# ---------------------------------------------------------------------------------------------------------


def draw(path: Path, title: str = "A title") -> None:
    fig, axes = drawing.new_figure(1, 2)
    drawing.draw_band(axes[0, 0], [0, 1], [1, 2], [0, 1], [2, 3], drawing.COLORS["dpo"], "DPO")
    assert fig.get_figwidth() == 12 and axes.shape == (1, 2)
    drawing.save_figure(fig, path, title)


def write_number(path: Path, number: int = 1) -> None:
    write_json(path, {"number": number, "text": "β ≤ 1"})


@pytest.mark.parametrize(("write", "name"), [(draw, "a.png"), (write_number, "a.json")])
def test_files_are_replaced_in_one_step(tmp_path, monkeypatch, write, name):
    path, replace, steps = tmp_path / name, Path.replace, []
    path.write_text("old")

    def watched(temporary, target):
        steps.append((path.read_bytes(), temporary.read_bytes(), temporary.parent))
        return replace(temporary, target)

    monkeypatch.setattr(Path, "replace", watched)
    write(path)
    (before, complete, folder), *more = steps
    assert not more and before == b"old" and complete == path.read_bytes() and folder == tmp_path
    assert [p.name for p in tmp_path.iterdir()] == [name]
    monkeypatch.undo()
    write(path)
    assert path.read_bytes() == complete  # the same content, the same bytes


def test_figure_and_json_can_be_read(tmp_path):
    import matplotlib.pyplot as plt

    draw(tmp_path / "a.png")
    assert plt.get_fignums() == []  # closed
    assert plt.imread(tmp_path / "a.png").shape[1] == 12 * 130
    write_number(tmp_path / "a.json")
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"number": 1, "text": "β ≤ 1"} and "β ≤ 1" in text and text.endswith("}\n")


def test_what_cannot_be_written_leaves_the_old_file(tmp_path):
    write_number(tmp_path / "a.json")
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"number": object()})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["number"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_results_have_the_keys_of_the_contract(tmp_path):
    claim = make_claim("a", "b", "c", 1, (0.5, 2))
    settings = {"seed": 7, "figures_dir": tmp_path / "x", "smoke": True, "dataset": None, "beta": 0.1}
    path = tmp_path / "a.json"
    results = write_results(path, "a.py", settings, time.time() - 2, {"m": [1]}, [claim], "cuda", cost={"n=1": 0.5})
    assert json.loads(path.read_text(encoding="utf-8")) == results
    assert list(results) == ["script", "settings", "versions", "seed", "device", "wall_seconds", "metrics", "claims"]
    assert results["settings"] == {**settings, "figures_dir": str(tmp_path / "x")}
    assert (results["script"], results["seed"], results["device"]) == ("a.py", 7, "cuda")
    assert results["wall_seconds"]["cost"] == {"n=1": 0.5} and 2 <= results["wall_seconds"]["total"] < 4
    assert results["metrics"] == {"m": [1]} and results["claims"] == [claim]
    assert results["versions"]["python"] == sys.version.split()[0] and results["versions"]["numpy"] == np.__version__
    assert write_results(path, "a.py", settings, time.time(), {})["claims"] == []


def test_colours_are_told_apart():
    assert len(set(drawing.COLORS.values())) == len(drawing.COLORS)


# ---------------------------------------------------------------------------------------------------------
# The command line
# ---------------------------------------------------------------------------------------------------------


def test_a_user_error_is_one_line_and_exit_code_2(capsys):
    def main():
        raise cli.UserError("row 3:\n  nothing\tin it")

    with pytest.raises(SystemExit) as stop:
        cli.run(main)
    assert stop.value.code == 2
    assert capsys.readouterr() == ("", "error: row 3: nothing in it\n")


def test_an_interrupt_is_one_line_and_exit_code_130(capsys):
    def main():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stop:
        cli.run(main)
    assert stop.value.code == 130 and capsys.readouterr().err == "interrupted\n"


def test_other_errors_are_not_hidden():
    with pytest.raises(ZeroDivisionError):
        cli.run(lambda: 1 / 0)


def test_a_reader_that_leaves_is_no_error():
    code = "from common.cli import run\nrun(lambda: [print('x' * 100) for _ in range(100_000)])"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait(30) == 0


def test_bad_flags_are_one_line_and_exit_code_2(capsys):
    parser = cli.make_parser("What it does")
    cli.add_model_flags(parser, model="tiny-gpt2")
    for flags in (["--seed", "-1"], ["--seed", "x"], ["--device", "tpu"], ["--nonsense"], ["word"], ["--seed"]):
        with pytest.raises(SystemExit) as stop:
            parser.parse_args(flags)
        assert stop.value.code == 2
        err = capsys.readouterr().err
        assert err.startswith("error: ") and err.count("\n") == 1 and "--help" in err


def test_shared_flags_and_their_defaults(capsys):
    parser = cli.make_parser("What it does")
    cli.add_model_flags(parser, model="tiny-gpt2")
    assert vars(parser.parse_args([])) == {
        "seed": 0,
        "output_dir": Path("outputs"),
        "figures_dir": Path("figures"),
        "smoke": False,
        "model": "tiny-gpt2",
        "device": "auto",
        "dataset": None,
    }
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    assert "What it does" in (text := capsys.readouterr().out) and "default: tiny-gpt2" in text
    cli.add_model_flags(other := cli.make_parser(""), model="m", dataset=False)
    assert "dataset" not in other.parse_args([])


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (cli.whole_number(0), {"0": 0, "7": 7}, ["-1", "1.5", "x", ""]),
        (cli.whole_number(1), {"1": 1, "7": 7}, ["0", "-1", "1.5", "x"]),
        (cli.positive_float, {"1e-3": 1e-3, "2": 2.0}, ["0", "-1", "nan", "inf", "x"]),
    ],
)
def test_types_of_flags(kind, good, bad):
    assert {text: kind(text) for text in good} == good
    for text in bad:
        with pytest.raises((argparse.ArgumentTypeError, ValueError)):
            kind(text)


def test_folders_are_made_or_refused_before_any_work(tmp_path):
    cli.check_writable(tmp_path / "a" / "b", tmp_path / "a")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(cli.UserError, match=r"cannot create the folder .*file"):
            cli.check_writable(folder)


def test_device(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert cli.pick_device("auto") == cli.pick_device("cpu") == "cpu"
    for name in ("cuda", "mps"):
        with pytest.raises(cli.UserError, match=f"--device {name}"):
            cli.pick_device(name)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert cli.pick_device("auto") == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert cli.pick_device("auto") == cli.pick_device("cuda") == "cuda"
