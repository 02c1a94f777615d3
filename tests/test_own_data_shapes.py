"""Which answer was chosen: columns under other names, choices, scores, pointers and labels."""

import json

import pytest
from own_data.conversations import REFUSALS
from own_data.read import TYPES, load_preferences, read_data, say_usable, usable
from own_data.shapes import EXPORTS, USUAL

from common.basics import UserError

pytest.importorskip("datasets")

PAIR = {"prompt": "p", "chosen": "c", "rejected": "r"}


def write(folder, *rows: dict) -> str:
    path = folder / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(path)


def said(path: str, capsys, kind: str = "pairs") -> str:
    say_usable(usable(read_data(path, kind)))
    return capsys.readouterr().out


OTHER_NAMES = [
    {"Prompt": "p", " chosen": "c", "REJECTED ": "r"},
    {"question": "p", "accepted": "c", "rejected": "r"},
    {"query": "p", "response_j": "c", "response_k": "r"},
    {"instruction": "p", "input": "", "chosen": "c", "rejected": "r"},
    {"input": "p", "chosen": "c", "rejected": "r"},
    {"prompt": "p", "question": "q", "chosen": "c", "rejected": "r"},
    {"question": "p", "query": "", "chosen": "c", "rejected": "r"},
    {"instruction": "p", "chosen_response": "c", "rejected_response": "r"},
    {"prompts": "p", "response_preferred": "c", "response_non_preferred": "r"},
]


@pytest.mark.parametrize("row", OTHER_NAMES, ids=" ".join)
def test_usual_names_of_columns(tmp_path, row):
    assert load_preferences(write(tmp_path, row)).to_list() == [PAIR]


def test_instruction_and_input_are_one_prompt(tmp_path, capsys):
    row = {"instruction": "Add.", "input": "1 + 1", "chosen": "2", "rejected": "3"}
    path = write(tmp_path, row)
    assert "prompt is columns instruction and input" in said(path, capsys)
    for named in ({}, {"prompt_column": "instruction"}):
        assert load_preferences(path, **named)[0]["prompt"] == "Add.\n1 + 1"


def test_of_several_names_the_user_chooses(tmp_path):
    row = {"question": "q", "query": "p", "better": "c", "accepted": "a", "rejected": "r"}
    path = write(tmp_path, row)
    with pytest.raises(UserError, match="each be it: choose one with --prompt-column") as error:
        load_preferences(path, chosen_column="better")
    line = str(error.value).split("in Python: ")[1]
    made = eval(line, {"rows": [row]})
    assert made[0]["prompt"] == "q\n\np"
    named = {"prompt_column": "query", "chosen_column": " Better"}
    assert load_preferences(path, **named).to_list() == [PAIR]
    named["rejected_column"] = "accepted"
    assert load_preferences(path, **named)["rejected"][0] == "a"
    with pytest.raises(UserError, match=r"--prompt-column: .* has no ask; the columns are quest"):
        load_preferences(path, prompt_column="ask")


def test_no_name_stands_for_two_roles():
    names = [name for role in ("prompt", "chosen", "rejected") for name in USUAL[role]]
    assert len(names) == len(set(names))


# --- Which of two answers was chosen ---

A_B = {"prompt": "p", "response_a": "c", "response_b": "r"}
ONE_TWO = {"prompt": "p", "response_1": "c", "response_2": "r"}
# Two answers, the values of a column, and what each says: the first, the second, or no pair.
CODINGS = [
    (A_B, "winner", {"model_a": 0, "model_b": 1, "tie": None, "tie (bothbad)": None}),
    (A_B, "choice", {"left": 0, "right": 1, "bothbad_vote": None}),
    (A_B, "preference", {"A_much": 0, "A_slight": 0, "equal": None, "B_slight": 1, "B_much": 1}),
    (A_B, "choice", {"Response A is better": 0, "Response B is better": 1, "both a and b": None}),
    (A_B, "verdict", {"[[A>>B]]": 0, "[[A>B]]": 0, "[[B>A]]": 1, "[[A=B]]": None, "N/A": None}),
    (A_B, "preference", {"A": 0, "b ": 1, "": None}),
    (A_B, "preference", {1: 0, 2: 1, "tie": None}),
    (A_B, "response_preferred", {"response_a": 0, "response_b": 1}),
    (ONE_TWO, "winner", {"model_1": 0, "model_2": 1, "tie": None}),
    (ONE_TWO, "winner", {"response_2": 1, "response_1": 0}),
    (ONE_TWO, "preference", {1.0: 0, 2.0: 1, 1.5: None}),
    (ONE_TWO, "preference", {"1": 0, "2": 1, "0": None}),
    (ONE_TWO, "preference", {1: 0, 2: 1, 3: None}),
    (ONE_TWO, "better", {"A": 0, "B": 1}),
    (ONE_TWO, "preference_strength", {-3: 0, 2: 1, 0: None}),
    (
        {"prompt": "p", "response_0": "c", "response_1": "r"},
        "better_response_id",
        {0: 0, 1: 1},
    ),
    ({"history": "p", "human_ref_A": "c", "human_ref_B": "r"}, "labels", {1: 0, 0: 1}),
    (
        {"Questions": "p", "Answer1": "c", "Answer2": "r"},
        "Preference",
        {"Answer1": 0, "Answer2": 1},
    ),
    ({"prompt": "p", "A_response": "c", "B_response": "r"}, "preference", {"A": 0, "B": 1}),
    ({"dialogue": "p", "reply_A": "c", "reply_B": "r"}, "better", {"A": 0, "B": 1}),
]


@pytest.mark.parametrize("answers, column, coding", CODINGS)
def test_a_known_coding_is_read_and_said(tmp_path, capsys, answers, column, coding):
    rows = [{**answers, column: value} for value in coding for _ in range(2)]
    rows += [{**answers, column: None}]
    path = write(tmp_path, *rows)
    pairs = read_data(path, "pairs").rows
    expected = [side for side in coding.values() for _ in range(2)]
    sides = [("c", "r") if side == 0 else ("r", "c") for side in expected if side is not None]
    assert [(row["chosen"], row["rejected"]) for row in pairs] == sides
    told, names = said(path, capsys), [name.lower() for name in answers if name.lower()[-1] != "t"]
    assert f"{column.lower()}: " in told and "not labelled" in told
    for value, side in coding.items():
        name = f"{value} = " if side is not None else f"{value or 'empty'} dropped ("
        assert name.strip() in told and (2 not in coding.values()), (told, names)


UNKNOWN = [
    (A_B, "preference", [1, 2, 3, 4, 5, 6, 7]),
    (A_B, "preference", [-3, -1, 2, 3]),
    (A_B, "preference", [0, 1]),
    (A_B, "preference", [0, 1, 2]),
    (A_B, "preference", [1]),
    (A_B, "preference", [0.2, 0.9]),
    (A_B, "preference", [True, False]),
    (A_B, "winner", ["A", "B", "C"]),
    (A_B, "winner", ["A", 2]),
    (A_B, "winner", ["A is worse", "B is worse"]),
    (A_B, "winner", ["llama-3-8b", "gemma-2b"]),
    (A_B, "winner", ["A", "B", "unsure"]),
    (ONE_TWO, "preference", [0, 1]),
    (ONE_TWO, "preference", [1]),
    (ONE_TWO, "preference", [1, 2, 4]),
    (ONE_TWO, "overall_preference", [1, 2, 3]),
    (ONE_TWO, "choice", ["yes", "no"]),
    ({"prompt": "p", "response_0": "c", "response_1": "r"}, "preference", [1, 2]),
    ({"prompt": "p", "response_0": "c", "response_1": "r"}, "preference", [0, 1, 2]),
]


@pytest.mark.parametrize("answers, column, values", UNKNOWN)
def test_what_is_no_coding_or_fits_two_ways_is_refused(tmp_path, answers, column, values):
    rows = [{**answers, column: value} for value in values for _ in range(3)]
    with pytest.raises(UserError, match=f"{column} holds .* knows no coding") as error:
        load_preferences(write(tmp_path, *rows))
    for value in values:
        assert f"{value!r} (3)" in str(error.value)
    line = str(error.value).split("in Python: ")[1].replace(", ...", "")
    space = {"rows": rows}
    exec(line, space)
    assert space["pairs"][0]["chosen"] == "c" and space["pairs"][0]["rejected"] == "r"


def test_the_winner_by_the_name_of_its_model(tmp_path, capsys):
    models = {**A_B, "model_a": "llama-3b", "model_b": "gemma-2b"}
    rows = [{**models, "winner": name} for name in ("llama-3b", "gemma-2b", "tie", "gemma-2b")]
    path = write(tmp_path, *rows)
    assert read_data(path, "pairs").rows["chosen"][:] == ["c", "r", "r"]
    told = said(path, capsys)
    assert "the name in model_a = response_a (1), the name in model_b = response_b (2)" in told
    with pytest.raises(UserError, match="winner holds"):
        load_preferences(write(tmp_path, *rows, {**models, "winner": "phi-3"}))


@pytest.mark.parametrize(
    "scores, higher",
    [
        (("score_a", "score_b"), True),
        (("rating_a", "rating_b"), True),
        (("rank_a", "rank_b"), False),
        (("harm_score_a", "harm_score_b"), False),
    ],
)
def test_two_scores(tmp_path, capsys, scores, higher):
    numbers = [(3, 1), ("10", "9"), (2, 2), (None, 1), (1, 4)]
    path = write(tmp_path, *({**A_B, **dict(zip(scores, pair, strict=True))} for pair in numbers))
    sides = ["c", "c", "r"] if higher else ["r", "r", "c"]
    assert read_data(path, "pairs").rows["chosen"][:] == sides
    told = said(path, capsys)
    assert "1 tied (row 3), 1 with fewer than two scored answers (row 4)" in told
    counts = "higher = response_a (2), higher = response_b (1)"
    if not higher:
        counts = "lower = response_b (2), lower = response_a (1)"
    assert f"{scores[0]}, {scores[1]}: {counts}" in told
    scored = {scores[0]: {"overall": 4}, scores[1]: {"overall": 2}}
    with pytest.raises(UserError, match=r"holds .*overall.*, no number") as error:
        load_preferences(write(tmp_path, {**A_B, **scored}))
    line = str(error.value).split("for example: ")[1]
    made = eval(line, {"rows": [{**A_B, **scored}]})
    assert load_preferences(write(tmp_path, *made))["chosen"][0] == ("c" if higher else "r")


def test_scores_that_need_not_agree_are_refused(tmp_path):
    rows = [{**A_B, "helpfulness_a": 4, "helpfulness_b": 2, "safety_a": 1, "safety_b": 5}] * 3
    with pytest.raises(UserError, match="helpfulness_a, safety_a and their like") as error:
        load_preferences(write(tmp_path, *rows))
    made = eval(str(error.value).split("for example: ")[1], {"rows": rows})
    assert load_preferences(write(tmp_path, *made))["chosen"][0] == "c"
    overall = [{**row, "overall_a": 1, "overall_b": 5} for row in rows]
    assert load_preferences(write(tmp_path, *overall))["chosen"][0] == "r"


def test_what_a_choice_column_cannot_be_names_it(tmp_path):
    three = {**A_B, "response_c": "s", "winner": "b"}
    with pytest.raises(UserError, match="more than two answers on each row") as error:
        load_preferences(write(tmp_path, three))
    line = str(error.value).split("in Python: ")[1]
    space = {"rows": [three]}
    exec(line.replace('{"...": "response_a", ...}', '{"b": "response_b"}'), space)
    assert [(p["chosen"], p["rejected"]) for p in space["pairs"]] == [("r", "c"), ("r", "s")]
    scores = {"score_a": 1, "score_b": 2, "score_c": 9}
    with pytest.raises(UserError, match="more than two answers on each row"):
        load_preferences(write(tmp_path, {**A_B, "response_c": "s", **scores}))
    for value in (None, ["A", "B", "A"], {"annotator": "A"}):
        with pytest.raises(UserError, match=r"preference holds .* knows no coding"):
            load_preferences(write(tmp_path, {**A_B, "preference": value}))
    listed = {"prompt": "p", "responses": ["c", "r"], "best": 0}
    with pytest.raises(UserError, match="best may say which answer is better; if it has another"):
        load_preferences(write(tmp_path, listed))


POINTERS = [
    ({**A_B, "chosen": "response_a", "rejected": "response_b"}, "chosen: response_a = response_a"),
    ({**A_B, "chosen": "A", "rejected": "B"}, "chosen: A = response_a"),
    ({**A_B, "better": "a", "worse": "b"}, "better: a = response_a"),
    ({**ONE_TWO, "chosen": 1, "rejected": 2}, "chosen: 1 = response_1"),
    (
        {"prompt": "p", "ours": "c", "theirs": "r", "chosen": "ours", "rejected": "theirs"},
        "chosen: ours = ours",
    ),
]


@pytest.mark.parametrize(("row", "told"), POINTERS)
def test_a_pointer_is_followed_and_said(tmp_path, capsys, row, told):
    better, worse = [name for name in row if name in (*USUAL["chosen"], *USUAL["rejected"])]
    turned = {**row, "prompt": "q", better: row[worse], worse: row[better]}
    path = write(tmp_path, row, turned)
    pairs = [PAIR, {"prompt": "q", "chosen": "r", "rejected": "c"}]
    assert load_preferences(path).to_list() == pairs
    assert load_preferences(path, chosen_column=better, rejected_column=worse).to_list() == pairs
    assert f"{told} (1), {row[worse]} = " in said(path, capsys)


def test_a_tie_among_pointers_is_no_text(tmp_path):
    row = {**A_B, "chosen": "A", "rejected": "B"}
    path = write(tmp_path, row, {**row, "chosen": "tie", "rejected": "tie"})
    reading = read_data(path, "pairs")
    assert reading.rows.to_list() == [{**PAIR, "row": 1}] and reading.dropped == {"tied": [2]}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "p", "chosen": "A", "rejected": "B"},
        {"prompt": "p", "chosen": 1, "rejected": 0},
        {**ONE_TWO, "chosen": 0, "rejected": 1},
        {**A_B, "chosen": "A", "rejected": "C"},
        {**A_B, "chosen": "B", "rejected": "It is a text that is much too long for a letter, " * 2},
    ],
)
def test_a_pointer_to_nothing_is_refused(tmp_path, row):
    with pytest.raises(UserError, match="which are no texts: name the columns") as error:
        load_preferences(write(tmp_path, *[row] * 3))
    if "response_1" in row:
        line = str(error.value).split("in Python: ")[1].split(", where")[0]
        text_of = {0: "response_1", 1: "response_2"}
        made = eval(line, {"rows": [row], "text_of": text_of})
        assert load_preferences(write(tmp_path, *made)).to_list() == [PAIR]
    with pytest.raises(UserError, match=r"no texts|knows no coding"):
        flags = {"chosen_column": "chosen", "rejected_column": "rejected"}
        load_preferences(write(tmp_path, *[row] * 3), **flags)


def test_answers_that_are_numbers_or_letters_are_texts(tmp_path):
    rows = [
        {"prompt": f"2 x {k}?", "chosen": str(2 * k), "rejected": str(2 * k + 1)} for k in range(9)
    ]
    assert load_preferences(write(tmp_path, *rows)).to_list() == rows
    rows = [{"prompt": f"{k}?", "chosen": "Yes", "rejected": "No"} for k in range(9)]
    assert load_preferences(write(tmp_path, *rows)).to_list() == rows


# --- Several answers, several rows ---

ONE_ROW = {
    "WebGPT": {
        "question": {"dataset": "eli5", "id": "x", "full_text": "p"},
        **{"answer_0": "c", "answer_1": "r", "score_0": 0.5, "score_1": -0.5},
    },
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
    "UltraFeedback": {
        "instruction": "p",
        "completions": [
            {"response": "m", "overall_score": 5},
            {"response": "c", "overall_score": 8.5},
            {"response": "r", "overall_score": 1},
        ],
    },
    "Nectar": {"prompt": "p", "answers": [{"answer": "r", "rank": 7}, {"answer": "c", "rank": 1}]},
    "NeMo": {
        "context": [{"role": "user", "content": "p"}],
        "completions": [
            {"rank": 1, "completion": [{"role": "assistant", "content": "r"}]},
            {"rank": 0, "completion": [{"role": "assistant", "content": "c"}]},
        ],
    },
    "distilabel": {"instruction": "p", "generations": ["r", "m", "c"], "ratings": [1, 2, 3]},
    "texts of numbers": {"prompt": "p", "responses": ["r", "c"], "scores": ["9", "10"]},
    "swift": {
        "messages": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "c"}],
        "rejected_response": "r",
    },
    "lists of one": {"prompt": "p", "chosen": ["c"], "rejected": ["r"]},
}


@pytest.mark.parametrize("name", ONE_ROW)
def test_shapes_of_public_data_sets(tmp_path, name):
    assert load_preferences(write(tmp_path, ONE_ROW[name])).to_list() == [PAIR]


def test_pairs_as_openai_has_them(tmp_path):
    asked = {"messages": [{"role": "user", "content": "p"}], "tools": []}
    sides = {"preferred_output": "c", "non_preferred_output": "r"}
    row = {side: [{"role": "assistant", "content": text}] for side, text in sides.items()}
    assert load_preferences(write(tmp_path, {"input": asked, **row})).to_list() == [PAIR]
    with pytest.raises(UserError, match="row 1: column tools changes what a model reads"):
        load_preferences(write(tmp_path, {"input": {**asked, "tools": [{"type": "x"}]}, **row}))


def test_conversations_of_the_arena(tmp_path):
    """Lists as JSON: a conversation that parts at its first answer teaches nothing of its last."""
    lists = {"prompt": '["p", "q"]', "response_a": '["s", "r"]', "response_b": '["s", "c"]'}
    row = {**ONE_ROW["Arena 55k"], **lists}
    odd = [{**row, "response_a": '["t", "r"]'}, {**row, "prompt": '["p"]'}]
    reading = read_data(write(tmp_path, *[row] * 8, *odd), "pairs")
    first = reading.rows[0]
    roles = [(turn["role"], turn["content"]) for turn in first["prompt"]]
    assert roles == [("user", "p"), ("assistant", "s"), ("user", "q")]
    assert (first["chosen"], first["rejected"]) == ("c", "r")
    assert reading.dropped == {"that part before the last answer": [9], "that cannot be read": [10]}
    assert "lists of texts read turn by turn (9 rows, from row 1)" in reading.remarks


def test_summaries(tmp_path):
    info = {"title": "T", "post": "Text.", "subreddit": "s", "article": None}
    row = {"info": info, "summaries": [{"text": " r"}, {"text": " c"}], "choice": 1}
    reading = read_data(write(tmp_path, *[row] * 5, {**row, "choice": None}), "pairs")
    prompt = "SUBREDDIT: r/s\n\nTITLE: T\n\nPOST: Text.\n\nTL;DR:"
    assert reading.rows[0] == {"prompt": prompt, "chosen": " c", "rejected": " r", "row": 1}
    assert reading.dropped == {"not labelled": [6]}
    news = {**row, "info": {"article": "News."}, "choice": 0}
    (read,) = load_preferences(write(tmp_path, news)).to_list()
    assert read == {"prompt": "News.\n\nTL;DR:", "chosen": " r", "rejected": " c"}


def test_lists_of_answers_are_pairs_of_each_with_each(tmp_path, capsys):
    path = write(tmp_path, {"prompt": "p", "chosen": ["c", "d"], "rejected": ["r", "s", "t"]})
    pairs = [(row["chosen"], row["rejected"]) for row in load_preferences(path)]
    assert pairs == [(a, b) for a in "cd" for b in "rst"]
    assert "each chosen with each rejected, 6 pairs a row" in said(path, capsys)
    turns = {"prompt": "p", "chosen": ["q", "c"], "rejected": ["q", "r"]}
    with pytest.raises(UserError, match="lists that share texts"):
        load_preferences(write(tmp_path, turns))


def test_scored_answers_of_many_rows(tmp_path, capsys):
    rows = [
        {"prompt": "p", "response": "r", "helpfulness": 1, "verbosity": 4},
        {"prompt": "q", "response": "x", "helpfulness": 2, "verbosity": 2},
        {"prompt": "p", "response": "m", "helpfulness": 2, "verbosity": 3},
        {"prompt": "p", "response": "c", "helpfulness": 4, "verbosity": 0},
        {"prompt": "q", "response": "y", "helpfulness": 2, "verbosity": 1},
    ]
    path = write(tmp_path, *rows)
    assert load_preferences(path).to_list() == [PAIR]
    told = said(path, capsys)
    assert "1 pairs; dropped: 1 tied (row 2)" in told and "columns not read: verbosity" in told
    assert (
        "the best and the worst by helpfulness" in told
        and "the worst of a prompt not used (1" in told
    )
    with pytest.raises(UserError, match="every prompt has one answer, so there is nothing to comp"):
        load_preferences(write(tmp_path, *rows[:2]))


# --- What is not as the rest ---


def test_one_odd_row_never_hides_the_shape(tmp_path):
    good = [{**ONE_ROW["UltraFeedback"], "instruction": f"p{k}"} for k in range(9)]
    reading = read_data(write(tmp_path, {"instruction": "p", "completions": []}, *good), "pairs")
    assert len(reading.rows) == 9 and list(reading.dropped.values()) == [[1]]
    reading = read_data(write(tmp_path, {"note": "mine"}, *[PAIR] * 9), "pairs")
    assert reading.dropped == {"of another shape": [1]}
    with pytest.raises(UserError, match=r"row 1: no column chosen or rejected.*\(3 of 9 rows"):
        read_data(write(tmp_path, *[{"note": "mine"}] * 3, *[PAIR] * 6), "pairs")


def test_merged_shapes_are_said(tmp_path, capsys):
    arena = [{**A_B, "prompt": f"p{k}", "winner": "model_b"} for k in range(4)]
    path = write(tmp_path, *({**PAIR, "prompt": f"q{k}"} for k in range(4)), *arena)
    assert [row["chosen"] for row in load_preferences(path)] == ["c"] * 4 + ["r"] * 4
    told = said(path, capsys)
    assert "rows of chosen and rejected (4 rows, from row 1)" in told
    assert "rows of response_a and response_b (4 rows, from row 5)" in told
    assert "winner: model_b = response_b (4)" in told


@pytest.mark.parametrize(
    ("name", "misspelt"), [("chosen", "choosen"), ("rejected", "rejectd"), ("prompt", "promt")]
)
def test_a_misspelt_column_is_named(tmp_path, capsys, name, misspelt):
    good = [{**PAIR, "prompt": f"p{k}"} for k in range(9)]
    wrong = [{misspelt if key == name else key: text for key, text in row.items()} for row in good]
    reason = f"no column {name}; the columns are .*{misspelt}.*--{name}-column"
    with pytest.raises(UserError, match=reason):
        load_preferences(write(tmp_path, *wrong))
    told = said(write(tmp_path, *good[:8], wrong[8]), capsys)
    assert "(row 9)" in told and f"columns not read: {misspelt}" in told


def test_columns_that_say_more_of_a_pair_are_named(tmp_path, capsys):
    more = {"chosen_score": 9.0, "rejected_score": 4.0, "status": "unchanged", "id": 7}
    rows = [{**PAIR, **more, "prompt": f"p{k}"} for k in range(8)]
    rows[2] |= {"status": "tie", "rejected_score": 9.0}
    rows[5] |= {"rejected_score": 10}
    rows = [{**row, "rating": [9, 4], "notes": "It is so."} for row in rows]
    told = said(write(tmp_path, *rows), capsys)
    assert "rating, which is not read, holds '[9, 4]' (8)" in told
    assert "columns not read: chosen_score, rejected_score, status, id, rating, notes" in told
    assert "status, which is not read, holds 'unchanged' (7), 'tie' (1)" in told
    assert "chosen_score is equal to rejected_score (1" in told
    assert "chosen_score is below rejected_score (1" in told


# --- The way out ---


def test_where_the_choice_is_the_users_the_error_shows_a_line_of_python(tmp_path):
    pandas = pytest.importorskip("pandas")
    rows = [
        {"prompt": "p", "response": "r", "safety": 1, "taste": 4, "hash": "12e4567", "row_id": 3},
        {"prompt": "p", "response": "c", "safety": 3, "taste": 2, "hash": "12e4568", "row_id": 4},
    ]
    texts = [{**row, "response": f"It is the answer {row['response']}."} for row in rows]
    with pytest.raises(UserError, match="is your choice; safety, taste could say it") as error:
        load_preferences(write(tmp_path, *texts))
    line = str(error.value).split("for example: ")[1]
    assert eval(line, {"table": pandas.DataFrame(rows)}) == [PAIR]
    with pytest.raises(UserError, match=r"\.idxmin\(\)\], \"rejected") as error:
        ranked = [{"rank" if k == "safety" else k: v for k, v in row.items()} for row in texts]
        load_preferences(write(tmp_path, *ranked))
    answers = {"prompt": "p", "response_1": "It is so.", "response_2": "It is not so."}
    with pytest.raises(UserError, match="is better is yours to say") as error:
        load_preferences(write(tmp_path, answers))
    line = str(error.value).split("in Python: ")[1]
    made = eval(line, {"rows": [answers], "first_is_better": bool})
    assert load_preferences(write(tmp_path, *made))["chosen"][0] == "It is so."


def test_other_ways_out(tmp_path):
    row = {"input": "What is it?", "output": "It is so.", "rejected": "No.", "rejected_rating": 2}
    with pytest.raises(UserError, match="if it has another name, give it with --chosen-column;"):
        load_preferences(write(tmp_path, row))
    with pytest.raises(UserError, match="and none of them holds texts"):
        load_preferences(write(tmp_path, {"prompt_id": "p0", "chosen_id": "a", "rejected_id": "b"}))
    with pytest.raises(UserError, match="give it with --chosen-column, --rejected-column; else"):
        load_preferences(write(tmp_path, {"prompt": "What is it?", "first": "x", "second": "y"}))


TOOLS = {
    "Vertex AI": {
        "system_instruction": {"parts": [{"text": "s"}]},
        "contents": [{"role": "user", "parts": [{"text": "p"}]}],
        "completions": [
            {"score": 1.0, "completion": {"role": "model", "parts": [{"text": "c"}]}},
            {"score": 0.0, "completion": {"role": "model", "parts": [{"text": "r"}]}},
        ],
    },
    "Amazon Nova": {
        "schemaVersion": "bedrock-conversation-2024",
        "messages": [
            {"role": "user", "content": [{"text": "p"}]},
            {
                "role": "assistant",
                "candidates": [
                    {"content": [{"text": "c"}], "preferenceLabel": "preferred"},
                    {"content": [{"text": "r"}], "preferenceLabel": "non-preferred"},
                ],
            },
        ],
    },
    "OpenAssistant (a tree of messages)": {
        "message_tree_id": "t",
        "prompt": {"text": "p", "replies": [{"text": "c", "rank": 0}, {"text": "r", "rank": 1}]},
    },
    "Label Studio": {
        "data": {"prompt": "p", "items": [{"id": "1", "body": "c"}, {"id": "2", "body": "r"}]},
        "annotations": [{"result": [{"value": {"ranker": {"rank": ["1", "2"]}}}]}],
    },
    "Label Studio (CSV)": {
        **{"annotation_id": 1, "prompt": "p", "answer1": "c", "answer2": "r"},
        "comparison": '{"selected": "left"}',
    },
    "Argilla 1": {
        "external_id": None,
        "fields": {"prompt": "p", "response-1": "r", "response-2": "c"},
        "responses": [{"status": "submitted", "values": {"preference": {"value": "response-2"}}}],
    },
    "Argilla 1 (a data set)": {
        **{"external_id": None, "prompt": "p", "response-1": "r", "response-2": "c"},
        "preference": [{"value": {"rank": [2, 1], "value": ["response-1", "response-2"]}}],
        "preference-suggestion": None,
    },
    "Argilla": {
        "fields": {"prompt": "p", "response1": "c", "response2": "r"},
        "responses": {"preference": [{"value": "response1"}]},
    },
    "LMFlow": {"type": "paired", "instances": [{k: {"messages": v} for k, v in PAIR.items()}]},
    "the hub's viewer": {"row_idx": 0, "row": PAIR},
    "PRISM": {
        **{"utterance_id": 1, "conversation_id": 1, "turn": 0, "user_prompt": "p"},
        **{"model_response": "c", "if_chosen": True},
    },
    "Prodigy": {
        **{"text": "p", "options": [{"id": 1, "text": "c"}, {"id": 2, "text": "r"}]},
        **{"accept": [1], "answer": "accept"},
    },
    "Step-DPO, whose answers go on from initial_reason_steps": {
        **{"prompt": "p", "initial_reason_steps": "", "chosen": "c", "rejected": "r"},
    },
}


@pytest.mark.parametrize("tool", TOOLS)
def test_an_export_is_recognised_and_its_line_makes_pairs(tmp_path, tool):
    row = TOOLS[tool]
    with pytest.raises(UserError) as error:
        load_preferences(write(tmp_path, row))
    assert f"an export of {tool}; to make pairs: " in str(error.value)
    line = str(error.value).split("to make pairs: ")[1]
    line = line[line.index("[") : line.rindex("]") + 1]
    other = {**row, "utterance_id": 2, "model_response": "r", "if_chosen": False}
    (made,) = eval(line, {"rows": [row, other] if tool == "PRISM" else [row]})
    if tool == "LMFlow":
        assert made == {"chosen": "c", "rejected": "r"}
    else:
        texts = load_preferences(write(tmp_path, made)).to_list()[0]
        assert (texts["chosen"], texts["rejected"]) == ("c", "r")
        assert texts["prompt"] == "p" or texts["prompt"][-1]["content"] == "p"


def test_every_export_and_refusal_has_a_way_out():
    assert {export["tool"] for export in EXPORTS} - TOOLS.keys() == {"Potato"}
    for texts in REFUSALS.values():
        assert isinstance(texts, str) or len(texts) == 2


# --- One answer and its label ---

LABELS = [
    {"prompt": "p", "completion": "c", "label": True},
    {"prompt": "p", "completion": "r", "label": False},
]


def test_answers_with_a_label(tmp_path, capsys):
    path = write(tmp_path, *LABELS, LABELS[0], {**LABELS[0], "completion": ""}, *LABELS)
    assert read_data(path, *TYPES).kind == "labels"
    rows = say_usable(usable(read_data(path, "labels")))
    assert rows.to_list() == [{**row, "row": k} for k, row in enumerate(LABELS, start=1)]
    assert (
        "2 answers, 1 good and 1 bad; dropped: 3 duplicate (row 3), 1 empty (row 4)"
        in capsys.readouterr().out
    )
    with pytest.raises(UserError, match=r"dpo_variants\.py --loss-type kto") as error:
        load_preferences(path)
    pandas = pytest.importorskip("pandas")
    line = str(error.value).split("this makes pairs: ")[1]
    assert eval(line, {"table": pandas.DataFrame(LABELS)}) == [PAIR]


OTHER_LABELS = [
    ({"question": "p", "response": "c"}, "label", "good", "bad"),
    ({"prompt": "p", "answer": "c"}, "label", 1, 0),
    ({"prompt": "p", "answer": "c"}, "label", 1, -1),
    (
        {"messages": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "c"}]},
        "feedback",
        "thumbs_up",
        "thumbs_down",
    ),
    ({"prompt": [{"role": "user", "content": "p"}], "completion": "c</s>"}, "kto_tag", 1.0, 0.0),
]


@pytest.mark.parametrize("answer, column, good, bad", OTHER_LABELS)
def test_other_ways_to_write_a_label(tmp_path, answer, column, good, bad):
    path = write(
        tmp_path, {**answer, column: good}, {**answer, column: bad}, {**answer, column: None}
    )
    assert read_data(path, *TYPES).kind == "labels"
    reading = read_data(path, "labels")
    rows = [{"prompt": "p", "completion": "c", "label": k == 1, "row": k} for k in (1, 2)]
    assert reading.rows.to_list() == rows and reading.dropped == {"without a label": [3]}


@pytest.mark.parametrize(
    "values", [[1, 2, 4, 5], [0, 1, 5], [0.2, 0.8], ["good", "so so"], ["x", "y"]]
)
def test_stars_and_probabilities_are_no_labels(tmp_path, values):
    rows = [{"prompt": "p", "response": f"c{v}", "label": v} for v in values]
    for kind in ("labels", "pairs"):
        with pytest.raises(UserError, match=r"label holds .*: no pair of labels for good and bad"):
            read_data(write(tmp_path, *rows), kind)


def test_a_label_and_an_answer_under_any_name(tmp_path):
    rows = [{"ask": "What is it?", "said": f"It is {k}.", "is_safe": k == 1} for k in (1, 0)]
    columns = {"prompt_column": "ask", "completion_column": "said", "label_column": "is_safe"}
    path = write(tmp_path, *rows)
    assert read_data(path, *TYPES, **columns).kind == "labels"
    assert read_data(path, "labels", **columns).rows["label"][:] == [True, False]
    with pytest.raises(UserError, match="--loss-type kto --label-column is_safe"):
        named = [{"prompt": r["ask"], "response": r["said"], "is_safe": r["is_safe"]} for r in rows]
        load_preferences(write(tmp_path, *named))
