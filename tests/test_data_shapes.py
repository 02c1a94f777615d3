"""Columns under other names, and choices, scores and labels in the place of pairs."""

import json

from support.data_columns import NAMES
from support.own_pairs import holds_labels, load_own_pairs, load_preferences, read_labelled

import pytest

from common.cli import UserError

pytest.importorskip("datasets")

PAIR = {"prompt": "p", "chosen": "c", "rejected": "r"}


def write(folder, *rows: dict) -> str:
    path = folder / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(path)


OTHER_NAMES = [
    {"Prompt": "p", " chosen": "c", "REJECTED ": "r"},
    {"question": "p", "accepted": "c", "rejected": "r"},
    {"query": "p", "response_j": "c", "response_k": "r"},
    {"instruction": "p", "input": "", "chosen": "c", "rejected": "r"},
    {"input": "p", "chosen": "c", "rejected": "r"},
    {"prompt": "p", "question": "q", "chosen": "c", "rejected": "r"},
    {"question": "p", "query": "", "chosen": "c", "rejected": "r"},
    {"instruction": "p", "chosen_response": "c", "rejected_response": "r"},
]


@pytest.mark.parametrize("row", OTHER_NAMES, ids=" ".join)
def test_usual_names_of_columns(tmp_path, row):
    assert load_preferences(write(tmp_path, row)).to_list() == [PAIR]


def test_instruction_and_input_are_one_prompt(tmp_path, capsys):
    row = {"instruction": "Add.", "input": "1 + 1", "chosen": "2", "rejected": "3"}
    assert load_own_pairs(write(tmp_path, row))[0]["prompt"] == "Add.\n1 + 1"
    assert "prompt is columns instruction and input" in capsys.readouterr().out


def test_of_several_names_the_user_chooses(tmp_path):
    row = {"question": "q", "query": "p", "better": "c", "accepted": "a", "rejected": "r"}
    path = write(tmp_path, row)
    with pytest.raises(UserError, match="each be it: choose one with --prompt-column"):
        load_preferences(path, chosen_column="better")
    named = {"prompt_column": "query", "chosen_column": " Better"}
    assert load_preferences(path, **named).to_list() == [PAIR]
    named["rejected_column"] = "accepted"
    assert load_preferences(path, **named)["rejected"][0] == "a"
    with pytest.raises(UserError, match=r"--prompt-column: .* has no ask; the columns are quest"):
        load_preferences(path, prompt_column="ask")


def test_no_name_stands_for_two_roles():
    names = [name for role in ("prompt", "chosen", "rejected") for name in NAMES[role]]
    assert len(names) == len(set(names))


A_B = {"prompt": "p", "response_a": "c", "response_b": "r"}
ONE_ROW = {
    "PKU-SafeRLHF": {
        **{"prompt": "p", "response_0": "r", "response_1": "c", "safer_response_id": 0},
        "better_response_id": 1,
    },
    "SHP": {"history": "p", "human_ref_A": "c", "human_ref_B": "r", "labels": 1, "score_A": 3},
    "HelpSteer2 pairs": {
        **{"prompt": "p", "response_1": "r", "response_2": "c"},
        "preference_strength": 2,
    },
    "HelpSteer3": {
        "context": [{"role": "user", "content": "p"}],
        **{"response1": "c", "response2": "r", "overall_preference": -1},
    },
    "WebGPT": {"question": "p", "answer_0": "r", "answer_1": "c", "score_0": -1, "score_1": 1},
    "WebGPT as it is": {
        **{"question": {"dataset": "eli5", "id": "x", "full_text": "p"}, "quotes_0": {"title": []}},
        **{"answer_0": "c", "answer_1": "r", "score_0": 0.5, "score_1": -0.5},
    },
    "Arena": {**A_B, "winner": "model_a"},
    "Arena 55k": {
        **{"prompt": '["p"]', "response_a": '["r"]', "response_b": '["c"]'},
        **{"winner_model_a": 0, "winner_model_b": 1, "winner_tie": 0},
    },
    "Unified-Feedback": {
        "conv_A": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "c"}],
        "conv_B": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "r"}],
        **{"conv_A_rating": 1.0, "conv_B_rating": 0.0},
    },
    "Preference Collection": {
        **{"instruction": "Compare.", "orig_instruction": "p", "orig_preference": "B"},
        **{"orig_response_A": "r", "orig_response_B": "c"},
    },
    "choice": {**A_B, "choice": "A"},
    "winner": {"prompt": "p", "response_1": "r", "response_2": "c", "winner": "response_2"},
    "two scores": {**A_B, "score_a": 1, "score_b": -0.5},
    "AlpacaFarm": {"instruction": "p", "output_1": "r", "output_2": "c", "preference": 2},
    "UltraFeedback": {
        "instruction": "p",
        "completions": [
            {"response": "m", "overall_score": 5},
            {"response": "c", "overall_score": 8.5},
            {"response": "r", "overall_score": 1},
        ],
    },
    "Nectar": {"prompt": "p", "answers": [{"answer": "r", "rank": 7}, {"answer": "c", "rank": 1}]},
    "distilabel": {"instruction": "p", "generations": ["r", "m", "c"], "ratings": [1, 2, 3]},
    "swift": {
        "messages": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "c"}],
        "rejected_response": "r",
    },
}


@pytest.mark.parametrize("name", ONE_ROW)
def test_choices_and_scores_of_one_row(tmp_path, name, capsys):
    path = write(tmp_path, ONE_ROW[name])
    assert load_preferences(path).to_list() == [PAIR]
    load_own_pairs(path)
    said = capsys.readouterr().out
    assert "the shape of" in said or "chosen is the last turn of messages" in said


TIES = {
    "SHP": {"labels": None},
    "HelpSteer2 pairs": {"preference_strength": 0},
    "Arena": {"winner": "tie (bothbad)"},
    "Arena 55k": {"winner_model_b": 0, "winner_tie": 1},
    "two scores": {"score_b": 1.0},
    "WebGPT": {"score_0": None},
    "distilabel": {"ratings": [2, 2, 2]},
}


@pytest.mark.parametrize("name", TIES)
def test_ties_are_counted(tmp_path, name, capsys):
    load_own_pairs(write(tmp_path, ONE_ROW[name], {**ONE_ROW[name], **TIES[name]}))
    assert "1 pairs; dropped: 1 tied or not labelled (row 2)" in capsys.readouterr().out


def test_pairs_as_openai_has_them(tmp_path):
    asked = {"messages": [{"role": "user", "content": "p"}], "tools": []}
    sides = {"preferred_output": "c", "non_preferred_output": "r"}
    row = {side: [{"role": "assistant", "content": text}] for side, text in sides.items()}
    assert load_preferences(write(tmp_path, {"input": asked, **row})).to_list() == [PAIR]
    with pytest.raises(UserError, match="row 1: prompt: column tools changes what a model reads"):
        load_preferences(write(tmp_path, {"input": {**asked, "tools": [{"type": "x"}]}, **row}))


def test_conversations_of_the_arena(tmp_path, capsys):
    """Lists as JSON: a conversation that parts at its first answer teaches nothing of its last."""
    lists = {"prompt": '["p", "q"]', "response_a": '["s", "r"]', "response_b": '["s", "c"]'}
    row = {**ONE_ROW["Arena 55k"], **lists}
    path = write(tmp_path, row, {**row, "response_a": '["t", "r"]'}, {**row, "prompt": '["p"]'})
    rows = load_own_pairs(path)
    assert [turn["content"] for turn in rows[0]["prompt"]] == ["p", "s", "q"]
    assert (rows[0]["chosen"], rows[0]["rejected"]) == ("c", "r")
    said = capsys.readouterr().out
    assert "1 that part before the last answer (row 2)" in said
    assert "1 not of the shape of the first row (row 3)" in said


def test_summaries(tmp_path):
    info = {"title": "T", "post": "Text.", "subreddit": "s", "article": None}
    row = {"info": info, "summaries": [{"text": " r"}, {"text": " c"}], "choice": 1}
    assert load_preferences(write(tmp_path, row)).to_list() == [
        {**PAIR, "prompt": "SUBREDDIT: r/s\n\nTITLE: T\n\nPOST: Text.\n\nTL;DR:"}
    ]


def test_scored_answers_of_many_rows(tmp_path, capsys):
    rows = [
        {"prompt": "p", "response": "r", "helpfulness": 1, "verbosity": 4},
        {"prompt": "q", "response": "x", "helpfulness": 2, "verbosity": 2},
        {"prompt": "p", "response": "m", "helpfulness": 2, "verbosity": 3},
        {"prompt": "p", "response": "c", "helpfulness": 4, "verbosity": 0},
        {"prompt": "q", "response": "y", "helpfulness": 2, "verbosity": 1},
    ]
    pairs = load_own_pairs(write(tmp_path, *rows))
    assert pairs.to_list() == [{**PAIR, "row": 1}]
    said = capsys.readouterr().out
    assert "dropped: 1 tied or not labelled (row 2)" in said
    assert "the best and the worst by helpfulness; columns not read: verbosity" in said


def test_where_the_choice_is_the_users_the_error_shows_a_line_of_python(tmp_path):
    pandas = pytest.importorskip("pandas")
    rows = [
        {"prompt": "p", "response": "r", "safety": 1, "taste": 4},
        {"prompt": "p", "response": "c", "safety": 3, "taste": 2},
    ]
    with pytest.raises(UserError, match="is your choice; safety, taste could say it") as error:
        load_preferences(write(tmp_path, *rows))
    line = str(error.value).split("for example: ")[1]
    assert eval(line, {"table": pandas.DataFrame(rows)}) == [PAIR]
    row = {"prompt": "p", "response_1": "c", "response_2": "r"}
    with pytest.raises(UserError, match="Which of the two is better is yours to say") as error:
        load_preferences(write(tmp_path, row))
    line = str(error.value).split("in Python: ")[1]
    made = eval(line, {"rows": [row], "first_is_better": bool})
    assert load_preferences(write(tmp_path, *made)).to_list() == [PAIR]


LABELS = [
    {"prompt": "p", "completion": "c", "label": True},
    {"prompt": "p", "completion": "r", "label": False},
]


def test_answers_with_a_label(tmp_path, capsys):
    path = write(tmp_path, *LABELS, LABELS[0], {**LABELS[0], "completion": ""})
    assert holds_labels(path) and not holds_labels(write(tmp_path / "..", PAIR))
    rows = load_own_pairs(path, labelled=True)
    assert rows.to_list() == [{**row, "row": k} for k, row in enumerate(LABELS, start=1)]
    assert (
        "2 answers, 1 good and 1 bad; dropped: 1 empty (row 4), 1 duplicate (row 3)"
        in capsys.readouterr().out
    )
    with pytest.raises(UserError, match=r"dpo_variants\.py --loss-type kto") as error:
        load_own_pairs(path)
    pandas = pytest.importorskip("pandas")
    line = str(error.value).split("this makes pairs: ")[1]
    assert eval(line, {"table": pandas.DataFrame(LABELS)}) == [PAIR]
    with pytest.raises(UserError, match="1 of 1 answers are good; KTO needs both kinds"):
        load_own_pairs(write(tmp_path, LABELS[0]), labelled=True)


OTHER_LABELS = [
    {"question": "p", "response": "c", "label": "good"},
    {"prompt": "p", "answer": "c", "label": 1},
    {
        "messages": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "c"}],
        "kto_tag": "true",
    },
    {"prompt": [{"role": "user", "content": "p"}], "completion": "c</s>", "label": 1.0},
]


@pytest.mark.parametrize("row", OTHER_LABELS, ids=" ".join)
def test_other_ways_to_write_a_label(tmp_path, row):
    path = write(tmp_path, row)
    assert holds_labels(path)
    assert read_labelled(path).rows.to_list() == [{**LABELS[0], "row": 1}]
