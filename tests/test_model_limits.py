"""Which rows a model can read: counted before the split, by one rule, in one line."""

import json

from support.evidence import side_by_side
from support.label_diagnosis import compare_labels
from support.model_limits import find_readable, find_token, keep_readable, policy_rule, reward_rule
from support.pair_diagnosis import study_own_pairs
from support.policy_data import check_labels, policy_data, split_for_policy

import pytest
from helpers import run_script

from common.cli import UserError
from common.models import encode_answers, load_tokenizer
from common.scoring import encode_for_reward

datasets = pytest.importorskip("datasets")
pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("tiny-gpt2")


@pytest.fixture(scope="module")
def encoder():
    return load_tokenizer("tiny-distilbert")


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


def pair(prompt="Why?", chosen="It scatters.", rejected="No.", **columns) -> dict:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **columns}


def test_a_row_may_be_as_long_as_the_model_reads(tokenizer):
    prompt, *answers = encode_answers(tokenizer, "Why?", ["It scatters.", "No."])
    length = len(prompt) + max(map(len, answers))
    rule = policy_rule(tokenizer, room=1)
    for limit, kept in ((length, [0]), (length - 1, [])):
        found, reasons = find_readable([pair()], tokenizer, rule._replace(limit=limit))
        assert found == kept
    assert reasons == [
        f"1 longer than the {length - 1} tokens that the model reads, 1 of them reserved for "
        f"sampling (the first is row 1 with {length})"
    ]
    roomy = policy_rule(tokenizer, room=50)._replace(limit=len(prompt) + 50)
    assert find_readable([pair()], tokenizer, roomy)[0] == [0]
    tight = roomy._replace(limit=len(prompt) + 49)
    assert find_readable([pair()], tokenizer, tight)[0] == []


def test_a_reward_model_reads_the_prompt_with_each_answer(encoder):
    rule = reward_rule(encoder)
    _, answers = rule.encode(pair())
    for text, ids in zip(("It scatters.", "No."), answers, strict=True):
        assert ids == encode_for_reward(encoder, ["Why?"], [text])["input_ids"][0].tolist()
    longest = max(map(len, answers))
    assert find_readable([pair()], encoder, rule._replace(limit=longest))[0] == [0]
    assert find_readable([pair()], encoder, rule._replace(limit=longest - 1))[0] == []


def test_all_reasons_stand_in_one_line(wordpiece, capsys):
    rows = [
        pair(row=9, prompt="why " * 600),
        pair(row=4, chosen="see [SEP] there"),
        pair(row=2, chosen="红", rejected="绿"),
        pair(row=7),
        pair(row=3, prompt=[{"role": "user", "content": "a [MASK] b"}]),
    ]
    kept = keep_readable(datasets.Dataset.from_list(rows[:4]), wordpiece, reward_rule(wordpiece))
    assert list(kept["row"]) == [7]
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and said.startswith("3 of 4 rows left out: 1 longer than the ")
    assert "1 with [SEP], a token of the model (the first is row 4)" in said
    assert "1 with answers that are the same to the model (unknown characters)" in said
    assert find_token(wordpiece, ["a [MASK] b"]) == "[MASK]" and not find_token(wordpiece, ["a b"])
    with pytest.raises(UserError, match=r"can read none of the rows: 1 with \[MASK\], a token"):
        keep_readable(datasets.Dataset.from_list(rows[4:]), wordpiece, reward_rule(wordpiece))


def test_rows_are_left_out_before_the_split(tokenizer, capsys):
    rows = [pair(f"What is {k}?", row=k) for k in range(1, 9)]
    rows[2]["chosen"] = rows[5]["rejected"] = "very " * 600
    for seed in range(4):
        train, held = split_for_policy(datasets.Dataset.from_list(rows), tokenizer, seed, 48)
        assert sorted([*train["row"], *held["row"]]) == [1, 2, 4, 5, 7, 8] and len(held) == 1
    assert capsys.readouterr().out.count("2 of 8 rows left out: 2 longer") == 4


def test_a_template_that_rejects_a_row_names_it(tokenizer):
    kept = tokenizer.chat_template
    tokenizer.chat_template = "{{ raise_exception('no turns') }}"
    try:
        with pytest.raises(UserError, match=r"--dataset, row 5: the chat template .*: no turns"):
            find_readable([pair(row=5)], tokenizer, policy_rule(tokenizer))
    finally:
        tokenizer.chat_template = kept


def test_the_explorer_counts_by_the_same_rule(tmp_path, tokenizer):
    rows = [pair(), pair("word " * (tokenizer.model_max_length - 20)), pair("Now?", "红", "绿")]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    tokens = study_own_pairs(str(path), "tiny-gpt2", 0)["tokens"]
    assert (
        tokens["too_long"] == 1
        and "48 of them reserved for sampling (the first is row 2" in (tokens["left_out"])
    )
    tokens = study_own_pairs(str(path), "tiny-distilbert", 0)["tokens"]  # an encoder
    assert tokens["chosen"]["longest"] > tokens["rejected"]["mean"] > 0


# --- Answers with a label ---

LABELS = [
    {"prompt": f"What is {k}?", "completion": text, "label": text == "Good."}
    for k in range(20)
    for text in ("Good.", "A bad one.")
]


def test_labels_are_kept_and_split_by_prompt(tokenizer):
    rows = datasets.Dataset.from_list([{**row, "row": k} for k, row in enumerate(LABELS)])
    data = policy_data(rows, tokenizer, None, 0, 8)
    assert len(data.train) + len(data.held) == 40 and len(data.held) in (4, 6)
    assert not set(data.train["prompt"]) & set(data.held["prompt"])
    with pytest.raises(UserError, match="all have the same label"):
        check_labels(rows.select([0, 2, 4]))


def test_good_and_bad_answers_side_by_side():
    rows = datasets.Dataset.from_list(
        [{"prompt": f"{k}?", "completion": f"{k}.", "label": k in (1, 4)} for k in range(5)]
    )
    pairs = side_by_side(rows)
    columns = ("prompt", "chosen", "rejected_prompt", "rejected")
    assert [tuple(row[name] for name in columns) for row in pairs] == [
        ("1?", "1.", "0?", "0."),
        ("4?", "4.", "2?", "2."),
    ]
    assert side_by_side(pairs) is pairs


def test_labels_are_compared(capsys):
    rows = [*LABELS[:3], {**LABELS[0], "label": False}]
    found = compare_labels(rows)
    assert found == {"prompts": 2, "prompts_with_both": 1, "contradictory": 1}


def test_the_explorer_describes_labels(tmp_path):
    path = tmp_path / "labels.jsonl"
    path.write_text("\n".join(map(json.dumps, [*LABELS, LABELS[0]])), encoding="utf-8")
    done = run_script("preference_data_explorer", "--dataset", path.name, cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    text = " ".join(done.stdout.split())
    assert "41 rows, 40 usable answers with a label, 50 % [" in text
    assert "dropped: 1 duplicate (row 41)" in text and "1.0 [1.0, 1.0] good" in text
    assert "20 of 20 prompts have a good and a bad answer; answers labelled both ways: 0" in text
    assert len(list((tmp_path / "outputs").glob("preference_data-*.png"))) == 1


def test_labels_train_kto(tmp_path):
    path = tmp_path / "labels.jsonl"
    path.write_text("\n".join(map(json.dumps, LABELS)), encoding="utf-8")
    flags = ("--dataset", path.name, "--prompts", 2, "--max-new-tokens", 4)
    done = run_script("dpo_variants", *flags, "--loss-type", "kto", cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert "40 answers, 20 good and 20 bad" in done.stdout and "1 of 1 pass" in done.stdout
    said = " ".join(done.stdout.split())  # of good and bad answers side by side
    assert "words that tell good from bad (|z| > 3.5): good: good bad: a, bad, one" in said
    assert "The shorter answer wins 100 %" in said and "There is no gold standard" in said
    (results,) = (tmp_path / "outputs").glob("dpo_variants-*.json")
    metrics = json.loads(results.read_text())["metrics"]
    assert list(metrics["arms"]) == ["kto"] and metrics["kto_difference_from_trl"] < 1e-5
    assert metrics["arms"]["kto"]["margin"]["count"] == metrics["held_out_pairs"] / 2
    done = run_script("dpo_variants", *flags, "--loss-type", "ipo", cwd=tmp_path)
    assert done.returncode == 2 and "are for dpo_variants.py --loss-type kto" in done.stderr
