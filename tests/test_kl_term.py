"""studies/kl_term.py: gold utility at equal KL, the command."""

import json

import kl_term as study
import numpy as np
import pytest
from helpers import run_script


def curve(kl: np.ndarray, shift: float = 0.0) -> dict:
    return {"kl": list(kl), "gold": list(2 + kl - kl**2 / 4 + shift * (kl > 0))}


def test_stopping_early_on_one_curve_is_no_difference():
    near, far = curve(np.linspace(0, 1, 60)), curve(np.linspace(0, 5, 300))
    assert study.gap_at_equal_kl(near, far) == pytest.approx(0, abs=1e-3)
    assert near["gold"][-1] - far["gold"][-1] > 1  # which the ends alone would call one


def test_another_curve_is_a_difference():
    better, usual = curve(np.linspace(0, 2, 200), 0.5), curve(np.linspace(0, 3, 200))
    assert study.gap_at_equal_kl(better, usual) == pytest.approx(0.5, abs=1e-2)
    assert study.gap_at_equal_kl(usual, better) == pytest.approx(-0.5, abs=1e-2)


def test_looks_need_not_come_in_the_order_of_their_kl():
    kl = np.array([0, 0.5, 1.5, 1.0, 2.0])
    assert study.gap_at_equal_kl(curve(kl), curve(np.sort(kl))) == pytest.approx(0)


def test_the_command(tmp_path):
    done = run_script("studies/kl_term", "--smoke", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    saved = tmp_path / "outputs/studies/kl_term-smoke.json"
    assert saved.with_suffix(".png").is_file()
    results = json.loads(saved.read_text(encoding="utf-8"))
    metrics = results["runs"][0]["metrics"]
    with_term, without = metrics["kl_term"].values()
    assert with_term["kl"][0] == without["kl"][0] == 0
    assert with_term["gold"][0] == without["gold"][0]  # the SFT model's
    assert len(with_term["kl"]) == len(without["kl"]) == 2  # before, and after both updates
    (claim,) = results["claims"]
    assert claim["mean"] == pytest.approx(study.gap_at_equal_kl(with_term, without), abs=1e-6)
