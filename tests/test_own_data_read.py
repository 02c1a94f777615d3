"""What lessons get of your own data: counted, split by prompt, no longer than the model reads."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from helpers import SCRIPTS
from own_data.read import (
    CONTRARY,
    CUT,
    Source,
    count_by_reason,
    load_preferences,
    own_pairs,
    own_reward_pairs,
    read_data,
    say_usable,
    usable,
)

from common.basics import UserError
from common.models import load_tokenizer
from common.prompts import encode_answers, format_prompt, use_template
from common.scoring import format_answer

datasets = pytest.importorskip("datasets")


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("tiny-gpt2")


def write(path, rows) -> str:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(path)


def pair(k: int, **columns) -> dict:
    return {"prompt": f"What is {k}?", "chosen": f"It is {k}.", "rejected": "No.", **columns}


def test_what_is_dropped_and_what_contradicts_is_counted(tmp_path, capsys):
    answers = [("a", "b"), ("b", "a"), ("s", "s"), ("", "b"), ("a", " "), ("a", "b"), ("a", "c")]
    rows = [{"prompt": "p", "chosen": a, "rejected": b} for a, b in answers]
    rows += [pair(k) for k in range(3)]
    kept = usable(read_data(write(tmp_path / "a.jsonl", rows), "pairs"))
    assert say_usable(kept)["row"][:] == [1, 2, 7, 8, 9, 10] and kept.places[CONTRARY] == {1, 2}
    said = capsys.readouterr().out
    assert "6 pairs; dropped: 1 identical (row 3), 2 empty (row 4), 1 duplicate (row 6); " in said
    assert "labelled both ways, and kept (2 rows, from row 1)" in said
    with pytest.raises(UserError, match="no row is left to learn from"):
        say_usable(usable(read_data(write(tmp_path / "a.jsonl", rows[2:3]), "pairs")))
    with pytest.raises(UserError, match=r"row 4: an answer is empty \(2 rows are so\)"):
        say_usable(usable(read_data(write(tmp_path / "a.jsonl", rows[:9]), "pairs")))


def test_missing_answers_are_kept_as_empty(tmp_path):
    rows = [pair(0, chosen=None), pair(1, rejected="  "), pair(2, rejected=[])]
    loaded = load_preferences(write(tmp_path / "a.jsonl", rows))
    assert loaded["chosen"][0] == "" and loaded["rejected"][1:] == ["  ", ""]


def test_a_changed_file_is_read_again(tmp_path):
    rows = [pair(k) for k in range(2)]
    load_preferences(write(tmp_path / "a.jsonl", rows))
    assert load_preferences(write(tmp_path / "a.jsonl", rows[:1])).to_list() == rows[:1]


def test_the_split_is_the_same_whatever_else_is_in_the_file(tmp_path, tokenizer):
    rows = [pair(k % 200, chosen=f"It is {k}.") for k in range(400)]
    path, other = write(tmp_path / "a.jsonl", rows), write(tmp_path / "b.jsonl", rows[:390])
    train, held, prompts = own_pairs(path, tokenizer, 0)
    assert len(train) + len(held) == 400 and not {*train["prompt"]} & {*held["prompt"]}
    assert len({*held["prompt"]}) == 25 and len(held) == 50
    assert len(prompts) == 16 and {*prompts} < {*held["prompt"]}
    fewer = own_pairs(other, tokenizer, 0)
    assert {*fewer[1]["prompt"]} == {*held["prompt"]} and train["row"][:] != sorted(train["row"])
    assert {*own_pairs(path, tokenizer, 1)[1]["prompt"]} != {*held["prompt"]}
    assert {*own_reward_pairs(path, tokenizer, 0)[1]["prompt"]} == {*held["prompt"]}
    few = own_pairs(path, tokenizer, 0, pairs=7, prompts=3)
    assert few[0]["row"][:] == train["row"][:7] and len(few[2]) == 3
    with pytest.raises(UserError, match="1 distinct prompts; at least 2"):
        own_pairs(write(tmp_path / "c.jsonl", [pair(1)]), tokenizer, 0)


def test_another_file_is_held_out(tmp_path, tokenizer, capsys):
    path = write(tmp_path / "a.jsonl", [pair(k) for k in range(20)])
    held = write(tmp_path / "b.jsonl", [pair(k) for k in range(18, 24)])
    train, rows, prompts = own_pairs(path, tokenizer, 0, held_out=held)
    assert len(train) == 18 and len(rows) == 6 and len(prompts) == 6
    assert "2 rows left out of training: their prompts are held out" in capsys.readouterr().out
    assert [len(part) for part in own_reward_pairs(path, tokenizer, 0, held_out=held)] == [18, 6]
    with pytest.raises(UserError, match="all prompts of --dataset are held out"):
        own_pairs(path, tokenizer, 0, held_out=path)


def test_near_twins_across_the_split_are_said(tmp_path, tokenizer, capsys):
    rows = [pair(k) for k in range(20)]
    said = "held-out prompts are in training but for case, marks or blanks"
    for twin in ("what is  {}\0", "WHAT is {}!", "\uff37hat is {}?"):  # a wide W
        twins = [pair(k, prompt=twin.format(k)) for k in range(20)]
        own_pairs(write(tmp_path / "a.jsonl", rows + twins), tokenizer, 0)
        assert said in capsys.readouterr().out
    own_pairs(write(tmp_path / "a.jsonl", rows), tokenizer, 0)
    assert said not in capsys.readouterr().out


def test_prompts_alone(tmp_path, tokenizer):
    rows = [{"prompt": f"What is {k % 9}?"} for k in range(12)]
    path = write(tmp_path / "a.jsonl", rows)
    train, held, prompts = own_pairs(path, tokenizer, 0, alone=True)
    assert train.column_names == ["prompt", "row"] and len(train) + len(held) == 9
    assert prompts == held["prompt"][:] and len(prompts) == 1
    with pytest.raises(UserError, match="no column chosen, rejected"):
        own_pairs(path, tokenizer, 0)
    pairs = write(tmp_path / "b.jsonl", [pair(k) for k in range(9)])
    assert "chosen" in own_pairs(pairs, tokenizer, 0, alone=True)[0].column_names
    with pytest.raises(UserError, match="no column chosen, rejected"):
        own_pairs(write(tmp_path / "d.jsonl", [{"note": "It is so."}]), tokenizer, 0, alone=True)


# --- What a model can read ---


def find(rows: list[dict], tokenizer, room: int | None = 48, **limit: int) -> Source:
    """What of these rows a model can read; their places begin at 1."""
    with tempfile.TemporaryDirectory() as folder:
        found = read_data(write(Path(folder) / "a.jsonl", rows), "pairs")
    return usable(found, tokenizer, room, **limit)


def test_rows_are_left_out_before_the_split(tmp_path, tokenizer, capsys):
    rows = [pair(k) for k in range(1, 9)]
    rows[2]["chosen"] = rows[5]["rejected"] = "very " * 600
    path = write(tmp_path / "a.jsonl", rows)
    for seed in range(3):
        train, held, _ = own_pairs(path, tokenizer, seed)
        assert sorted([*train["row"], *held["row"]]) == [1, 2, 4, 5, 7, 8] and len(held) == 1
    assert capsys.readouterr().out.count("6 pairs; dropped: 2 longer than the 256 tokens") == 3
    with pytest.raises(UserError, match=r"no row is left .*dropped: 8 longer than the 9 tokens"):
        own_pairs(path, tokenizer, 0, max_length=9)


def test_a_longer_limit_than_the_usual_one():
    tokenizer = load_tokenizer("tiny-gpt2")
    tokenizer.model_max_length = 5000
    row = pair(1, chosen="very " * 1200)
    found = find([row], tokenizer)
    assert not len(found.rows) and "longer than the 1024 to" in count_by_reason(found.dropped)
    assert len(find([row], tokenizer, limit=4000).rows) == 1


@pytest.fixture(scope="module")
def wordpiece():
    """An English vocabulary of whole words: anything else is [UNK]."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    words = [*special, "Why", "why", "?", "It", "scatters", "No", ".", "see", "there"]
    vocabulary = {word: place for place, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    names = {f"{token[1:-1].lower()}_token": token for token in special}
    options = {"tokenizer_object": tokenizer, "model_max_length": 512}
    return PreTrainedTokenizerFast(**options, **names)


def test_all_reasons_stand_in_one_line(wordpiece, capsys):
    why = {"prompt": "Why?", "chosen": "It scatters.", "rejected": "No."}
    rows = [
        {**why, "prompt": "why " * 600},
        {**why, "chosen": "see [SEP] there"},
        {**why, "chosen": "红", "rejected": "绿"},
        why,
        {**why, "prompt": [{"role": "user", "content": "a [MASK] b"}]},
    ]
    assert say_usable(find(rows[:4], wordpiece, None))["row"][:] == [4]
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "1 pairs; dropped: 1 longer than the " in said
    assert "1 with [SEP], a token of the model (row 2)" in said
    assert "1 with answers that are the same to the model (unknown characters)" in said
    with pytest.raises(UserError, match=r"no row is left .*: 1 with \[MASK\], a token"):
        say_usable(find(rows[4:], wordpiece, None))


def test_a_template_that_rejects_a_row_names_it(tokenizer):
    kept = tokenizer.chat_template
    tokenizer.chat_template = "{{ raise_exception('no turns') }}"
    try:
        with pytest.raises(UserError, match=r"a\.jsonl, row 1: the chat template .*: no turns"):
            find([pair(1)], tokenizer)
    finally:
        tokenizer.chat_template = kept


MOVES_SYSTEM = (  # into the last turn of the user, as Mistral's do
    "{% if messages[0]['role'] == 'system' %}{% set said = messages[0]['content'] %}"
    "{% set messages = messages[1:] %}{% endif %}{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'user' and loop.last and said is defined %}"
    "[INST] {{ said + '\n\n' + m['content'] }} [/INST]"
    "{% elif m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] | trim }}{{ eos_token }}{% endif %}{% endfor %}"
)


@pytest.fixture
def moves_system():
    tokenizer = load_tokenizer("tiny-gpt2")
    tokenizer.chat_template = MOVES_SYSTEM
    return tokenizer


@pytest.mark.parametrize("turns", [1, 3])
def test_a_system_message_stays_in_the_prompt(moves_system, turns):
    talk = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}] * 2
    prompt = [{"role": "system", "content": "Be brief."}, *talk[: turns - 1]]
    prompt += [{"role": "user", "content": "Why is it so?"}]
    row = {"prompt": prompt, "chosen": "It is so.", "rejected": "No."}
    reasons = count_by_reason(find([row], moves_system).dropped)
    assert "1 whose prompt the model's template writes otherwise" in reasons
    use_template(moves_system)
    assert len(find([row], moves_system).rows) == 1
    shown, chosen, _ = encode_answers(moves_system, prompt, ["It is so.", "No."])
    written = moves_system.decode(shown)
    assert written == format_prompt(moves_system, prompt)
    assert "Be brief." in written and written.endswith("Why is it so? [/INST]")
    assert moves_system.decode(chosen) == f" It is so.{moves_system.eos_token}"


def test_blanks_that_a_template_cuts_are_counted(moves_system, tokenizer):
    use_template(moves_system)
    rows = [pair(1), pair(2, chosen="    return 2\n"), pair(3)]
    found = find(rows, moves_system)
    assert found.rows["row"][:] == [1, 2, 3]
    assert found.remarks == [f"{CUT} (1 rows, from row 2)"]
    assert find(rows, tokenizer).remarks == []


def test_a_reward_model_reads_the_templates_own_end(tokenizer):
    chat = load_tokenizer("tiny-gpt2")
    chat.chat_template = (
        "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}<end>{% endfor %}"
    )
    chat.chat_template += "{% if add_generation_prompt %}<assistant>{% endif %}"
    use_template(chat)
    assert format_answer(chat, "Why?", "So.") == "<user>Why?<end><assistant>So.<end>"
    plain = format_answer(tokenizer, "Why?", "So.")
    assert plain == f"{format_prompt(tokenizer, 'Why?')} So.{tokenizer.eos_token}"


LABELS = [
    {"prompt": f"What is {k}?", "completion": text, "label": text == "Good."}
    for k in range(20)
    for text in ("Good.", "A bad one.")
]


def test_labels_are_kept_and_split_by_prompt(tmp_path, tokenizer):
    path = write(tmp_path / "a.jsonl", LABELS)
    train, held, _ = own_pairs(path, tokenizer, 0, labelled=True, max_new_tokens=8)
    assert len(train) + len(held) == 40 and len(held) in (4, 6)
    assert not {*train["prompt"]} & {*held["prompt"]} and train["label"].count(True) > 0
    lone = [row for k, row in enumerate(LABELS) if row["label"] or k == 1]
    with pytest.raises(UserError, match="all have the same label"):
        own_pairs(write(tmp_path / "b.jsonl", lone), tokenizer, 0, labelled=True)
    pairs = write(tmp_path / "c.jsonl", [pair(k) for k in range(9)])
    assert "chosen" in own_pairs(pairs, tokenizer, 0, labelled=True)[0].column_names
    with pytest.raises(UserError, match=r"c\.jsonl: no label beside an answer"):
        own_pairs(path, tokenizer, 0, labelled=True, held_out=pairs)


# --- How much ---

MEMORY = """
import sys
from pathlib import Path
from own_data import read
def resident():  # MiB
    return int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]) / 1024
read.usable(read.read_data(sys.argv[1], "pairs"))
before = resident()
rows = read.usable(read.read_data(sys.argv[2], "pairs")).rows
train, held = read.split_rows(rows, seed=0)
print(len(train) + len(held), train[0]["prompt"], resident() - before)
"""


def run_python(code: str, *arguments: str, **environment: str) -> str:
    path = os.pathsep.join([str(SCRIPTS), str(SCRIPTS.parent), os.environ["PYTHONPATH"]])
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_nothing_is_left_behind(tmp_path):
    path, temporary = write(tmp_path / "a.jsonl", [pair(1), pair(2)]), tmp_path / "temporary"
    temporary.mkdir()
    code = f"from own_data import read; assert len(read.load_preferences({path!r})) == 2"
    run_python(code, TMPDIR=str(temporary), HF_HOME=str(tmp_path / "hf"))
    assert list(temporary.iterdir()) == [] and not (tmp_path / "hf").exists()


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="reads the memory of a process from /proc"
)
def test_a_large_file_is_mapped_and_not_held_in_memory(tmp_path):
    few, many = tmp_path / "few.jsonl", tmp_path / "many.jsonl"
    for path, count in ((few, 100), (many, 8_000)):
        with path.open("w", encoding="utf-8") as file:
            for k in range(count):
                row = {"prompt": f"第{k}問 🙂 Ποιος;", "chosen": f"مرحبا {k} " * 300}
                row["rejected"] = f"नमस्ते {k} " * 300
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    assert many.stat().st_size > 80 * 2**20
    rows, *prompt, grown = run_python(MEMORY, str(few), str(many)).splitlines()[-1].split()
    assert int(rows) == 8_000 and prompt[0].startswith("第") and float(grown) < 50


def test_a_history_is_of_questions_and_answers(tmp_path):
    path, row = tmp_path / "a.jsonl", {"prompt": "p", "chosen": "c", "rejected": "r"}
    reading = load_preferences(write(path, [{**row, "history": [["q", "a"], ["s", None]]}]))
    assert [turn["content"] for turn in reading[0]["prompt"]] == ["q", "a", "s", "", "p"]
    for history in ([{"role": "user", "content": "q"}], ["hi", "yo"], [1, 2], [None], [["q"]]):
        with pytest.raises(UserError, match=r"history is .*, not a question and an answer"):
            load_preferences(write(path, [{**row, "history": history}]))


def test_a_list_of_messages_is_no_list_of_answers(tmp_path):
    path, talk = tmp_path / "a.jsonl", [{"content": "p"}, {"content": "c"}]
    with pytest.raises(UserError, match="neither a text nor a list of messages"):
        load_preferences(write(path, [{"prompt": "p", "chosen": talk, "rejected": talk[:1]}]))
    unlike = {"prompt": ["a"], "chosen": ["x", "more?"], "rejected": ["y"]}
    with pytest.raises(UserError, match="turns, not several answers"):
        load_preferences(write(path, [unlike]))


def test_of_two_usual_columns_of_an_answer_one_is_chosen_not_joined(tmp_path):
    row = {"prompt": "p", "accepted": "c", "better": "d", "rejected": "r"}
    with pytest.raises(UserError, match="choose one with --chosen-column") as error:
        load_preferences(write(tmp_path / "a.jsonl", [row]))
    assert "join" not in str(error.value)


def test_columns_may_be_exchanged_by_their_flags(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"prompt": "p", "chosen": "worse", "rejected": "better"}])
    (row,) = load_preferences(path, chosen_column="rejected", rejected_column="chosen").to_list()
    assert row == {"prompt": "p", "chosen": "better", "rejected": "worse"}
