"""run_all.py: side by side, going on after a kill, claims over seeds, and the tables."""

import json
import math

from support.jobs import Job, code_hash, is_blocked, jobs_done
from support.seeds import adjust_claims, claims_table, headlines_table, merge_runs

import pytest
import run_all

from common.cli import UserError
from common.reporting import Claim, judge

CLAIMS = (Claim("a", "A is above 0", "a, in nats", path="a", smallest=0.01),)


def run_of(seed: int, mean: float, half: float) -> dict:
    """One seed's results, with one quantity and its interval."""
    metrics = {"a": {"mean": mean, "ci95": [mean - half, mean + half], "count": 50}}
    return {
        "script": "x.py",
        "settings": {"seed": seed, "beta": 0.3},
        "versions": {},
        "seed": seed,
        "device": "cpu",
        "wall_seconds": {"total": 10.0 + seed},
        "metrics": metrics,
        "claims": judge(CLAIMS, metrics),
        "checks": [],
    }


def test_claims_over_seeds_add_both_kinds_of_uncertainty():
    merged = merge_runs(
        [run_of(k, mean, 0.2) for k, mean in enumerate((1.0, 1.1, 1.2))], CLAIMS, ()
    )
    (claim,) = merged["claims"]
    between = 4.30 * 0.1 / math.sqrt(3)  # t interval of three seeds
    assert claim["mean"] == pytest.approx(1.1) and claim["verdict"] == "holds"
    half = math.hypot(between, 0.2)
    assert claim["ci95"] == pytest.approx([1.1 - half, 1.1 + half], abs=1e-5)
    assert claim["verdict_by_seed"] == ["holds"] * 3
    assert claim["mean_by_seed"] == pytest.approx([1.0, 1.1, 1.2])
    assert merged["settings"]["seeds"] == [0, 1, 2] and merged["wall_seconds"]["total"] == 11.0


def test_seeds_that_disagree_leave_a_claim_undecided():
    merged = merge_runs(
        [run_of(k, mean, 0.05) for k, mean in enumerate((0.5, 0.1, -0.2))], CLAIMS, ()
    )
    (claim,) = merged["claims"]
    assert claim["verdict"] == "undecided"
    assert claim["verdict_by_seed"] == ["holds", "holds", "does not hold"]


class Row:
    """A section as the tables need it."""

    title, script, headlines = "Reward models", "x", {"a in nats": "a"}


def test_tables():
    runs = [run_of(k, mean, 0.2) for k, mean in enumerate((1.0, 1.1, 1.2))]
    merged = merge_runs(runs, CLAIMS, ())
    adjust_claims([merged])
    head, rule, row, _, stand = claims_table([Row], [merged]).splitlines()
    assert stand == (
        "1 claims: 1 holds. Of the 1 that are decided, 1 stand at a false-discovery rate of 5%."
    )
    assert head.count("|") == rule.count("|") == row.count("|") == 8
    assert row.startswith("| Reward models | A is above 0 | a, in nats | 1.10 [")
    assert row.endswith("| above 0 | holds | 3 of 3 |")
    table = headlines_table([Row], [merged]).splitlines()
    assert (
        table[2].startswith("| x.py | a in nats | 1.10 [") and table[3] == "| x.py | seconds | 11 |"
    )


def test_what_is_needed_runs_before():
    needs = {"best_of_n": ("reward_model", "dpo_trainer")}
    unfinished = {Job("dpo_trainer", 0), Job("best_of_n", 0), Job("best_of_n", 1)}
    assert is_blocked(Job("best_of_n", 0), needs, unfinished)
    assert not is_blocked(Job("best_of_n", 1), needs, unfinished)
    assert not is_blocked(Job("dpo_trainer", 0), needs, unfinished)
    scripts = {section.script for section in run_all.SECTIONS}
    assert all(set(section.needs) < scripts for section in run_all.SECTIONS)


def test_a_killed_run_goes_on_but_not_with_other_code(tmp_path):
    progress = tmp_path / "progress.json"
    assert jobs_done(progress) == []
    done = [Job("rlhf_objectives", 3)]
    progress.write_text(json.dumps({"code": code_hash(), "done": done}))
    assert jobs_done(progress) == done
    progress.write_text(json.dumps({"code": "another", "done": done}))
    assert jobs_done(progress) == []
    progress.write_text('{"code": "hal')
    assert jobs_done(progress) == []


def test_equal_seeds_are_refused(tmp_path):
    with pytest.raises(UserError, match="same seed twice"):
        run_all.main(["--seeds", "1", "1", "--output-dir", str(tmp_path)])


def test_two_seeds_write_figures_and_tables(tmp_path, capsys):
    """The two NumPy scripts in earnest; what the others have is not there, and that is said."""
    flags = ["--smoke", "--scripts", "rlhf_objectives", "--seeds", "0", "1"]
    with pytest.raises(UserError, match=r"preference_data-smoke\.json is missing: run preference"):
        run_all.main([*flags, "--output-dir", str(tmp_path)])
    assert (tmp_path / "ppo_objectives-seed-1-smoke.json").is_file()
    assert (tmp_path / "logs" / "rlhf_objectives-seed-1.txt").is_file()
    assert capsys.readouterr().out.count("rlhf_objectives") == 2


def test_results_of_another_version_are_refused(tmp_path):
    section = next(section for section in run_all.SECTIONS if section.name == "ppo_objectives")
    place = tmp_path / "ppo_objectives-seed-3.json"
    ids = [claim.id for claim in section.claims]
    for kept in (ids, ids[:-1]):
        claims = [{"id": claim_id} for claim_id in kept]
        results = {"settings": {}, "metrics": {}, "claims": claims, "checks": []}
        place.write_text(json.dumps(results), encoding="utf-8")
        if kept == ids:
            assert run_all.read_run(section, 3, tmp_path, smoke=False)["claims"] == claims
    with pytest.raises(
        UserError, match=r"seed-3\.json is of another version .* rlhf_objectives\.py"
    ):
        run_all.read_run(section, 3, tmp_path, smoke=False)
