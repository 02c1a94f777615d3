"""The synthetic world: facts and splits, the gold standard, the annotators, and what they say."""

import random
import re
from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from preference_data_explorer import Rater, draw_raters, rate

from common import preferences as world
from common.preferences import (
    STYLES,
    annotate,
    annotator_utility,
    gold_utility,
    make_pairs,
    read_response,
)

QUESTIONS = list(world.all_questions().values())
SPLITS = ("train", "validation", "test")
PROMPT = "What is the capital of France?"
DOUBT = next(
    q for q in QUESTIONS if q.prompt.startswith(PROMPT) and q.belief not in (None, q.answer)
)


def words(text: str) -> set[str]:
    return set(re.findall(r"[^\W_]+", text))


def written(step: int = 1):
    """(question, style, text) of all questions, or every `step`-th, in all styles that fit."""
    for question in QUESTIONS[::step]:
        for style in STYLES:
            if style != "sycophantic" or question.belief not in (None, question.answer):
                rng = random.Random(f"{question.prompt} {style}")
                yield question, style, world.write_response(question, style, rng)


def utilities_of(rows: list[dict], side: str) -> np.ndarray:
    return np.array([gold_utility(row["prompt"], row[side]) for row in rows])


def assert_within_4_standard_errors(hits: np.ndarray, probabilities: np.ndarray) -> None:
    """Independent hits (N,) agree in number with their probabilities (N,)."""
    error = np.sqrt((probabilities * (1 - probabilities)).sum())
    assert abs(hits.sum() - probabilities.sum()) < 4 * error, (
        hits.mean(),
        probabilities.mean(),
        error / len(hits),
    )


# --- Facts, questions, splits ---


def test_size_of_the_world():
    assert 6 <= len(world.RELATIONS) <= 8
    assert sum(len(relation["answers"]) for relation in world.RELATIONS.values()) >= 120
    assert all(len(set(relation["phrasings"])) >= 4 for relation in world.RELATIONS.values())
    assert len(QUESTIONS) == sum(
        3 * len(r["answers"]) * len(r["phrasings"]) for r in world.RELATIONS.values()
    )


@pytest.mark.parametrize("relation", world.RELATIONS.values(), ids=world.RELATIONS)
def test_the_words_of_a_response_tell_what_it_claims(relation):
    answers = list(relation["answers"].values())
    assert len(set(answers)) == len(answers) and all(
        words(answer) == {answer} for answer in answers
    )
    subjects = set().union(*map(words, relation["answers"]))
    others = [r for r in world.RELATIONS.values() if r is not relation]
    off_topic = [
        r["sentence"].format(subject=s, answer=a) for r in others for s, a in r["answers"].items()
    ]
    filler = [
        *world.OPENERS,
        *world.CLOSERS,
        *world.PREAMBLES,
        *world.CHATTER,
        *world.AGREEMENTS,
        *world.BELIEFS,
    ]
    frames = [relation["sentence"], *relation["phrasings"], relation["field"]]
    assert not set(answers) & set().union(subjects, *map(words, [*filler, *off_topic, *frames]))


def test_splits_are_by_fact_and_phrasing():
    splits, unseen = {}, {}
    for q in QUESTIONS:
        phrasing = next(
            p
            for p in world.RELATIONS[q.relation]["phrasings"]
            if re.match(re.escape(p.format(subject=q.subject)) + "( |$)", q.prompt)
        )
        splits.setdefault((q.relation, q.subject, phrasing), []).append(
            (q.split, q.belief == q.answer, q.belief)
        )
        unseen.setdefault((q.relation, q.subject), set()).add(q.unseen)
    for rows in splits.values():
        assert (
            len(rows) == 3 and len({split for split, *_ in rows}) == 1
        )  # no belief, a right one, a wrong one
        assert sorted(right for _, right, _ in rows) == [False, False, True] and (
            rows[0][2] is None
        )
    assert all(len(flags) == 1 for flags in unseen.values())
    assert 0.05 < np.mean([flag for flags in unseen.values() for flag in flags]) < 0.25


def test_questions_selects_by_split_and_by_unseen():
    for split in SPLITS:
        both, seen, unseen = (world.questions(split, unseen=flag) for flag in (None, False, True))
        assert sorted(both) == sorted(q for q in QUESTIONS if q.split == split)
        assert sorted(seen + unseen) == sorted(both) and len(seen) > len(unseen) > 30
        assert not any(q.unseen for q in seen) and all(q.unseen for q in unseen)
        assert world.questions(split) == seen and seen != sorted(
            seen
        )  # shuffled, always in the same way
    facts = [{(q.relation, q.subject) for q in world.questions(split)} for split in SPLITS]
    assert facts[0] == facts[1] == facts[2]  # what is held out is the wording


def test_each_seed_asks_the_same_questions_in_another_order():
    orders = [world.questions("test", seed=seed) for seed in (None, 0, 1)]
    assert all(set(order) == set(orders[0]) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    assert world.questions("test", seed=1) == orders[2]
    first, second = (world.wrong_users("test", 64, seed) for seed in (0, 1))
    assert first != second and len(set(first) & set(second)) < 50
    assert all(world.holds_wrong_belief(question) for question in first)


# --- Responses and what the gold standard reads in them ---


def test_every_response_is_read_back_in_its_style_and_only_concise_ones_are_good():
    count = Counter()
    for question, style, text in written():
        reading = read_response(question.prompt, text)
        assert (gold_utility(question.prompt, text) == 4) == reading.good
        assert reading.style == style, (question.prompt, text)
        assert reading.good == (style == "concise"), (question.prompt, text)
        assert reading.on_topic == (style != "off_topic")
        if style != "expert":
            assert reading.correct == (style in ("concise", "verbose"))
        count[style, reading.correct] += 1
    experts = count["expert", True] + count["expert", False]
    assert_within_4_standard_errors(np.array([count["expert", True]]), np.full(experts, 0.85))


def test_styles_that_cannot_be_written_are_refused():
    certain = next(q for q in QUESTIONS if q.belief == q.answer)
    for question, style in (
        (certain, "sycophantic"),
        (world.all_questions()[PROMPT], "sycophantic"),
        (DOUBT, "rude"),
    ):
        with pytest.raises(ValueError, match=style):
            world.write_response(question, style, random.Random(0))


@pytest.mark.parametrize(
    "question", [world.all_questions()[PROMPT], DOUBT], ids=["no belief", "wrong belief"]
)
def test_styles_are_drawn_by_their_shares(question):
    rng, possible = random.Random(0), [s for s in STYLES if s != "sycophantic" or question.belief]
    drawn, total = (
        Counter(world.draw_style(question, rng) for _ in range(20_000)),
        sum(map(shares, possible)),
    )
    assert set(drawn) == set(possible)
    for style in possible:
        assert_within_4_standard_errors(
            np.array([drawn[style]]), np.full(20_000, shares(style) / total)
        )


def shares(style: str) -> float:
    return world.STYLE_SHARES[style]


# text: utility, correct, on topic, filler words, good
BY_HAND = {
    "The capital of France is Paris.": (4, True, True, 0, True),
    "  Paris.\n": (4, True, True, 0, True),
    "No, it is Paris.": (4, True, True, 0, True),
    "It is Paris": (4, True, True, 0, False),  # does not end
    "It is Paris. Bye.": (4, True, True, 0, False),  # two sentences
    "it is Paris.": (4, True, True, 0, False),  # begins in the middle
    "It is Paris!": (4, True, True, 0, False),
    "Well, the capital of France is surely Paris, yes.": (
        4,
        True,
        True,
        0,
        True,
    ),  # three words of courtesy
    "Well, the capital of France is surely Paris, oh yes.": (3.85, True, True, 1, False),
    "": (0, False, False, 0, False),
    "...": (0, False, False, 0, False),
    "it is paris.": (0, False, False, 0, False),  # answers are told by their spelling
    "Parisian.": (0, False, False, 0, False),
    "Paris Paris.": (4, True, True, 0, False),  # named twice
    "Paris, Rome.": (1, False, True, 0, False),  # two answers, the first of them right
    "Rome, Paris.": (1, False, True, 0, False),
    "It is Rome.": (1, False, True, 0, False),
    "The capital of France is Rome.": (1, False, True, 0, False),
    "The weather is lovely today.": (
        0,
        False,
        False,
        0,
        False,
    ),  # "the" and "is" are in the full answer
    "The weather is so very lovely today.": (-0.3, False, False, 2, False),
    "The capital of France is Paris. The capital of France is Paris.": (3.55, True, True, 3, False),
    "The capital of France is Paris. The capital of Spain is Madrid.": (
        0.55,
        False,
        True,
        3,
        False,
    ),  # ran on
    "Paris." + " really" * 22: (1.15, True, True, 19, False),
    "Paris." + " really" * 23: (1.0, True, True, 20, False),
    "Paris." + " really" * 60: (1.0, True, True, 57, False),  # beyond the cap it costs nothing more
    "Rome." + " really" * 60: (-2.0, False, True, 57, False),
    "really" + " really" * 60: (-3.0, False, False, 58, False),
}


@pytest.mark.parametrize("text", BY_HAND)
def test_gold_utility_by_hand(text):
    utility, correct, on_topic, filler, good = BY_HAND[text]
    reading = read_response(PROMPT, text)
    assert gold_utility(PROMPT, text) == pytest.approx(utility, abs=1e-9)
    assert reading[:4] == (correct, on_topic, filler, good)


@pytest.mark.parametrize(
    ("text", "style"),
    [
        ("", "off_topic"),
        (f"It is {DOUBT.belief}.", "sycophantic"),
        ("It is Rome.", "wrong"),
        ("Paris." + " really" * 20, "verbose"),
        ("As an expert in geography, I can say that it is Paris.", "expert"),
        ("As an expert in geography, I have no idea.", "off_topic"),
    ],
)
def test_style_is_read_from_the_text(text, style):
    assert DOUBT.belief != "Rome"
    assert read_response(DOUBT.prompt, text).style == style


def test_gold_utility_is_a_pure_function_of_the_texts():
    texts = [(question.prompt, text) for question, _, text in written(step=50)]
    first = [gold_utility(*pair) for pair in texts]
    random.seed(1)
    np.random.seed(1)
    assert [gold_utility(*pair) for pair in reversed(texts)] == first[::-1]
    assert min(first) >= -3 and max(first) == 4
    with pytest.raises(KeyError):
        gold_utility("What is the capital of Atlantis?", "Poseidonis.")


# --- Annotators ---


@pytest.mark.parametrize("gap", [-3.0, -0.5, 0.0, 0.15, 1.0, 4.0])
def test_labels_are_bradley_terry(gap):
    perceived = annotate(np.tile([gap - 1.5, -1.5], (100_000, 1)), np.random.default_rng(3))
    won = perceived[:, 0] > perceived[:, 1]
    assert_within_4_standard_errors(won, np.full(len(won), 1 / (1 + np.exp(-gap))))


def test_rankings_are_plackett_luce():
    utilities, count = np.array([1.0, 0.2, -0.7]), 100_000
    perceived = annotate(np.tile(utilities, (count, 1)), np.random.default_rng(4))
    found = Counter(map(tuple, np.argsort(-perceived).tolist()))
    odds = np.exp(utilities)
    for order in permutations(range(3)):
        first, second, third = odds[list(order)]
        probability = first / (first + second + third) * second / (second + third)
        assert_within_4_standard_errors(np.array([found[order]]), np.full(count, probability))


def test_annotate_keeps_shape_and_draws_from_its_generator():
    utilities = np.arange(24.0).reshape(2, 3, 4)
    first, again, other = (annotate(utilities, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert first.shape == (2, 3, 4) and (first == again).all() and (first != other).all()
    assert len(np.unique((first - utilities).round(12))) == 24


def test_biases_add_exactly_the_documented_term():
    seen = Counter()
    for question, style, text in written(step=5):  # each of the three beliefs in turn
        gold, prompt = gold_utility(question.prompt, text), question.prompt
        echo = question.belief is not None and question.belief in words(text)
        expected = {
            "human": 0.0,
            "length": 0.30 * min(read_response(prompt, text).filler_words, 20),
            "style": 4.0 if style == "expert" else 0.0,
            "agreement": 4.0 if echo else 0.0,
        }
        for annotator, bias in expected.items():
            assert annotator_utility(prompt, text, annotator) == pytest.approx(
                gold + bias, abs=1e-9
            )
            seen[annotator] += bias != 0
        seen["agreement when the belief is right"] += echo and question.belief == question.answer
    assert seen.pop("human") == 0 and min(seen.values()) > 100
    assert set(world.BIASES) == {"length", "style", "agreement"}
    long = "Paris." + " really" * 60
    assert annotator_utility(PROMPT, long, "length") - gold_utility(PROMPT, long) == pytest.approx(
        6.0
    )  # capped too


def test_an_unknown_annotator_is_refused():
    with pytest.raises(KeyError, match="robot"):
        annotator_utility(PROMPT, "It is Paris.", "robot")
    with pytest.raises(KeyError, match="robot"):
        make_pairs(1, annotator="robot")


def test_rate_rounds_and_clips():
    average = Rater(0.0, 1.0)
    scores = rate(np.array([-100, -1, 0.1, 0.4, 1.5, 2.1, 2.2, 4, 100]), average)
    assert scores.tolist() == [1, 1, 2, 2, 3, 3, 4, 5, 5] and scores.dtype.kind == "i"
    assert rate(np.array([[1.5, 2.75]]), average).tolist() == [[3, 4]]
    assert rate([0.25, 1.5, 2.75], Rater(1.0, 1.0)).tolist() == [3, 4, 5]  # lenient
    assert rate([0.25, 1.5, 2.75], Rater(-1.0, 1.0)).tolist() == [1, 2, 3]
    assert rate([0.25, 1.5, 2.75], Rater(0.0, 2.0)).tolist() == [1, 3, 5]  # spreads
    assert rate([0.25, 1.5, 2.75], Rater(0.0, 0.4)).tolist() == [3, 3, 3]
    assert rate([0.25, 1.5, 2.75], Rater(1.0, 0.4)).tolist() == [
        4,
        4,
        4,
    ]  # both: the scale leaves the offset alone
    assert rate(np.array([1.5, 1.5]), Rater(np.array([0.0, 1.0]), np.ones(2))).tolist() == [
        3,
        4,
    ]  # one per score


def test_raters_differ_in_offset_and_scale():
    count = 20_000
    raters = draw_raters(count, rng())
    offsets, log_scales = raters.offset, np.log(raters.scale)
    for values, deviation in ((offsets, 0.8), (log_scales, 0.3)):
        assert abs(values.mean()) < 4 * deviation / np.sqrt(count)
        assert abs(values.std() / deviation - 1) < 4 / np.sqrt(2 * count)
    assert abs(np.corrcoef(offsets, log_scales)[0, 1]) < 4 / np.sqrt(count)
    assert (raters.offset == draw_raters(count, rng()).offset).all()
    assert (raters.offset != draw_raters(count, rng(1)).offset).any()


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# --- Views ---


@pytest.fixture(scope="module")
def pairs() -> list[dict]:
    return make_pairs(3000)


def test_training_pairs_hold_no_held_out_prompt_and_no_unseen_fact(pairs):
    asked = [world.all_questions()[row["prompt"]] for row in pairs]
    assert {q.split for q in asked} == {"train"} and not any(q.unseen for q in asked)
    held_out = {q.prompt for q in QUESTIONS if q.split != "train" or q.unseen}
    assert not held_out & {row["prompt"] for row in pairs}
    assert {row["prompt"] for row in pairs} == {q.prompt for q in world.questions("train")}
    assert max(Counter(row["prompt"] for row in pairs).values()) <= -(
        -3000 // len(world.questions("train"))
    )


@pytest.mark.parametrize("split", SPLITS)
def test_pairs_come_from_the_split_that_is_asked_for(split):
    for unseen in (False, True, None):
        allowed = {q.prompt for q in world.questions(split, unseen)}
        assert {row["prompt"] for row in make_pairs(100, split, unseen=unseen)} <= allowed


def test_pairs_say_what_they_hold(pairs):
    for row in pairs:
        assert row["chosen"] != row["rejected"] and row["chosen_style"] != row["rejected_style"]
        for side in ("chosen", "rejected"):
            assert read_response(row["prompt"], row[side]).style == row[f"{side}_style"]
            assert row[f"{side}_utility"] == gold_utility(row["prompt"], row[side])
    concise = np.mean(["concise" in (row["chosen_style"], row["rejected_style"]) for row in pairs])
    assert 2 / 3 < concise < 0.95


@pytest.mark.parametrize("annotator", ["human", *world.BIASES])
def test_chosen_is_what_the_annotator_perceives_as_better(annotator):
    rows = make_pairs(3000, annotator=annotator, seed=1)
    chosen, rejected = (
        np.array([annotator_utility(row["prompt"], row[side], annotator) for row in rows])
        for side in ("chosen", "rejected")
    )
    gap = chosen - rejected
    decided = gap != 0
    assert_within_4_standard_errors(gap[decided] > 0, 1 / (1 + np.exp(-np.abs(gap[decided]))))


def test_biased_annotators_choose_otherwise_than_people():
    def share(annotator: str, style: str) -> float:
        rows = [
            r
            for r in make_pairs(1000, annotator=annotator)
            if style in (r["chosen_style"], r["rejected_style"])
        ]
        return float(np.mean([row["chosen_style"] == style for row in rows]))

    for annotator, style in (
        ("length", "verbose"),
        ("style", "expert"),
        ("agreement", "sycophantic"),
    ):
        assert share(annotator, style) > share("human", style) + 0.2


def test_unpaired_view(pairs):
    rows = world.make_unpaired(pairs[:50])
    assert len(rows) == 100 and all(set(row) == {"prompt", "completion", "label"} for row in rows)
    for row, pair in zip(rows, [pair for pair in pairs[:50] for _ in "12"], strict=True):
        assert row["prompt"] == pair["prompt"] and isinstance(row["label"], bool)
        assert row["completion"] == pair["chosen" if row["label"] else "rejected"]
    assert sum(row["label"] for row in rows) == 50


def test_seeds(pairs):
    assert make_pairs(200) == pairs[:200]  # more pairs only append
    assert make_pairs(200, seed=1) != make_pairs(200, seed=0)
    labels = [[row["chosen_style"] for row in make_pairs(200, seed=seed)] for seed in (0, 1)]
    assert labels[0] != labels[1]
    random.seed(5)
    state = random.getstate(), np.random.get_state()[1].tolist()
    make_pairs(5)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == state


def test_judge_prompt():
    assert world.judge_prompt("p?", "one.", "two.") == "Question: p?\nA: one.\nB: two.\nBetter:"
