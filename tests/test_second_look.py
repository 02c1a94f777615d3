"""The second look: every number on inputs where it is known, every limit, and two real runs."""

import importlib
import json
import math
import re
import shlex
from operator import gt
from pathlib import Path

from support import win_rates
from support.evidence import (
    read_displacement,
    read_distance,
    read_pairs,
    read_ranking,
    read_start,
)
from support.findings.dpo_training import win_rate_findings
from support.findings.second_look import second_look_findings
from support.second_look import (
    ASKS,
    LIMITS,
    NEXT,
    SecondLook,
    look_on_the_way,
    overruled,
    questions,
)
from support.start import Start
from support.telling_words import show_pairs, telling_words

import dpo_trainer
import numpy as np
import pytest
import torch
from helpers import SCRIPTS

from common.cli import UserError
from common.models import encode_response, load_causal_lm
from common.preferences import COLUMNS, make_pairs

AGAIN = "dpo_trainer.py --dataset 'my pairs.jsonl' --learning-rate 2e-2 --beta 0.1"
FLAGS = {"again": AGAIN, "model": "FOLDER", "dataset": "'my pairs.jsonl'"}
FLAGS |= {"longer": 192, "slower": 2.3e-4, "faster": 3.5e-3}
# What the sentences name beside the numbers of the checks.
NAMED = {"order": "longer", "unequal": 9, "mark": "[INST]", "tokens": 48, "accuracy": "40 %"}


@pytest.fixture(scope="module")
def tiny() -> tuple:
    return load_causal_lm("tiny-gpt2")


def pairs_of(*answers: tuple[str, str]) -> list[dict]:
    """Pairs of these (chosen, rejected), each with a prompt of its own."""
    rows = enumerate(answers)
    return [{"prompt": f"Why {k}?", "chosen": a, "rejected": b} for k, (a, b) in rows]


# --- Limits ---


@pytest.mark.parametrize(
    "check, silent, fires",
    [
        ("length", 0.85, 0.851),
        ("marks", 0.05, 0.051),
        ("repeats", 0.2, 0.201),
        ("twins", 0.2, 0.201),
        ("unlike", 2.0, 2.01),
        ("cut", 0.05, 0.049),
        ("base", 0.5, 0.49),
        ("reference", 0.02, 0.021),
        ("unmoved", 0.1, 0.099),
        ("reversed", 0.5, 0.499),
        ("chance", 0.5, 0.499),
        ("too_far", 0.4, 0.401),
        ("displaced", 0.3, 0.301),
    ],
)
def test_a_check_fires_beyond_its_limit_and_not_at_it(check, silent, fires):
    assert questions("before", {**NAMED, check: silent}, FLAGS) == []
    (question,) = questions("before", {**NAMED, check: fires}, FLAGS)
    side = "above" if LIMITS[check][0] is gt else "below"
    assert question["check"] == check
    assert question["asks"].startswith("Second look, before: ") and "?" in question["asks"]
    assert question["asks"].endswith(f"(asked {side} {LIMITS[check][1]:g}).")


def test_every_check_asks_and_proposes_a_command_that_its_script_takes():
    assert LIMITS.keys() == ASKS.keys() == NEXT.keys()
    for check, (comparison, limit) in LIMITS.items():
        beyond = limit + (0.01 if comparison is gt else -0.01)
        (question,) = questions("after", {**NAMED, check: beyond}, FLAGS)
        python, path, *flags = shlex.split(question["next"])
        assert python == "python" and Path(path).parent.name == "05-preference-tuning"
        args = importlib.import_module(Path(path).stem).build_parser().parse_args(flags)
        assert args.dataset == "my pairs.jsonl"
        assert path.endswith("dpo_trainer.py") == (NEXT[check].startswith("{again}"))
        if path.endswith("dpo_trainer.py"):
            assert args.beta == 0.1  # what the user chose stays


def test_the_read_along_gives_every_limit():
    text = (SCRIPTS / "README.md").read_text(encoding="utf-8")
    for check, (_, limit) in LIMITS.items():
        (row,) = re.findall(rf"^\| \w[\w ,]* \| `{check}` \| (.*) \|$", text, re.MULTILINE)
        shown = rf"{100 * limit:.0f} %" if " %" in row else f"{limit:g} "
        assert shown in f"{row} ", check


@pytest.mark.parametrize(
    "typed, said",
    [
        ("a.py --x 1 --y 2 --x 3", "a.py --y 2 --x 3"),
        ("a.py --x=1 --x-y 5 --x 3", "a.py --x-y 5 --x 3"),
        ("a.py --y 2 --smoke", "a.py --y 2 --smoke"),
        ("a.py", "a.py"),
    ],
)
def test_a_flag_is_given_once(typed, said):
    assert overruled(typed) == f"python 05-preference-tuning/{said}"


def test_questions_come_in_order_and_the_first_gives_the_next_command():
    look = SecondLook(FLAGS, {}, [])
    look.ask("before", {**NAMED, "length": 0.9, "marks": 0.0})
    metrics = look.after("after", {**NAMED, "too_far": 0.9, "unmoved": 0.01, "pairs": 12})
    lines = second_look_findings(metrics["second_look"])
    assert [q["check"] for q in metrics["second_look"]["questions"]] == [
        *("length", "unmoved", "too_far")
    ]
    assert "90 % of 9 unequal pairs" in lines[0] and "0.90 nats a token" in lines[2]
    assert "12 held-out pairs are too few" in lines[3]
    assert lines[-1].endswith("preference_data_explorer.py --dataset 'my pairs.jsonl'")


def test_silence_is_never_called_healthy():
    lines = second_look_findings({"numbers": {"after": {"pairs": 50}}, "questions": []})
    assert "None of the 13 checks" in lines[0] and "No check sees" in lines[1] and len(lines) == 2
    assert not any(word in " ".join(lines).lower() for word in ("healthy", "fine", "all right"))


# --- What the pairs show ---


def test_the_share_that_one_order_of_lengths_wins():
    rows = pairs_of(*[("ab", "abc")] * 6, *[("abc", "ab")] * 2, ("ab", "cd"))
    numbers = read_pairs(rows, rows[:1])
    assert (numbers["length"], numbers["order"], numbers["unequal"]) == (0.75, "shorter", 8)
    swapped = pairs_of(*[("abc", "ab")] * 6, *[("ab", "abc")] * 2)
    assert (read_pairs(swapped, rows)["length"], read_pairs(swapped, rows)["order"]) == (
        *(0.75, "longer"),
    )
    assert read_pairs(pairs_of(("ab", "cd")), rows)["length"] == 0.5


@pytest.mark.parametrize(
    "text, mark",
    [
        ("<|im_start|>assistant\nHi", "<|im_start|>"),
        ("Hi</s>", "</s>"),
        ("[INST] Hi [/INST]", "[INST]"),
        ("Hello\n\nHuman: Hi", "Human:"),
        ("### Response: Hi", "### Response:"),
        ("<start_of_turn>model", "<start_of_turn>"),
        ("Every human: a user of tools", ""),
        ("a < b and b > c, x <b>bold</b>", ""),
        ("The assistant answers.", ""),
    ],
)
def test_marks_of_templates_and_roles(text, mark):
    numbers = read_pairs(pairs_of((text, "b")), pairs_of(("a", "b")))
    assert numbers["mark"] == mark and numbers["marks"] == (1 / 3 if mark else 0)


def test_marks_are_found_in_every_turn_of_a_prompt():
    turns = [{"role": "user", "content": "</s>"}, {"role": "user", "content": "b"}]
    row = {"prompt": turns, "chosen": "c", "rejected": "d"}
    assert read_pairs([row], [row])["marks"] == 1 / 4


def test_repeats_and_twins_whichever_was_chosen():
    train = pairs_of(("a", "b"), ("b", "a"), ("c", "d"), ("a", "c"))
    held = pairs_of(("d", "c"), ("a", "d"), ("x", "y"), ("a", "b"))
    numbers = read_pairs(train, held)
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


def test_words_of_scripts_without_spaces(capsys):
    rows = pairs_of(*[("好的天", "坏天")] * 16)
    assert telling_words(rows) == {"坏": -4, "好": 4, "的": 4}
    show_pairs(rows)
    said = capsys.readouterr().out
    assert "chosen:    好, 的" in said and "rejected:  坏" in said and said.count("Why") == 3


# --- What the model shows ---


def test_a_uniform_model_has_known_numbers(tiny):
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


def test_the_interval_of_an_accuracy_against_chance():
    good = read_ranking(np.array([1.0] * 40 + [-1.0] * 20))
    assert good["chance"] > 0.5 and "reversed" not in good and good["pairs"] == 60
    assert good["accuracy"].startswith("67 %")
    coin = read_ranking(np.array([1.0, -1.0] * 30))
    assert coin["chance"] < 0.5
    assert read_ranking(np.array([1.0] * 20 + [-1.0] * 40))["reversed"] < 0.5
    few = read_ranking(np.array([1.0, -1.0] * 19))
    assert "chance" not in few and "reversed" not in few and few["pairs"] == 38
    assert read_ranking(np.array([-1.0] * 8))["reversed"] < 0.5  # few, and yet clear
    assert read_ranking(np.zeros(60))["chance"] == 0.5  # ties count half


def test_distances_per_token(tiny):
    _, tokenizer = tiny
    texts = [["It is Paris.", "Paris"], ["No.", "It is so."]]
    tokens = sum(len(encode_response(tokenizer, text)) for row in texts for text in row)
    kl = np.array([[1.0, 2.0], [3.0, 4.0]])
    assert read_distance(tokenizer, texts, kl)["too_far"] == pytest.approx(10 / tokens)
    rows = pairs_of(("It is Paris.", "b"), ("No.", "b"))
    tokens = sum(len(encode_response(tokenizer, row["chosen"])) for row in rows)
    lost = read_displacement(tokenizer, rows, np.array([-3.0, 1.0]))
    assert lost["displaced"] == pytest.approx(2 / tokens)


@pytest.mark.parametrize("moved, asked", [(0.0, False), (0.3, True)])
def test_a_policy_that_does_not_start_at_the_reference(tiny, capsys, moved, asked):
    from peft import get_peft_model

    model, tokenizer = load_causal_lm("tiny-gpt2")
    policy = get_peft_model(model, dpo_trainer.lora_config(model)).eval()
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            if "lora_B" in name:
                weight.add_(moved)
    held = make_pairs(8, "test")
    start = start_of(tokenizer, held)
    look, answers = SecondLook(FLAGS, {}, []), {"kl": np.zeros((1, 1))}
    look_on_the_way(look, start, 0, policy, [["a"]], answers)
    assert [q["check"] for q in look.questions] == (["reference"] if asked else [])
    assert ("Is the start the reference?" in capsys.readouterr().out) == asked


def start_of(tokenizer, held: list[dict]) -> Start:
    from support.policy_data import PolicyData

    data = PolicyData(held, held, [], [], has_gold=False)
    return Start(None, tokenizer, data, {"beta": 0.3}, (), 48, 1, smoke=False)


# --- The real command ---


def write_pairs(rows: list[dict], path: Path) -> Path:
    lines = [json.dumps({column: row[column] for column in COLUMNS}) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_run_on_sound_pairs_raises_nothing_and_one_gone_too_far_does(
    tmp_path, capsys, monkeypatch
):
    path = write_pairs(make_pairs(128, seed=21), tmp_path / "pairs.jsonl")
    place = ["--dataset", str(path), "--output-dir", str(tmp_path / "outputs")]
    metrics = dpo_trainer.main([*place, "--prompts", "8"])
    said = " ".join(capsys.readouterr().out.split())
    assert metrics["second_look"]["questions"] == []
    assert "too few to tell an accuracy from chance" in said
    assert "words that tell chosen from rejected" in said and "annotators with a bias" in said

    flags = ["--prompts", "8", "--pairs", "64", "--learning-rate", "3e-2"]
    monkeypatch.setattr("sys.argv", ["/a folder/dpo_trainer.py", *place, *flags])
    metrics = dpo_trainer.main()
    said = capsys.readouterr().out
    asked = metrics["second_look"]["questions"]
    on_the_way = [q for q in asked if q["check"] == "too_far" and q["when"].startswith("at step")]
    assert len(on_the_way) == 1  # once, though it stays too far
    assert {"too_far"} <= {q["check"] for q in asked if q["when"] == "after"}
    first = said.index(on_the_way[0]["when"])
    assert first < said.index("Of held-out pairs the implicit reward ranks")
    assert said.count("Next:\n  python 05-preference-tuning/dpo_trainer.py") == 1
    command = f"dpo_trainer.py {shlex.join(place)} --prompts 8 --pairs 64 --learning-rate 0.01\n"
    assert f"Next:\n  python 05-preference-tuning/{command}" in said


# --- Win rates without a gold standard ---


PROMPTS = [f"What is {k}?" for k in range(6)]
LONG, SHORT = [["a longer answer of six words", "same"]] * 6, [["short one", "same"]] * 6


def test_a_reward_model_that_loves_length_wins_only_raw(monkeypatch):
    def length_as_reward(_, prompts, texts):
        return np.array([[len(text) for text in row] for row in texts])

    monkeypatch.setattr(win_rates, "score_texts", length_as_reward)
    sides = (LONG, {"words": np.array([[6.0, 1.0]] * 6)}), (SHORT, {"words": np.ones((6, 2))})
    judges = {"reward_model": (None, None)}
    rates = win_rates.win_rates_without_gold(judges, PROMPTS, *sides)["win_rates"]
    assert rates["reward_model"]["raw"]["mean"] == 0.75  # longer wins, equal texts tie
    assert rates["reward_model"]["length_controlled"]["mean"] == pytest.approx(0.5, abs=0.03)
    (said,) = win_rate_findings(rates)
    assert said.startswith("The reward model prefers the answers after training") and "75 %" in said
    assert win_rates.win_rates_without_gold({}, PROMPTS, *sides) == {}


def test_a_judge_sees_both_orders(tiny, monkeypatch):
    there, back = (
        win_rates.ask_judge(tiny, PROMPTS, *sides) for sides in ((LONG, SHORT), (SHORT, LONG))
    )
    assert np.allclose(there["preference"] + back["preference"], 1)  # who comes first is nothing
    assert (there["preference"][:, 1] == 0.5).all() and not there["by_order"][:, 1].any()
    assert (there["preference"][:, 0] != 0.5).all()
    assert there["answered"].shape == (6, 2) and (there["answered"] > 0.9).all()

    monkeypatch.setattr(win_rates, "raw_and_controlled", lambda won, longer: {"won": won})
    sides = (LONG, {"words": np.zeros((6, 2))}), (SHORT, {"words": np.zeros((6, 2))})
    rates = win_rates.win_rates_without_gold({"judge": tiny}, PROMPTS, *sides)["win_rates"]["judge"]
    assert (rates["won"] == (1 + np.sign(there["preference"] - 0.5)) / 2).all()
    assert rates["answers_a_or_b"]["mean"] == 1
    assert rates["verdict_depends_on_order"]["mean"] == there["by_order"].mean()


def test_a_backbone_without_a_head_is_no_reward_model():
    with pytest.raises(UserError, match="without a head that scores; train one"):
        win_rates.load_judges(None, Path("tiny-distilbert"), "cpu")
    assert win_rates.load_judges(None, None, "cpu") == {}
