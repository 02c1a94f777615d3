"""Likelihoods, estimators and diagnostics of preference_data_explorer.py, and the command itself."""

import csv
import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import preference_data_explorer as explorer
import pytest

from common.cli import UserError
from common.models import encode_prompt, encode_response, load_tokenizer
from common.preferences import annotate, gold_utility

SCRIPT = Path(explorer.__file__)


def run_script(folder: Path, *flags: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(SCRIPT), "--smoke", "--figures-dir", str(folder), *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


# ---------------------------------------------------------------------------------------------------------
# Plackett-Luce and Bradley-Terry
# ---------------------------------------------------------------------------------------------------------


def test_two_items_are_bradley_terry():
    scores = np.random.default_rng(0).normal(0, 3, size=(50, 2))
    expected = np.log1p(np.exp(-(scores[:, 0] - scores[:, 1])))
    np.testing.assert_allclose(explorer.plackett_luce_nll(scores), expected, atol=1e-12)
    assert explorer.plackett_luce_nll([0.0, 0.0]) == pytest.approx(np.log(2))
    assert explorer.plackett_luce_nll([2.0, 0.0]) == pytest.approx(0.126928, abs=1e-6)  # best first: the small loss


def test_it_is_a_distribution_over_rankings():
    scores = np.array([1.5, 0.2, -0.7, 0.9])
    nll = [explorer.plackett_luce_nll(scores[list(order)]) for order in itertools.permutations(range(4))]
    assert np.exp(-np.array(nll)).sum() == pytest.approx(1, abs=1e-12)
    assert np.argmin(nll) == list(itertools.permutations(range(4))).index((0, 3, 1, 2))


def test_it_is_the_definition_and_not_the_mean_of_pairwise_losses():
    scores = np.array([0.5, 2.0, -1.0])
    by_hand = sum(-(scores[k] - np.log(np.exp(scores[k:]).sum())) for k in range(3))
    pairwise = [explorer.plackett_luce_nll(scores[[i, j]]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert explorer.plackett_luce_nll(scores) == pytest.approx(by_hand, abs=1e-12)
    assert abs(by_hand - np.mean(pairwise)) > 0.5 and abs(by_hand - np.sum(pairwise)) > 0.1
    assert explorer.plackett_luce_nll(np.zeros(4)) == pytest.approx(np.log(24))  # all rankings alike: ln K!
    assert explorer.plackett_luce_nll(scores + 1000) == pytest.approx(by_hand, abs=1e-9)  # the level is free


@pytest.mark.parametrize("size", [2, 4])
def test_estimators_recover_known_qualities(size):
    truth = np.array([[2.0, 1.0, 0.5, 0.0, -1.0, -2.5], [0.0, 0.3, -0.3, 0.6, -0.6, 0.0]])
    rng = np.random.default_rng(1)
    items = rng.permuted(np.tile(np.arange(6), (2, 20000, 1)), axis=-1)[:, :, :size]
    perceived = annotate(np.take_along_axis(truth[:, None], items, axis=-1), rng)
    rankings = explorer.rank_blocks(items.reshape(2, -1), perceived.reshape(2, -1), size)
    scores = explorer.fit_plackett_luce(rankings, 6)
    centred = scores - scores.mean(1, keepdims=True)
    np.testing.assert_allclose(centred, truth - truth.mean(1, keepdims=True), atol=0.12)  # 4 standard errors
    np.testing.assert_array_equal(explorer.kendall_tau(truth[:1], scores[:1]), 1)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_the_fit_minimises_the_summed_likelihood(size):
    rng = np.random.default_rng(2)
    rankings = np.array([[rng.permutation(5)[:size] for _ in range(12)]])
    best = explorer.fit_plackett_luce(rankings, 5, prior=0.1)[0]

    def objective(scores):
        phantom = np.logaddexp(0, scores) + np.logaddexp(0, -scores)  # 0.1 wins and losses against a score of 0
        return explorer.plackett_luce_nll(scores[rankings[0]]).sum() + 0.1 * phantom.sum()

    for k, sign in itertools.product(range(5), (1, -1)):
        shifted = best + sign * 1e-4 * np.eye(5)[k]
        assert objective(shifted) > objective(best)


def test_an_item_that_always_wins_keeps_a_finite_score():
    scores = explorer.fit_plackett_luce(np.array([[[0, 1]] * 50]), 3)[0]
    assert np.isfinite(scores).all() and scores[0] > 2 > -2 > scores[1]
    assert scores[2] == pytest.approx(0, abs=1e-9)  # never seen


# ---------------------------------------------------------------------------------------------------------
# Orders, readings, scores
# ---------------------------------------------------------------------------------------------------------


def test_kendall_tau():
    truth = np.array([[3.0, 1.0, 2.0, 0.0]])
    assert explorer.kendall_tau(truth, 7 * truth - 3) == 1
    assert explorer.kendall_tau(truth, -truth) == -1
    assert explorer.kendall_tau(truth, np.array([[3.0, 2.0, 1.0, 0.0]])) == pytest.approx(4 / 6)  # one swap of six
    assert explorer.kendall_tau(truth, np.array([[3.0, 1.0, 1.0, 0.0]])) == pytest.approx(5 / 6)  # one tie of six
    assert explorer.kendall_tau(truth, np.array([[0.1, 0.1, 0.1, 0.1 + 1e-12]])) == 0  # equal but for rounding
    both = explorer.kendall_tau(np.vstack([truth, truth]), np.vstack([truth, -truth]))
    np.testing.assert_array_equal(both, [1, -1])


def test_rank_blocks_puts_the_best_first():
    items, perceived = np.array([[4, 0, 2, 1]]), np.array([[0.1, 0.9, 3.0, -2.0]])
    np.testing.assert_array_equal(explorer.rank_blocks(items, perceived, 2), [[[0, 4], [2, 1]]])
    np.testing.assert_array_equal(explorer.rank_blocks(items, perceived, 4), [[[2, 0, 4, 1]]])


def test_mean_scores_and_standardised_scores():
    items = np.tile(np.arange(12), (1, 2))
    scores = np.concatenate([np.arange(12), np.arange(12) + 2])[None] * 1.0
    np.testing.assert_allclose(explorer.mean_scores(items, scores), np.arange(12)[None] + 1.0)
    blocks = explorer.standardise(scores, 12).reshape(2, 12)
    np.testing.assert_allclose(blocks[0], blocks[1])  # the lenient rater's two points more are gone
    np.testing.assert_allclose([blocks.mean(1), blocks.std(1)], [[0, 0], [1, 1]], atol=1e-12)
    np.testing.assert_array_equal(explorer.standardise(np.array([[5, 2, 3, 3]]), 2), [[1, -1, 0, 0]])


def test_who_scores():
    raters, rng = [explorer.Rater(float(k), 1.0) for k in range(1000)], np.random.default_rng(0)
    items = np.array([np.concatenate([rng.permutation(12) for _ in range(4)])])
    new = explorer.assign_raters(raters, items, 1, rng).offset
    assert len(set(new[0])) > 40
    in_a_row = explorer.assign_raters(raters, items, 6, rng).offset.reshape(8, 6)
    assert (in_a_row == in_a_row[:, :1]).all() and len(set(in_a_row[:, 0])) == 8
    own = explorer.assign_raters(raters, items, None, rng).offset[0]
    assert len(set(zip(items[0], own, strict=True))) == 12  # the same rater whenever a response comes back


def test_raters_disagree_as_the_model_says():
    utilities = np.random.default_rng(0).choice([4.0, 2.5, 1.0, -0.5], size=4000)
    result = explorer.rater_disagreement(utilities, seed=0)
    table = np.array(result["second_given_first"])
    np.testing.assert_allclose(table.sum(1), 1, atol=1e-3)
    two = result["two_raters_agree"]
    assert two["ci95"][1] < result["two_raters_agree_if_they_perceive_the_same"]["ci95"][0]
    assert two["ci95"][1] < result["one_rater_asked_twice_agrees"]["ci95"][0]
    rng = np.random.default_rng(5)  # the same rate, rater by rater
    hits = []
    for u in np.repeat(utilities, 2):
        a, b = (explorer.Rater(rng.normal(0, 0.8), np.exp(rng.normal(0, 0.3))) for _ in range(2))
        hits.append(explorer.rate(annotate(u, rng), a) == explorer.rate(annotate(u, rng), b))
    assert two["mean"] == pytest.approx(np.mean(hits), abs=4 * np.sqrt(0.25 / 4000 + 0.25 / 8000))


def test_responses_have_distinct_utilities():
    utilities = explorer.response_utilities(5)
    assert utilities.shape == (5, 12)
    assert all(len(set(row)) == 12 for row in utilities.tolist())


def test_recovery_gets_better_with_budget_and_the_formats_differ_as_derived():
    taus, by_ratings = explorer.recover_order(explorer.response_utilities(60), explorer.PASSES[:5], seed=3)
    for name, tau in taus.items():
        assert tau.shape == (5, 60) and np.abs(tau).max() <= 1
        assert tau[4].mean() > tau[0].mean() + 0.05, name
    mean = {name: tau.mean(1) for name, tau in taus.items()}
    assert (mean["listwise"] > mean["pairwise"]).all()  # three choices among four against two pairs
    assert (mean["one rater for all 12"] > mean["a new rater each time"]).all()  # leniency cancels
    assert mean["one rater per response"][4] < mean["pairwise"][4] - 0.05  # leniency passes for quality
    two_standardised, pairs = by_ratings[2, True].mean(), mean["pairwise"][2]
    assert two_standardised == pytest.approx(pairs, abs=0.05) and by_ratings[2, False].mean() > pairs + 0.05


def test_claims_are_differences_in_the_right_direction_and_at_the_right_budget():
    names = ("listwise", "pairwise", *explorer.RATER_DESIGNS)
    base = {"listwise": 0.5, "pairwise": 0.3, "a new rater each time": 0.1}
    steps = np.arange(6)[:, None] * 0.01 + np.zeros((6, 7))
    claims = explorer.recovery_claims({name: base.get(name, 0.2) + steps for name in names})
    measured = {claim["id"]: (claim["measured"], claim["verdict"]) for claim in claims}
    assert measured == {
        "pairwise_beats_pointwise_at_equal_cost": (0.2, "holds"),
        "pairwise_beats_pointwise_per_annotation": (0.21, "holds"),
        "pairwise_beats_one_rater_per_response": (0.1, "holds"),
        "listwise_more_per_annotation": (0.21, "holds"),
        "listwise_more_at_equal_cost": (0.2, "holds"),
    }


# ---------------------------------------------------------------------------------------------------------
# Diagnostics
# ---------------------------------------------------------------------------------------------------------


def pair(prompt: str, chosen: str, rejected: str) -> dict:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


FAULTY = [
    pair("p", "one two three", "one"),  # longer
    pair("p", "one", "one two three"),  # the same comparison with the other label: shorter
    pair("p", "one", "one two three"),  # duplicate
    pair("q", "one two", "three four"),  # equally long
    pair("q", "same", "same"),  # identical
    pair("r", "", "text"),  # empty
    pair("r", "text", ""),  # empty
    pair("s", "one two three four", "one two"),  # longer
    pair("s", "one two", "one three four"),  # shorter, not the same comparison
    pair("t", "one two three four", "one two"),  # longer, the texts of s with another prompt
]


def test_diagnostics_of_known_faults():
    found = explorer.diagnose(FAULTY, seed=0)
    counts = {key: found[key] for key in ("rows", "usable", "empty", "identical", "duplicate", "prompts")}
    assert counts == {"rows": 10, "usable": 6, "empty": 2, "identical": 1, "duplicate": 1, "prompts": 4}
    assert found["contradictory"] == 1 and found["held_out"] == 1
    assert found["words"]["chosen"] == {"mean": 2.67, "median": 2.5}
    assert found["words"]["rejected"] == {"mean": 2.17, "median": 2.0}
    assert found["longer_wins"]["mean"] == pytest.approx(3.5 / 6, abs=1e-4)


def test_leaks_are_counted_over_held_out_rows():
    twins = [pair(f"p{k // 2}", f"good {k}", f"bad {k}") for k in range(400)]
    found = explorer.diagnose(twins, seed=1)
    # a held-out row leaks unless its twin is held out too: 320 / 399
    assert found["held_out"] == 80 and abs(found["leaked"] / 80 - 320 / 399) < 4 * np.sqrt(0.8 * 0.2 / 80)
    assert explorer.diagnose([{**row, "prompt": f"p{k}"} for k, row in enumerate(twins)], seed=1)["leaked"] == 0
    assert explorer.diagnose([{**row, "prompt": "p"} for row in twins], seed=1)["leaked"] == 80
    assert explorer.diagnose(twins, seed=1) == found


def test_length_baseline_is_resampled_over_prompts():
    rows = [pair(f"p{k}", "a b", "a") for k in range(30)] + [pair(f"q{k}", "a", "a b") for k in range(10)]
    longer = explorer.longer_wins(rows)
    assert longer["mean"] == 0.75 and longer["ci95"][0] < 0.66 and longer["ci95"][1] > 0.84
    repeated = [{**row, "rejected": row["rejected"] + "x" * k} for row in rows for k in range(25)]
    low, high = explorer.longer_wins(repeated)["ci95"]
    assert high - low > 0.2  # rows of one prompt are no new evidence
    swapped = [pair(row["prompt"], row["rejected"], row["chosen"]) for row in rows]
    assert explorer.longer_wins(swapped)["mean"] == 0.25


def test_findings_follow_the_interval():
    assert "the longer answer wins 60%" in explorer.length_finding({"mean": 0.6, "ci95": [0.55, 0.65]})
    assert "the shorter answer wins 60% [55%, 65%]" in explorer.length_finding({"mean": 0.4, "ci95": [0.35, 0.45]})
    assert "no telling" in explorer.length_finding({"mean": 0.6, "ci95": [0.45, 0.75]})


def test_nothing_usable_is_an_error():
    with pytest.raises(UserError, match=r"no usable pair among 2 rows: 1 empty \(row 2\), 1 identical \(row 1\)"):
        explorer.diagnose([pair("p", "a", "a"), pair("p", "", "b")], seed=0)


# ---------------------------------------------------------------------------------------------------------
# The example and the command
# ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_the_views_of_the_example_agree(seed):
    example = explorer.example_in_every_format(seed)
    one, ranked = example["pairwise"], [row["response"] for row in example["listwise"]]
    assert len(set(ranked)) == 4
    assert ranked.index(one["chosen"]) < ranked.index(one["rejected"])
    assert [row["response"] for row in example["pointwise"]] == [one["chosen"], one["rejected"]]
    chosen, rejected = (row["scores"] for row in example["pointwise"])
    assert all(a >= b for a, b in zip(chosen, rejected, strict=True))  # one reading, so no rater turns it round
    assert [(row["completion"], row["label"]) for row in example["unpaired"]] == [
        (one["chosen"], True),
        (one["rejected"], False),
    ]
    for row in example["listwise"]:
        assert row["utility"] == pytest.approx(gold_utility(one["prompt"], row["response"]))


def test_the_command(tmp_path):
    results = []
    for _ in range(2):
        done = run_script(tmp_path)
        assert done.returncode == 0 and done.stderr == ""
        assert len(done.stdout.splitlines()) <= 25
        results.append(json.loads((tmp_path / "preference_data.json").read_text()))
        results[-1].pop("wall_seconds")
    assert results[0] == results[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["preference_data.json", "preference_data.png"]
    assert (tmp_path / "preference_data.png").read_bytes().startswith(b"\x89PNG")
    claims = {claim["id"]: claim for claim in results[0]["claims"]}
    assert {"pairwise_beats_pointwise_at_equal_cost", "listwise_more_per_annotation"} <= claims.keys()
    recovery = results[0]["metrics"]["recovery"]
    assert recovery["responses_read"] == [12, 24, 48, 96]
    equal_cost = recovery["tau"]["pairwise"][-3]["mean"] - recovery["tau"]["a new rater each time"][-3]["mean"]
    assert claims["pairwise_beats_pointwise_at_equal_cost"]["measured"] == pytest.approx(equal_cost, abs=2e-4)


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_the_command_on_own_pairs(tmp_path, ending):
    pytest.importorskip("datasets")
    path, figures = tmp_path / f"mine.{ending}", tmp_path / "figures"
    if ending == "jsonl":
        path.write_text("\n".join(map(json.dumps, FAULTY)), encoding="utf-8")
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, FAULTY[0])
            writer.writeheader()
            writer.writerows(FAULTY)
    done = run_script(figures, "--dataset", str(path))
    assert done.returncode == 0 and done.stderr == ""
    assert "10 rows, 6 usable pairs on 4 prompts" in done.stdout
    assert "1 with identical answers, 2 with an empty one, 1 repeated" in done.stdout
    assert "labelled both ways: 1" in done.stdout and "split by prompt" in done.stdout
    assert sorted(path.name for path in figures.iterdir()) == ["preference_data_mine.json", "preference_data_mine.png"]
    metrics = json.loads((figures / "preference_data_mine.json").read_text())["metrics"]
    assert metrics == json.loads(json.dumps(explorer.diagnose(FAULTY, seed=0)))


def test_pairs_in_the_tokens_of_a_model(tmp_path):
    pytest.importorskip("transformers")
    tokenizer = load_tokenizer("tiny-gpt2")
    long = {"prompt": "Why?", "chosen": "So.", "rejected": "very " * 400}
    path, figures = tmp_path / "mine.jsonl", tmp_path / "figures"
    path.write_text("\n".join(map(json.dumps, [long, *FAULTY])), encoding="utf-8")
    done = run_script(figures, "--dataset", str(path), "--model", "tiny-gpt2")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    tokens = json.loads((figures / "preference_data_mine.json").read_text())["metrics"]["tokens"]
    assert tokens["too_long"] == 1 and tokens["limit"] == tokenizer.model_max_length
    assert tokens["prompt"]["longest"] == max(len(encode_prompt(tokenizer, row["prompt"])) for row in [long, *FAULTY])
    assert tokens["rejected"]["longest"] == len(encode_response(tokenizer, long["rejected"].strip()))
    assert f"1 pairs are longer than {tokens['limit']}" in done.stdout


@pytest.mark.parametrize(
    "flags",
    [
        *(("--dataset", "nowhere.jsonl"), ("--seed", "x"), ("--nonsense",), ("--dataset", __file__)),
        ("--model", "tiny-gpt2"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(tmp_path, flags):
    done = run_script(tmp_path, *flags)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["no json", '{"prompt": "p", "chosen": "c"}', '[{"prompt": "p"', "["])
def test_a_bad_file_is_one_line_and_exit_code_2(tmp_path, text):
    pytest.importorskip("datasets")
    path, figures = tmp_path / "mine.json", tmp_path / "figures"
    path.write_text(text, encoding="utf-8")
    done = run_script(figures, "--dataset", str(path))
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(f"error: {path}") and done.stderr.count("\n") == 1
    assert list(figures.iterdir()) == []
