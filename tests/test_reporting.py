"""Intervals (common/intervals.py), verdicts and files (reporting.py), errors and flags (cli.py)."""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import NormalDist

from support import drawing

import numpy as np
import pytest
from helpers import SCRIPTS

from common import cli, intervals, reporting
from common.intervals import bootstrap_ci, over_seeds, seed_half_width, summary, wilson_ci
from common.reporting import (
    ABOVE_ZERO,
    INFINITY,
    Check,
    Claim,
    benjamini_hochberg,
    false_discovery,
    judge,
    run_checks,
    seeds_needed,
    write_json,
)

# --- Intervals ---


def test_bootstrap_covers_the_truth_in_95_of_100_cases():
    rng, runs = np.random.default_rng(0), 400
    intervals = [bootstrap_ci(rng.exponential(size=60), resamples=300, seed=k) for k in range(runs)]
    covered = np.mean([low < 1 < high for low, high in intervals])
    # Percentile intervals of 60 skewed values: 93 %.
    assert abs(covered - 0.93) < 4 * np.sqrt(0.93 * 0.07 / runs)
    low, high = np.array(intervals).T
    assert np.mean(high < 1) < 0.1 and np.mean(low > 1) < 0.05


def test_bootstrap_has_the_width_of_the_normal_interval():
    values = np.random.default_rng(1).normal(5, 3, size=2000)
    low, high = bootstrap_ci(values)
    half = 1.96 * values.std() / np.sqrt(2000)
    assert (low, high) == pytest.approx(
        (values.mean() - half, values.mean() + half), abs=0.1 * half
    )
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
    assert seed_half_width([1.0, 2.0, 3.0]) == pytest.approx(4.30 / 3**0.5, abs=1e-2)
    assert seed_half_width([0.0, 1.0]) == pytest.approx(12.71 * 0.5, abs=1e-2)
    five = [0.1, 0.4, 0.2, 0.3, 0.5]  # deviation sqrt(0.025), t(4) = 2.776
    assert seed_half_width(five) == pytest.approx(2.776 * 0.005**0.5, abs=1e-3)
    for freedom, t in ((14, 2.145), (15, 2.131), (20, 2.086), (30, 2.042), (100, 1.984)):
        assert intervals.student_t(freedom) == pytest.approx(t, abs=0.006)
    rng = np.random.default_rng(5)
    runs = rng.normal(size=(4000, 3))
    covered = np.mean([abs(run.mean()) < seed_half_width(run) for run in runs])
    assert abs(covered - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 4000)


def test_wilson_interval():
    assert wilson_ci(0.5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert wilson_ci(1.0, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)
    assert wilson_ci(0.0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson_ci(0.0, 7)[0] >= 0 and wilson_ci(1.0, 7)[1] <= 1


def test_summary_of_few_cases_is_honest():
    assert summary([1, 0, 1, 1]) == {"mean": 0.75, "ci95": None, "count": 4}
    for count in (5, 19):
        hits = [True] * count
        assert summary(hits) == {"mean": 1.0, "ci95": wilson_ci(1.0, count), "count": count}
    assert summary([0.5, 1, 0, 1, 1])["ci95"] == wilson_ci(0.7, 5)  # ties count half
    for values in ([0.2, 0.4, 0.9, 1.0, 0.0], [0, 1] * 10, [3.0, 4.0, 5.0, 6.0, 9.0]):
        ci95 = bootstrap_ci(values)
        assert summary(values) == {"mean": np.mean(values), "ci95": ci95, "count": len(values)}
    assert intervals.percent(summary([1, 0])) == "50 % (too few cases for an interval)"
    assert intervals.interval({"mean": 0.123, "ci95": (0.1, 0.2)}) == "0.12 [0.10, 0.20]"


# --- Over seeds ---


def quantity(mean: float, half: float | None, **others) -> dict:
    return {"mean": mean, "ci95": half and [mean - half, mean + half], **others}


def test_one_seed_is_as_it_is():
    run = {"a": quantity(1.0, 0.1), "b": [1, 2]}
    assert over_seeds([run]) is run


def test_quantities_over_seeds():
    merged = over_seeds([quantity(m, 0.3, count=50) for m in (1.0, 2.0, 3.0)])
    half = np.hypot(seed_half_width([1.0, 2.0, 3.0]), 0.3)
    assert merged["ci95"] == pytest.approx([2 - half, 2 + half])
    assert (merged["mean"], merged["by_seed"], merged["count"]) == (2.0, [1.0, 2.0, 3.0], 50)
    uneven = over_seeds([{"mean": 1.0, "ci95": [0.9, 1.4]}, {"mean": 1.0, "ci95": [0.7, 1.2]}])
    assert uneven["ci95"] == pytest.approx([0.8, 1.3])  # no spread: the mean interval over cases


def test_quantities_without_an_interval_get_one_over_seeds():
    merged = over_seeds([quantity(m, None) for m in (1.0, 2.0)])
    half = seed_half_width([1.0, 2.0])
    assert merged["ci95"] == pytest.approx([1.5 - half, 1.5 + half])
    mixed = over_seeds([quantity(1.0, None), quantity(2.0, 0.4)])
    half = np.hypot(half, 0.4)
    assert mixed["ci95"] == pytest.approx([1.5 - half, 1.5 + half])


def test_the_form_of_metrics_survives_over_seeds():
    def run(seed: int) -> dict:
        return {
            "pairs": 768,
            "words": 10 + seed,
            "prompts": ["a", "b"],
            "converged": True,
            "peak": None if seed else 3.0,
            "curve": [{"step": step, "kl": quantity(step + seed, 1)} for step in (0, 16)],
            "losses": (0.5 + seed, 0.25),
            **({} if seed else {"only the first": 1}),
        }

    merged = over_seeds([run(0), run(1)])
    steps = [look["step"] for look in merged["curve"]]
    assert steps == [0, 16] and all(isinstance(step, int) for step in (*steps, merged["pairs"]))
    assert merged["words"] == 10.5 and merged["losses"] == [1.0, 0.25]
    assert merged["prompts"] == ["a", "b"] and merged["converged"] is True
    assert merged["peak"] is None and "only the first" not in merged
    assert [look["kl"]["mean"] for look in merged["curve"]] == [0.5, 16.5]
    assert json.loads(json.dumps(merged)) == merged


# --- Claims ---


@pytest.mark.parametrize(
    ("ci95", "region", "smallest", "verdict"),
    [
        ((0.1, 0.5), ABOVE_ZERO, 0, "holds"),
        ((-0.5, -0.1), ABOVE_ZERO, 0, "does not hold"),
        ((-0.1, 0.5), ABOVE_ZERO, 0, "undecided"),
        ((0.0, 0.5), ABOVE_ZERO, 0, "undecided"),  # touches the border from inside
        ((-0.5, 0.0), ABOVE_ZERO, 0, "does not hold"),  # nothing above it
        ((0.0, 0.0), ABOVE_ZERO, 0, "does not hold"),
        ((0.0, 0.0), (-1e-12, 1e-12), 0, "holds"),
        ((0.9, 1.1), (0.85, 1.15), 0, "holds"),
        ((0.8, 1.1), (0.85, 1.15), 0, "undecided"),
        ((0.9, 1.2), (0.85, 1.15), 0, "undecided"),
        ((0.8, 1.2), (0.85, 1.15), 0, "undecided"),
        ((1.15, 1.3), (0.85, 1.15), 0, "does not hold"),
        ((0.2, 0.85), (0.85, 1.15), 0, "does not hold"),
        ((-2, -1), (-INFINITY, 0), 0, "holds"),
        ((1, 2), (-INFINITY, 0), 0, "does not hold"),
        ((-0.04, 0.04), ABOVE_ZERO, 0.05, "no difference"),
        ((0.01, 0.04), ABOVE_ZERO, 0.05, "no difference"),  # sure, and too small to matter
        ((-0.04, -0.01), ABOVE_ZERO, 0.05, "no difference"),
        ((-0.04, 0.06), ABOVE_ZERO, 0.05, "undecided"),
        ((0.01, 0.06), ABOVE_ZERO, 0.05, "holds"),
        ((-0.06, -0.01), ABOVE_ZERO, 0.05, "does not hold"),
        ((1.11, 1.18), (0.85, 1.15), 0.05, "no difference"),
        (None, ABOVE_ZERO, 0.05, "undecided"),
    ],
)
def test_verdicts(ci95, region, smallest, verdict):
    claim = Claim("id", "says", "measured", "a.0.b", region, smallest)
    (judged,) = judge([claim], {"a": [{"b": {"mean": 0.0, "ci95": ci95}}]})
    assert judged["verdict"] == reporting.verdict(ci95, region, smallest) == verdict


def test_a_judged_claim_is_ready_for_json():
    claim = Claim("a", "says", "measured", "x.y")
    ci95 = (np.float64(0.1234567), 1)
    (judged,) = judge([claim], {"x": {"y": {"mean": np.float32(1 / 3), "ci95": ci95}}})
    assert judged == {
        "id": "a",
        "says": "says",
        "measured": "measured",
        "path": "x.y",
        "true": [0.0, None],
        "smallest": 0.0,
        "mean": 0.333333,
        "ci95": [0.123457, 1.0],
        "verdict": "holds",  # above 0, where nothing else is said
    }
    assert json.loads(json.dumps(judged)) == judged
    (tiny,) = judge([claim], {"x": {"y": {"mean": 1e-9, "ci95": (1e-9, 2e-9), "by_seed": [1, 2]}}})
    assert tiny["verdict"] == "holds" and tiny["ci95"] == [0.0, 0.0]  # judged before rounding
    assert tiny["by_seed"] == [1.0, 2.0]
    with pytest.raises(KeyError):
        judge([claim], {"x": {}})


def test_checks():
    checks = [Check("a", "one", "x", (0, 1e-5)), Check("b", "two", "y.0", (1, INFINITY))]
    right, wrong = run_checks(checks, {"x": np.float32(1e-6), "y": [0.5]})
    assert (right["passes"], wrong["passes"]) == (True, False)
    assert wrong["between"] == [1.0, None] and wrong["value"] == 0.5
    assert json.loads(json.dumps([right, wrong])) == [right, wrong]
    assert not run_checks(checks[:1], {"x": float("nan")})[0]["passes"]


# Benjamini and Hochberg 1995, section 3.2: fifteen p-values, of which four are discoveries at 5 %.
P_VALUES = (0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240)
P_VALUES += (0.4262, 0.5719, 0.6528, 0.7590, 1.0000)


def test_benjamini_hochberg_by_its_own_example():
    adjusted = benjamini_hochberg(P_VALUES)
    assert sum(p <= 0.05 for p in adjusted) == 4
    by_hand = [15 * 0.0001, 15 / 2 * 0.0004, 15 / 3 * 0.0019, 15 / 4 * 0.0095, 15 / 5 * 0.0201]
    by_hand += [15 / 7 * 0.0298, 15 / 7 * 0.0298]  # the sixth is no less sure than the seventh
    assert adjusted[:7] == pytest.approx(by_hand)
    order = np.random.default_rng(0).permutation(15)
    shuffled = benjamini_hochberg(np.array(P_VALUES)[order])
    assert shuffled == pytest.approx(np.array(adjusted)[order])
    assert benjamini_hochberg([]) == []


def judged_at(p: float, region=ABOVE_ZERO, below: bool = False) -> dict:
    """A claim whose interval implies this p-value, `below` the lower border or above it."""
    distance = NormalDist().inv_cdf(1 - p / 2) / 1.96  # in half-widths of 1
    mean = region[0] - distance if below else region[0] + distance
    claim = Claim(f"p {p}", "", "", "x", region)
    return judge([claim], {"x": {"mean": mean, "ci95": (mean - 1, mean + 1)}})[0]


def test_false_discovery_of_claims():
    claims = [judged_at(p, below=k % 2 == 1) for k, p in enumerate(P_VALUES)]
    assert {claim["verdict"] for claim in claims} == {"holds", "does not hold", "undecided"}
    adjusted = false_discovery(claims)
    assert list(adjusted) == [f"p {p}" for p in P_VALUES[:9]]  # decided; the others only count
    assert list(adjusted.values()) == pytest.approx(benjamini_hochberg(P_VALUES)[:9], rel=1e-3)
    no_interval = {**claims[0], "id": "none", "ci95": None, "verdict": "undecided"}
    equal = {**claims[0], "id": "equal", "verdict": "no difference"}
    assert false_discovery([*claims, no_interval, equal]) == adjusted
    assert false_discovery([]) == {}


def test_false_discovery_looks_at_the_nearest_border_and_its_side():
    claim = {"id": "a", "true": [0.0, 10.0], "verdict": "holds"}
    near_top = {**claim, "mean": 9.0, "ci95": [8.9, 9.98]}
    p = 2 * NormalDist().cdf(-1.0 * 1.96 / 0.98)
    assert false_discovery([near_top])["a"] == pytest.approx(p)
    assert false_discovery([{**claim, "mean": 5.0, "ci95": [5.0, 5.0]}])["a"] == 0


def claim_over(means, half: float | None, region=ABOVE_ZERO, smallest: float = 0.0) -> dict:
    metrics = {"x": over_seeds([quantity(mean, half) for mean in means])}
    return judge([Claim("a", "", "", "x", region, smallest)], metrics)[0]


def test_seeds_that_an_open_claim_would_take():
    means = [0.0, 1.0, 2.0, -1.0]  # mean 0.5, deviation 1.291
    claim = claim_over(means, None)
    needed = seeds_needed(claim)
    assert claim["verdict"] == "undecided" and 25 <= needed <= 30
    halves = [intervals.student_t(k - 1) * 1.291 / k**0.5 for k in (needed - 2, needed)]
    assert halves[1] < 0.5 < halves[0]
    assert seeds_needed(claim_over(means, 0.4)) > 2 * needed  # 0.3 is left for the seeds' part
    assert seeds_needed(claim_over(means, 0.6)) is None  # the prompts alone straddle: more of them
    small = claim_over([0.3, -0.3, 0.2, -0.2], 0.01, smallest=0.1)
    assert small["verdict"] == "undecided" and 4 < seeds_needed(small) < 100  # no difference


def test_no_seeds_are_asked_for_where_they_would_not_help():
    assert seeds_needed(claim_over([1.0, 1.1, 0.9], 0.1)) is None  # decided
    one = judge([Claim("a", "", "", "x")], {"x": quantity(0.1, 0.5)})[0]
    assert one["verdict"] == "undecided" and seeds_needed(one) is None
    assert seeds_needed(claim_over([1.0, -1.0], None)) is None  # on the border itself


# --- The end of a script ---


def run_of(folder: Path, **changes) -> argparse.Namespace:
    settings = {"seed": 7, "beta": 0.1, "dataset": None, "smoke": False, "model": "tiny-gpt2"}
    values = {"script": "a.py", "name": "a", "run_name": "a-x", "changed": {}, "settings": settings}
    values |= {"seed": 7, "figures_dir": folder, "started": time.time() - 2, "claims": False}
    values["panels"] = False
    return argparse.Namespace(**{**values, **changes})


CLAIMS = (
    Claim("up", "it goes up", "gain in words", "gain"),
    Claim("big", "it is big", "size", "n"),
)
CHECKS = (Check("same", "they are the same", "difference", (0, 1e-6)),)
METRICS = {"gain": quantity(0.5, 0.25), "n": quantity(-1.0, 0.5), "difference": 0.0}


def committed_run(folder: Path) -> None:
    claims = judge(CLAIMS, METRICS)
    results = {"settings": {"seeds": [0, 1, 2]}, "metrics": {"old": 1}, "claims": claims}
    write_json(folder / "a.json", {**results, "checks": []})


class Recorder:
    """In the place of a function that draws and of what it returns."""

    def __init__(self):
        self.calls = []

    def __call__(self, metrics, default):
        self.calls.append((metrics, default))
        return self

    def save(self, path, caption):
        self.calls.append(("figure", path, caption))

    def save_panels(self, folder, caption):
        self.calls.append(("panels", folder, caption))


def test_finish_judges_writes_draws_and_tells(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reporting, "COMMITTED", tmp_path / "figures")
    (tmp_path / "figures").mkdir()
    draw_it = Recorder()
    args = run_of(tmp_path, settings={**run_of(tmp_path).settings, "figures_dir": tmp_path})
    ending = {"claims": CLAIMS, "checks": CHECKS, "timings": {"n=1": 0.5}, "device": "cuda"}
    metrics = reporting.finish(
        args,
        METRICS,
        draw_it,
        ["It was found that " + "words " * 30],
        settings={"learning_rate": 1e-3},
        trained=[tmp_path / "model"],
        **ending,
    )
    assert metrics is METRICS
    path = tmp_path / "a-x.json"
    results = json.loads(path.read_text(encoding="utf-8"))
    keys = ["script", "settings", "versions", "seed", "device", "wall_seconds", "metrics"]
    assert list(results) == [*keys, "claims", "checks"]
    assert results["settings"]["learning_rate"] == 1e-3
    assert results["settings"]["figures_dir"] == str(tmp_path)
    assert (results["script"], results["seed"], results["device"]) == ("a.py", 7, "cuda")
    assert 2 <= results["wall_seconds"]["total"] < 4 and results["wall_seconds"]["n=1"] == 0.5
    assert results["versions"]["python"] == sys.version.split()[0]
    assert [claim["verdict"] for claim in results["claims"]] == ["holds", "does not hold"]
    caption, figure = "model tiny-gpt2, beta 0.1, learning rate 0.001, seed 7", tmp_path / "a-x.png"
    assert draw_it.calls == [(METRICS, None), ("figure", figure, caption)]
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines()[:4])) <= 100
    assert "with this seed alone: 1 holds, 1 does not hold" in out and "--claims lists them" in out
    assert "1 of 1 pass" in out and f"wrote {tmp_path / 'model'}, {figure}, {path}" in out
    assert "compare with" not in out and "committed" not in out


def test_a_changed_run_is_compared_with_the_committed_one(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reporting, "COMMITTED", tmp_path)
    committed_run(tmp_path)
    draw_it = Recorder()
    args = run_of(tmp_path, changed={"beta": 0.1}, claims=True, panels=True)
    wrong = {**METRICS, "difference": 1.0}
    reporting.finish(args, wrong, draw_it, ["one"], claims=CLAIMS, checks=CHECKS)
    asked, figure, panels = draw_it.calls
    assert asked == (wrong, {"old": 1})
    assert panels == ("panels", tmp_path / "a-x-panels", figure[2])
    out = capsys.readouterr().out
    assert "over seeds 0 to 2, the committed run: 1 holds, 1 does not hold" in out
    assert "HOLDS: it goes up" in out and "DOES NOT HOLD: it is big" in out
    assert "gain in words: 0.500 [0.250, 0.750]; true above 0" in out
    assert "over all seeds: holds, 0.500 [0.250, 0.750]" in out and "--claims lists" not in out
    assert "0 of 1 pass; FAILED: they are the same" in out
    assert f"{tmp_path / 'a-x-panels'}\ncompare with {tmp_path / 'a.png'}" in out


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"claims": [{"measured": 1}]}'])
def test_what_is_no_result_is_no_result(tmp_path, content):
    if content is not None:
        (tmp_path / "a.json").write_text(content)
    assert reporting.read_results(tmp_path / "a.json") == reporting.NOTHING


def test_caption_names_the_settings():
    settings = {"seed": 0, "seeds": [0, 1, 2], "dataset": "/x/pairs.jsonl", "smoke": True}
    settings |= {"loss_type": ["sigmoid", "sft"], "model": "../models/mine", "beta": 0.25}
    text = "model mine, dataset pairs.jsonl, loss type sigmoid + sft, beta 0.25, smoke"
    assert reporting.caption(settings) == f"{text}, mean of seeds 0 to 2"
    assert reporting.name_seeds([0, 5]) == "seeds 0, 5"


# --- Files ---


def draw(path: Path, title: str = "A title") -> None:
    fig, (left, _) = drawing.new_figure("AB")
    drawing.draw_band(left, [0, 1], [1, 2], [0, 1], [2, 3], drawing.COLORS["dpo"], "DPO")
    assert fig.get_figwidth() == 12
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
    assert (
        json.loads(text) == {"number": 1, "text": "β ≤ 1"}
        and "β ≤ 1" in text
        and text.endswith("}\n")
    )


def test_what_cannot_be_written_leaves_the_old_file(tmp_path):
    write_number(tmp_path / "a.json")
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"number": object()})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["number"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_colours_are_told_apart():
    assert len(set(drawing.COLORS.values())) == len(drawing.COLORS)


# --- The command line ---


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
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait(30) == 0


def test_bad_flags_are_one_line_and_exit_code_2(capsys):
    parser = cli.make_parser("x.py", "What it does")
    cli.add_model_flags(parser, model="tiny-gpt2")
    for flags in (
        ["--seed", "-1"],
        ["--seed", "x"],
        ["--device", "tpu"],
        ["--nonsense"],
        ["word"],
        ["--seed"],
    ):
        with pytest.raises(SystemExit) as stop:
            parser.parse_args(flags)
        assert stop.value.code == 2
        err = capsys.readouterr().err
        assert err.startswith("error: ") and err.count("\n") == 1 and "--help" in err


def test_shared_flags_and_their_defaults(capsys):
    parser = cli.make_parser("x.py", "What it does")
    cli.add_model_flags(parser, model="tiny-gpt2")
    assert vars(parser.parse_args([])) == {
        "seed": 0,
        "output_dir": Path("outputs"),
        "figures_dir": None,  # the output folder
        "claims": False,
        "panels": False,
        "smoke": False,
        "model": "tiny-gpt2",
        "device": "auto",
        "dataset": None,
        **dict.fromkeys(cli.READING),
    }
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    assert "What it does" in (text := capsys.readouterr().out) and "default: tiny-gpt2" in text
    cli.add_model_flags(other := cli.make_parser("x.py", ""), model="m", dataset=False)
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


def start(folder: Path, *flags: str, smoke=None) -> argparse.Namespace:
    parser = cli.make_parser("/some/where/x.py", "What it does")
    parser.add_argument("--beta", type=cli.positive_float, default=0.5)
    parser.add_argument("--pairs", type=cli.whole_number(2))
    where = ["--output-dir", str(folder / "outputs")]
    return cli.start(parser, [*where, *map(str, flags)], "x_figure", smoke)


def test_start(tmp_path):
    args = start(tmp_path)
    assert (args.script, args.name, args.run_name) == ("x.py", "x_figure", "x_figure")
    assert args.changed == {} and time.time() - args.started < 60
    assert args.settings == {"seed": 0, "smoke": False, "beta": 0.5, "pairs": None}
    assert args.figures_dir == args.output_dir == tmp_path / "outputs" and args.output_dir.is_dir()
    other = start(tmp_path, "--beta", 0.1, "--seed", 1, "--figures-dir", tmp_path / "f")
    assert other.run_name == "x_figure-beta-0.1-seed-1" and other.changed == {
        "beta": 0.1,
        "seed": 1,
    }
    assert other.figures_dir == tmp_path / "f" and other.figures_dir.is_dir()
    assert start(tmp_path, "--beta", 0.5).run_name == "x_figure"  # given, but no change


def test_smoke_limits_what_is_asked_for(tmp_path):
    few = {"pairs": 64, "beta": 1}
    args = start(tmp_path, "--smoke", smoke=few)
    assert (args.pairs, args.beta, args.run_name) == (64, 0.5, "x_figure-smoke")
    assert args.settings["pairs"] == 64
    assert start(tmp_path, "--smoke", "--pairs", 8, smoke=few).pairs == 8
    assert start(tmp_path, "--pairs", 800, smoke=few).pairs == 800


VALUES = [
    *("a", "a b", "a_b", "a-b", "./a", "a/", "/a", "a.", ".a", "A", "日本", "日本 ", "", "-"),
    *("x" * 39, "x" * 40, "x" * 41, "y" + "x" * 40, "z" + "x" * 40, "x" * 300),
    *(1, 2, 0.1, 0.100001, 1e-5, 1e-05 + 1e-13, [1, 2], [12], ["a", "b"], True),
]


def test_two_values_never_share_a_name(tmp_path):
    names = [cli.name_run("dpo", {"model": value}) for value in VALUES]
    assert len(set(names)) == len(names)
    for name in names:
        (tmp_path / f".{name}.{'0' * 32}.tmp").touch()  # as `replacing` writes it
        assert "/" not in name and name.startswith("dpo-model")
    assert cli.name_run("dpo", {}) == "dpo"
    changed = {"smoke": True, "learning_rate": 1e-5, "n": [1, 4]}
    assert cli.name_run("dpo", changed) == "dpo-learning-rate-1e-05-n-1-4-smoke"
    many = [dict.fromkeys("abc", "x" * 40) | {"d": "y" * 30 + last} for last in "12"]
    first, second = (cli.name_run("dpo", changed) for changed in many)
    assert first != second and len(first) < 150 and first.startswith("dpo-a-b-c-d-")


RESULTS = '{"script": "x.py", "settings": {}, "metrics": {}}'


def test_only_what_the_lab_wrote_is_replaced(tmp_path):
    cli.check_replaceable(tmp_path, "a")
    (tmp_path / "a.json").write_text(RESULTS)
    (tmp_path / "a.png").touch()
    cli.check_replaceable(tmp_path, "a")
    for content in ('{"scripts": {"build": "x"}}', '["script"]', "7", "no json", '{"script": 1}'):
        (tmp_path / "a.json").write_text(content)
        with pytest.raises(cli.UserError, match=r"a\.json was not written by the lab"):
            cli.check_replaceable(tmp_path, "a")
    (tmp_path / "a.json").unlink()
    with pytest.raises(cli.UserError, match=r"a\.png was not written by the lab"):
        start(tmp_path / "b", "--figures-dir", tmp_path) and cli.check_replaceable(tmp_path, "a")
    (tmp_path / "a.png").unlink()
    (tmp_path / "a.json").write_text(RESULTS)
    (tmp_path / "a.png").symlink_to(tmp_path / "nowhere")  # found now, and not after the training
    with pytest.raises(cli.UserError, match=r"a\.png was not written by the lab"):
        cli.check_replaceable(tmp_path, "a")


def test_a_missing_package_is_one_line(monkeypatch, capsys):
    def main():
        monkeypatch.setitem(sys.modules, "trl", None)
        import trl  # noqa: F401

    for prefix, todo in (("/usr", "source "), (str(SCRIPTS.parent / ".venv"), "pip install -e")):
        monkeypatch.setattr(sys, "prefix", prefix)
        monkeypatch.setattr(Path, "is_file", lambda path: True)
        with pytest.raises(SystemExit) as stop:
            cli.run(main)
        out, err = capsys.readouterr()
        assert stop.value.code == 2 and out == "" and err.count("\n") == 1
        assert err.startswith("error: no package trl in this Python; type: ") and todo in err
    with pytest.raises(ModuleNotFoundError):
        cli.run(lambda: __import__("common.nothing"))


@pytest.mark.parametrize("script", ["dpo_trainer", "reward_model", "best_of_n"])
def test_a_python_without_numpy_is_told_in_one_line(tmp_path, script):
    command = [sys.executable, "-S", "-E", str(SCRIPTS / f"{script}.py")]  # no site-packages
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: no package numpy in this Python; type: ")
    assert list(tmp_path.iterdir()) == []


def test_device(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert cli.init_compute("auto") == cli.init_compute("cpu") == "cpu"
    for name in ("cuda", "mps"):
        with pytest.raises(cli.UserError, match=f"--device {name}"):
            cli.init_compute(name)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert cli.init_compute("auto") == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert cli.init_compute("auto") == cli.init_compute("cuda") == "cuda"
