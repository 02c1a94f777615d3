"""preference_data_explorer.py: likelihoods, estimators, diagnostics, and the command itself."""

import csv
import itertools
import json

from support import annotation_study, pair_diagnosis
from support.annotation_study import Rater, RaterDesign, Readings
from support.drawing.preference_data import draw_preference_data, example_lines
from support.findings.preference_data import length_finding

import matplotlib.image
import numpy as np
import preference_data_explorer as explorer
import pytest
from helpers import run_script

from common.cli import UserError
from common.intervals import over_seeds
from common.models import encode_prompt, encode_response, load_tokenizer
from common.preferences import annotate, gold_utility
from common.reporting import judge

SCRIPT = "preference_data_explorer"


# --- Plackett-Luce and Bradley-Terry ---


def test_two_items_are_bradley_terry():
    scores = np.random.default_rng(0).normal(0, 3, size=(50, 2))
    expected = np.log1p(np.exp(-(scores[:, 0] - scores[:, 1])))
    np.testing.assert_allclose(explorer.plackett_luce_nll(scores), expected, atol=1e-12)
    assert explorer.plackett_luce_nll([0.0, 0.0]) == pytest.approx(np.log(2))
    assert explorer.plackett_luce_nll([2.0, 0.0]) == pytest.approx(
        0.126928, abs=1e-6
    )  # best first: the small loss


def test_it_is_a_distribution_over_rankings():
    scores = np.array([1.5, 0.2, -0.7, 0.9])
    nll = [
        explorer.plackett_luce_nll(scores[list(order)])
        for order in itertools.permutations(range(4))
    ]
    assert np.exp(-np.array(nll)).sum() == pytest.approx(1, abs=1e-12)
    assert np.argmin(nll) == list(itertools.permutations(range(4))).index((0, 3, 1, 2))


def test_it_is_the_definition_and_not_the_mean_of_pairwise_losses():
    scores = np.array([0.5, 2.0, -1.0])
    by_hand = sum(-(scores[k] - np.log(np.exp(scores[k:]).sum())) for k in range(3))
    pairwise = [explorer.plackett_luce_nll(scores[[i, j]]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert explorer.plackett_luce_nll(scores) == pytest.approx(by_hand, abs=1e-12)
    assert abs(by_hand - np.mean(pairwise)) > 0.5 and abs(by_hand - np.sum(pairwise)) > 0.1
    assert explorer.plackett_luce_nll(np.zeros(4)) == pytest.approx(
        np.log(24)
    )  # all rankings alike: ln K!
    assert explorer.plackett_luce_nll(scores + 1000) == pytest.approx(
        by_hand, abs=1e-9
    )  # the level is free


def test_many_rankings_at_once_are_scored_one_by_one():
    scores = np.random.default_rng(4).normal(size=(3, 5, 4))
    nll = explorer.plackett_luce_nll(scores)
    assert nll.shape == (3, 5)
    for place in np.ndindex(3, 5):
        assert nll[place] == pytest.approx(explorer.plackett_luce_nll(scores[place]), abs=1e-12)
    square = explorer.plackett_luce_nll(scores[0, :4])  # 4 rankings of 4: no axis gives itself away
    assert square == pytest.approx(nll[0, :4], abs=1e-12)


@pytest.mark.parametrize("size", [2, 4])
def test_estimators_recover_known_qualities(size):
    truth = np.array([[2.0, 1.0, 0.5, 0.0, -1.0, -2.5], [0.0, 0.3, -0.3, 0.6, -0.6, 0.0]])
    rng = np.random.default_rng(1)
    items = rng.permuted(np.tile(np.arange(6), (2, 20000, 1)), axis=-1)[:, :, :size]
    perceived = annotate(np.take_along_axis(truth[:, None], items, axis=-1), rng)
    rankings = annotation_study.rank_blocks(items.reshape(2, -1), perceived.reshape(2, -1), size)
    scores = annotation_study.fit_plackett_luce(rankings, 6)
    centred = scores - scores.mean(1, keepdims=True)
    np.testing.assert_allclose(
        centred, truth - truth.mean(1, keepdims=True), atol=0.12
    )  # 4 standard errors
    np.testing.assert_array_equal(annotation_study.kendall_tau(truth[:1], scores[:1]), 1)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_the_fit_minimises_the_summed_likelihood(size):
    rng = np.random.default_rng(2)
    rankings = np.array([[rng.permutation(5)[:size] for _ in range(12)]])
    best = annotation_study.fit_plackett_luce(rankings, 5, prior=0.1)[0]

    def objective(scores):
        phantom = np.logaddexp(0, scores) + np.logaddexp(
            0, -scores
        )  # 0.1 wins and losses against a score of 0
        return explorer.plackett_luce_nll(scores[rankings[0]]).sum() + 0.1 * phantom.sum()

    for k, sign in itertools.product(range(5), (1, -1)):
        shifted = best + sign * 1e-4 * np.eye(5)[k]
        assert objective(shifted) > objective(best)


def test_an_item_that_always_wins_keeps_a_finite_score():
    scores = annotation_study.fit_plackett_luce(np.array([[[0, 1]] * 50]), 3)[0]
    assert np.isfinite(scores).all() and scores[0] > 2 > -2 > scores[1]
    assert scores[2] == pytest.approx(0, abs=1e-9)  # never seen


# --- Orders, readings, scores ---


def test_kendall_tau():
    truth = np.array([[3.0, 1.0, 2.0, 0.0]])
    assert annotation_study.kendall_tau(truth, 7 * truth - 3) == 1
    assert annotation_study.kendall_tau(truth, -truth) == -1
    assert annotation_study.kendall_tau(truth, np.array([[3.0, 2.0, 1.0, 0.0]])) == pytest.approx(
        4 / 6
    )  # one swap of six
    assert annotation_study.kendall_tau(truth, np.array([[3.0, 1.0, 1.0, 0.0]])) == pytest.approx(
        5 / 6
    )  # one tie of six
    assert (
        annotation_study.kendall_tau(truth, np.array([[0.1, 0.1, 0.1, 0.1 + 1e-12]])) == 0
    )  # equal but for rounding
    both = annotation_study.kendall_tau(np.vstack([truth, truth]), np.vstack([truth, -truth]))
    np.testing.assert_array_equal(both, [1, -1])


def test_rank_blocks_puts_the_best_first():
    items, perceived = np.array([[4, 0, 2, 1]]), np.array([[0.1, 0.9, 3.0, -2.0]])
    np.testing.assert_array_equal(
        annotation_study.rank_blocks(items, perceived, 2), [[[0, 4], [2, 1]]]
    )
    np.testing.assert_array_equal(
        annotation_study.rank_blocks(items, perceived, 4), [[[2, 0, 4, 1]]]
    )


def test_mean_scores_and_standardised_scores():
    items = np.tile(np.arange(12), (1, 2))
    scores = np.concatenate([np.arange(12), np.arange(12) + 2])[None] * 1.0
    np.testing.assert_allclose(
        annotation_study.mean_scores(items, scores), np.arange(12)[None] + 1.0
    )
    blocks = annotation_study.standardise(scores, 12).reshape(2, 12)
    np.testing.assert_allclose(blocks[0], blocks[1])  # the lenient rater's two points more are gone
    np.testing.assert_allclose([blocks.mean(1), blocks.std(1)], [[0, 0], [1, 1]], atol=1e-12)
    np.testing.assert_array_equal(
        annotation_study.standardise(np.array([[5, 2, 3, 3]]), 2), [[1, -1, 0, 0]]
    )


def test_who_scores():
    rng, raters = np.random.default_rng(0), [Rater(float(k), 2.0 * k) for k in range(1000)]
    items = np.array([np.concatenate([rng.permutation(12) for _ in range(4)])])
    new = annotation_study.assign_raters(raters, items, 1, rng)
    assert len(set(new.offset[0])) > 40
    np.testing.assert_array_equal(new.scale, 2 * new.offset)
    in_a_row = annotation_study.assign_raters(raters, items, 6, rng).offset.reshape(8, 6)
    assert (in_a_row == in_a_row[:, :1]).all() and len(set(in_a_row[:, 0])) == 8
    own = annotation_study.assign_raters(raters, items, None, rng).offset[0]
    pairs = set(zip(items[0], own, strict=True))
    assert len(pairs) == 12  # the same rater whenever a response comes back


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
        a, b = (Rater(rng.normal(0, 0.8), np.exp(rng.normal(0, 0.3))) for _ in range(2))
        hits.append(explorer.rate(annotate(u, rng), a) == explorer.rate(annotate(u, rng), b))
    assert two["mean"] == pytest.approx(np.mean(hits), abs=4 * np.sqrt(0.25 / 4000 + 0.25 / 8000))


def test_responses_have_distinct_utilities():
    utilities = annotation_study.response_utilities(5)
    assert utilities.shape == (5, 12)
    assert all(len(set(row)) == 12 for row in utilities.tolist())


@pytest.fixture(scope="module")
def recovered() -> tuple:
    """Readings of 60 prompts, budgets, raters, and Kendall's tau of every format."""
    rng, costs = np.random.default_rng(3), [12 * passes for passes in explorer.PASSES[:5]]
    gold = annotation_study.response_utilities(60)
    readings = annotation_study.read_responses(gold, explorer.PASSES[4], rng)
    raters = annotation_study.draw_raters(400, rng)
    return readings, costs, raters, explorer.recover_order(readings, costs, raters, rng)


def test_a_pass_reads_every_response_once(recovered):
    readings = recovered[0]
    passes = readings.items.reshape(60, -1, 12)
    assert (np.sort(passes, axis=-1) == np.arange(12)).all()
    assert (passes[:, 0] != passes[:, 1]).any()
    noise = readings.perceived - np.take_along_axis(readings.gold, readings.items, axis=1)
    assert noise.mean() == pytest.approx(0.5772, abs=4 * 1.2825 / np.sqrt(noise.size))  # Gumbel's
    assert noise.std() == pytest.approx(np.pi / np.sqrt(6), rel=0.03)
    few = readings.first(24)
    np.testing.assert_array_equal(few.items, readings.items[:, :24])
    twice = readings.noisier(2.0)
    gold = twice.perceived - 2 * noise
    np.testing.assert_allclose(gold, np.take_along_axis(readings.gold, readings.items, axis=1))


def test_recovery_gets_better_with_budget_and_the_formats_differ_as_derived(recovered):
    taus = recovered[3]
    for name, tau in taus.items():
        assert tau.shape == (5, 60) and np.abs(tau).max() <= 1
        assert tau[4].mean() > tau[0].mean() + 0.05, name
    mean = {name: tau.mean(1) for name, tau in taus.items()}
    new, same = mean["new_rater_each_time"], mean["one_rater_for_all"]
    assert (mean["listwise"] > mean["pairwise"]).all()  # three choices among four, not two pairs
    assert (same > new).all()  # leniency cancels
    assert mean["one_rater_per_response"][4] < mean["pairwise"][4] - 0.05  # it passes for quality
    assert mean["two_standardised"][2] == pytest.approx(mean["pairwise"][2], abs=0.05)
    assert new[2] > mean["pairwise"][2] + 0.05


def test_two_standardised_scores_by_one_rater_keep_only_the_order():
    items, gold = np.array([[0, 1, 2, 3]]), np.array([[0.0, 3.0, 2.5, -1.0]])
    readings = Readings(gold, items, gold)
    rater = Rater(np.zeros((1, 4)), np.ones((1, 4)))
    design = RaterDesign("two", 2, standardised=True)
    # Scores -1, 1, 1, -1 for the four: of six pairs two are ties, four in order.
    assert explorer.tau_of_scores(readings, rater, design)[0] == pytest.approx(4 / 6)
    plain = RaterDesign("plain", 2)
    assert explorer.tau_of_scores(readings, rater, plain)[0] == pytest.approx(5 / 6)  # 3, 2.5: 4


def test_differences_have_the_right_direction_and_budget():
    base = {"listwise": 0.5, "pairwise": 0.3, "new_rater_each_time": 0.1}
    steps = np.arange(6)[:, None] * 0.01 + np.zeros((6, 7))
    names = ("listwise", "pairwise", *(design.name for design in explorer.DESIGNS))
    measured = explorer.differences({name: base.get(name, 0.2) + steps for name in names})
    means = {name: round(row["mean"], 6) for name, row in measured.items()}
    assert means == {
        "pairwise_beats_pointwise_at_equal_cost": 0.2,
        "pairwise_beats_pointwise_per_annotation": 0.21,
        "pairwise_beats_one_rater_per_response": 0.1,
        "listwise_more_per_annotation": 0.21,
        "listwise_more_at_equal_cost": 0.2,
    }
    assert means.keys() == {name for name, _ in explorer.DIFFERENCES}
    breaks = {"at_equal_cost": {"mean": 2.0, "ci95": [1.8, 2.2]}}
    breaks["per_annotation"] = {"mean": 1.0, "ci95": [0.95, 1.05]}
    claims = judge(explorer.CLAIMS, {"differences": measured, "break_even": breaks})
    verdicts = [claim["verdict"] for claim in claims]
    assert verdicts == ["holds"] * 6 + ["no difference"]
    assert len({claim["id"] for claim in claims}) == 7


# --- The break-even ---


def test_crossing_of_a_curve_with_a_level():
    factors = (1.0, 2.0, 4.0)
    table = np.array([[0.5, 0.8, 0.6, 0.2], [0.3, 0.6, 0.4, 0.0]])  # level 0.4; curve 0.7, 0.5, 0.1
    above = np.array([0, 1, 1, 1])
    expected = 2 * 2**0.25  # a quarter of the way from 0.5 to 0.1, in the logarithm of the factor
    assert annotation_study.crossing(table, factors) == pytest.approx(expected)
    assert annotation_study.crossing(table + above, factors) == 4.0  # beyond the last
    assert annotation_study.crossing(table - above, factors) == pytest.approx(1.0)
    bumpy = np.array([[0.4, 0.8, 0.35, 0.45, 0.43, 0.42, 0.1]])  # rises again, by noise
    first = annotation_study.crossing(bumpy, (1.0, 2.0, 4.0, 8.0, 16.0, 32.0))
    assert first == pytest.approx(2 ** (0.4 / 0.45))


def test_break_even_is_where_scores_recover_as_much_as_pairs(recovered):
    readings, costs, raters, taus = recovered
    pairs, rng = taus["pairwise"][explorer.COMPARED], np.random.default_rng(5)
    breaks = explorer.break_even(readings, pairs, costs, raters, rng)
    equal, each = breaks["at_equal_cost"], breaks["per_annotation"]
    assert equal["mean"] > each["mean"]  # a pair reads two responses
    assert equal["ci95"][0] < equal["mean"] < equal["ci95"][1]
    assert breaks["pairs"]["mean"] == pytest.approx(pairs.mean())
    # Read again with just that noise, by other raters: scores recover what pairs do.
    rater = annotation_study.assign_raters(raters, readings.items, 1, rng)
    for basis, place in (("at_equal_cost", -3), ("per_annotation", -4)):
        few = readings.first(costs[place]).noisier(breaks[basis]["mean"])
        tau = explorer.tau_of_scores(few, rater, explorer.NEW_RATER)
        assert tau.mean() == pytest.approx(pairs.mean(), abs=4 * (tau - pairs).std() / np.sqrt(60))
        means = [row["mean"] for row in breaks[f"scores_{basis}"]]
        assert means[0] > means[3] > means[-1]  # more noise, less order
    few = taus["new_rater_each_time"][explorer.COMPARED].mean()
    assert breaks["scores_at_equal_cost"][0]["mean"] == pytest.approx(few, abs=0.03)


# --- Diagnostics ---


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
    found, usable = pair_diagnosis.diagnose(FAULTY, seed=0)
    counts = {
        key: found[key] for key in ("rows", "usable", "empty", "identical", "duplicate", "prompts")
    }
    assert counts == {
        "rows": 10,
        "usable": 6,
        "empty": 2,
        "identical": 1,
        "duplicate": 1,
        "prompts": 4,
    }
    assert found["contradictory"] == 1 and found["held_out"] == 1
    assert usable == [FAULTY[k] for k in (0, 1, 3, 7, 8, 9)]
    assert found["dropped"] == "2 empty (row 6), 1 identical (row 5), 1 duplicate (row 3)"
    assert found["words"]["chosen"]["mean"] == pytest.approx(16 / 6)
    assert found["words"]["rejected"]["mean"] == pytest.approx(13 / 6)
    assert found["longer_wins"]["mean"] == pytest.approx(3.5 / 6, abs=1e-4)


def test_leaks_are_counted_over_held_out_rows():
    twins = [pair(f"p{k // 2}", f"good {k}", f"bad {k}") for k in range(400)]
    found, _ = pair_diagnosis.diagnose(twins, seed=1)
    # a held-out row leaks unless its twin is held out too: 320 / 399
    assert found["held_out"] == 80 and abs(found["leaked"] / 80 - 320 / 399) < 4 * np.sqrt(
        0.8 * 0.2 / 80
    )
    apart = [{**row, "prompt": f"p{k}"} for k, row in enumerate(twins)]
    together = [{**row, "prompt": "p"} for row in twins]
    assert pair_diagnosis.diagnose(apart, seed=1)[0]["leaked"] == 0
    assert pair_diagnosis.diagnose(together, seed=1)[0]["leaked"] == 80
    assert pair_diagnosis.diagnose(twins, seed=1)[0] == found


def test_length_baseline_is_resampled_over_prompts():
    rows = [pair(f"p{k}", "a b", "a") for k in range(30)] + [
        pair(f"q{k}", "a", "a b") for k in range(10)
    ]
    longer = pair_diagnosis.longer_wins(rows)
    assert longer["mean"] == 0.75 and longer["ci95"][0] < 0.66 and longer["ci95"][1] > 0.84
    repeated = [{**row, "rejected": row["rejected"] + "x" * k} for row in rows for k in range(25)]
    low, high = pair_diagnosis.longer_wins(repeated)["ci95"]
    assert high - low > 0.2  # rows of one prompt are no new evidence
    swapped = [pair(row["prompt"], row["rejected"], row["chosen"]) for row in rows]
    assert pair_diagnosis.longer_wins(swapped)["mean"] == 0.25


def test_findings_follow_the_interval():
    assert "the longer answer wins 60%" in length_finding({"mean": 0.6, "ci95": [0.55, 0.65]})
    assert "the shorter answer wins 60% [55%, 65%]" in length_finding(
        {"mean": 0.4, "ci95": [0.35, 0.45]}
    )
    assert "no telling" in length_finding({"mean": 0.6, "ci95": [0.45, 0.75]})


def test_histograms_count_every_pair():
    words = np.array([[3, 5], [4, 4], [30, 2], [3, 90]])
    table = pair_diagnosis.histograms(words)
    for name in ("chosen", "rejected", "difference"):
        edges, counts = table[name]["edges"], table[name]["counts"]
        assert len(edges) == len(counts) + 1 and sum(counts) == 4
    chosen = dict(zip(table["chosen"]["edges"], table["chosen"]["counts"], strict=False))
    assert max(chosen.values()) == 3  # 3, 3 and 4 in the first bins
    assert table["rejected"]["counts"][-1] == 1  # the outlier stands in the last bin
    assert table["difference"]["counts"][0] == 1  # -87 in the first bin
    edges = np.array(table["difference"]["edges"])
    (place,) = np.flatnonzero(table["difference"]["counts"])[-1:]
    assert edges[place] <= 28 < edges[place + 1]  # the one pair whose chosen answer is longer


def test_style_shares():
    rows = [{"chosen_style": s} for s in ("concise", "concise", "wrong", "expert", "concise")]
    shares = pair_diagnosis.style_shares(rows, "chosen")
    assert shares["concise"]["mean"] == 0.6 and shares["off_topic"]["mean"] == 0
    assert sum(share["mean"] for share in shares.values()) == pytest.approx(1)


def test_nothing_usable_is_an_error():
    with pytest.raises(
        UserError, match=r"no usable pair among 2 rows: 1 empty \(row 2\), 1 identical \(row 1\)"
    ):
        pair_diagnosis.diagnose([pair("p", "a", "a"), pair("p", "", "b")], seed=0)


# --- The example and the command ---


@pytest.mark.parametrize("seed", range(5))
def test_the_views_of_the_example_agree(seed):
    example = explorer.example_in_every_format(seed)
    one, ranked = example["pairwise"], [row["response"] for row in example["listwise"]]
    assert len(set(ranked)) == 4
    assert ranked.index(one["chosen"]) < ranked.index(one["rejected"])
    assert [row["response"] for row in example["pointwise"]] == [one["chosen"], one["rejected"]]
    chosen, rejected = (list(map(int, row["scores"].split())) for row in example["pointwise"])
    assert len(chosen) == len(rejected) == 3
    # One reading, so no rater turns it round.
    assert all(a >= b for a, b in zip(chosen, rejected, strict=True))
    assert [(row["completion"], row["label"]) for row in example["unpaired"]] == [
        (one["chosen"], True),
        (one["rejected"], False),
    ]
    for row in example["listwise"]:
        utility = gold_utility(one["prompt"], row["response"])
        assert float(row["utility"]) == pytest.approx(utility, abs=0.005)
    assert any(one["prompt"] in line for line in example_lines(example))


@pytest.fixture(scope="module")
def studies():
    """The smoke runs of three seeds, as they come back from their JSON files."""
    small = {"pairs": 200, "prompts": 10, "passes": explorer.PASSES[:4]}
    runs = [explorer.study(seed=seed, **small) for seed in range(3)]
    return [json.loads(json.dumps(run)) for run in runs]


@pytest.mark.parametrize("count", [1, 3])
def test_the_figure_is_drawn_from_the_metrics_alone(studies, tmp_path, count):
    draw_preference_data(over_seeds(studies[:count])).save(tmp_path / "figure.png", "seeds")
    image = matplotlib.image.imread(tmp_path / "figure.png")
    assert image.shape[1] == 1560 and image[..., :3].std() > 0.05


def test_findings_name_the_numbers(studies):
    text = " ".join(explorer.findings(studies[0], explorer.COMPARED))
    for name in ("at_equal_cost", "per_annotation"):
        assert f"{studies[0]['break_even'][name]['mean']:.2f} [" in text
    for budgets in studies[0]["tau"].values():
        assert f"{budgets[explorer.COMPARED]['mean']:.2f} [" in text
    assert "24 responses read" in text


def test_the_command(tmp_path):
    results = []
    for name in ("first", "second"):
        done = run_script(SCRIPT, "--smoke", cwd=tmp_path)
        assert done.returncode == 0 and done.stderr == "", done.stderr
        assert len(done.stdout.splitlines()) <= 30
        outputs = tmp_path / "outputs"
        files = sorted(path.name for path in outputs.iterdir())
        assert files == ["preference_data-smoke.json", "preference_data-smoke.png"]
        assert (outputs / files[1]).read_bytes().startswith(b"\x89PNG")
        results.append(json.loads((outputs / files[0]).read_text()))
        results[-1].pop("wall_seconds")
        outputs.rename(tmp_path / name)
    assert results[0] == results[1]
    claims = {claim["id"]: claim for claim in results[0]["claims"]}
    assert list(claims) == [claim.id for claim in explorer.CLAIMS]
    metrics = results[0]["metrics"]
    assert metrics["responses_read"] == [12, 24, 48, 96]
    pairs, scores = (metrics["tau"][name] for name in ("pairwise", "new_rater_each_time"))
    for name, place in (("at_equal_cost", -3), ("per_annotation", -4)):
        claim = claims[f"pairwise_beats_pointwise_{name}"]
        expected = pairs[-3]["mean"] - scores[place]["mean"]
        assert claim["mean"] == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_the_command_on_own_pairs(tmp_path, ending):
    pytest.importorskip("datasets")
    path = tmp_path / f"mine.{ending}"
    if ending == "jsonl":
        path.write_text("\n".join(map(json.dumps, FAULTY)), encoding="utf-8")
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, FAULTY[0])
            writer.writeheader()
            writer.writerows(FAULTY)
    done = run_script(SCRIPT, "--dataset", path.name, cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    text = " ".join(done.stdout.split())
    assert "10 rows, 6 usable pairs on 4 prompts" in text
    assert "dropped: 2 empty (row 6), 1 identical (row 5), 1 duplicate (row 3)" in text
    assert "labelled both ways: 1" in text and "split by prompt" in text
    assert "claims" not in text
    run = f"preference_data-dataset-mine.{ending}"
    files = sorted(path.name for path in (tmp_path / "outputs").iterdir())
    assert files == [f"{run}.json", f"{run}.png"]
    metrics = json.loads((tmp_path / "outputs" / files[0]).read_text())["metrics"]
    diagnosis, usable = pair_diagnosis.diagnose(FAULTY, seed=0)
    described = pair_diagnosis.describe_own_pairs(usable, None)
    assert metrics == json.loads(json.dumps({"pairs": diagnosis, **described}))
    assert metrics["first_pair"] == FAULTY[0]


def test_pairs_in_the_tokens_of_a_model(tmp_path):
    pytest.importorskip("transformers")
    tokenizer = load_tokenizer("tiny-gpt2")
    long = {"prompt": "Why?", "chosen": "So.", "rejected": "very " * 400}
    rows = [long, *FAULTY]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    flags = ("--dataset", "mine.jsonl", "--model", "tiny-gpt2")
    done = run_script(SCRIPT, *flags, cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    (results,) = (tmp_path / "outputs").glob("*.json")
    tokens = json.loads(results.read_text())["metrics"]["tokens"]
    assert tokens["too_long"] == 1 and tokens["limit"] == tokenizer.model_max_length
    longest = max(len(encode_prompt(tokenizer, row["prompt"])) for row in rows)
    assert tokens["prompt"]["longest"] == longest
    rejected = long["rejected"].strip()
    assert tokens["rejected"]["longest"] == len(encode_response(tokenizer, rejected))
    text = " ".join(done.stdout.split())
    assert f"1 pairs are longer than {tokens['limit']}" in text


@pytest.mark.parametrize(
    "flags",
    [
        ("--dataset", "nowhere.jsonl"),
        ("--seed", "x"),
        ("--nonsense",),
        ("--dataset", __file__),
        ("--model", "tiny-gpt2"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(tmp_path, flags):
    done = run_script(SCRIPT, *flags, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    "text", ["no json", '{"prompt": "p", "chosen": "c"}', '[{"prompt": "p"', "["]
)
def test_a_bad_file_is_one_line_and_exit_code_2(tmp_path, text):
    pytest.importorskip("datasets")
    (tmp_path / "mine.json").write_text(text, encoding="utf-8")
    done = run_script(SCRIPT, "--dataset", "mine.json", cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: mine.json") and done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["mine.json"]
