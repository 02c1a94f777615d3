"""The user's own pairs: what is read, in which shapes, and the one-line error for everything else."""

import json
import sys

import pytest
from evaluation import load_own_pairs, within_context

import common.preferences
from common.cli import UserError
from common.preferences import load_preferences, usable_pairs

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


# ---------------------------------------------------------------------------------------------------------
# What is read
# ---------------------------------------------------------------------------------------------------------


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
    assert load_preferences(str(path)) == ROWS
    assert [p.name for p in tmp_path.iterdir()] == [path.name]  # nothing is left beside the file


def test_nothing_is_cached(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    load_preferences(write(tmp_path / "a.jsonl", ROWS))
    assert not (tmp_path / "cache").exists()


def test_a_changed_file_is_read_again(tmp_path):
    load_preferences(write(tmp_path / "a.jsonl", ROWS))
    assert load_preferences(write(tmp_path / "a.jsonl", ROWS[:1])) == ROWS[:1]


def test_text_is_stripped_and_other_columns_are_left_out(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"id": 7, "prompt": " p\n", "chosen": "\tc ", "rejected": " r "}])
    assert load_preferences(path) == [{"prompt": "p", "chosen": "c", "rejected": "r"}]


CONVERSATIONS = [
    {"prompt": [user(" p ")], "chosen": [assistant(" c ")], "rejected": [assistant("r")]},
    {"chosen": [user("p"), assistant("c")], "rejected": [user("p"), assistant("r")]},
    {"prompt": "p", "chosen": [user("p"), assistant("c")], "rejected": [user("p"), assistant("r")]},
    {"prompt": "p", "chosen": [assistant("c")], "rejected": "r"},
]


@pytest.mark.parametrize("row", CONVERSATIONS, ids=["explicit", "implicit", "both", "mixed"])
def test_conversations_become_plain_text(tmp_path, row):
    assert load_preferences(write(tmp_path / "a.jsonl", [row])) == [{"prompt": "p", "chosen": "c", "rejected": "r"}]


def test_missing_answers_are_kept_as_empty(tmp_path):
    rows = [{**ROWS[0], "chosen": None}, {**ROWS[0], "rejected": "  "}, {"prompt": "p", "chosen": "c", "rejected": []}]
    loaded = load_preferences(write(tmp_path / "a.jsonl", rows))
    assert [(row["chosen"], row["rejected"]) for row in loaded] == [
        ("", ROWS[0]["rejected"]),
        (ROWS[0]["chosen"], ""),
        ("c", ""),
    ]


def test_csv_cells_are_text_as_they_stand(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("prompt,chosen,rejected\n007,None,\n1.50,NA,nan\n", encoding="utf-8")
    assert load_preferences(str(path)) == [
        {"prompt": "007", "chosen": "None", "rejected": ""},
        {"prompt": "1.50", "chosen": "NA", "rejected": "nan"},
    ]


# ---------------------------------------------------------------------------------------------------------
# What is refused
# ---------------------------------------------------------------------------------------------------------

ANSWERS = {"chosen": [assistant("c")], "rejected": [assistant("r")]}
BAD_ROWS = {
    "wrong type": ({**ROWS[0], "chosen": 5}, "chosen is 5"),
    "list of texts": ({**ROWS[0], "rejected": ["a", "b"]}, "rejected is ['a', 'b']"),
    "message without content": ({**ROWS[0], "rejected": [{"role": "assistant"}]}, "neither a text nor"),
    "empty prompt": ({**ROWS[0], "prompt": "  "}, "the prompt is empty"),
    "no prompt": ({**ROWS[0], "prompt": None}, "the prompt is empty"),
    "many turns": ({"prompt": [user("a"), assistant("b"), user("c")], **ANSWERS}, "one user turn"),
    "system turn": ({"prompt": [{"role": "system", "content": "s"}, user("c")], **ANSWERS}, "one user turn"),
    "prompt by assistant": ({"prompt": [assistant("p")], **ANSWERS}, "one user turn"),
    "answer by user": ({**ROWS[0], "chosen": [user("c")]}, "one assistant turn"),
    "two prompts": (
        {"prompt": "p", "chosen": [user("q"), assistant("c")], "rejected": [user("q"), assistant("r")]},
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
    rows = [{**{key: text for key, text in row.items() if key != missing}, "answer": "a"} for row in ROWS]
    with pytest.raises(UserError, match=rf"a\.jsonl, row 1: no column {missing}; the columns are .*answer"):
        load_preferences(write(tmp_path / "a.jsonl", rows))


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
    (tmp_path / "a.jsonl").write_bytes(b'{"prompt": "\xff", "chosen": "c", "rejected": "r"}')
    with pytest.raises(UserError, match="cannot be read"):
        load_preferences(str(tmp_path / "a.jsonl"))


@pytest.mark.parametrize("name", ["nowhere.jsonl", "./nowhere", "a/b/c", "~/nowhere/pairs"])
def test_no_such_file_does_not_ask_the_hub(name, monkeypatch):
    monkeypatch.setattr(common.preferences, "hub_answers", lambda: pytest.fail("asked the hub"))
    with pytest.raises(UserError, match="there is no such file"):
        load_preferences(name)


def test_a_hub_that_cannot_be_reached(monkeypatch):
    monkeypatch.setattr(common.preferences, "hub_answers", lambda: False)
    with pytest.raises(UserError, match="some/pairs: no such file, and the hub cannot be reached"):
        load_preferences("some/pairs")


def test_a_hub_dataset(monkeypatch):
    def load_dataset(name, split):
        assert (name, split) == ("some/pairs", "train")
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(common.preferences, "hub_answers", lambda: True)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert load_preferences("some/pairs") == ROWS


def test_datasets_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r'pip install -e "\.\[hf\]"'):
        load_preferences(write(tmp_path / "a.jsonl", ROWS))


# ---------------------------------------------------------------------------------------------------------
# What is used
# ---------------------------------------------------------------------------------------------------------


def test_usable_pairs_counts_every_reason():
    def row(chosen, rejected, prompt="p"):
        return {"prompt": prompt, "chosen": chosen, "rejected": rejected}

    kept = [row("a", "b"), row("b", "a"), row("a", "b", "q"), row("a", "c")]
    rows = [*kept[:1], row("", "b"), row("a", ""), row("", ""), row("a", "a"), row("a", "a"), *kept[1:], row("a", "b")]
    assert usable_pairs(rows) == (kept, {"empty": 3, "identical": 2, "duplicate": 1})
    assert usable_pairs(kept * 3) == (kept, {"empty": 0, "identical": 0, "duplicate": 8})
    assert usable_pairs([]) == ([], {"empty": 0, "identical": 0, "duplicate": 0})


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
    assert "3 pairs; dropped: 1 empty, 1 identical, 1 duplicate; 2 contradict another one (kept)" in said
    path.write_text(json.dumps(rows[2]), encoding="utf-8")
    with pytest.raises(UserError, match="no pair is left"):
        load_own_pairs(str(path))


def test_pairs_beyond_the_context_are_counted_and_named(capsys):
    rows = [{"row": k, "prompt": f"p {k}"} for k in (2, 5, 9)]
    assert within_context(rows, [10, 30, 40], 25, "a.jsonl") == rows[:1]
    assert "2 pairs left out, longer than the 25 tokens" in capsys.readouterr().out
    assert within_context(rows, [10, 25, 1], 25, "a.jsonl") == rows and capsys.readouterr().out == ""
    with pytest.raises(UserError, match="every pair is longer"):
        within_context(rows, [30, 30, 30], 25, "a.jsonl")
