"""Conversations in the ways that people write them, and what of a text is no answer."""

import json

from support.own_pairs import load_own_pairs, load_preferences
from support.transcripts import cut_end, cut_prompt, derive_prompt, find_markup, split_transcript

import pytest

from common.cli import UserError

pytest.importorskip("datasets")

SYSTEM = {"role": "system", "content": "Be brief."}
HELLO = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]
ASK = {"role": "user", "content": "Why is the sky blue?"}
TURNS = [*HELLO, ASK]
GOOD = {"role": "assistant", "content": "It scatters."}
BAD = {"role": "assistant", "content": "It is."}
ASKED = ASK["content"]


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
TEXTS = {"chosen": "It scatters.", "rejected": "It is."}
# A row, and its prompt; the answers are always GOOD and BAD.
ROWS = {
    "many turns": (pair(prompt=TURNS), TURNS),
    "system": (pair(prompt=[SYSTEM, *TURNS]), [SYSTEM, *TURNS]),
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
    "from and value": (
        {
            "conversations": renamed(TURNS, user="human", assistant="gpt"),
            "chosen": renamed([GOOD], assistant="gpt")[0],
            "rejected": renamed([BAD], assistant="gpt")[0],
        },
        TURNS,
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
    "columns of lists": (
        pair(prompt={"role": ["user"], "content": [ASKED]}),
        ASKED,
    ),
    "JSON": ({key: json.dumps(cell) for key, cell in pair(prompt=TURNS).items()}, TURNS),
    "as Python writes it": ({key: str(cell) for key, cell in pair(prompt=TURNS).items()}, TURNS),
    "hh-rlhf": ({"chosen": HH + " It scatters.", "rejected": HH + " It is."}, TURNS),
    "hh-rlhf, stripped": (
        {"chosen": HH.strip() + " It scatters.", "rejected": HH.strip() + " It is."},
        TURNS,
    ),
    "hh-rlhf in the prompt": ({**TEXTS, "prompt": HH}, TURNS),
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


REFUSED = {
    "ends with the user": (pair(chosen=[GOOD, ASK], prompt=[ASK]), "chosen ends with a turn of us"),
    "prompt by the assistant": (pair(prompt=HELLO), "prompt ends with a turn of assistant"),
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
    "tools": (pair(prompt=[ASK], tools=[{"type": "f"}]), "column tools changes what a model reads"),
    "images": (pair(prompt=[ASK], images=["a.png"]), "column images changes what"),
    "broken JSON": (
        {**TEXTS, "prompt": "[{'role': 'user' 'content': 'x'}]"},
        "looks like a list of messages",
    ),
    "half a character": ({**TEXTS, "prompt": "x \ud83d"}, "half a character"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_row_cannot_be_is_one_line(tmp_path, name):
    row, reason = REFUSED[name]
    path = write(tmp_path, pair(prompt=[ASK]), row)
    with pytest.raises(UserError) as error:
        load_preferences(path)
    assert str(error.value).startswith(f"{path}, row 2: ") and reason in str(error.value)


def test_empty_columns_beside_the_texts_change_nothing(tmp_path):
    row = pair(prompt=[ASK], tools=None, images=[])
    assert len(load_preferences(write(tmp_path, row))) == 1


DROPPED = {
    "that part before the last answer": {
        "chosen": [*TURNS, GOOD],
        "rejected": [HELLO[0], BAD, ASK, BAD],
    },
    "with the mark [INST] of a chat template": {**TEXTS, "prompt": "[INST] Why? [/INST]"},
    "empty": {"chosen": HH, "rejected": HH + " It is."},
}


@pytest.mark.parametrize("reason", DROPPED)
def test_rows_that_teach_nothing_are_counted(tmp_path, capsys, reason):
    path = write(tmp_path, pair(prompt=[ASK]), DROPPED[reason], pair(prompt=TURNS))
    rows = load_own_pairs(path)
    assert list(rows["row"]) == [1, 3]
    assert f"2 pairs; dropped: 1 {reason} (row 2)" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"row 1|no pair is left"):
        load_own_pairs(write(tmp_path, DROPPED[reason]))


def test_what_was_done_is_said_in_the_counting_line(tmp_path, capsys):
    row = {"question": ASKED, "chosen": "Yes.</s>", "rejected": "No.</s>", "id": 1, "system": "S"}
    load_own_pairs(write(tmp_path, row, {**row, "question": "Is it?", "system": ""}))
    said = capsys.readouterr().out
    for part in (
        "prompt is column question (2 rows)",
        "system message from column system (1 rows)",
        "</s> cut from the end of answers (2 rows)",
        "columns not read: id",
    ):
        assert part in said
    assert said.count("\n") == 1
    load_own_pairs(write(tmp_path, {"chosen": "Say: Yes.", "rejected": "Say: No."}))
    assert '50% of the text, such as "Say:"' in capsys.readouterr().out.replace("59%", "50%")


def test_a_transcript_begins_with_a_turn():
    assert split_transcript("Human: Why?\n\nHuman: Now?\n\nAssistant:") == [
        ("user", "Why?\n\nNow?"),
        ("assistant", ""),
    ]
    for text in ("Human: Why?", "He said:\n\nHuman: Why?\n\nAssistant: So.", "Why?", "<p>"):
        assert split_transcript(text) == []


def test_a_prompt_is_derived_at_the_end_of_a_word():
    assert derive_prompt("Q: Why? I know.", "Q: Why? In no way.") == "Q: Why? "
    assert derive_prompt("问题？红色", "问题？红的") == "问题？"  # no blank, and no half a word
    assert derive_prompt("Yes.", "Yesterday") == derive_prompt("红色", "红的") == ""
    assert derive_prompt("\n\nA", "\n\nB") == ""


def test_no_prompt_is_derived_where_a_column_could_be_it(tmp_path):
    row = {"topic": "Why is the sky blue?", "chosen": "Sure! Yes.", "rejected": "Sure! No."}
    path = write(tmp_path, row)
    with pytest.raises(UserError, match="no column prompt; name it with --prompt-column: topic"):
        load_preferences(path)
    assert load_preferences(path, prompt_column="Topic")["prompt"][0] == row["topic"]
    rows = load_preferences(write(tmp_path, {**row, "topic": "sky"}))  # a label, no prompt
    assert rows[0] == {"prompt": "Sure!", "chosen": "Yes.", "rejected": "No."}


def test_marks_of_templates():
    assert find_markup("a <|im_start|>user\nb") == "<|im_start|>user"
    assert find_markup("a [/INST] b") == "[/INST]"
    for text in ("a < b [1] # c", "Assistant: no", "<p>x</p>"):
        assert find_markup(text) is None
    assert cut_end("So.</s>") == ("So.", "</s>") and cut_end("So.") == ("So.", "")
    assert cut_end("<s>old</s>") == ("old", "</s>")
    assert cut_end("No <s>old</s>") == ("No <s>old</s>", "")  # struck out in HTML
    assert cut_prompt("Why is it blue?", ["Why is it blue? A", "Why is it blue?B"]) == ["A", "B"]
    assert cut_prompt("Why is it blue?", ["Why is it blue? A", "B"]) is None
    assert cut_prompt("Hi", ["Hi there", "Hi you"]) is None
