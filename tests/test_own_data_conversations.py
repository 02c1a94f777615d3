"""Conversations in the ways that people write them, and what of a text is no answer."""

import json
import os

import pytest
from own_data.conversations import end_mark, find_markup, written_as
from own_data.read import load_preferences, read_data, say_usable, usable

from common.basics import UserError

pytest.importorskip("datasets")

SYSTEM = {"role": "system", "content": "Be brief."}
HELLO = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]
ASK = {"role": "user", "content": "Why is the sky blue?"}
TURNS = [*HELLO, ASK]
GOOD = {"role": "assistant", "content": "It scatters."}
BAD = {"role": "assistant", "content": "It is."}
ASKED = ASK["content"]
TEXTS = {"chosen": "It scatters.", "rejected": "It is."}


def write(folder, *rows: dict) -> str:
    path = folder / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(path)


def pair(**columns) -> dict:
    return {"chosen": [GOOD], "rejected": [BAD], **columns}


def renamed(messages: list[dict], keys=("from", "value"), **roles: str) -> list[dict]:
    return [
        {keys[0]: roles.get(turn["role"], turn["role"]), keys[1]: turn["content"]}
        for turn in messages
    ]


HH = "\n\nHuman: Hi.\n\nAssistant: Hello.\n\nHuman: Why is the sky blue?\n\nAssistant:"
CHATML = (
    "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhy is the sky blue?<|im_end|>\n"
    "<|im_start|>assistant\n"
)
LLAMA3 = (
    "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nWhy is the sky blue?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
)
GEMMA = "<bos><start_of_turn>user\nWhy is the sky blue?<end_of_turn>\n<start_of_turn>model\n"
ZEPHYR = "<|user|>\nWhy is the sky blue?</s>\n<|assistant|>\n"
OASST = "<|prompter|>Why is the sky blue?<|endoftext|><|assistant|>"
BRACKETS = "[USER] Hi.\n[ASSISTANT] Hello.\n[USER] Why is the sky blue?\n[ASSISTANT]"
# A row, and its prompt; the answers are always GOOD and BAD.
ROWS = {
    "many turns": (pair(prompt=TURNS), TURNS),
    "system": (pair(prompt=[SYSTEM, *TURNS]), [SYSTEM, *TURNS]),
    "empty system": (pair(prompt=[{**SYSTEM, "content": " "}, ASK]), ASKED),
    "developer": (pair(prompt=[{**SYSTEM, "role": "developer"}, ASK]), [SYSTEM, ASK]),
    "one turn": (pair(prompt=[ASK]), ASKED),
    "implicit": ({"chosen": [*TURNS, GOOD], "rejected": [*TURNS, BAD]}, TURNS),
    "one side with turns": ({"chosen": [*TURNS, GOOD], "rejected": "It is."}, TURNS),
    "both": (pair(prompt=TURNS, chosen=[*TURNS, GOOD], rejected=[*TURNS, BAD]), TURNS),
    "last turn as text": (
        pair(prompt=ASKED, chosen=[*TURNS, GOOD], rejected=[*TURNS, BAD]),
        TURNS,
    ),
    "first turn as text": (
        pair(prompt="Hi.", chosen=[SYSTEM, *TURNS, GOOD], rejected=[SYSTEM, *TURNS, BAD]),
        [SYSTEM, *TURNS],
    ),
    "system in the answers": (
        pair(prompt=ASKED, chosen=[SYSTEM, ASK, GOOD], rejected=[SYSTEM, ASK, BAD]),
        [SYSTEM, ASK],
    ),
    "system in the prompt": (
        pair(prompt=[SYSTEM, ASK], chosen=[ASK, GOOD], rejected=[ASK, BAD]),
        [SYSTEM, ASK],
    ),
    "system beside messages": (
        {
            "chosen": {"system": "Be brief.", "tools": [], "messages": [ASK, GOOD]},
            "rejected": {"system": "Be brief.", "tools": [], "messages": [ASK, BAD]},
        },
        [SYSTEM, ASK],
    ),
    "answers that go on": (
        pair(prompt="Hi.", chosen=[*TURNS[1:], GOOD], rejected=[*TURNS[1:], BAD]),
        TURNS,
    ),
    "prompt with its answer": (pair(prompt=[*TURNS, GOOD]), TURNS),
    "system column": ({**TEXTS, "system": "Be brief.", "prompt": ASKED}, [SYSTEM, ASK]),
    "empty system column": ({**TEXTS, "system": " ", "prompt": ASKED}, ASKED),
    "system twice": (pair(system="Be brief.", prompt=[SYSTEM, ASK]), [SYSTEM, ASK]),
    "history": ({**TEXTS, "instruction": ASKED, "history": [["Hi.", "Hello."]]}, TURNS),
    "one message": ({"prompt": [ASK], "chosen": GOOD, "rejected": BAD}, ASKED),
    "content alone": (
        {"prompt": ASKED, "chosen": {"content": "It scatters."}, "rejected": {"content": "It is."}},
        ASKED,
    ),
    "from and value": (
        {
            "conversations": renamed(TURNS, user="human", assistant="gpt"),
            "chosen": renamed([GOOD], assistant="gpt")[0],
            "rejected": renamed([BAD], assistant="gpt")[0],
        },
        TURNS,
    ),
    "LLaVA": (
        {
            "conversations": renamed([ASK, GOOD], user="human", assistant="gpt"),
            "rejected_conversations": renamed([ASK, BAD], user="human", assistant="gpt"),
            "image": None,
        },
        ASKED,
    ),
    "torchtune": (
        {"chosen_conversations": [ASK, GOOD], "rejected_conversations": [ASK, BAD]},
        ASKED,
    ),
    "capital roles": (
        {
            "chosen": renamed([*TURNS, GOOD], ("role", "content"), user="Human", assistant="AI"),
            "rejected": renamed([*TURNS, BAD], ("role", "content"), user="Human", assistant="AI"),
        },
        TURNS,
    ),
    "parts": (
        pair(prompt=[{"role": "user", "content": [{"type": "text", "text": ASKED}]}]),
        ASKED,
    ),
    "columns of lists": (pair(prompt={"role": ["user"], "content": [ASKED]}), ASKED),
    "JSON": ({key: json.dumps(cell) for key, cell in pair(prompt=TURNS).items()}, TURNS),
    "as Python writes it": ({key: str(cell) for key, cell in pair(prompt=TURNS).items()}, TURNS),
    "lists of one text as text": (
        {"prompt": json.dumps([ASKED]), **{k: json.dumps([text]) for k, text in TEXTS.items()}},
        ASKED,
    ),
    "hh-rlhf": ({"chosen": HH + " It scatters.", "rejected": HH + " It is."}, TURNS),
    "hh-rlhf, stripped": (
        {"chosen": HH.strip() + " It scatters.", "rejected": HH.strip() + " It is."},
        TURNS,
    ),
    "hh-rlhf in the prompt": ({**TEXTS, "prompt": HH}, TURNS),
    "hh-rlhf, answers behind a blank": (
        {"prompt": HH, "chosen": " It scatters.", "rejected": " It is."},
        TURNS,
    ),
    "Vicuna": (
        {
            "chosen": "USER: Why is the sky blue? ASSISTANT: It scatters.</s>",
            "rejected": "USER: Why is the sky blue? ASSISTANT: It is.</s>",
        },
        ASKED,
    ),
    "brackets": ({**TEXTS, "prompt": BRACKETS}, TURNS),
    "ChatML": (
        {"prompt": CHATML, "chosen": "It scatters.<|im_end|>\n", "rejected": "It is.<|im_end|>"},
        [SYSTEM, ASK],
    ),
    "ChatML in the answers": (
        {
            "chosen": CHATML + "It scatters.<|im_end|>\n",
            "rejected": CHATML + "It is.<|im_end|>\n",
        },
        [SYSTEM, ASK],
    ),
    "Llama 3": ({**TEXTS, "prompt": LLAMA3}, ASKED),
    "Gemma": ({**TEXTS, "prompt": GEMMA}, ASKED),
    "Guanaco": (
        {
            "chosen": "### Human: Why is the sky blue?### Assistant: It scatters.",
            "rejected": "### Human: Why is the sky blue?### Assistant: It is.",
        },
        ASKED,
    ),
    "Zephyr": ({**TEXTS, "prompt": ZEPHYR}, ASKED),
    "OpenAssistant": ({**TEXTS, "prompt": OASST}, ASKED),
    "answers that end": (
        {"prompt": ASKED, "chosen": "It scatters.</s>", "rejected": "It is. <|endoftext|>"},
        ASKED,
    ),
    "answers that repeat": (
        {"prompt": ASKED, "chosen": f"{ASKED} It scatters.", "rejected": f"{ASKED}\nIt is."},
        ASKED,
    ),
    "a digit": ({**TEXTS, "prompt": "007"}, "007"),
    "a text like JSON": ({**TEXTS, "prompt": '{"a": [1]}'}, '{"a": [1]}'),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_prompt_is_what_precedes_the_last_answer(tmp_path, name):
    row, prompt = ROWS[name]
    assert load_preferences(write(tmp_path, row)).to_list() == [{"prompt": prompt, **TEXTS}]


def test_texts_and_conversations_in_one_file(tmp_path):
    rows = load_preferences(write(tmp_path, pair(prompt=[ASK]), pair(prompt=TURNS)))
    assert [row["prompt"] for row in rows] == list(rows["prompt"]) == [ASKED, TURNS]


def test_texts_stay_as_they_stand(tmp_path):
    """Leading blanks are the indentation of code, line ends are content."""
    row = {"prompt": " p\n", "chosen": "    return 1\n", "rejected": "\tpass "}
    assert load_preferences(write(tmp_path, row)).to_list() == [row]
    asked = "def one() -> int:\n"
    row = {"prompt": asked, "chosen": asked + "    return 1\n", "rejected": asked + "    pass"}
    assert load_preferences(write(tmp_path, row)).to_list() == [
        {"prompt": asked, "chosen": "    return 1\n", "rejected": "    pass"}
    ]


REFUSED = {
    "ends with the user": (pair(chosen=[GOOD, ASK], prompt=[ASK]), "chosen ends with a turn of us"),
    "prompt by the assistant": (
        pair(prompt=HELLO),
        "prompt ends with a turn of assistant; it must",
    ),
    "empty prompt": ({**TEXTS, "prompt": " "}, "the prompt is empty"),
    "another prompt": (
        pair(prompt="Why not?", chosen=[ASK, GOOD], rejected=[ASK, BAD]),
        "do not answer the same prompt",
    ),
    "another system": (pair(system="Be long.", prompt=[SYSTEM, ASK]), "the column system is not"),
    "unknown role": (
        pair(prompt=[{"role": "narrator", "content": "x"}]),
        "a turn of 'narrator'; the lab knows the roles user, human",
    ),
    "tool": (pair(prompt=[ASK, {"role": "tool", "content": "x"}, ASK]), "a turn of 'tool'"),
    "tool in a transcript": (
        {**TEXTS, "prompt": "<|im_start|>tool\nx<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>"},
        "a turn of 'tool'",
    ),
    "tool call": (
        pair(prompt=[ASK], chosen=[{**GOOD, "content": None, "tool_calls": [{"type": "f"}]}]),
        "chosen holds tool_calls beside its text",
    ),
    "reasoning": (
        pair(prompt=[ASK], chosen=[{**GOOD, "reasoning_content": "Hm."}]),
        "chosen holds reasoning_content",
    ),
    "image": (
        pair(prompt=[{"role": "user", "content": [{"type": "image"}]}]),
        "prompt holds {'type': 'image'}, which is no text",
    ),
    "number": ({**TEXTS, "prompt": ASKED, "chosen": 5}, "chosen is 5, neither a text nor"),
    "dialogue of texts": (
        {**TEXTS, "prompt": ["Hi.", "Hello.", ASKED]},
        "prompt is a list of texts",
    ),
    "message without content": (
        pair(prompt=[ASK], rejected=[{"role": "user"}]),
        "neither a text nor",
    ),
    "tools": (pair(prompt=[ASK], tools=[{"type": "f"}]), "column tools changes what a model reads"),
    "images": (pair(prompt=[ASK], images=["a.png"]), "column images changes what"),
    "broken JSON": (
        {**TEXTS, "prompt": "[{'role': 'user' 'content': 'x'}]"},
        "looks like a list of messages",
    ),
    "half a character": ({**TEXTS, "prompt": "x \ud83d"}, "half a character"),
    "template": ({**TEXTS, "prompt": "[INST] Why? [/INST]"}, "a text holds [INST], a mark of"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_one_odd_row_is_counted_and_many_are_refused(tmp_path, name):
    row, reason = REFUSED[name]
    with pytest.raises(UserError) as error:
        load_preferences(write(tmp_path, pair(prompt=[ASK]), row))
    path = write(tmp_path, row)
    assert str(error.value).startswith(f"{path}, row 2: ") and reason in str(error.value)
    if name != "template":  # which in one text of many is what the text is about
        rows = [pair(prompt=[{**ASK, "content": f"Why {k}?"}]) for k in range(9)]
        reading = read_data(write(tmp_path, *rows[:5], row, *rows[5:]), "pairs")
        assert len(reading.rows) == 9 and list(reading.dropped.values()) == [[6]]


def test_empty_columns_beside_the_texts_change_nothing(tmp_path):
    row = pair(prompt=[ASK], tools=None, images=[])
    assert len(load_preferences(write(tmp_path, row))) == 1


def test_rows_that_teach_nothing_are_counted(tmp_path, capsys):
    parted = {"chosen": [*TURNS, GOOD], "rejected": [HELLO[0], BAD, ASK, BAD]}
    others = [pair(prompt=f"Why {k}?") for k in range(3)]
    path = write(tmp_path, pair(prompt=[ASK]), parted, pair(prompt=TURNS), *others)
    say_usable(usable(read_data(path, "pairs")))
    said = capsys.readouterr().out
    assert "5 pairs; dropped: 1 that part before the last answer (row 2)" in said
    with pytest.raises(UserError, match="row 1: chosen and rejected do not answer the same prompt"):
        load_preferences(write(tmp_path, parted))


def test_what_was_done_is_said_in_the_counting_line(tmp_path, capsys):
    row = {"question": ASKED, "chosen": "Yes.</s>", "rejected": "No.</s>", "id": 1, "system": "S"}
    say_usable(
        usable(
            read_data(write(tmp_path, row, {**row, "question": "Is it?", "system": ""}), "pairs")
        )
    )
    said = capsys.readouterr().out
    for part in (
        "prompt is column question;",
        "</s> cut from the end of answers;",
        "columns not read: id",
    ):
        assert part in said
    assert said.count("\n") == 1


MENTIONED = [
    {"prompt": "Strike it out.", "chosen": "<s>old</s>", "rejected": "</s>"},
    {
        "prompt": "Which mark?",
        "chosen": "Write `[INST]` if your model wants it.",
        "rejected": "No.",
    },
    {"prompt": "A message?", "chosen": '{"role": "user", "content": "hi"}', "rejected": "{}"},
    {"prompt": "What system?", "chosen": "System: macOS\nUser: guest", "rejected": "System: none"},
    {"prompt": "A list?", "chosen": '["a", "b"]', "rejected": "[]"},
]


def test_texts_about_templates_are_texts(tmp_path):
    """What few rows hold is what they are about; what many hold is how they are written."""
    plain = [{"prompt": f"Why {k}?", "chosen": "So.", "rejected": "No."} for k in range(20)]
    reading = read_data(write(tmp_path, *MENTIONED, *plain), "pairs")
    rows = [{k: row[k] for k in ("prompt", "chosen", "rejected")} for row in reading.rows]
    assert rows[: len(MENTIONED)] == MENTIONED and not reading.dropped
    assert reading.remarks == ["[INST] in a text, kept as it stands (1 rows, from row 2)"]


def test_in_which_way_a_text_holds_turns():
    assert written_as("Human: Why?\n\nHuman: Now?\n\nAssistant:") == ("hh-rlhf", 2)
    assert written_as("User: Why?\nAssistant: So.") == ("role: text on lines", 2)
    assert written_as("Human: Why? Assistant: So.") == ("role: text", 2)
    assert written_as('["a", "b"]') == ("a list in a text", 2)
    for text in ("He said:\n\nHuman: Why?\n\nAssistant: So.", "Why?", "<p>", "[1] a", ""):
        assert written_as(text) == ("", 0)


def test_no_prompt_is_guessed(tmp_path):
    row = {"topic": "Why is the sky blue?", "chosen": "Sure! Yes.", "rejected": "Sure! No."}
    path = write(tmp_path, row)
    with pytest.raises(
        UserError, match=r"row 1: no column prompt; .* are topic, .*-column"
    ) as error:
        load_preferences(path)
    assert load_preferences(path, prompt_column="Topic")["prompt"][0] == row["topic"]
    line = str(error.value).split("in Python: import os; ")[1]
    assert eval(line, {"rows": [row], "os": os}) == [
        {"prompt": "Sure! ", "chosen": "Yes.", "rejected": "No."}
    ]


def test_marks_of_templates():
    assert find_markup("a [/INST] b") == "[/INST]"
    for text in ("a < b [1] # c", "Assistant: no", "<p>x</p>"):
        assert not find_markup(text) and not end_mark(text)
    assert end_mark("So.</s>\n") == "</s>" and not end_mark("No <s>old</s>")  # struck out in HTML
