"""what_dpo_does, likelihood_term, too_much_dpo, on_policy_pairs: what is compared, and how."""

import math
import random

import likelihood_term
import numpy as np
import on_policy_pairs
import pytest
import too_much_dpo
import what_dpo_does
from helpers import run_script

from common import sampling
from common.answers import Answers, point_name, read_answers
from common.models import load_causal_lm
from common.preferences import (
    CLOSERS,
    all_questions,
    gold_utility,
    questions,
    styles_for,
    write_response,
)
from common.saving import read_json

# --- Style and substance ---


def answers_in(*styles: str, count: int = 40) -> Answers:
    """Answers that are all of these styles, one after the other, two to each prompt."""
    rng, prompts, texts = random.Random(0), [], []
    asked = [q for q in questions("test") if q.belief not in (None, q.answer)][:count]
    for style in styles:
        prompts += [question.prompt for question in asked]
        texts += [[write_response(question, style, rng)] * 2 for question in asked]
    return read_answers(prompts, texts)


def test_style_and_substance_are_told_apart():
    gained = what_dpo_does.gained_of_room
    concise, verbose, wrong = (answers_in(style) for style in ("concise", "verbose", "wrong"))
    assert gained(verbose, concise) == {"style": 1, "substance": 0}
    assert gained(wrong, concise) == {"style": 0, "substance": 1}
    assert gained(concise, wrong)["substance"] < 0


def test_style_and_substance_are_shares_of_their_own_room():
    """Half of the room is half, however little room there was."""
    before = answers_in("verbose", "verbose", "wrong", "concise", count=20)  # plain 1/2, right 3/4
    after = answers_in("verbose", "concise", "concise", "concise", count=20)  # plain 3/4, right 1
    assert what_dpo_does.gained_of_room(before, after) == {"style": 0.5, "substance": 1}


def test_a_contrast_is_read_per_unit_and_as_a_share_of_its_worth(monkeypatch):
    """Two words of filler cost 2 nats more after than before: of beta 0.3 that is twice 0.15."""
    import torch

    after, before = torch.tensor([[-7.0], [-4.0]]), torch.tensor([[-5.0], [-4.0]])
    monkeypatch.setattr(what_dpo_does, "pair_logps", lambda *_: (after, before))
    contrast = what_dpo_does.contrasts_of(questions("test")[0], 0)[0]._replace(units=2.0)
    assert contrast.component == "filler"
    read = what_dpo_does.read_contrasts(None, None, [contrast], "filler")
    assert read["before"] == -0.5 and read["after"] == -1.5
    assert read["share"] == pytest.approx(2)


# --- The right amount ---


def look_at(epoch: float, style: str, ranked: float, chosen: float) -> dict:
    pairs = {"ranked": ranked, "chosen": chosen, "rejected": -chosen, "loss": epoch / 8}
    pairs = {name: np.full(6, value) for name, value in pairs.items()}
    answers = answers_in(style, count=10)
    return {
        "epoch": epoch,
        "answers": answers._replace(kl=answers.gold * 0 + epoch),
        "pairs": pairs,
    }


def test_a_training_is_described_from_its_best_look_to_its_last():
    looks = [
        look_at(0, "verbose", 0, 0),
        look_at(1, "concise", 0.6, 1),
        look_at(2, "wrong", 0.9, -2),
    ]
    looks[2]["answers"].texts[0][0] = "It is It is Rome."
    found = too_much_dpo.describe(looks)
    assert found["gold_lost"] == pytest.approx(3)
    assert found["ranked_gained"] == pytest.approx(0.3)
    assert [seen["chosen"] for seen in found["curve"]] == [0, 1, -2]
    assert [(seen["loss"], seen["kl"]) for seen in found["curve"]] == [
        (0, 0),
        (1 / 8, 1),
        (1 / 4, 2),
    ]
    assert [seen["kinds"]["right and concise"] for seen in found["curve"]] == [0, 1, 0]
    assert too_much_dpo.malformed({"arms": {"unbiased": found}}, "unbiased") == 0.05
    assert [seen["kinds"]["malformed"] for seen in found["curve"]] == [0, 0, 0.05]


# --- Where the mass goes ---


def labels_of(prompt: str, *texts: str) -> list[str]:
    return too_much_dpo.label_answers(read_answers([prompt], [texts]))[0].tolist()


def has_new_pair(text: str) -> bool:
    return not too_much_dpo.word_pairs(text) <= too_much_dpo.writable()[0]


def test_whatever_the_world_writes_is_named():
    rng, pairs, sentences = random.Random(0), *too_much_dpo.writable()
    seen = set()
    for question in all_questions().values():
        for style in styles_for(question):
            text = write_response(question, style, rng)
            assert too_much_dpo.word_pairs(text) <= pairs, text
            assert set(too_much_dpo.in_sentences(text)) <= sentences, text
            seen |= too_much_dpo.word_pairs(text)
    assert len(seen) > 0.75 * len(pairs)  # and little else can be written


def test_splices_are_malformed():
    france = next(q.prompt for q in all_questions().values() if "of France" in q.prompt)
    right = "The capital of France is Paris."
    valid = (right, f"{right} {CLOSERS[0]}", "It is Rome.", "Trains are a pleasant way to travel.")
    kinds = ("right and concise", "right, with filler", "wrong", "off topic")
    assert labels_of(france, *valid) == list(kinds)
    spliced = (
        "The capital of France is It is Paris.",
        "The capital of France is Paris",  # it does not end
        "Paris.",  # nor begin
        f"{right} {right}",
        "It is Paris. Trains are a pleasant way to travel.",
    )
    assert set(labels_of(france, *spliced)) == {"malformed"} and all(map(has_new_pair, spliced))
    # Each word pair is known, but the sentence is not.
    assert labels_of(france, "The capital of gold is Au.") == ["malformed"]
    assert not has_new_pair("The capital of gold is Au.")


# --- A likelihood term ---


def test_the_term_is_compared_on_the_same_many_pairs(monkeypatch):
    trained = {}

    def dpo_policy(folder, model, tokenizer, pairs, *, seed, **settings):
        assert seed == 5 and folder.parent == likelihood_term.study_folder(5)
        trained[folder.name] = len(pairs), settings
        return folder.name

    def sample_answers(policy, tokenizer, prompts, n, seed):
        style = {"dpo": "concise", "dpo_6400": "wrong"}.get(policy, "verbose")
        return answers_in(style, count=16)._replace(kl=np.zeros((16, n)))

    monkeypatch.setattr(likelihood_term, "load_sft_model", lambda: (None, None))
    monkeypatch.setattr(likelihood_term, "dpo_policy", dpo_policy)
    monkeypatch.setattr(likelihood_term, "sample_answers", sample_answers)
    metrics = likelihood_term.measure(5)
    assert {name: count for name, (count, _) in trained.items()} == {
        "dpo": 768,
        "dpo_768_sft": 768,
        "dpo_6400": 6400,
        "dpo_6400_sft": 6400,
    }
    losses = {
        name: settings.get("loss_type", ("sigmoid",)) for name, (_, settings) in trained.items()
    }
    assert {name for name in losses if losses[name] == ("sigmoid", "sft")} == {
        "dpo_768_sft",
        "dpo_6400_sft",
    }
    assert trained["dpo_6400"][1] == {"learning_rate": 3e-4}
    verbose, wrong = (answers_in(style, count=16).gold.mean() for style in ("verbose", "wrong"))
    assert likelihood_term.CLAIMS[0].of(metrics) == pytest.approx(verbose - wrong)


# --- Pairs that a model samples itself ---


class Policy:
    """Remembers whose samples it was trained on in every round."""

    def __init__(self):
        self.rounds = []


def test_sources_rounds_references_and_rates(monkeypatch):
    checkpoint, written, sampled, trained, judged = Policy(), Policy(), [], [], []

    def sample_pairs(policy, tokenizer, count, seed):
        sampled.append((list(policy.rounds), count, seed))
        return "fresh" if policy.rounds else "old"

    def train_dpo(policy, tokenizer, rows, **settings):
        assert policy is not checkpoint
        policy.rounds.append(rows)
        trained.append(settings)
        return policy, []

    def sample_answers(policy, tokenizer, prompts, n, seed):
        judged.append(policy)
        return read_answers(prompts, [["It is Paris."] * n] * len(prompts))

    monkeypatch.setattr(on_policy_pairs, "load_sft_model", lambda: (checkpoint, None))
    monkeypatch.setattr(on_policy_pairs, "dpo_policy", lambda *_, **__: written)
    monkeypatch.setattr(on_policy_pairs, "sample_pairs", sample_pairs)
    monkeypatch.setattr(on_policy_pairs, "train_dpo", train_dpo)
    monkeypatch.setattr(on_policy_pairs, "sample_answers", sample_answers)
    metrics = on_policy_pairs.measure(5)
    assert list(metrics["sources"]) == ["before", "written", "sft", "policy"]
    assert judged[0] is checkpoint and judged[1] is written
    assert [policy.rounds for policy in judged[2:]] == [["old"] * 3, ["old", "fresh", "fresh"]]
    # After which rounds? How many, and with which seed? The first round is the same for both.
    assert sampled[:3] == [([], 256, 15), ([], 256, 16), ([], 256, 17)]
    assert sampled[3:] == [([], 256, 15), (["old"], 256, 16), (["old", "fresh"], 256, 17)]
    assert checkpoint.rounds == []
    assert [settings["reference"] for settings in trained] == [None, *[checkpoint] * 2] * 2
    assert {settings["learning_rate"] for settings in trained} == {2 * 7e-4}
    assert {settings["seed"] for settings in trained} == {5}


def test_sampled_pairs_are_labelled_by_the_annotator(monkeypatch):
    monkeypatch.setattr(sampling, "annotate", lambda utilities, rng: utilities)
    rows, gaps = sampling.sample_pairs(*load_causal_lm("tiny-gpt2"), 6, 2), []
    for row in rows:
        chosen, rejected = (gold_utility(row["prompt"], row[s]) for s in ("chosen", "rejected"))
        gaps.append(chosen - rejected)
    assert len(rows) == 6 and min(gaps) >= 0 and max(gaps) > 0.5
    assert all(row["chosen"] != row["rejected"] for row in rows)
    assert {row["prompt"] for row in rows} <= {q.prompt for q in questions("train")}


# --- The commands ---

STUDIES = (what_dpo_does, likelihood_term, too_much_dpo, on_policy_pairs)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """What the studies write with --smoke; what several of them need is trained once."""
    folder = tmp_path_factory.mktemp("studies")
    said = ""
    for study in STUDIES:
        done = run_script(f"studies/{study.__name__}", "--smoke", cwd=folder)
        assert done.returncode == 0, done.stderr
        said += done.stdout
    assert said.count("training dpo first") == said.count("training dpo 6400 first") == 1
    return folder / "outputs" / "studies"


@pytest.mark.parametrize("study", STUDIES)
def test_every_claim_has_its_quantity_and_several_seeds_are_drawn(outputs, study):
    (run,) = read_json(outputs / f"{study.__name__}-smoke.json")["runs"]
    for claim in study.CLAIMS:
        assert math.isfinite(claim.of(run["metrics"])) and claim.smallest > 0
    study.draw([run["metrics"]] * 3)


def test_what_every_method_is_compared_by(outputs):
    """`frontier.py` reads these; the SFT model is where all start."""
    points, texts = [], {}
    for study in (too_much_dpo, on_policy_pairs, likelihood_term):
        (run,) = read_json(outputs / f"{study.__name__}-smoke.json")["runs"]
        points += run["metrics"]["points"]
        texts |= run["metrics"]["answers"]["texts"]
    assert points[0]["method"] == "SFT" and points[0]["kl"] == 0
    methods = {"DPO", "on-policy DPO", "DPO + likelihood term"}
    assert {point["method"] for point in points[1:]} == methods
    assert {point["biased"] for point in points} == {True, False}
    assert {point["beta"] for point in points} == {None, 0.3, 1.0}
    assert [point_name(point) for point in points] == list(texts)
