"""Prompts that are conversations: in the template, in a plain format, as text, as keys."""

import pytest

from common import models
from common.answers import has_gold, in_short
from common.basics import UserError
from common.prompts import (
    as_messages,
    as_prompt,
    as_text,
    distinct_prompts,
    encode_prompt,
    format_pair,
    format_prompt,
    prompt_key,
)
from common.sampling import sample
from common.scoring import log_ratios, score_texts

SYSTEM = {"role": "system", "content": "Be brief."}
TURNS = [
    {"role": "user", "content": "Hi."},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Why?"},
]


@pytest.fixture(scope="module")
def policy():
    return models.load_causal_lm("tiny-gpt2")


def test_a_text_is_one_turn_of_the_user():
    assert as_messages("Why?") == [{"role": "user", "content": "Why?"}]
    assert as_messages(TURNS) == TURNS
    for prompt in ("Why?", TURNS, [SYSTEM, *TURNS], [SYSTEM]):
        assert as_prompt(as_messages(prompt)) == prompt


def test_a_conversation_as_text():
    assert as_text("Why?") == "Why?"
    assert as_text([SYSTEM, *TURNS]) == "Be brief.\n\nUser: Hi.\n\nAssistant: Hello.\n\nUser: Why?"
    assert in_short([SYSTEM, *TURNS], 12) == "... er: Why?"  # the last words
    assert in_short("a b c d e f g", 8) == "a b ..."


def test_prompts_once_in_an_order_of_their_own():
    prompts = ["b", TURNS, "a", list(TURNS), "b"]
    assert distinct_prompts(prompts) == distinct_prompts(prompts[::-1]) == [TURNS, "a", "b"]
    assert prompt_key(TURNS) != prompt_key(TURNS[:1]) != prompt_key("Hi.")
    assert not has_gold([TURNS])


def test_a_plain_model_reads_turns_in_the_plain_format(policy):
    _, tokenizer = policy
    eos = tokenizer.eos_token
    formatted = format_prompt(tokenizer, [SYSTEM, *TURNS])
    assert formatted == (f"Be brief.\nQuestion: Hi.\nAnswer: Hello.{eos}\nQuestion: Why?\nAnswer:")
    ids = encode_prompt(tokenizer, TURNS)
    assert tokenizer.decode(ids) == f"Question: Hi.\nAnswer: Hello.{eos}\nQuestion: Why?\nAnswer:"
    one = [{"role": "user", "content": "Why?"}]
    assert encode_prompt(tokenizer, one) == encode_prompt(tokenizer, "Why?")


def test_a_template_that_rejects_roles_is_one_line(policy):
    _, tokenizer = policy
    kept = tokenizer.chat_template
    reject = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    tokenizer.chat_template = reject + kept
    try:
        with pytest.raises(UserError, match=r"rejects the turns system, .*: no system; leave"):
            format_prompt(tokenizer, [SYSTEM, *TURNS])
        assert format_prompt(tokenizer, TURNS).startswith("Question: Hi.")
    finally:
        tokenizer.chat_template = kept


def test_rows_keep_all_turns_for_trl():
    row = format_pair({"prompt": [SYSTEM, *TURNS], "chosen": "c", "rejected": "r"})
    assert row["prompt"] == [SYSTEM, *TURNS]
    assert row["chosen"] == [{"role": "assistant", "content": "c"}]
    assert row["rejected"] == [{"role": "assistant", "content": "r"}]


def test_a_conversation_is_sampled_scored_and_compared_as_a_text_is(policy):
    model, tokenizer = policy
    asked = ["Why?", [{"role": "user", "content": "Why?"}], [SYSTEM, *TURNS]]
    greedy = sample(model, tokenizer, asked, temperature=0, max_new_tokens=8)
    assert greedy[0][0].token_ids == greedy[1][0].token_ids != greedy[2][0].token_ids
    judge = models.load_reward_model("tiny-distilbert")
    rewards = score_texts(judge, asked, [["Yes."], ["Yes."], ["Yes."]])[:, 0]
    assert rewards[0] == pytest.approx(rewards[1], abs=1e-5)
    read = judge[1](as_text(asked[2]), "Yes.", return_tensors="pt")
    assert rewards[2] == pytest.approx(judge[0](**read).logits.item(), abs=1e-4)
    ratios = log_ratios(model, tokenizer, asked, [[[1]], [[1]], [[1]]])
    assert ratios.shape == (3, 1) and not ratios.any()
