"""The second look: every number on inputs where it is known, and every limit."""

import math
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import SCRIPTS
from own_data.look import (
    QUESTIONS,
    SecondLook,
    count_marks,
    read_drift,
    read_faults,
    read_start,
    show_pairs,
    side_by_side,
    telling_words,
)

from common.answers import read_answers
from common.models import load_causal_lm
from common.preferences import make_pairs
from common.prompts import encode_response

AGAIN = "dpo_trainer.py --dataset 'my pairs.jsonl' --learning-rate 2e-2 --beta 0.1"
# What the sentences name beside the numbers of the checks.
NAMED = {"order": "longer", "unequal": 9, "mark": "[INST]", "tokens": 48, "accuracy": "40 %"}


@pytest.fixture(scope="module")
def tiny() -> tuple:
    return load_causal_lm("tiny-gpt2")


@pytest.fixture
def look(monkeypatch) -> SecondLook:
    monkeypatch.setattr(sys, "argv", shlex.split(f"/a folder/{AGAIN}".replace("/a folder/", "x/")))
    return SecondLook("my pairs.jsonl", None, model="FOLDER", learning_rate=7e-4)


def pairs_of(*answers: tuple[str, str]) -> list[dict]:
    """Pairs of these (chosen, rejected), each with a prompt of its own."""
    rows = enumerate(answers)
    return [{"prompt": f"Why {k}?", "chosen": a, "rejected": b} for k, (a, b) in rows]


# --- Limits ---

EDGES = {  # of each check: a number at which it is silent, and one at which it asks
    **{"length": (0.85, 0.851), "marks": (0.05, 0.051), "repeats": (0.2, 0.201)},
    **{"twins": (0.2, 0.201), "unlike": (2.0, 2.01), "cut": (0.05, 0.049), "base": (0.5, 0.49)},
    **{"reference": (0.02, 0.021), "unmoved": (0.1, 0.099), "reversed": (0.5, 0.499)},
    **{"chance": (0.5, 0.499), "too_far": (0.4, 0.401), "displaced": (0.3, 0.301)},
}


@pytest.mark.parametrize("check", QUESTIONS)
def test_a_check_fires_beyond_its_limit_and_not_at_it(look, check, capsys):
    silent, beyond = EDGES[check]
    look.ask("before", {**NAMED, check: silent})
    assert look.questions == [] and capsys.readouterr().out == ""
    look.ask("before", {**NAMED, check: beyond})
    (question,) = look.questions
    assert question["check"] == check and question["asks"].startswith("Second look, before: ")
    limit = "{side} {limit:g}".format(**QUESTIONS[check])
    assert "?" in question["asks"] and question["asks"].endswith(f"(asked {limit}).")
    assert " ".join(capsys.readouterr().out.split()) == question["asks"]


def propose(look: SecondLook, check: str) -> str | None:
    """What is proposed where a check fires."""
    look.ask("before", {**NAMED, check: EDGES[check][1]})
    return look.questions[-1]["next"]


@pytest.mark.parametrize("check", QUESTIONS)
def test_every_check_proposes_a_command_that_is_another_one(look, check):
    python, path, *flags = shlex.split(propose(look, check))
    assert python == "python" and Path(path).parent.name == "05-preference-tuning"
    assert (SCRIPTS / Path(path).name).is_file() and "my pairs.jsonl" in flags
    if Path(path).name == "dpo_trainer.py":  # the flag given last counts
        assert "0.1" in flags and flags[-1] not in AGAIN


def test_what_was_just_run_is_not_proposed(monkeypatch):
    again = ["x/dpo_variants.py", "--model", "M", "--dataset", "a", "--loss-type", "sigmoid", "sft"]
    monkeypatch.setattr(sys, "argv", again)
    assert propose(SecondLook("a", None, model="M"), "unlike") is None
    assert propose(SecondLook("b", None, model="M"), "unlike").endswith("b --loss-type sigmoid sft")


def test_next_commands_name_how_the_data_are_read():
    look = SecondLook("my pairs.jsonl", {"prompt_column": "an ask"})
    flags = ["--dataset", "my pairs.jsonl", "--prompt-column", "an ask"]
    assert shlex.split(propose(look, "length"))[-4:] == flags


def test_the_first_question_gives_the_next_command(look, tiny, capsys):
    look.ask("before", {**NAMED, "length": 0.9, "marks": 0.0})
    held = pairs_of(*[("a", "b")] * 12)
    small = {"chosen": np.full(12, 0.01), "rejected": np.zeros(12)}
    answers = read_answers(["Why?"], [["It is so."]], np.array([[9.0]]))
    look.after(tiny[1], held, answers, small, first_loss=math.log(2) + 0.1)
    asked = [question["check"] for question in look.metrics()["second_look"]["questions"]]
    assert asked == ["length", "reference", "unmoved", "too_far"]
    said = capsys.readouterr().out
    assert "90 % of 9 unequal pairs" in said and "annotators with a bias" in " ".join(said.split())
    first = look.metrics()["second_look"]["questions"][0]
    assert first["next"].endswith("preference_data_explorer.py --dataset 'my pairs.jsonl'")


def test_silence_is_never_called_healthy(look, tiny, capsys):
    look.after(tiny[1], pairs_of(("a", "b")), margins=np.ones(12))
    said = " ".join(capsys.readouterr().out.split())
    assert "None of the 13 checks" in said and "No check sees" in said
    assert "12 held-out pairs are too few" in said and "Next" not in said
    assert not any(word in said.lower() for word in ("healthy", "fine", "all right"))


# --- What the pairs show ---


def test_the_share_that_one_order_of_lengths_wins():
    rows = pairs_of(*[("ab", "abc")] * 6, *[("abc", "ab")] * 2, ("ab", "cd"))
    numbers = read_faults(rows, rows[:1])
    assert (numbers["length"], numbers["order"], numbers["unequal"]) == (0.75, "shorter", 8)
    swapped = pairs_of(*[("abc", "ab")] * 6, *[("ab", "abc")] * 2)
    assert (read_faults(swapped, rows)["length"], read_faults(swapped, rows)["order"]) == (
        *(0.75, "longer"),
    )
    assert read_faults(pairs_of(("ab", "cd")), rows)["length"] == 0.5


@pytest.mark.parametrize(
    "text, mark",
    [
        ("<|im_start|>assistant\nHi", "<|im_start|>"),
        ("Hi</s>", "</s>"),
        ("[INST] Hi [/INST]", "[INST]"),
        ("[USER] Hi", "[USER]"),
        ("Hi ASSISTANT: So.", "ASSISTANT:"),
        ("Hello\n\nHuman: Hi", "Human:"),
        ("prompter: Hi", "prompter:"),
        ("### Response: Hi", "### Response:"),
        ("<start_of_turn>model", "<start_of_turn>"),
        ("Every human: a being of tools", ""),
        ("a < b and b > c, x <b>bold</b>", ""),
        ("The assistant answers.", ""),
    ],
)
def test_marks_of_templates_and_roles(text, mark):
    numbers = count_marks(pairs_of((text, "b")))
    assert numbers["mark"] == mark and numbers["marks"] == (1 / 3 if mark else 0)
    turns = [{"role": "user", "content": text}, {"role": "user", "content": "b"}]
    row = {"prompt": turns, "chosen": "c", "rejected": "d"}
    assert count_marks([row])["marks"] == (1 / 4 if mark else 0)


def test_repeats_and_twins_whichever_was_chosen():
    train = pairs_of(("a", "b"), ("b", "a"), ("c", "d"), ("a", "c"))
    held = pairs_of(("d", "c"), ("a", "d"), ("x", "y"), ("a", "b"))
    numbers = read_faults(train, held)
    assert (numbers["repeats"], numbers["twins"]) == (0.5, 0.5)


def test_words_that_tell():
    """z = (chosen - rejected) / sqrt(chosen + rejected) of the pairs where one side has it."""
    rows = pairs_of(*[("Yes, it is", "It is")] * 13, *[("it is", "sorry it is")] * 16)
    telling = telling_words(rows)
    assert list(telling) == ["sorry", "yes"]
    assert telling["yes"] == pytest.approx(math.sqrt(13)) and telling["sorry"] == -4
    assert telling_words(pairs_of(*[("yes", "no")] * 12)) == {}  # 3.46
    mixed = pairs_of(*[("yes", "a")] * 20, *[("b", "yes")] * 4)  # 3.27
    assert "yes" not in telling_words(mixed)


def test_two_pairs_are_shown_in_full(capsys):
    rows = pairs_of(*[("好的天\n    x = 1", "坏天")] * 16)
    assert sorted(telling_words(rows)) == ["1", "x", "坏", "好", "的"]  # signs are words
    show_pairs(rows, labelled=False)
    said = capsys.readouterr().out
    assert "    好的天\n        x = 1\n" in said and said.count("Why") == 2
    assert "chosen:    1, x, 好, 的" in said and "rejected:  坏" in said


def test_good_and_bad_answers_side_by_side(capsys):
    rows = [{"prompt": f"{k}?", "completion": f"{k}.", "label": k in (1, 4)} for k in range(5)]
    pairs = side_by_side(rows)
    columns = ("prompt", "chosen", "rejected_prompt", "rejected")
    assert [tuple(row[name] for name in columns) for row in pairs] == [
        ("1?", "1.", "0?", "0."),
        ("4?", "4.", "2?", "2."),
    ]
    assert side_by_side(pairs) is pairs
    show_pairs(pairs, labelled=True)
    assert "good:\n    1.\nprompt:\n    0?\nbad:\n    0." in capsys.readouterr().out


# --- What the model shows ---


def test_a_uniform_model_has_known_numbers():
    """Every token has 1 / V: nothing is unlike, and the end has 1 / V after anything."""
    model, tokenizer = load_causal_lm("tiny-gpt2")
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    numbers = read_start(model, tokenizer, make_pairs(8), 5, seed=0)
    assert numbers["cut"] == pytest.approx(1 / len(tokenizer), rel=1e-3)
    assert numbers["unlike"] == pytest.approx(0, abs=1e-5)
    assert numbers["base"] == 0 and numbers["tokens"] == 5


def test_what_the_model_makes_of_sound_cut_and_foreign_answers(tiny):
    rows = make_pairs(32, seed=3)
    sound = read_start(*tiny, rows, 48, seed=0)
    assert sound["cut"] > 0.5 and sound["base"] > 0.9 and abs(sound["unlike"]) < 0.5
    cut = [row | {"chosen": row["chosen"].rsplit(" ", 1)[0]} for row in rows]
    assert read_start(*tiny, cut, 48, seed=0)["cut"] < 0.05
    foreign = [row | {"chosen": row["chosen"].upper()} for row in rows]
    assert read_start(*tiny, foreign, 48, seed=0)["unlike"] > 2
    assert read_start(*tiny, rows, 3, seed=0)["base"] < 0.5


def test_the_interval_of_an_accuracy_against_chance(look):
    def rank(right: int, wrong: int, equal: int = 0) -> dict:
        margins = np.repeat([1.0, -1.0, 0.0], (right, wrong, equal))
        look.after(None, pairs_of(("a", "b")), margins=margins)
        return look.numbers["after"]

    good = rank(40, 20)
    assert good["chance"] > 0.5 and "reversed" not in good and good["pairs"] == 60
    assert good["accuracy"].startswith("67 %")
    assert rank(30, 30)["chance"] < 0.5
    assert rank(20, 40)["reversed"] < 0.5 and "chance" not in rank(20, 40)
    few = rank(19, 19)
    assert "chance" not in few and "reversed" not in few and few["pairs"] == 38
    assert rank(0, 8)["reversed"] < 0.5  # few, and yet clear
    assert rank(0, 0, equal=60)["chance"] < 0.5  # ties count half


def test_distances_per_token(tiny):
    _, tokenizer = tiny
    texts = [["It is Paris.", "Paris"], ["No.", "It is so."]]
    tokens = sum(len(encode_response(tokenizer, text)) for row in texts for text in row)
    answers = read_answers(["a?", "b?"], texts, np.array([[1.0, 2.0], [3.0, 4.0]]))
    assert read_drift(tokenizer, answers, [])["too_far"] == pytest.approx(10 / tokens)
    rows = pairs_of(("It is Paris.", "b"), ("No.", "b"))
    tokens = sum(len(encode_response(tokenizer, row["chosen"])) for row in rows)
    lost = read_drift(tokenizer, None, rows, np.array([-3.0, 1.0]))
    assert lost["displaced"] == pytest.approx(2 / tokens)


@pytest.mark.parametrize("moved, asked", [(0.0, False), (1.0, True)])
def test_a_policy_that_does_not_start_at_the_reference(look, capsys, moved, asked):
    from peft import LoraConfig, get_peft_model

    model, tokenizer = load_causal_lm("tiny-gpt2")
    config = LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True, task_type="CAUSAL_LM")
    torch.manual_seed(0)
    policy = get_peft_model(model, config).eval()
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            if "lora_B" in name:
                weight.add_(moved)
    answers = read_answers(["Why?"], [["a"]])
    for _ in range(2):  # it is asked once
        look.at(0, policy, tokenizer, make_pairs(8, "test"), answers, beta=0.3)
    assert [q["check"] for q in look.questions] == (["reference"] if asked else [])
    assert ("Is the start the reference?" in capsys.readouterr().out) == asked


def test_before_a_training(look, tiny, capsys):
    rows = make_pairs(40, seed=3)
    longer = [r if len(r["chosen"]) > len(r["rejected"]) else swap(r) for r in rows]
    look.before(longer, longer[:4], *tiny)
    said = capsys.readouterr().out
    assert (
        said.index("pair 1, prompt:")
        < said.index("pair 2, prompt:")
        < said.index("words that tell")
    )
    assert [q["check"] for q in look.questions] == ["length", "twins"]
    assert look.numbers["before"].keys() >= {"unlike", "cut", "base"}


def swap(row: dict) -> dict:
    return row | {"chosen": row["rejected"], "rejected": row["chosen"]}


def test_the_read_along_gives_every_limit():
    text = (SCRIPTS / "OWN_DATA.md").read_text(encoding="utf-8")
    for check, asked in QUESTIONS.items():
        (row,) = re.findall(rf"^\| \w[\w ,]* \| `{check}` \| (.*) \|$", text, re.MULTILINE)
        limit = asked["limit"]
        shown = rf"{100 * limit:.0f} %" if " %" in row else f"{limit:g} "
        assert shown in f"{row} ", check
