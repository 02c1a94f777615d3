"""The user's own pairs: what is read, in which shapes, and one line of error for the rest."""

import json
import os
import subprocess
import sys
from pathlib import Path

from support import data_files
from support.own_pairs import load_own_pairs, load_preferences, pick, usable_pairs
from support.policy_data import split_by_prompt, tell_limits

import pytest
from helpers import SCRIPTS

from common.cli import UserError

datasets = pytest.importorskip("datasets")

ROWS = [
    {"prompt": "What is two and two?", "chosen": "Four.", "rejected": "Well, it may be four."},
    {"prompt": "Name a, say, fruit.", "chosen": "An apple,\nor a pear.", "rejected": 'A "stone".'},
]


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict:
    return {"role": "assistant", "content": text}


def write(path, rows) -> str:
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return str(path)


# --- What is read ---


@pytest.mark.parametrize("ending", ["json", "jsonl", "csv", "parquet", "JSONL"])
def test_formats(tmp_path, ending):
    path, table = tmp_path / f"my [1] pairs.{ending}", datasets.Dataset.from_list(ROWS)
    if ending == "json":
        path.write_text(json.dumps(ROWS, indent=1), encoding="utf-8")
    elif ending == "csv":
        table.to_csv(str(path))
    elif ending == "parquet":
        table.to_parquet(str(path))
    else:
        write(path, ROWS)
    assert load_preferences(str(path)).to_list() == ROWS
    assert [p.name for p in tmp_path.iterdir()] == [path.name]  # nothing is left beside the file


def test_nothing_is_cached(tmp_path):
    path, temporary = write(tmp_path / "a.jsonl", ROWS), tmp_path / "temporary"
    temporary.mkdir()
    code = f"from support import own_pairs; assert len(own_pairs.load_preferences({path!r})) == 2"
    modules = f"{SCRIPTS}{os.pathsep}{os.environ['PYTHONPATH']}"
    environment = {
        **os.environ,
        "PYTHONPATH": modules,
        "TMPDIR": str(temporary),
        "HF_HOME": str(tmp_path / "hf"),
    }
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    assert list(temporary.iterdir()) == [] and not (tmp_path / "hf").exists()


def test_a_changed_file_is_read_again(tmp_path):
    load_preferences(write(tmp_path / "a.jsonl", ROWS))
    assert load_preferences(write(tmp_path / "a.jsonl", ROWS[:1])).to_list() == ROWS[:1]


def test_text_is_stripped_and_other_columns_are_left_out(tmp_path):
    path = write(
        tmp_path / "a.jsonl", [{"id": 7, "prompt": " p\n", "chosen": "\tc ", "rejected": " r "}]
    )
    assert load_preferences(path).to_list() == [{"prompt": "p", "chosen": "c", "rejected": "r"}]


CONVERSATIONS = [
    {"prompt": [user(" p ")], "chosen": [assistant(" c ")], "rejected": [assistant("r")]},
    {"chosen": [user("p"), assistant("c")], "rejected": [user("p"), assistant("r")]},
    {"prompt": "p", "chosen": [user("p"), assistant("c")], "rejected": [user("p"), assistant("r")]},
    {"prompt": "p", "chosen": [assistant("c")], "rejected": "r"},
]


@pytest.mark.parametrize("row", CONVERSATIONS, ids=["explicit", "implicit", "both", "mixed"])
def test_conversations_become_plain_text(tmp_path, row):
    assert load_preferences(write(tmp_path / "a.jsonl", [row])).to_list() == [
        {"prompt": "p", "chosen": "c", "rejected": "r"}
    ]


def test_missing_answers_are_kept_as_empty(tmp_path):
    rows = [
        {**ROWS[0], "chosen": None},
        {**ROWS[0], "rejected": "  "},
        {"prompt": "p", "chosen": "c", "rejected": []},
    ]
    loaded = load_preferences(write(tmp_path / "a.jsonl", rows))
    assert [(row["chosen"], row["rejected"]) for row in loaded] == [
        ("", ROWS[0]["rejected"]),
        (ROWS[0]["chosen"], ""),
        ("c", ""),
    ]


def test_csv_cells_are_text_as_they_stand(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("prompt,chosen,rejected\n007,None,\n1.50,NA,nan\n", encoding="utf-8")
    assert load_preferences(str(path)).to_list() == [
        {"prompt": "007", "chosen": "None", "rejected": ""},
        {"prompt": "1.50", "chosen": "NA", "rejected": "nan"},
    ]


# --- What is refused ---

ANSWERS = {"chosen": [assistant("c")], "rejected": [assistant("r")]}
BAD_ROWS = {
    "wrong type": ({**ROWS[0], "chosen": 5}, "chosen is 5"),
    "list of texts": ({**ROWS[0], "rejected": ["a", "b"]}, "rejected is ['a', 'b']"),
    "message without content": (
        {**ROWS[0], "rejected": [{"role": "assistant"}]},
        "neither a text nor",
    ),
    "empty prompt": ({**ROWS[0], "prompt": "  "}, "the prompt is empty"),
    "no prompt": ({**ROWS[0], "prompt": None}, "the prompt is empty"),
    "prompt by assistant": (
        {"prompt": [assistant("p")], **ANSWERS},
        "the prompt ends with a turn of assistant; it must end with a turn of the user",
    ),
    "answer by user": (
        {**ROWS[0], "chosen": [user("c")]},
        "chosen ends with a turn of user, not an answer",
    ),
    "two prompts": (
        {
            "prompt": "p",
            "chosen": [user("q"), assistant("c")],
            "rejected": [user("q"), assistant("r")],
        },
        "same prompt",
    ),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_bad_row_is_named(tmp_path, name):
    row, reason = BAD_ROWS[name]
    path = write(tmp_path / "a.jsonl", [ROWS[0], row, ROWS[1]])
    with pytest.raises(UserError) as error:
        load_preferences(path)
    assert str(error.value).startswith(f"{path}, row 2: ")
    assert reason in str(error.value)


def test_conversations_with_different_prompts(tmp_path):
    row = {"chosen": [user("p"), assistant("c")], "rejected": [user("q"), assistant("r")]}
    with pytest.raises(UserError, match="row 1: chosen and rejected do not answer the same prompt"):
        load_preferences(write(tmp_path / "a.jsonl", [row]))


@pytest.mark.parametrize("missing", ["prompt", "chosen", "rejected"])
def test_a_missing_column_is_named_with_those_found(tmp_path, missing):
    rows = [
        {**{key: text for key, text in row.items() if key != missing}, "answer": "a"}
        for row in ROWS
    ]
    with pytest.raises(
        UserError, match=rf"a\.jsonl, row 1: no column {missing}; the columns are .*answer"
    ):
        load_preferences(write(tmp_path / "a.jsonl", rows))


@pytest.mark.parametrize(
    ("name", "misspelt"), [("chosen", "choosen"), ("rejected", "rejectd"), ("prompt", "promt")]
)
@pytest.mark.parametrize("rows_with_it", [1, 4])
def test_a_misspelt_column_is_said_with_its_row(tmp_path, name, misspelt, rows_with_it):
    good = [{**ROWS[0], "prompt": f"p{k}"} for k in range(4)]
    wrong = [{misspelt if key == name else key: text for key, text in row.items()} for row in good]
    rows = good[rows_with_it:] + wrong[:rows_with_it]
    path = write(tmp_path / "a.jsonl", rows)
    first = 1 + len(rows) - rows_with_it
    reason = f"row {first}: no {name}, but a column {misspelt}: misspelt\\?"
    for load in (load_preferences, load_own_pairs):
        with pytest.raises(UserError, match=reason):
            load(path)


def test_columns_beside_the_pairs_are_no_misspelt_ones(tmp_path):
    """Public data sets have such names; an answer that is missing there is just empty."""
    extra = {"prompt_id": "7", "chosen_score": 8.0, "chosen_model": "m", "rejected_rating": "2"}
    rows = [{**ROWS[0], **extra}, {**ROWS[1], **extra, "chosen": "", "rejected": None}]
    rows.append({**ROWS[1], "choosen": ""})  # an empty column holds no answer
    loaded = load_preferences(write(tmp_path / "a.jsonl", rows))
    assert loaded.column_names == ["prompt", "chosen", "rejected"]
    assert [row["chosen"] for row in loaded] == [ROWS[0]["chosen"], "", ROWS[1]["chosen"]]


def test_no_data_set_is_no_pairs(capsys):
    assert load_own_pairs(None) is None and capsys.readouterr().out == ""


BAD_FILES = {
    "a.jsonl": ('{"prompt": "p", "chosen": "c", "rejected": "r"}\n{"prompt": oops', "row 2"),
    "b.json": ("no json", "cannot be read"),
    "c.jsonl": ("", "no rows"),
    "d.json": ("[]", "no rows"),
    "e.csv": ("prompt,chosen,rejected\n", "no rows"),
    "f.csv": ("prompt,chosen,rejected\np,c,r,s\n", "row 1: more cells than columns"),
    "g.parquet": ("no parquet", "cannot be read"),
    "h.txt": ("text", "must end in .json"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_named(tmp_path, name, capfd):
    text, reason = BAD_FILES[name]
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as error:
        load_preferences(str(tmp_path / name))
    assert str(error.value).startswith(str(tmp_path / name))
    assert reason in str(error.value)
    assert capfd.readouterr() == ("", "")  # the library's own complaints stay out of the terminal


def test_bytes_that_are_not_utf8(tmp_path):
    good = json.dumps(ROWS[0]).encode()
    for name, first in (("a.jsonl", good), ("a.csv", b"prompt,chosen,rejected")):
        (tmp_path / name).write_bytes(
            first + b'\n{"prompt": "\xff", "chosen": "c", "rejected": "r"}'
        )
        with pytest.raises(UserError, match=rf"{name}, line 2: not UTF-8"):
            load_preferences(str(tmp_path / name))


@pytest.mark.parametrize("name", ["nowhere.jsonl", "./nowhere", "a/b/c", "~/nowhere/pairs"])
def test_no_such_file_does_not_ask_the_hub(name, monkeypatch):
    monkeypatch.setattr(data_files, "hub_answers", lambda: pytest.fail("asked the hub"))
    with pytest.raises(UserError, match="there is no such file"):
        load_preferences(name)


def test_a_hub_that_cannot_be_reached(monkeypatch):
    monkeypatch.setattr(data_files, "hub_answers", lambda: False)
    with pytest.raises(UserError, match="some/pairs: no such file, and the hub cannot be reached"):
        load_preferences("some/pairs")


def test_a_hub_dataset(monkeypatch):
    def load_dataset(name, split):
        assert (name, split) == ("some/pairs", "train")
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(data_files, "hub_answers", lambda: True)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert load_preferences("some/pairs").to_list() == ROWS


def test_datasets_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r'pip install -e "\.\[hf\]"'):
        load_preferences(write(tmp_path / "a.jsonl", ROWS))


# --- What is used ---


def test_usable_pairs_counts_every_reason():
    def row(chosen, rejected, prompt="p"):
        return {"prompt": prompt, "chosen": chosen, "rejected": rejected}

    kept = [row("a", "b"), row("b", "a"), row("a", "b", "q"), row("a", "c")]
    rows = [
        *kept[:1],
        row("", "b"),
        row("a", ""),
        row("", ""),
        row("a", "a"),
        row("a", "a"),
        *kept[1:],
        row("a", "b"),
    ]
    found, dropped = usable_pairs(rows)
    assert pick(rows, found) == kept and dropped == {
        "empty": [1, 2, 3],
        "identical": [4, 5],
        "duplicate": [9],
    }
    assert usable_pairs(kept * 3) == (
        [0, 1, 2, 3],
        {"empty": [], "identical": [], "duplicate": list(range(4, 12))},
    )
    assert usable_pairs([]) == ([], {"empty": [], "identical": [], "duplicate": []})


def test_what_is_dropped_and_what_contradicts_is_counted(tmp_path, capsys):
    rows = [
        {"prompt": "p", "chosen": "a", "rejected": "b"},
        {"prompt": "p", "chosen": "b", "rejected": "a"},
        {"prompt": "p", "chosen": "same", "rejected": "same"},
        {"prompt": "p", "chosen": "", "rejected": "b"},
        {"prompt": "p", "chosen": "a", "rejected": "b"},
        {"prompt": "q", "chosen": "a", "rejected": "b"},
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    kept = load_own_pairs(str(path))
    assert [row["row"] for row in kept] == [1, 2, 6]
    said = capsys.readouterr().out
    assert "3 pairs; dropped: 1 empty (row 4), 1 identical (row 3), 1 duplicate (row 5); " in said
    assert "2 contradict another one (row 1; kept)" in said
    path.write_text(json.dumps(rows[2]), encoding="utf-8")
    with pytest.raises(UserError, match="no pair is left"):
        load_own_pairs(str(path))


def test_a_prompt_without_a_column_is_what_both_answers_begin_with(tmp_path):
    rows = [
        {
            "chosen": "Human: Why? Assistant: I know.",
            "rejected": "Human: Why? Assistant: In no way.",
        },
        {"chosen": "Q A", "rejected": "Q"},
    ]
    assert load_preferences(write(tmp_path / "a.jsonl", rows[:1])).to_list() == [
        {"prompt": "Human: Why? Assistant:", "chosen": "I know.", "rejected": "In no way."}
    ]
    for row in (rows[1], {"chosen": "Yes.", "rejected": "No."}):
        with pytest.raises(
            UserError, match=r"row 1: no column prompt; .* do not begin with one prompt"
        ):
            load_preferences(write(tmp_path / "b.jsonl", [row]))


def test_the_split_is_the_same_whatever_else_is_in_the_file():
    rows = [{"prompt": f"p{k % 200}", "row": k} for k in range(400)]
    train, held = split_by_prompt(datasets.Dataset.from_list(rows), 0)
    assert len(train) + len(held) == 400 and not set(train["prompt"]) & set(held["prompt"])
    assert len(set(held["prompt"])) == 25 and len(held) == 50
    fewer = split_by_prompt(datasets.Dataset.from_list(rows[:390]), 0)
    assert set(fewer[1]["prompt"]) == set(held["prompt"]) and list(train["row"]) != sorted(
        train["row"]
    )
    other = split_by_prompt(datasets.Dataset.from_list(rows), 1)[1]
    assert set(other["prompt"]) != set(held["prompt"])
    few, _ = split_by_prompt(datasets.Dataset.from_list(rows), 0, most=7)
    assert list(few["row"]) == list(train["row"])[:7]
    with pytest.raises(UserError, match="1 distinct prompts; at least 2"):
        split_by_prompt(datasets.Dataset.from_list([{"prompt": "p"}] * 3), 0)


def test_what_a_run_on_own_pairs_cannot_be_worth_is_said(capsys):
    tell_limits("tiny-gpt2", None, [{}] * 8, 1, 8)
    tell_limits("./tiny-gpt2", "pairs.jsonl", [{}] * 160, 1, 8)
    assert capsys.readouterr().out == ""
    tell_limits("tiny-gpt2", "pairs.jsonl", [{}] * 80, 2, 8)
    assert "knows only the lab's own world" in capsys.readouterr().out
    tell_limits("my model", "pairs.jsonl", [{}] * 76, 2, 8)
    assert "76 pairs make only 20 steps" not in (said := capsys.readouterr().out) and not said
    tell_limits("my model", "pairs.jsonl", [{}] * 72, 2, 8)
    assert "72 pairs make only 18 steps" in capsys.readouterr().out


# --- How much ---

MEMORY = """
import sys
from pathlib import Path
from support import own_pairs, policy_data
def resident():  # MiB
    return int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]) / 1024
own_pairs.load_own_pairs(sys.argv[1])
before = resident()
train, held = policy_data.split_by_prompt(own_pairs.load_own_pairs(sys.argv[2]), 0)
print(len(train) + len(held), train[0]["prompt"], resident() - before)
"""


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="reads the memory of a process from /proc"
)
def test_a_large_file_is_mapped_and_not_held_in_memory(tmp_path):
    few, many = tmp_path / "few.jsonl", tmp_path / "many.jsonl"
    for path, count in ((few, 100), (many, 20_000)):
        with path.open("w", encoding="utf-8") as file:
            for k in range(count):
                row = {
                    "prompt": f"第{k}問 🙂 Ποιος;",
                    "chosen": f"مرحبا {k} " * 150,
                    "rejected": f"नमस्ते {k} " * 150,
                }
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    assert many.stat().st_size > 100 * 2**20
    environment = {**os.environ, "PYTHONPATH": f"{SCRIPTS}{os.pathsep}{os.environ['PYTHONPATH']}"}
    command = [sys.executable, "-c", MEMORY, str(few), str(many)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    rows, *prompt, grown = done.stdout.splitlines()[-1].split()
    assert int(rows) == 17_500 + 1000 and prompt[0].startswith("第") and float(grown) < 60
