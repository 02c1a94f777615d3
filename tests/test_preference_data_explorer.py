"""preference_data_explorer.py: Plackett-Luce, raters, the formats, the command, your own data."""

import itertools
import json
from pathlib import Path

import numpy as np
import preference_data_explorer as explorer
import pytest
from helpers import run_script
from preference_data_explorer import Rater, draw_raters, plackett_luce_nll, rate

from common.preferences import annotate, gold_utility

SCRIPT = "preference_data_explorer"


# --- Plackett-Luce ---


def test_two_items_are_bradley_terry():
    scores = np.random.default_rng(0).normal(0, 3, size=(50, 2))
    expected = np.log1p(np.exp(-(scores[:, 0] - scores[:, 1])))
    np.testing.assert_allclose(plackett_luce_nll(scores), expected, atol=1e-12)
    assert plackett_luce_nll([0.0, 0.0]) == pytest.approx(np.log(2))
    # Best first: the small loss.
    assert plackett_luce_nll([2.0, 0.0]) == pytest.approx(0.126928, abs=1e-6)


def test_it_is_a_distribution_over_rankings():
    scores = np.array([1.5, 0.2, -0.7, 0.9])
    orders = list(itertools.permutations(range(4)))
    nll = np.array([plackett_luce_nll(scores[list(order)]) for order in orders])
    assert np.exp(-nll).sum() == pytest.approx(1, abs=1e-12)
    assert orders[np.argmin(nll)] == (0, 3, 1, 2)


def test_it_is_the_definition_and_not_the_mean_of_pairwise_losses():
    scores = np.array([0.5, 2.0, -1.0])
    by_hand = sum(-(scores[k] - np.log(np.exp(scores[k:]).sum())) for k in range(3))
    pairwise = [plackett_luce_nll(scores[[i, j]]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert plackett_luce_nll(scores) == pytest.approx(by_hand, abs=1e-12)
    assert abs(by_hand - np.mean(pairwise)) > 0.5 and abs(by_hand - np.sum(pairwise)) > 0.1
    assert plackett_luce_nll(np.zeros(4)) == pytest.approx(np.log(24))  # all alike: ln K!
    assert plackett_luce_nll(scores + 1000) == pytest.approx(by_hand, abs=1e-9)  # the level is free


@pytest.mark.parametrize("shape", [(4, 4), (3, 5, 4), (4, 4, 4), (2, 3, 4, 5)])
def test_many_rankings_at_once_are_scored_one_by_one(shape):
    """Also where all axes are as long: none gives itself away."""
    scores = np.random.default_rng(4).normal(size=shape)
    nll = plackett_luce_nll(scores)
    assert nll.shape == shape[:-1]
    for place in np.ndindex(*shape[:-1]):
        assert nll[place] == pytest.approx(plackett_luce_nll(list(scores[place])), abs=1e-12)


# --- Raters ---


def test_rate_maps_utilities_evenly_and_stays_between_1_and_5():
    average = Rater(np.array(0.0), np.array(1.0))
    np.testing.assert_array_equal(
        rate(np.array([-1.0, 0.25, 1.5, 2.75, 4.0]), average), range(1, 6)
    )
    assert rate(9.0, average) == 5 and rate(-9.0, average) == 1
    lenient, wide = Rater(np.array(1.0), np.array(1.0)), Rater(np.array(0.0), np.array(2.0))
    assert rate(1.5, lenient) == 4 and rate(2.75, wide) == 5


def test_draw_raters():
    raters = draw_raters(20_000, np.random.default_rng(0))
    assert raters.offset.mean() == pytest.approx(0, abs=0.03)
    assert raters.offset.std() == pytest.approx(0.8, rel=0.03)
    assert np.log(raters.scale).mean() == pytest.approx(0, abs=0.01)
    assert np.log(raters.scale).std() == pytest.approx(0.3, rel=0.03)


def test_raters_disagree_as_the_model_says():
    utilities = np.random.default_rng(0).choice([4.0, 2.5, 1.0, -0.5], size=4000)
    found = explorer.rater_disagreement(utilities, seed=0)
    table = np.array(found["second_given_first"])
    np.testing.assert_allclose(table.sum(1), 1, atol=1e-9)
    two = found["two_raters_agree"]
    assert two < found["one_rater_asked_twice_agrees"] - 0.05
    rng = np.random.default_rng(5)  # again, rater by rater
    hits = []
    for u in np.repeat(utilities, 2):
        a, b = (Rater(rng.normal(0, 0.8), np.exp(rng.normal(0, 0.3))) for _ in range(2))
        hits.append(rate(annotate(u, rng), a) == rate(annotate(u, rng), b))
    assert two == pytest.approx(np.mean(hits), abs=4 * np.sqrt(0.25 / 4000 + 0.25 / 8000))


# --- The formats and the sides ---


@pytest.mark.parametrize("seed", range(5))
def test_the_views_of_the_example_agree(seed):
    example = explorer.example_in_every_format(seed)
    pair, ranked = example["pairwise"], [row["text"] for row in example["listwise"]]
    assert len(set(ranked)) == 4
    assert ranked.index(pair["chosen"]) < ranked.index(pair["rejected"])
    chosen, rejected = (
        list(map(int, example["pointwise"][s].split())) for s in explorer.world.SIDES
    )
    assert len(chosen) == len(rejected) == 3
    # One reading, so no rater turns it round.
    assert all(a >= b for a, b in zip(chosen, rejected, strict=True))
    labels = [(row["completion"], row["label"]) for row in example["unpaired"]]
    assert labels == [(pair["chosen"], True), (pair["rejected"], False)]
    for row in example["listwise"]:
        assert row["utility"] == gold_utility(pair["prompt"], row["text"])


def test_the_sides_are_counted():
    rows = [
        {"chosen": "a b c", "rejected": "a", "chosen_style": "concise", "rejected_style": "wrong"},
        {"chosen": "a b", "rejected": "a", "chosen_style": "verbose", "rejected_style": "wrong"},
        {"chosen": "a", "rejected": "b c", "chosen_style": "concise", "rejected_style": "expert"},
        {"chosen": "a", "rejected": "b", "chosen_style": "concise", "rejected_style": "verbose"},
    ]
    sides = explorer.describe_sides(rows)
    assert sides["chosen"]["styles"]["concise"] == 0.75
    assert sides["rejected"]["styles"]["wrong"] == 0.5
    assert sides["rejected"]["styles"]["concise"] == 0
    assert (sides["chosen"]["words"], sides["rejected"]["words"]) == ([3, 2, 1, 1], [1, 1, 2, 1])
    assert sides["longer_is_chosen"] == 2.5 / 4  # a tie counts half


# --- What is wrong with your pairs? ---


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(path)


def test_pairs_are_described(tmp_path, capsys):
    answers = [("Human: So it is.", "No.")] * 6 + [("a", "a"), ("", "b")]
    rows = [{"prompt": f"Why {k}?", "chosen": a, "rejected": b} for k, (a, b) in enumerate(answers)]
    rows += [rows[0] | {"prompt": "Why 1?", "chosen": "No.", "rejected": "Human: So it is."}]
    found = explorer.describe_pairs(write(tmp_path / "a.jsonl", rows), model="tiny-gpt2")
    assert (found["kind"], found["rows"], found["usable"], found["prompts"]) == ("pairs", 9, 7, 6)
    assert found["dropped"] == {"empty": [8], "identical": [7]} and found["contradictory"] == 1
    assert found["longer_wins"]["mean"] == pytest.approx(6 / 7) and found["mark"] == "Human:"
    assert found["marks"] == pytest.approx(1 / 3) and found["unit"] == "words"
    assert found["lengths"]["rejected"]["mean"] == pytest.approx(10 / 7)
    assert sum(found["lengths"]["rejected"]["counts"]) == 7
    faults = explorer.draw_own_data(found).axes[1]
    assert [bar.get_width() for bar in faults.patches] == [1, 1, 1]  # identical, empty, both ways
    said = " ".join(capsys.readouterr().out.split())
    assert "9 rows, 7 usable pairs, 6 prompts dropped: 1 identical (row 7), 1 empty (row 8)" in said
    assert "33 % of the texts hold marks such as 'Human:'" in said
    assert "labelled both ways, and kept (2 rows" in said and said.startswith(
        "pair 1, prompt: Why 0? chosen: Human"
    )


def test_labels_are_described(tmp_path, capsys):
    rows = [
        {"prompt": f"What is {k}?", "completion": text, "label": text == "Good."}
        for k in range(20)
        for text in ("Good.", "A bad one.")
    ]
    rows += [rows[0], rows[0] | {"label": False}]
    found = explorer.describe_pairs(write(tmp_path / "a.jsonl", rows), model="tiny-gpt2")
    assert (found["kind"], found["usable"], found["prompts_with_both"]) == ("labels", 41, 20)
    assert found["good"]["mean"] == pytest.approx(20 / 41)
    assert found["lengths"]["good"]["mean"] == 1 and found["dropped"] == {"duplicate": [41]}
    said = " ".join(capsys.readouterr().out.split())
    assert "41 usable answers with a label" in said and "20 of 20 prompts have a good and a" in said
    assert "labelled both ways, and kept (2 rows" in said
    assert "good: Good. prompt: What is 0? bad: A bad one." in said
    assert "words that tell good from bad (|z| > 3.5): good: good bad: a, bad, one" in said
    explorer.describe_pairs(write(tmp_path / "good.jsonl", rows[:1] + rows[2:3]))
    assert "What is 1?\n    Good.\n" in capsys.readouterr().out  # shown also where none is bad


def test_chinese_is_counted_in_characters(tmp_path):
    chinese = {"chosen": "先把蔬菜洗干净，再用纸巾吸干水分。", "rejected": "放冰箱里。"}
    rows = [{"prompt": f"怎么做 {k}?", **chinese} for k in range(2)]
    found = explorer.describe_pairs(write(tmp_path / "a.jsonl", rows))
    assert found["unit"] == "characters" and found["longer_wins"]["mean"] == 1


# --- The command ---


def test_the_command(tmp_path):
    done = run_script(SCRIPT, "--smoke", cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert len(done.stdout.splitlines()) <= 25
    outputs = tmp_path / "outputs"
    files = sorted(path.name for path in outputs.iterdir())
    assert files == ["preference_data-smoke.json", "preference_data-smoke.png"]
    assert (outputs / files[1]).read_bytes().startswith(b"\x89PNG")
    metrics = json.loads((outputs / files[0]).read_text())["metrics"]
    assert len(metrics["sides"]["chosen"]["words"]) == 200
    assert metrics["example"] == explorer.example_in_every_format(0)


PAIRS = [
    {"prompt": "p", "chosen": "one two three", "rejected": "one"},
    {"prompt": "p", "chosen": "one", "rejected": "one two three"},  # labelled the other way
    {"prompt": "p", "chosen": "one", "rejected": "one two three"},  # duplicate
    {"prompt": "q", "chosen": "same", "rejected": "same"},  # identical
    {"prompt": "r", "chosen": "", "rejected": "text"},  # empty
    {"prompt": "s", "chosen": "one two three four", "rejected": "one two"},
]
LABELLED = [
    {"prompt": "p", "completion": "one two three", "label": True},
    {"prompt": "p", "completion": "one", "label": False},
    {"prompt": "q", "completion": "one two", "label": False},
]


@pytest.mark.parametrize(("rows", "kind", "usable"), [(PAIRS, "pairs", 3), (LABELLED, "labels", 3)])
def test_the_command_on_own_data(tmp_path, rows, kind, usable):
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    given = ("--dataset", "mine.jsonl", "--model", "tiny-gpt2")
    done = run_script(SCRIPT, *given, cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert done.stdout.endswith(f" {' '.join(given)}\n")  # the next command
    run = tmp_path / "outputs" / "preference_data-dataset-mine.jsonl-model-tiny-gpt2"
    assert Path(f"{run}.png").read_bytes().startswith(b"\x89PNG")
    metrics = json.loads(Path(f"{run}.json").read_text())["metrics"]
    assert (metrics["kind"], metrics["rows"], metrics["usable"]) == (kind, len(rows), usable)


@pytest.mark.parametrize(
    "flags",
    [("--dataset", "nowhere.jsonl"), ("--dataset", __file__), ("--model", "tiny-gpt2")],
)
def test_bad_usage_is_one_line_and_exit_code_2(tmp_path, flags):
    done = run_script(SCRIPT, *flags, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
