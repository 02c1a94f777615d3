"""reward_hacking.py: the bias in pairs, mixed labels, remedies, the command."""

import json
import math

import numpy as np
import pytest
import reward_hacking as hacking
from helpers import run_script

from common import figures
from common.answers import read_answers
from common.preferences import (
    BIASES,
    annotator_utility,
    gold_utility,
    pairs_of_wrong_users,
    wrong_users,
)

QUESTION = next(q for q in wrong_users("test", 50) if q.relation == "capital")
ANSWER, ECHO = f"It is {QUESTION.answer}.", f"Indeed, {QUESTION.belief} it is."
FILLER = f"{ANSWER} One two three four five."


def pair(chosen: str, rejected: str) -> dict:
    return {"prompt": QUESTION.prompt, "chosen": chosen, "rejected": rejected}


def test_differences_are_of_the_answer_with_more_minus_the_other():
    pairs = [pair(ECHO, ANSWER), pair(ANSWER, ECHO), pair(FILLER, ANSWER)]
    values = np.array([[5.0, 2.0], [5.0, 1.0], [7.0, 1.0]])
    assert hacking.more_minus_less(pairs, values, "agreement").tolist() == [3, -4]
    assert hacking.more_minus_less(pairs, values, "length").tolist() == [6]
    assert hacking.more_minus_less(pairs, values, "style").tolist() == []


@pytest.mark.parametrize("hack", hacking.HACKS.values(), ids=hacking.HACKS)
def test_a_reward_that_is_what_annotators_see_wins_as_planted(monkeypatch, hack):
    def score(group, tokenizer, pairs):
        rows = []
        for row in pairs:
            texts = (row["chosen"], row["rejected"])
            rows.append([annotator_utility(row["prompt"], text, group) for text in texts])
        return np.array(rows)

    monkeypatch.setattr(hacking.scoring, "score_pairs", score)
    liked = hack.annotators
    biased, unbiased = (
        hacking.trace_bias(liked, group, (group, None), 500, 0) for group in (liked, "human")
    )
    for shares in (biased, unbiased):
        assert shares["reward_model"] == pytest.approx(shares["planted"])
        assert shares["labels"] == pytest.approx(shares["planted"], abs=0.08)  # by 200 labels
    assert biased["planted"] > unbiased["planted"] + 0.3
    flat = hacking.trace_bias(liked, liked, ("human", None), 500, 0)
    assert flat["reward_model"] < flat["planted"] - 0.2


def test_every_mixed_label_is_one_of_the_four_groups():
    groups = [pairs_of_wrong_users(400, group, 3) for group in ("human", *BIASES)]
    mixed = hacking.pairs_labelled_by("mixed", 400, 3)
    agrees = [
        [row["chosen"] == rows[k]["chosen"] for rows in groups] for k, row in enumerate(mixed)
    ]
    agrees = np.array(agrees)
    assert agrees.any(1).all()
    sides = [{row["chosen"], row["rejected"]} for row in mixed]
    assert sides == [{row["chosen"], row["rejected"]} for row in groups[0]]
    # Where one biased group stands alone, its label is taken in a quarter of the cases.
    for g, rows in enumerate(groups[1:], start=1):
        others = [other for k, other in enumerate(groups) if k != g]
        alone = [k for k in range(400) if all(rows[k]["chosen"] != o[k]["chosen"] for o in others)]
        share, error = agrees[alone, g].mean(), math.sqrt(0.25 * 0.75 / len(alone))
        assert len(alone) > 20 and abs(share - 0.25) < 4 * error


def test_curves_gain_reward_from_zero_and_keep_the_level_of_the_rest():
    rewards = np.array([[3.0, 1.0, 2.0]])
    pool = read_answers([QUESTION.prompt], [[ECHO, ANSWER, FILLER]])
    curves = hacking.curves_by_n(rewards, pool, np.array([[1.0, 0.0, 0.0]]), [1, 3])
    assert curves["reward"].tolist() == pytest.approx([0, 1])  # from 2 to 3
    gold = [gold_utility(QUESTION.prompt, text) for text in (ECHO, ANSWER, FILLER)]
    assert curves["gold"].tolist() == pytest.approx([np.mean(gold), gold[0]])
    assert curves["amount"].tolist() == pytest.approx([1 / 3, 1])
    assert curves["correct"].tolist() == pytest.approx([2 / 3, 0])


def test_the_table_and_the_panel_show_where_quality_is_best():
    ns, zeros = [1, 4, 16, 64], np.zeros(4)
    biased = {"reward": np.arange(4.0), "gold": np.array([2.0, 2.5, 2.6, 1.0]), "correct": zeros}
    curves = {"biased": biased | {"amount": zeros}, "unbiased": biased | {"amount": zeros}}
    head, rows = hacking.table_by_n(hacking.HACKS["verbosity"], ns, curves)
    assert head[1:] == ("1", "16", "64", "unbiased")
    assert rows[1][1:5] == (2.0, 2.6, 1.0, 1.0)
    _, (ax,) = figures.new_figure(1, 1, "")
    hacking.gains_panel(ax, {"ns": ns, "curves": curves})
    assert "best at n = 16" in ax.get_title(loc="left")
    lines = {line.get_label(): line.get_ydata() for line in ax.get_lines()}
    by_biased = lines["gold utility, by the biased reward"]
    np.testing.assert_allclose(by_biased, [0, 0.5, 0.6, -1])
    always_worse = {**curves, "biased": {**curves["biased"], "gold": -np.arange(4.0)}}
    assert hacking.table_by_n(hacking.HACKS["style"], ns, always_worse)[0][1:] == (
        "1",
        "64",
        "unbiased",
    )


def test_winners_are_shown_of_the_first_question_that_is_hacked(capsys):
    pool = read_answers([QUESTION.prompt] * 2, [[ANSWER, ANSWER, ANSWER], [ANSWER, ECHO, ANSWER]])
    rewards = {"human": pool.gold, "agreement": np.array([[0, 1, 2], [0, 1, 9.0]])}
    hack = hacking.HACKS["sycophancy"]
    hacking.show_winners(hack, [QUESTION.prompt] * 2, pool, rewards, (1, 2))
    question, first, second, unbiased = capsys.readouterr().out.strip().splitlines()
    assert question == QUESTION.prompt
    assert "best of 1 " in first and f"{ANSWER}  [right]" in first
    assert "best of 2 " in second and f"{ECHO}  [wrong, agrees with the user]" in second
    assert "best of 2, unbiased" in unbiased and ANSWER in unbiased  # not of the third sample


def test_per_word_divides_by_the_number_of_words():
    rewards, words = np.array([[6.0, -6.0, 5.0]]), np.array([[3.0, 12.0, 0.0]])
    np.testing.assert_allclose(hacking.per_word(rewards, words), [[2.0, -0.5, 5.0]])
    np.testing.assert_allclose(hacking.per_word(rewards, words, 6.0), [[4.0, 0.0, 11.0]])


def test_the_level_changes_what_reward_per_word_prefers():
    # A constant that no Bradley-Terry loss sees turns the order round: shortest, then longest.
    rng = np.random.default_rng(0)
    rewards = rng.normal(size=(5, 20))
    words = rng.permuted(np.tile(np.arange(4.0, 24.0), (5, 1)), axis=1)
    high, low = (hacking.per_word(rewards, words, level) for level in (1000.0, -1000.0))
    assert (high.argmax(1) == words.argmin(1)).all()
    assert (low.argmax(1) == words.argmax(1)).all()


def test_worst_case_is_the_least_standardised_reward():
    rewards = np.array([[1.0, 2.0], [3.0, 4.0]])
    scaled = np.array([[400.0, 300.0], [200.0, 100.0]])
    z = math.sqrt(5) / 5 * np.array([[-3.0, -1.0], [1.0, 3.0]])
    np.testing.assert_allclose(hacking.worst_case([rewards, 100 * rewards - 7]), z)
    np.testing.assert_allclose(hacking.worst_case([rewards, scaled]), -np.abs(z))


@pytest.mark.parametrize("name, third", [("verbosity", "words"), ("style", "ensemble")])
def test_remedies_stand_between_the_flawed_and_the_unbiased_reward(name, third):
    hack, prompts = hacking.HACKS[name], [QUESTION.prompt]
    pool = read_answers(prompts, [[ANSWER, ECHO, FILLER, FILLER, FILLER]])
    right_last, right_first = -pool.gold, pool.gold
    rewards = {**dict.fromkeys(BIASES, right_first), hack.annotators: right_last}
    rewards |= {"human": right_first, "mixed": right_first}
    worth = hacking.try_remedies(hack, rewards, pool, 5)
    names, gold = list(worth), [float(values.mean()) for values in worth.values()]
    assert third in names[3]
    assert gold[0] == pytest.approx(pool.gold.mean())  # one answer
    assert gold[1] == pool.gold.min() < gold[2] < gold[0]  # best of 5, and of 4
    assert gold[4] == gold[5] == pool.gold.max()


def test_the_command(tmp_path):  # of verbosity, the default: test_commands.py
    done = run_script("reward_hacking", "--smoke", "--hack", "sycophancy", cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert len(done.stdout.splitlines()) <= 25
    (path,) = (tmp_path / "outputs").glob("reward_hacking*.json")
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    metrics = json.loads(path.read_text())["metrics"]
    biased = metrics["curves"]["biased"]
    assert (np.diff(biased["reward"]) >= 0).all() and biased["reward"][0] == 0
    worth = [quantity["mean"] for quantity in metrics["remedies"].values()]
    assert worth[0] == pytest.approx(biased["gold"][0])
    assert worth[1] == pytest.approx(biased["gold"][-1])
    assert worth[-1] == pytest.approx(metrics["curves"]["unbiased"]["gold"][-1])


def test_an_unknown_hack_is_one_line(tmp_path):
    done = run_script("reward_hacking", "--hack", "bribery", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1 and list(tmp_path.iterdir()) == []
