"""run_all.py: claims over seeds, and the tables of the README."""

import pytest
import run_all

from common.reporting import make_claim, seed_ci


def results(values: list[float], half: float) -> list[dict]:
    """One seed's results: the first script has one claim per value, measured with that half-width."""
    claims = [make_claim(f"claim_{k}", f"c {k}", "above 0", v, (v - half, v + half)) for k, v in enumerate(values)]
    return [{"claims": claims}, *({"claims": []} for _ in run_all.SCRIPTS[1:])]


def test_claims_over_seeds_take_the_wider_interval():
    by_seed = [results([1.0, 0.1, -1.0], 0.2), results([1.1, 0.2, -1.0], 0.2), results([1.2, -0.2, -1.0], 0.2)]
    sure, unsure, against = run_all.sum_up_claims(by_seed)
    assert sure["measured"] == pytest.approx(1.1) and sure["verdict"] == "holds"
    assert sure["ci95"] == pytest.approx(seed_ci([1.0, 1.1, 1.2]), abs=1e-5)  # 0.25 either way: wider than 0.2
    assert unsure["verdict"] == "no difference"
    assert against["ci95"] == pytest.approx([-1.2, -0.8]) and against["verdict"] == "does not hold"  # no spread
    assert [run["measured"] for run in unsure["runs"]] == [0.1, 0.2, -0.2]
    assert sure["section"] == "Preference data formats" and sure["script"] == "preference_data_explorer.py"


def test_one_seed_keeps_its_interval():
    (claim,) = run_all.sum_up_claims([results([0.3], 0.1)])
    assert claim["ci95"] == pytest.approx([0.2, 0.4]) and claim["verdict"] == "holds"


def test_borders_are_those_of_the_claim():
    claim = make_claim("exact", "c", "exactly 0", 0.0, (0.0, 0.0), (-1e-12, 1e-12))
    by_seed = [[{"claims": [claim]}, *({"claims": []} for _ in run_all.SCRIPTS[1:])]] * 3
    assert run_all.sum_up_claims(by_seed)[0]["verdict"] == "holds"


def test_table_of_claims():
    by_seed = [results([1.0], 0.2), results([0.1], 0.2), results([1.2], 0.2)]
    table = run_all.claims_table(run_all.sum_up_claims(by_seed)).splitlines()
    assert len(table) == 3 and table[0].count("|") == table[2].count("|") == 7
    assert table[2].startswith("| Preference data formats | c 0 | 0.767 | ")
    assert table[2].endswith("| no difference | 1 of 3 |")


def test_headline_follows_a_path_with_dots_and_numbers():
    metrics = {"arms": {"noise 0.3": [{"mean": 2}, {"mean": 5}]}}
    assert run_all.headline({"metrics": metrics}, "arms.noise 0@3.1.mean") == 5.0
