"""Models: sampling and scoring beside naive computations, loading, saving, quality."""

import contextlib
import copy
import json
import random
import re
import shutil
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import SCRIPTS
from safetensors import safe_open
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForMaskedLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from common import models, sampling, scoring
from common.basics import UserError
from common.models import EMBEDDED, TINY, quiet_libraries
from common.preferences import (
    STYLES,
    draw_style,
    gold_utility,
    judge_prompt,
    questions,
    read_response,
    write_response,
)
from common.prompts import (
    encode_prompt,
    encode_response,
    format_pair,
    format_prompt,
    is_plain,
    use_template,
)
from common.sampling import draw_tokens, sample
from common.saving import SETTINGS, check_ours, read_json, save_model
from common.scoring import judge_first_better, response_logps, sequence_kl
from common.tiny.recipe import encode_question, encoder_texts, recipe_hash
from common.training import as_dataset

REPOSITORY = SCRIPTS.parent
QUESTIONS = questions("test", unseen=None)
PROMPTS = [question.prompt for question in QUESTIONS[:24]]
TEXTS = [
    write_response(q, draw_style(q, random.Random(q.prompt)), random.Random(q.prompt))
    for q in QUESTIONS[:24]
]
WEIGHTS = sorted(TINY.glob("tiny-*/*.safetensors"))


@pytest.fixture(scope="module")
def lm():
    """(model, tokenizer) of tiny-gpt2."""
    quiet_libraries()
    return models.load_causal_lm("tiny-gpt2")


@pytest.fixture(scope="module")
def perturbed(lm):
    """A copy of tiny-gpt2 with noise on its weights: the two directions of KL differ."""
    torch.manual_seed(0)
    other = copy.deepcopy(lm[0])
    for weight in other.parameters():
        weight.data += 0.5 * weight.std() * torch.randn_like(weight) if weight.dim() > 1 else 0
    return other


@pytest.fixture(scope="module")
def reward():
    """(model, tokenizer) of tiny-distilbert with a fresh scalar head."""
    quiet_libraries()
    torch.manual_seed(0)
    return models.load_reward_model("tiny-distilbert")


def assert_frequencies(tokens: torch.Tensor, probabilities: torch.Tensor) -> None:
    """Counts of tokens (N,) within 4 standard errors of probabilities (V,); rare ones as one."""
    counts = torch.bincount(tokens, minlength=len(probabilities)).double()
    p, n = probabilities.double(), len(tokens)
    common = (n * p > 20) & (n * (1 - p) > 20)
    p, counts = (torch.cat([x[common], x[~common].sum()[None]]) for x in (p, counts))
    assert common.sum() >= 2 and counts.sum() == n
    error = (n * p * (1 - p)).sqrt().clamp(min=1)
    assert ((counts - n * p).abs() < 4 * error).all(), (counts / n, p)


# --- Text in and out ---


CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture
def bos_folder(tmp_path) -> str:
    """tiny-gpt2 without its chat template, and with a tokenizer that begins a text with BOS."""
    shutil.copytree(TINY / "tiny-gpt2", tmp_path / "bos")
    tokenizer = models.load_tokenizer("tiny-gpt2")
    tokenizer.chat_template = None
    bos = (tokenizer.bos_token, tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{bos[0]} $A", pair=f"{bos[0]} $A $B", special_tokens=[bos]
    )
    (tmp_path / "bos/chat_template.jinja").unlink()
    tokenizer.save_pretrained(tmp_path / "bos")
    return str(tmp_path / "bos")


def plain_ids(tokenizer, prompt: str, text: str) -> tuple[list[int], list[int]]:
    """Token ids of a prompt and its response in the plain format, as TRL cuts plain rows.

    TRL tokenizes prompt and prompt + completion + EOS, and cuts where they part.
    """
    shown = f"Question: {prompt}\nAnswer:"
    both = tokenizer(f"{shown} {text}{tokenizer.eos_token}")["input_ids"]
    ids = tokenizer(shown)["input_ids"]
    assert both[: len(ids)] == ids
    return ids, both[len(ids) :]


def test_plain_models_see_the_plain_format(lm):
    tokenizer = lm[1]
    assert is_plain(tokenizer)
    for prompt, text in zip(PROMPTS, TEXTS, strict=True):
        assert format_prompt(tokenizer, prompt) == f"Question: {prompt}\nAnswer:"
        assert scoring.format_answer(tokenizer, prompt, text) == (
            f"Question: {prompt}\nAnswer: {text}{tokenizer.eos_token}"
        )
        ids = encode_prompt(tokenizer, prompt), encode_response(tokenizer, text)
        assert ids == plain_ids(tokenizer, prompt, text)
        assert ids[1].count(tokenizer.eos_token_id) == 1


def test_a_tokenizer_that_adds_bos_does_so_once(bos_folder):
    tokenizer = models.load_causal_lm(bos_folder)[1]
    assert is_plain(tokenizer)
    for prompt, text in zip(PROMPTS[:6], TEXTS, strict=False):
        ids = encode_prompt(tokenizer, prompt), encode_response(tokenizer, text)
        assert ids == plain_ids(tokenizer, prompt, text)
        assert ids[0][0] == tokenizer.bos_token_id
        assert (ids[0] + ids[1]).count(tokenizer.bos_token_id) == 1


def test_the_plain_template_also_writes_conversations(lm):
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "So."},
        {"role": "user", "content": "How?"},
    ]
    text = lm[1].apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text == "Be brief.\nQuestion: Why?\nAnswer: So.<eos>\nQuestion: How?\nAnswer:"


def test_a_chat_template_is_used_where_there_is_one(lm):
    tokenizer = copy.deepcopy(lm[1])
    tokenizer.chat_template = CHAT_TEMPLATE
    assert not is_plain(tokenizer)
    use_template(tokenizer)
    assert tokenizer.chat_template == CHAT_TEMPLATE
    assert format_prompt(tokenizer, "Why?") == "<bos><user>Why?<assistant>"
    row = format_pair({"prompt": "Why?", "chosen": "So.", "rejected": "No."})
    assert row["prompt"] == [{"role": "user", "content": "Why?"}]
    assert row["rejected"] == [{"role": "assistant", "content": "No."}]
    turns = row["prompt"] + row["chosen"]
    both = tokenizer.apply_chat_template(turns, tokenize=True)["input_ids"]
    assert encode_prompt(tokenizer, "Why?") + encode_response(tokenizer, "So.") == both
    assert both.count(tokenizer.bos_token_id) == 1


@pytest.mark.parametrize("kind", ["embedded", "adds BOS", "chat"])
def test_tokens_are_those_that_trl_makes(lm, bos_folder, kind):
    from trl import DPOConfig, DPOTrainer

    model, tokenizer = models.load_causal_lm(bos_folder if kind == "adds BOS" else "tiny-gpt2")
    if kind == "chat":
        tokenizer.chat_template = CHAT_TEMPLATE
    rows = zip(PROMPTS[:4], TEXTS, TEXTS[1:], strict=False)
    pairs = [dict(zip(("prompt", "chosen", "rejected"), row, strict=True)) for row in rows]
    trainer = DPOTrainer(
        model=model,
        args=DPOConfig(output_dir=Path(bos_folder).parent / "out", use_cpu=True, report_to="none"),
        train_dataset=as_dataset(pairs),
        processing_class=tokenizer,
    )
    for pair, row in zip(pairs, trainer.train_dataset, strict=True):
        assert row["prompt_ids"] == encode_prompt(tokenizer, pair["prompt"])
        for side in ("chosen", "rejected"):
            assert row[f"{side}_ids"] == encode_response(tokenizer, pair[side])


# --- Sampling ---


@pytest.fixture(scope="module")
def greedy(lm):
    return [row[0] for row in sample(*lm, PROMPTS, temperature=0)]


def test_greedy_is_generate(lm, greedy):
    model, tokenizer = lm
    encoded = [encode_prompt(tokenizer, prompt) for prompt in PROMPTS]
    width = max(map(len, encoded))
    assert min(map(len, encoded)) < width
    ids = torch.tensor([[tokenizer.pad_token_id] * (width - len(row)) + row for row in encoded])
    out = model.generate(
        input_ids=ids,
        attention_mask=(ids != tokenizer.pad_token_id).long(),
        do_sample=False,
        max_new_tokens=48,
        pad_token_id=tokenizer.pad_token_id,
    )[:, width:].tolist()
    for response, row in zip(greedy, out, strict=True):
        end = row.index(tokenizer.eos_token_id) + 1 if tokenizer.eos_token_id in row else len(row)
        assert response.token_ids == row[:end]
        assert response.text == tokenizer.decode(row[:end], skip_special_tokens=True).strip()


def test_the_batch_does_not_matter(lm, greedy):
    assert [row[0] for row in sample(*lm, PROMPTS[:6], temperature=0, batch_size=1)] == greedy[:6]
    order = random.Random(0).sample(range(24), 24)
    shuffled = sample(*lm, [PROMPTS[i] for i in order], n=3, temperature=0, batch_size=16)
    assert shuffled == [
        [greedy[i]] * 3 for i in order
    ]  # each prompt keeps its place and its answers


def test_padding_cache_and_positions_leave_the_logits_as_they_are(lm, monkeypatch):
    model, tokenizer = lm
    seen = []
    monkeypatch.setattr(
        sampling, "draw_tokens", lambda logits, *_: seen.append(logits) or logits.argmax(-1)
    )
    drawn = [row[0].token_ids for row in sample(*lm, PROMPTS)]
    encoded = [encode_prompt(tokenizer, prompt) for prompt in PROMPTS]
    order = sorted(range(len(PROMPTS)), key=lambda i: len(encoded[i]))
    with torch.inference_mode():
        alone = [
            model(torch.tensor([e + d])).logits[0, len(e) - 1 :]
            for e, d in zip(encoded, drawn, strict=True)
        ]
    assert len(seen) == max(map(len, drawn)) > min(map(len, drawn))
    for t, logits in enumerate(seen):  # at every step, the rows that have not ended yet
        expected = torch.stack([alone[i][t] for i in order if len(drawn[i]) > t])
        torch.testing.assert_close(logits, expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_first_tokens_are_drawn_from_the_softmax(lm, temperature):
    model, tokenizer = lm
    rows = sample(*lm, PROMPTS[:3], n=3000, max_new_tokens=1, temperature=temperature, seed=2)
    for prompt, responses in zip(PROMPTS, rows, strict=False):
        with torch.inference_mode():
            logits = model(torch.tensor([encode_prompt(tokenizer, prompt)])).logits[0, -1]
        tokens = torch.tensor([response.token_ids for response in responses]).squeeze(-1)
        assert_frequencies(tokens, (logits / temperature).softmax(-1))


def test_a_wide_model_in_bfloat16_has_the_same_distribution(lm, monkeypatch):
    config = GPT2Config(
        n_layer=1, n_embd=256, n_head=4, vocab_size=len(lm[1]), initializer_range=0.1
    )
    torch.manual_seed(0)
    wide = GPT2LMHeadModel(config).eval()
    monkeypatch.setattr(models, "gains_from_bfloat16", lambda device: True)
    with models.autocast(wide), torch.inference_mode():
        ids = torch.tensor([encode_prompt(lm[1], PROMPTS[0])])
        assert wide(ids).logits.dtype == torch.bfloat16
    with models.autocast(lm[0]), torch.inference_mode():
        assert lm[0](ids).logits.dtype == torch.float32  # too small to gain
    with torch.inference_mode():
        expected = wide(ids).logits[0, -1].softmax(-1)
    rows = sample(wide, lm[1], PROMPTS[:1], n=5000, max_new_tokens=1, seed=4)[0]
    assert_frequencies(torch.tensor([response.token_ids[0] for response in rows]), expected)


def test_later_tokens_are_drawn_given_the_earlier_ones(lm):
    model, tokenizer = lm
    prompt = PROMPTS[1]
    drawn = [
        response.token_ids
        for response in sample(*lm, [prompt], n=6000, max_new_tokens=2, seed=3)[0]
    ]
    drawn = torch.tensor(
        [token_ids for token_ids in drawn if len(token_ids) == 2]
    )  # without those that say nothing
    firsts, counts = drawn[:, 0].unique(return_counts=True)
    open_ended = 0
    for first in firsts[counts > 300].tolist():
        with torch.inference_mode():
            logits = model(torch.tensor([[*encode_prompt(tokenizer, prompt), first]])).logits[0, -1]
        if logits.softmax(-1).max() < 0.9:
            assert_frequencies(drawn[drawn[:, 0] == first][:, 1], logits.softmax(-1))
            open_ended += 1
    assert open_ended >= 2


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_draw_tokens(temperature):
    logits = torch.tensor([[0.0, 2.0, -1.0, -float("inf"), 1.0], [3.0, 0.0, 0.0, 0.0, -2.0]])
    u = torch.rand(200_000, generator=torch.Generator().manual_seed(0))
    tokens = draw_tokens(logits.repeat(100_000, 1), temperature, u).reshape(-1, 2)
    for k in range(2):
        assert_frequencies(tokens[:, k], (logits[k] / temperature).softmax(-1))
    assert not (tokens[:, 0] == 3).any()
    correlation = np.corrcoef(tokens[:, 0] == 1, tokens[:, 1] == 0)[0, 1]
    assert abs(correlation) < 4 / np.sqrt(100_000)  # each row draws for itself


def test_draw_tokens_of_a_large_vocabulary():
    logits = torch.full((1000,), -float("inf"))
    logits[torch.tensor([3, 255, 256, 300, 767, 990, 999])] = torch.tensor(
        [0.0, 1.0, 2.0, -1.0, 0.5, 1.5, 1.0]
    )
    u = torch.rand(200_000, generator=torch.Generator().manual_seed(0))
    tokens = draw_tokens(logits.repeat(200_000, 1), 1.0, u)
    assert_frequencies(tokens, logits.softmax(-1))
    assert set(tokens.tolist()) == {3, 255, 256, 300, 767, 990, 999}


def test_draw_tokens_at_the_ends():
    logits = torch.tensor([[-float("inf"), 1.0, 0.0], [0.0, 5.0, 1.0]])
    assert draw_tokens(logits, 0, torch.zeros(2)).tolist() == [1, 1]
    for u, expected in ((0.0, [1, 0]), (1 - 2**-24, [2, 2])):
        assert draw_tokens(logits, 1.0, torch.full((2,), u)).tolist() == expected
    sparse = torch.full((1, 700), -float("inf"))
    sparse[0, 300:310] = 0
    for u, expected in ((0.0, 300), (1 - 2**-24, 309)):
        assert draw_tokens(sparse, 1.0, torch.full((1,), u)).item() == expected


def test_shape_length_and_end_of_responses(lm):
    tokenizer, eos = lm[1], lm[1].eos_token_id
    for longest in (1, 5, 48):
        rows = sample(*lm, PROMPTS[:6], n=7, max_new_tokens=longest, seed=1)
        assert [len(row) for row in rows] == [7] * 6
        for response in (response for row in rows for response in row):
            *body, last = response.token_ids
            assert eos not in body and len(response.token_ids) <= longest
            assert last == eos or len(response.token_ids) == longest
            assert (
                response.text
                == tokenizer.decode(response.token_ids, skip_special_tokens=True).strip()
            )
            assert not any(token in response.text for token in tokenizer.all_special_tokens)
    assert sum(response.token_ids[-1] == eos for row in rows for response in row) > 30


def test_sampling_is_reproducible_and_leaves_no_trace(lm):
    model = lm[0]
    torch.manual_seed(11)
    state, model.training = torch.get_rng_state(), True
    first = sample(*lm, PROMPTS[:6], n=4, seed=5)
    assert model.training and torch.equal(torch.get_rng_state(), state)
    model.eval()
    torch.manual_seed(12)
    assert sample(*lm, PROMPTS[:6], n=4, seed=5) == first
    assert not model.training
    assert sample(*lm, PROMPTS[:6], n=4, seed=6) != first
    assert len({response.text for response in first[0]}) > 1 and first[0] != first[1]


# --- Log-probabilities and KL ---


def naive_log_probs(model, tokenizer, prompt: str, response: list[int]) -> torch.Tensor:
    """(tokens of the response, V), without batch and padding, in float64."""
    ids = encode_prompt(tokenizer, prompt) + response
    with torch.inference_mode():
        logits = model(torch.tensor([ids])).logits[0].double()
    return logits.log_softmax(-1)[-len(response) - 1 : -1]


def test_response_logps_are_sums_over_the_response(lm):
    model, tokenizer = lm
    responses = [encode_response(tokenizer, text) for text in TEXTS]
    assert len({len(response) for response in responses}) > 4
    logps = response_logps(model, tokenizer, PROMPTS, responses, batch_size=5)
    assert logps.shape == (24,) and logps.dtype == torch.float32
    for prompt, response, logp in zip(PROMPTS, responses, logps.tolist(), strict=True):
        table = naive_log_probs(model, tokenizer, prompt, response)
        assert logp == pytest.approx(
            sum(table[t, token].item() for t, token in enumerate(response)), abs=1e-4
        )
    torch.testing.assert_close(
        response_logps(model, tokenizer, PROMPTS, responses), logps, atol=1e-4, rtol=0
    )


def test_probabilities_of_all_next_tokens_sum_to_one(lm):
    vocabulary = [[token] for token in range(len(lm[1]))]
    logps = response_logps(*lm, [PROMPTS[0]] * len(vocabulary), vocabulary, batch_size=512)
    assert logps.exp().sum().item() == pytest.approx(1, abs=1e-4)


def test_sequence_kl_is_the_exact_sum_in_the_right_direction(lm, perturbed):
    model, tokenizer = lm
    responses = [encode_response(tokenizer, text) for text in TEXTS]
    kl = sequence_kl(perturbed, tokenizer, PROMPTS, responses, model, batch_size=5)
    back = sequence_kl(model, tokenizer, PROMPTS, responses, perturbed)
    assert kl.shape == (24,) and (kl > 0).all() and (back > 0).all()
    for i, (prompt, response) in enumerate(zip(PROMPTS, responses, strict=True)):
        log_p, log_q = (naive_log_probs(m, tokenizer, prompt, response) for m in (perturbed, model))
        assert kl[i].item() == pytest.approx(
            (log_p.exp() * (log_p - log_q)).sum().item(), rel=1e-3, abs=1e-4
        )
        assert back[i].item() == pytest.approx(
            (log_q.exp() * (log_q - log_p)).sum().item(), rel=1e-3, abs=1e-4
        )
    assert (kl - back).abs().max() > 0.05
    assert sequence_kl(model, tokenizer, PROMPTS, responses, model).abs().max() == 0


def test_sequence_kl_has_the_mean_of_the_log_ratio(lm, perturbed):
    model, tokenizer = lm
    prompts = [prompt for prompt in PROMPTS[:8] for _ in range(100)]
    drawn = sample(perturbed, tokenizer, PROMPTS[:8], n=100, max_new_tokens=24, seed=4)
    drawn = [response.token_ids for row in drawn for response in row]
    kl = sequence_kl(perturbed, tokenizer, prompts, drawn, model)
    logps, ref_logps = (response_logps(m, tokenizer, prompts, drawn) for m in (perturbed, model))
    difference = (kl - (logps - ref_logps)).double()
    assert difference.mean().abs() < 4 * difference.std() / len(prompts) ** 0.5
    assert kl.std() < (logps - ref_logps).std() and kl.mean() > 0.1


def test_sequence_kl_takes_the_reference_from_a_peft_model(lm):
    from peft import LoraConfig, get_peft_model

    model, tokenizer = lm
    torch.manual_seed(0)
    config = LoraConfig(
        r=4, target_modules=["c_attn"], fan_in_fan_out=True, init_lora_weights=False
    )
    policy = get_peft_model(copy.deepcopy(model), config).eval()
    responses = [encode_response(tokenizer, text) for text in TEXTS]
    kl = sequence_kl(policy, tokenizer, PROMPTS, responses)
    torch.testing.assert_close(
        kl, sequence_kl(policy, tokenizer, PROMPTS, responses, model), atol=1e-5, rtol=1e-4
    )
    assert kl.min() > 0 and kl.mean() > 0.1
    with policy.disable_adapter():
        assert sequence_kl(policy, tokenizer, PROMPTS, responses, model).abs().max() < 1e-5


# --- Rewards and judgements ---


def test_rewards_depend_on_nothing_but_the_pair(reward):
    model, tokenizer = reward
    scores = scoring.score_responses(model, tokenizer, PROMPTS, TEXTS)
    assert scores.shape == (24,) and scores.std() > 1e-3
    with torch.inference_mode():
        pairs = zip(PROMPTS, TEXTS, strict=True)
        alone = [model(**tokenizer(*pair, return_tensors="pt")).logits.item() for pair in pairs]
    tolerance = {"atol": 1e-4 * float(scores.abs().max()), "rtol": 0}
    torch.testing.assert_close(scores, torch.tensor(alone), **tolerance)
    order = random.Random(0).sample(range(24), 24)
    again = scoring.score_responses(
        model, tokenizer, [PROMPTS[i] for i in order], [TEXTS[i] for i in order], 5
    )
    torch.testing.assert_close(again, scores[order], **tolerance)
    swapped = scoring.score_responses(model, tokenizer, TEXTS, PROMPTS)
    assert (
        swapped - scores
    ).abs().max() > 1e-2 * scores.abs().max()  # which text is the response matters


def test_the_reward_model_is_a_scalar_head_on_the_embedded_backbone(reward):
    model, tokenizer = reward
    assert (
        model.config.num_labels == 1
        and model.config.pad_token_id == tokenizer.pad_token_id
        and not model.training
    )
    stored = safe_open(TINY / "tiny-distilbert/model.safetensors", "pt")
    for name, weight in model.state_dict().items():
        if name.startswith("distilbert."):
            torch.testing.assert_close(weight, stored.get_tensor(name).float(), atol=0, rtol=0)


def test_only_the_response_is_cut_and_at_its_end(reward):
    tokenizer = reward[1]
    prompts = [" ".join(PROMPTS[:12]), PROMPTS[1]]
    inputs = scoring.encode_for_reward(tokenizer, prompts, ["start " + "word " * 600, "It is so."])
    assert inputs["input_ids"].shape == (2, tokenizer.model_max_length)
    ids = inputs["input_ids"][0].tolist()
    prompt = tokenizer(prompts[0])["input_ids"]  # [CLS] prompt [SEP]
    assert (
        len(prompt) > len(ids) / 2
        and ids[: len(prompt)] == prompt
        and ids[-1] == tokenizer.sep_token_id
    )
    assert tokenizer.decode(ids[len(prompt) :]).strip().startswith("start word")
    assert inputs["attention_mask"].sum(-1).tolist() == [
        len(ids),
        len(tokenizer(prompts[1], "It is so.")["input_ids"]),
    ]


def test_texts_beyond_the_window_are_cut_or_refused(lm, reward):
    """Your own pairs may be longer than a model reads; that is no reason for a traceback."""
    long = "word " * 400
    with contextlib.suppress(UserError):
        assert (
            scoring.score_responses(*reward, [long, PROMPTS[0]], ["It is so.", long])
            .isfinite()
            .all()
        )
    with contextlib.suppress(UserError):
        assert len(sample(*lm, ["word " * 240], max_new_tokens=48)[0][0].token_ids) <= 48
    with contextlib.suppress(UserError):
        assert response_logps(*lm, [PROMPTS[0]], [encode_response(lm[1], long)]).isfinite().all()


def test_judgements_are_probabilities_of_the_two_letters(lm):
    model, tokenizer = lm
    shown = [
        judge_prompt(p, a, b) for p, a, b in zip(PROMPTS, TEXTS, TEXTS[1:] + TEXTS[:1], strict=True)
    ]
    first, mass = judge_first_better(model, tokenizer, shown, batch_size=5)
    assert first.shape == mass.shape == (24,)
    for i, text in enumerate(shown):
        ids = [tokenizer(text + letter)["input_ids"] for letter in (" A", " B")]
        assert ids[0][:-1] == ids[1][:-1] == tokenizer(text)["input_ids"]  # a letter is one token
        with torch.inference_mode():
            p = model(torch.tensor([ids[0][:-1]])).logits[0, -1].softmax(-1)
        p_a, p_b = p[ids[0][-1]].item(), p[ids[1][-1]].item()
        assert (first[i] * mass[i]).item() == pytest.approx(p_a, abs=1e-5)
        assert ((1 - first[i]) * mass[i]).item() == pytest.approx(p_b, abs=1e-5)
        assert 0 <= first[i] <= 1 and 0 < mass[i] <= 1 + 1e-6
    again = judge_first_better(model, tokenizer, shown[::-1], batch_size=24)
    torch.testing.assert_close(again[0].flip(0), first, atol=1e-5, rtol=0)


def test_a_chat_model_is_asked_in_its_template_for_a_letter(lm):
    model, tokenizer = lm[0], copy.deepcopy(lm[1])
    tokenizer.chat_template = CHAT_TEMPLATE
    shown = [judge_prompt(PROMPTS[0], *TEXTS[:2])]
    text = f"<bos><user>{shown[0]}\nReply with A or B.<assistant>"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        p = model(torch.tensor([ids])).logits[0, -1].softmax(-1)
    letters = [tokenizer(letter)["input_ids"][-1] for letter in ("A", "B")]
    first, mass = judge_first_better(model, tokenizer, shown)
    assert mass.item() == pytest.approx(p[letters].sum().item(), abs=1e-5)
    assert first.item() == pytest.approx((p[letters[0]] / p[letters].sum()).item(), abs=1e-5)


# --- Loading and saving ---


def test_a_trained_model_replaces_what_the_lab_trained_as_a_whole(tmp_path, reward):
    folder = tmp_path / "outputs" / "reward_model"
    folder.parent.mkdir()
    save_model(folder, {"seed": 2}, reward[1], readme="Read me.")
    assert (folder / "README.md").read_text() == "Read me."
    save_model(folder, {"seed": 3, "model": "tiny"}, *reward)
    assert read_json(folder / SETTINGS)["settings"] == {"seed": 3, "model": "tiny"}
    assert [path.name for path in folder.parent.iterdir()] == ["reward_model"]
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "lab_settings.json"} <= names
    assert not {"README.md", "pytorch_model.bin", "training_args.bin"} & names
    loaded = models.load_reward_model(str(folder))
    scores = [scoring.score_responses(*judge, PROMPTS, TEXTS) for judge in (loaded, reward)]
    torch.testing.assert_close(*scores)


@pytest.mark.parametrize("holds", ["their file", "a file in a folder of the lab", "no folder"])
def test_what_is_not_the_labs_is_never_replaced(tmp_path, lm, holds):
    folder = tmp_path / "dpo"
    if holds == "no folder":
        theirs = folder
    else:
        if holds != "their file":
            save_model(folder, {"seed": 0}, lm[1])
        folder.mkdir(exist_ok=True)
        theirs = folder / "notes.txt"
    theirs.write_text("mine")
    for refuse in (check_ours, lambda path: save_model(path, {"seed": 1}, lm[1])):
        with pytest.raises(UserError, match=r"dpo.*; move it, or choose another folder"):
            refuse(folder)
    assert theirs.read_text() == "mine"


def test_what_was_trained_before_stays_until_the_new_one_is_complete(tmp_path, lm):
    class Broken:
        def save_pretrained(self, folder):
            Path(folder).mkdir(exist_ok=True)
            assert read_json(tmp_path / "dpo" / SETTINGS)["settings"] == {"seed": 0}
            raise OSError("disk full")

    save_model(tmp_path / "dpo", {"seed": 0}, lm[1])
    with pytest.raises(OSError, match="disk full"):
        save_model(tmp_path / "dpo", {"seed": 1}, lm[1], Broken())
    assert read_json(tmp_path / "dpo" / SETTINGS)["settings"] == {"seed": 0}


def test_models_are_found_and_folders_are_absolute(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "hub_answers", lambda: pytest.fail("asked the hub"))
    monkeypatch.chdir(tmp_path)
    assert models.find_model("tiny-gpt2") == str(TINY / "tiny-gpt2")
    (tmp_path / "my model").mkdir()
    (tmp_path / "my model/config.json").write_text("{}")
    for name in ("my model", "./my model", str(tmp_path / "my model")):
        assert models.find_model(name) == str((tmp_path / "my model").resolve())


def test_only_the_two_names_are_the_embedded_models(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert [models.is_embedded(name) for name in EMBEDDED] == [True, True]
    for name in ("./tiny-gpt2", "tiny-", "tiny-gpt2-mine", "TINY-GPT2"):
        assert not models.is_embedded(name)
    (tmp_path / "tiny-mine").mkdir()
    (tmp_path / "tiny-mine/config.json").write_text("{}")
    assert models.find_model("tiny-mine") == str((tmp_path / "tiny-mine").resolve())


@pytest.mark.parametrize(
    "name", ["./nowhere", "/nowhere", "a/b/c", "~/nowhere", "..", "", "empty", "file"]
)
def test_a_wrong_folder_is_one_line_without_asking_the_hub(tmp_path, monkeypatch, name):
    monkeypatch.setattr(models, "hub_answers", lambda: pytest.fail("asked the hub"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"no such folder|holds no model") as error:
        models.find_model(name)
    assert str(error.value).startswith(f"no model {name}: ") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name", ["distilgpt2-not-in-the-cache", "some/model", "my model", "a--b", "model@main"]
)
def test_an_unreachable_hub_is_one_line_at_once(monkeypatch, name):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # refuses
    monkeypatch.setenv("no_proxy", "*")
    started = time.time()
    with pytest.raises(UserError) as error:
        models.find_model(name)
    assert time.time() - started < 5
    assert str(error.value).startswith(f"no model {name}: ") and "\n" not in str(error.value)


def test_a_hub_that_is_silent_is_given_up_in_time(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("no_proxy", "*")
        started = time.time()
        assert not models.hub_answers(seconds=0.3)
        assert time.time() - started < 2


def test_a_model_in_the_cache_is_loaded_without_the_hub(tmp_path, monkeypatch):
    from huggingface_hub import constants

    cached = tmp_path / "models--some--model"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs/main").write_text("a" * 40)
    shutil.copytree(TINY / "tiny-gpt2", cached / "snapshots" / ("a" * 40))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("asked the hub"))
    model, _ = models.load_causal_lm("some/model")
    assert model.name_or_path == "some/model"
    assert models.fingerprint(model) == models.fingerprint("tiny-gpt2")
    (cached / "snapshots" / ("a" * 40) / "model.safetensors").unlink()  # half of a download
    monkeypatch.setattr(models, "hub_answers", lambda: False)
    with pytest.raises(UserError, match="the model hub cannot be reached"):
        models.find_model("some/model")


def test_a_hub_that_refuses_has_answered(monkeypatch):
    class Refuses(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_error(405)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Refuses) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("no_proxy", "*")
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        assert models.hub_answers()
        server.shutdown()
    monkeypatch.setenv("HF_ENDPOINT", "no address")
    assert not models.hub_answers()


def copy_of(name: str, folder: Path, **changes: bytes | None) -> str:
    """A copy of an embedded model with other files; None leaves one out."""
    for path in (TINY / name).iterdir():
        content = changes.get(path.stem, path.read_bytes())
        if content is not None:
            (folder / path.name).write_bytes(content)
    return str(folder)


BROKEN = {
    "weights cut off": {"model": b"\x08" + bytes(20)},
    "no weights": {"model": None},
    "no config": {"config": b"{"},
    "unknown architecture": {"config": b'{"model_type": "nothing"}'},
    "other shapes": {"config": b'{"model_type": "gpt2", "n_embd": 64, "n_head": 4}'},
    "no tokenizer": {"tokenizer": None, "tokenizer_config": None},
    "broken tokenizer": {"tokenizer": b"{}"},
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_model_is_named(tmp_path, fault):
    quiet_libraries()
    with pytest.raises(UserError, match=r"cannot (load|use) the model"):
        models.load_causal_lm(copy_of("tiny-gpt2", tmp_path, **BROKEN[fault]))


def test_pickled_weights_are_not_read(tmp_path):
    quiet_libraries()
    folder = copy_of("tiny-gpt2", tmp_path, model=None)
    torch.save(models.load_causal_lm("tiny-gpt2")[0].state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="safetensors"):
        models.load_causal_lm(folder)


def test_code_that_comes_with_a_model_is_not_run(tmp_path, monkeypatch):
    quiet_libraries()
    code = f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n"
    (tmp_path / "theirs.py").write_text(
        code + "from transformers import GPT2Config as C, GPT2LMHeadModel as M\n"
    )
    config = json.loads((TINY / "tiny-gpt2/config.json").read_text()) | {"model_type": "theirs"}
    config["auto_map"] = {"AutoConfig": "theirs.C", "AutoModelForCausalLM": "theirs.M"}
    folder, asked = copy_of("tiny-gpt2", tmp_path, config=json.dumps(config).encode()), []
    monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or "y")
    with pytest.raises(UserError):
        models.load_causal_lm(folder)
    assert not asked and not (tmp_path / "ran").exists()


def test_no_source_runs_foreign_code_or_reads_pickles():
    folders = ("05-preference-tuning", "common", "benchmarks")
    sources = [path for folder in folders for path in REPOSITORY.glob(f"{folder}/**/*.py")]
    assert len(sources) > 8
    for path in sources:
        text = path.read_text(encoding="utf-8")
        unsafe = r"trust_remote_code(?!(=|\": )False)|torch\.load\("
        unsafe += r"|\bpickle\b|\bjoblib\b|\beval\(\"|\bexec\("
        found = re.search(unsafe, text)
        assert not found, (path, found)


# --- The embedded models ---


def test_weights_are_those_of_the_recipe():
    stored = (TINY / "recipe_hash.txt").read_text(encoding="utf-8").strip()
    assert stored == recipe_hash(), "the recipe has changed: run python -m common.tiny"


def test_the_sft_model_answers_in_every_style_and_is_not_too_good(lm):
    chosen = QUESTIONS[:: len(QUESTIONS) // 100][:100]
    prompts = [question.prompt for question in chosen]

    def read(**sampling):
        rows = zip(prompts, sample(*lm, prompts, **sampling), strict=True)
        return [read_response(prompt, each.text) for prompt, row in rows for each in row]

    greedy, drawn = read(temperature=0), read(n=8, seed=9)
    assert np.mean([reading.on_topic for reading in greedy]) >= 0.95
    on_topic = [reading for reading in drawn if reading.on_topic]
    assert np.mean([reading.correct for reading in on_topic]) >= 0.75
    assert 0.25 <= np.mean([reading.good for reading in drawn]) <= 0.45
    for style in STYLES:  # sycophantic needs a user who is wrong
        assert 0.04 <= np.mean([reading.style == style for reading in drawn]) <= 0.42, style


def test_as_a_judge_the_sft_model_says_a_or_b_and_is_mostly_right(lm):
    rng, shown, better = random.Random("judge"), [], []
    for question in QUESTIONS[::2]:
        texts = [write_response(question, draw_style(question, rng), rng) for _ in "AB"]
        first, second = (gold_utility(question.prompt, text) for text in texts)
        if abs(first - second) >= 1:  # clear pairs, each shown in both orders
            shown.append((question.prompt, *texts))
            better.append(first > second)
    exchanged = [judge_prompt(prompt, b, a) for prompt, a, b in shown]
    forward, mass = judge_first_better(*lm, [judge_prompt(*row) for row in shown])
    backward, _ = judge_first_better(*lm, exchanged)
    verdicts = (forward > backward).tolist()
    assert len(shown) > 60 and (mass > 0.5).float().mean() >= 0.97
    assert np.mean([v == b for v, b in zip(verdicts, better, strict=True)]) >= 0.72


def test_the_encoder_restores_masked_answers():
    """A reward model finds right and wrong in an encoder that knows the facts, and only there."""
    tokenizer = AutoTokenizer.from_pretrained(TINY / "tiny-distilbert")
    encoder = AutoModelForMaskedLM.from_pretrained(TINY / "tiny-distilbert", dtype=torch.float32)
    rng, hits = random.Random("encoder"), []
    for row in encoder_texts(300):
        ids, position, answer, _ = encode_question(tokenizer, *row, 1.0, rng)
        if answer >= 0:
            with torch.inference_mode():
                logits = encoder(torch.tensor([ids])).logits[0, position]
            hits.append(logits.argmax().item() == answer)
    assert len(hits) > 200 and np.mean(hits) >= 0.95


def test_files_are_small_and_safe():
    files = [path for path in TINY.glob("tiny-*/**/*") if path.is_file()]
    assert [path.parent.name for path in WEIGHTS] == ["tiny-distilbert", "tiny-gpt2"]
    assert {path.suffix for path in files} == {".json", ".jinja", ".safetensors"}
    assert sum(path.stat().st_size for path in files) <= 8e6
    for path in WEIGHTS:
        with safe_open(path, "pt") as weights:
            tensors = [weights.get_tensor(name) for name in weights.keys()]  # noqa: SIM118 (no mapping)
        assert {tensor.dtype for tensor in tensors} == {torch.float16}
        assert all(tensor.isfinite().all() for tensor in tensors)


def test_special_tokens_are_distinct(lm, reward):
    for model, tokenizer in (lm, reward):
        names = ("pad", "bos", "eos", "cls", "sep", "mask")
        ids = [getattr(tokenizer, f"{name}_token_id") for name in names]
        assert None not in ids and len(set(ids)) == 6
        assert model.config.pad_token_id == tokenizer.pad_token_id and model.dtype == torch.float32
        assert len(tokenizer) == model.get_input_embeddings().num_embeddings
        text = "Ünïcode, 7 % 'quotes'\nand \"more\"."
        assert (
            tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]).strip() == text
        )
    assert lm[0].config.eos_token_id == lm[1].eos_token_id


def test_a_bare_encoder_is_no_reward_model():
    with pytest.raises(UserError, match=r"its head .* would be random; train it with reward_model"):
        models.load_reward_model("tiny-distilbert", trained=True)
