"""Models of many families and templates: small ones with random weights, made here.

The sampler is compared with `generate`, prompts, responses and losses with TRL's.
"""

import json
import random
from pathlib import Path

import pytest
import torch
import transformers
from dpo_trainer import dpo_loss, lora_config
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from common import models, scoring
from common.basics import UserError
from common.models import (
    find_model,
    fingerprint,
    load_adapter,
    load_causal_lm,
    load_reward_model,
    quiet_libraries,
)
from common.prompts import (
    encode_answers,
    encode_prompt,
    encode_response,
    show_template,
    use_template,
)
from common.sampling import end_tokens, keeps_keys_and_values, sample
from common.scoring import pair_logps, response_logps
from common.training import as_dataset

PAIRS = [
    {
        "prompt": "How do I keep basil fresh?",
        "chosen": "Stand it in water.",
        "rejected": "Freeze it, and hope for the best.",
    },
    {"prompt": "Why is bread flat?", "chosen": "It rose too long.", "rejected": "It is bread."},
    {"prompt": "Is it 4?", "chosen": "4.", "rejected": "No, not at all."},
]
PROMPTS = [row["prompt"] for row in PAIRS]
SPECIAL = ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<think>", "</think>", "<|end|>")


def make_tokenizer(template: str | dict | None = None, special=SPECIAL, eos="</s>", **names):
    """A byte-level BPE that begins texts with <s>, as Llama's does."""
    backend = Tokenizer(BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=400,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [text for row in PAIRS for text in row.values()]
    texts += [f" {word} It is four." for text in texts for word in text.split()]  # blanks melt
    backend.train_from_iterator(texts, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B:1", special_tokens=[("<s>", backend.token_to_id("<s>"))]
    )
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": eos, **names}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **names)
    tokenizer.chat_template = template
    return tokenizer


SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,  # answers that differ
}


def make_model(family: str = "Llama", tokenizer=None, **config):
    """A causal language model of a family in the sizes above."""
    tokenizer = tokenizer or make_tokenizer()
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos")}
    sizes = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.eos_token_id, **SIZES, **ids}
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**{**sizes, **config})
    return getattr(transformers, f"{family}ForCausalLM")(config).eval()


def save_model(folder: Path, model=None, tokenizer=None, **config: object) -> str:
    """A folder with a model and a tokenizer; `config` are changes to its config.json."""
    tokenizer = tokenizer or make_tokenizer()
    model = model or make_model(tokenizer=tokenizer)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if config:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | config))
    return str(folder)


@pytest.fixture(scope="module", autouse=True)
def quiet():
    quiet_libraries()


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> str:
    return save_model(tmp_path_factory.mktemp("models") / "llama")


# --- Sampling in every kind of cache, log-probabilities, LoRA ---

EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8}
FAMILIES = {
    "Llama": {},
    "Mistral": {"sliding_window": 8},
    "Phi3": {"pad_token_id": 0},
    "Qwen3Moe": EXPERTS,
    "Mixtral": {"num_local_experts": 2},
    "Mamba": {"state_size": 4, "tie_word_embeddings": False},
    "Lfm2": {"layer_types": ["conv", "full_attention"]},
}
KEEP_A_STATE = ("Mamba", "Lfm2")
NOT_ADAPTED = ("Mamba", "Qwen3Moe", "Mixtral")  # by PEFT's LoRA on all matrices, with dropout


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    """(its name, a model, a tokenizer)."""
    tokenizer = make_tokenizer()
    tokenizer.pad_token = "</s>"
    use_template(tokenizer)
    return request.param, make_model(request.param, tokenizer, **FAMILIES[request.param]), tokenizer


def test_greedy_sampling_is_generate(family):
    name, model, tokenizer = family
    assert keeps_keys_and_values(model) == (name not in KEEP_A_STATE)
    model.generation_config.repetition_penalty = 1.5  # no part of what the model says
    sampled = sample(model, tokenizer, PROMPTS, temperature=0, max_new_tokens=12)
    model.generation_config.repetition_penalty = 1.0
    assert len({token for row in sampled for token in row[0].token_ids}) > 3
    for prompt, (response,) in zip(PROMPTS, sampled, strict=True):
        ids = torch.tensor([encode_prompt(tokenizer, prompt)])
        out = model.generate(input_ids=ids, do_sample=False, max_new_tokens=12)
        assert response.token_ids == out[0, ids.shape[1] :].tolist()


def test_a_model_that_keeps_nothing_of_a_text_is_sampled_too():
    """GPT-1 reads the whole text again for every token."""
    tokenizer = make_tokenizer()
    use_template(tokenizer)
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.2}
    config = transformers.OpenAIGPTConfig(vocab_size=len(tokenizer), **sizes)
    torch.manual_seed(0)
    model = transformers.OpenAIGPTLMHeadModel(config).eval()
    assert not keeps_keys_and_values(model)
    sampled = sample(model, tokenizer, PROMPTS, n=2, max_new_tokens=4)
    assert [len(row) for row in sampled] == [2] * len(PROMPTS)
    assert all(1 <= len(response.token_ids) <= 4 for row in sampled for response in row)


def test_random_numbers_belong_to_the_place_of_a_prompt(family):
    _, model, tokenizer = family
    drawn = sample(model, tokenizer, PROMPTS, n=3, seed=4, max_new_tokens=8)
    assert drawn == sample(model, tokenizer, PROMPTS, n=3, seed=4, max_new_tokens=8, batch_size=3)
    assert drawn != sample(model, tokenizer, PROMPTS, n=3, seed=5, max_new_tokens=8)
    assert len({tuple(response.token_ids) for response in drawn[0]}) == 3


def test_losses_and_log_probabilities_are_trls(family, tmp_path):
    from trl import DPOConfig, DPOTrainer

    name, model, tokenizer = family
    if name in NOT_ADAPTED:
        with pytest.raises(UserError, match="PEFT cannot adapt a model of the type"):
            lora_config(model)
        return
    options = {"use_cpu": True, "bf16": False, "report_to": "none", "router_aux_loss_coef": 0.0}
    trainer = DPOTrainer(
        model=make_model(name, tokenizer, **FAMILIES[name]),
        args=DPOConfig(output_dir=tmp_path, beta=0.3, **options),
        train_dataset=as_dataset(PAIRS),
        processing_class=tokenizer,
        peft_config=lora_config(model),
    )
    policy = trainer.model.eval()
    for weight_name, weight in policy.named_parameters():
        if "lora_B" in weight_name:  # starts at zero
            torch.nn.init.normal_(weight.data, std=0.1)
    logps, ref_logps = pair_logps(policy, tokenizer, PAIRS)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(3)])
    loss = trainer.compute_loss(policy, trainer._prepare_inputs(batch)).item()
    ours = dpo_loss(*logps, *ref_logps, 0.3).mean().item()
    assert ours == pytest.approx(loss, abs=1e-5) and abs(loss - 0.6931) > 1e-3
    mean = trainer._metrics["eval"]["logps/chosen"][-1]
    assert logps[0].mean().item() == pytest.approx(mean, rel=1e-5)


# --- Templates ---

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TURNS = (
    "{{% for m in messages %}}{{% if m['role'] == 'user' %}}<s>U: {{{{ m['content'] }}}}\n"
    "{{% else %}}{answer}{{% endif %}}{{% endfor %}}"
    "{{% if add_generation_prompt %}}{prompt}{{% endif %}}"
)
OPENS_THINKING = TURNS.format(
    answer="A:{{ m['content'].split('</think>')[-1] }}</s>", prompt="A:<think>\n"
)
TEMPLATES = {  # the template, how the prompt of "Why?" ends, and an answer of "So."
    "chatml": (CHATML, "<|im_start|>assistant\n", "So.<|im_end|>\n"),
    "opens a think block": (OPENS_THINKING, "Why?\nA:", "So.</s>"),
    "in text, not a token": (OPENS_THINKING.replace("think>", "thought>"), "Why?\nA:", "So.</s>"),
    "a blank that melts into the answer": (
        TURNS.format(answer="A: {{ m['content'] }}</s>", prompt="A: "),
        "Why?\nA:",
        " So.</s>",
    ),
    "writes an empty think block": (
        TURNS.format(answer="A:<think></think>{{ m['content'] }}</s>", prompt="A:"),
        "Why?\nA:",
        "<think></think>So.</s>",
    ),
    "may think": (
        TURNS.format(
            answer="A:<think></think>{{ m['content'] }}</s>",
            prompt="A:{% if not enable_thinking %}<think></think>{% endif %}",
        ).replace("not enable", "enable_thinking is defined and not enable"),
        "Why?\nA:<think></think>",
        "So.</s>",
    ),
    "refuses an empty message": (
        "{% for m in messages %}{% if not m['content'] %}{{ raise_exception('empty') }}{% endif %}"
        "{% endfor %}" + CHATML,
        "<|im_start|>assistant\n",
        "So.<|im_end|>\n",
    ),
    "one of several": (
        {"default": CHATML, "tool_use": "tools"},
        "<|im_start|>assistant\n",
        "So.<|im_end|>\n",
    ),
    "none": (None, "Question: Why?\nAnswer:", " So.</s>"),
}


@pytest.mark.parametrize("kind", TEMPLATES)
def test_prompts_and_responses_are_those_that_trl_trains_on(kind, tmp_path):
    from trl import DPOConfig, DPOTrainer

    template, end, answer = TEMPLATES[kind]
    folder = save_model(tmp_path / "model", tokenizer=make_tokenizer(template))
    model, tokenizer = load_causal_lm(folder)
    rows = [*PAIRS, {"prompt": "Why?", "chosen": "So.", "rejected": "Because."}]
    trainer = DPOTrainer(
        model=model,
        args=DPOConfig(output_dir=tmp_path, use_cpu=True, bf16=False, report_to="none"),
        train_dataset=as_dataset(rows),
        processing_class=tokenizer,
    )
    for row, trained_on in zip(rows, trainer.train_dataset, strict=True):
        encoded = encode_answers(tokenizer, row["prompt"], [row["chosen"], row["rejected"]])
        assert encoded == [trained_on[f"{part}_ids"] for part in ("prompt", "chosen", "rejected")]
        assert encoded[0] == encode_prompt(tokenizer, row["prompt"])  # what samples go on from
        assert encoded[1] == encode_response(tokenizer, row["chosen"])
    prompt, chosen, _ = encoded
    nothing = encode_response(tokenizer, "")
    assert tokenizer.decode(nothing).strip() == answer.split("So.")[1].strip()
    assert tokenizer.decode(prompt).endswith(end) and tokenizer.decode(chosen) == answer
    tokenizer.save_pretrained(tmp_path / "saved")
    again = models.load_tokenizer(save_model(tmp_path / "model", model, tokenizer))
    assert again.chat_template == tokenizer.chat_template  # cut once


def test_a_template_that_may_think_still_can(tmp_path):
    template = TEMPLATES["may think"][0]
    tokenizer = make_tokenizer(template)
    use_template(tokenizer)
    turns = [{"role": "user", "content": "Why?"}]
    options = {"tokenize": False, "add_generation_prompt": True}
    assert tokenizer.apply_chat_template(turns, **options).endswith("A:<think></think>")
    thinks = tokenizer.apply_chat_template(turns, **options, enable_thinking=True)
    assert thinks.endswith("Why?\nA:")


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ messages[0]['content'][0]['text'] }}", "does not write a question and its answer"),
        ("{{ messages[0]['content'] }}", "does not write a question and its answer"),
        ("{{ raise_exception('Only for tools') }}", "does not take .* Only for tools"),
        ("{% if", "does not take a question and an answer"),
    ],
)
def test_a_template_that_does_not_show_the_text_is_one_line(template, reason, tmp_path):
    folder = save_model(tmp_path / "model", tokenizer=make_tokenizer(template))
    for load in (load_causal_lm, models.load_tokenizer):
        with pytest.raises(UserError, match=f"cannot use the model .*model: its chat .* {reason}"):
            load(folder)


# --- The end of a turn ---


def test_a_turn_ends_at_every_token_that_ends_it(tmp_path):
    tokenizer = make_tokenizer(CHATML)
    model = make_model(tokenizer=tokenizer)
    eos, end, turn = (tokenizer.convert_tokens_to_ids(t) for t in ("</s>", "<|end|>", "<|im_end|>"))
    folder = save_model(tmp_path / "model", model, tokenizer)
    assert end_tokens(*load_causal_lm(folder)) == sorted([eos, turn])  # the template's own
    model.generation_config.eos_token_id = [eos, end]
    model, tokenizer = load_causal_lm(save_model(tmp_path / "model", model, tokenizer))
    assert end_tokens(model, tokenizer) == sorted([eos, end, turn])
    first = tokenizer("B", add_special_tokens=False)["input_ids"][0]
    for token in (eos, end, turn):
        torch.nn.init.zeros_(model.lm_head.weight)
        bias = torch.zeros(len(tokenizer))
        bias[[first, token]] = torch.tensor([40.0, 41.0])
        model.lm_head.bias = torch.nn.Parameter(bias)
        (response,) = sample(model, tokenizer, ["Why?"], temperature=0, max_new_tokens=9)[0]
        assert response == ("", [token], True)
    bias[token] = 0
    (response,) = sample(model, tokenizer, ["Why?"], temperature=0, max_new_tokens=9)[0]
    assert response == ("B" * 9, [first] * 9, False)


# --- Checkpoints that cannot be used ---


def bert(architecture: str, **config) -> dict:
    return {"architectures": [architecture], "model_type": "bert", "auto_map": None, **config}


def no_safetensors(folder: Path, **files: bytes) -> None:
    (folder / "model.safetensors").unlink()
    for name, content in files.items():
        (folder / name.replace("_dot_", ".")).write_bytes(content)


REFUSED = {  # changes to config.json, the loader, and what the line says
    "encoder-decoder": (
        {"architectures": ["BartForConditionalGeneration"], "is_encoder_decoder": True},
        "encoder-decoder",
    ),
    "encoder": (
        bert("BertForMaskedLM"),
        "BertForMaskedLM is not a language model.*--reward-backbone",
    ),
    "no writer": (
        {"model_type": "vit"},
        "is not a language model: it does not write; give a causal",
    ),
    "headless": ({"architectures": ["LlamaModel"]}, "LlamaModel is not a language model"),
    "quantised": (
        {"quantization_config": {"quant_method": "gptq", "bits": 4}},
        r"quantised \(gptq\).*give the model that it was made from",
    ),
    "custom code": (
        {"model_type": "my_own", "auto_map": {"AutoConfig": "my.C"}},
        "no models of the type my_own, and code that comes with a model is never run",
    ),
    "unknown": ({"model_type": "from_tomorrow"}, "no models of the type from_tomorrow"),
    "no type": ({"model_type": None}, "no models of the type None"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_checkpoint_of_another_kind_is_one_line(kind, tmp_path):
    config, reason = REFUSED[kind]
    folder = save_model(tmp_path / "model", **config)
    with pytest.raises(UserError, match=reason) as error:
        load_causal_lm(folder)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400
    assert str(error.value).startswith("cannot ") and "trust_remote" not in str(error.value)


FILES = {
    "gguf": (
        {"m_dot_gguf": b"GGUF"},
        "GGUF file cannot be trained.*the model that it was converted from",
    ),
    "pickled": ({"pytorch_model_dot_bin": b""}, "pickled.*safetensors.*LlamaForCausalLM as M"),
    "none": ({}, "no file named model.safetensors"),
}


@pytest.mark.parametrize("kind", FILES)
def test_weights_that_are_not_read_are_one_line(kind, tmp_path):
    files, reason = FILES[kind]
    folder = tmp_path / "model"
    save_model(folder)
    no_safetensors(folder, **files)
    for load in (load_causal_lm, load_reward_model):
        with pytest.raises(UserError, match=reason):
            load(str(folder))


def test_a_folder_of_gguf_files_alone_is_said_to_be_one(tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    with pytest.raises(UserError, match="GGUF file cannot be trained"):
        find_model(str(tmp_path))


def test_weights_that_are_missing_would_be_random(tmp_path):
    body = make_model().model
    folder = save_model(tmp_path / "model", body, architectures=None)
    with pytest.raises(UserError, match=r"1 of its weights .* would be random \(lm_head.weight\)"):
        load_causal_lm(folder)
    assert load_reward_model(folder)[0].num_labels == 1


@pytest.mark.parametrize("head", ["ForSequenceClassification", "ForTokenClassification"])
def test_a_classifier_is_no_backbone(head, tmp_path):
    tokenizer = make_tokenizer()
    sizes = {**SIZES, "vocab_size": len(tokenizer)}
    config = transformers.BertConfig(**sizes, num_labels=2)
    model = getattr(transformers, f"Bert{head}")(config)
    with pytest.raises(UserError, match="classifier with 2 labels, and a reward is one number"):
        load_reward_model(save_model(tmp_path / "model", model, tokenizer))


def test_a_trained_reward_model_is_a_backbone(tmp_path):
    tokenizer = make_tokenizer()
    config = transformers.BertConfig(**SIZES, vocab_size=len(tokenizer), num_labels=1)
    model = transformers.BertForSequenceClassification(config)
    loaded, _ = load_reward_model(save_model(tmp_path / "model", model, tokenizer))
    torch.testing.assert_close(loaded.classifier.weight, model.classifier.weight)


def test_a_state_space_model_is_no_reward_model(tmp_path):
    model = make_model("Mamba", **FAMILIES["Mamba"])
    with pytest.raises(UserError, match="no reward model of the type mamba"):
        load_reward_model(save_model(tmp_path / "model", model))


def test_tokens_beyond_the_embedding_are_named(tmp_path):
    model = make_model()
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    size = len(tokenizer)
    with pytest.raises(UserError, match=rf"1 more \('\[PAD\]'\); .*embeddings\({size}\)"):
        load_causal_lm(save_model(tmp_path / "model", model, tokenizer))
    model.resize_token_embeddings(size)
    load_causal_lm(save_model(tmp_path / "model", model, tokenizer))


@pytest.mark.parametrize(("kind", "positions"), [("Roberta", 62), ("Bert", 64)])
def test_positions_may_count_from_the_padding(kind, positions, tmp_path):
    tokenizer = make_tokenizer()
    sizes = {**SIZES, "vocab_size": len(tokenizer), "max_position_embeddings": 64}
    config = getattr(transformers, f"{kind}Config")(**sizes, pad_token_id=1)
    model = getattr(transformers, f"{kind}ForMaskedLM")(config)
    loaded = load_reward_model(save_model(tmp_path / "model", model, tokenizer))
    assert loaded[1].model_max_length == positions
    rewards = scoring.score_responses(*loaded, ["Why?"], ["word " * 200])
    assert rewards.isfinite().all()


# --- Adapters ---


def save_lora(folder: Path, base: str, seed: int = 0) -> str:
    """An adapter with random weights, as PEFT saves it, with its tokenizer."""
    model, tokenizer = load_causal_lm(base)
    torch.manual_seed(seed)
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, init_lora_weights=False))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def logits(model) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.tensor([[1, 20, 30, 40]])).logits


def test_an_adapter_as_model_is_merged_into_its_base(llama, tmp_path):
    from peft import PeftModel

    adapter = save_lora(tmp_path / "sft", llama)
    expected = logits(PeftModel.from_pretrained(load_causal_lm(llama)[0], adapter))
    model, tokenizer = load_causal_lm(adapter)
    assert not hasattr(model, "peft_config") and find_model(adapter) == adapter
    torch.testing.assert_close(logits(model), expected)
    assert (expected - logits(load_causal_lm(llama)[0])).abs().max() > 0.01
    assert tokenizer.chat_template == load_causal_lm(llama)[1].chat_template
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        Path(adapter, name).unlink(missing_ok=True)
    assert load_causal_lm(adapter)[1].get_vocab() == tokenizer.get_vocab()  # its base's
    body = load_reward_model(adapter)[0].model.layers[0].self_attn.q_proj.weight
    torch.testing.assert_close(body, model.model.layers[0].self_attn.q_proj.weight)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"base_model_name_or_path": "/nowhere"}, "made for /nowhere, which is not there"),
        ({"base_model_name_or_path": None}, "names no base model"),
        ({"r": 5}, "size mismatch"),
    ],
)
def test_an_adapter_that_cannot_be_merged_is_one_line(change, reason, llama, tmp_path):
    adapter = save_lora(tmp_path / "sft", llama)
    file = Path(adapter, "adapter_config.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(UserError, match=reason) as error:
        load_causal_lm(adapter)
    assert "\n" not in str(error.value) and "cannot use the adapter" in str(error.value)


def test_pickled_adapters_are_not_read(llama, tmp_path):
    adapter = Path(save_lora(tmp_path / "sft", llama))
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(UserError, match=r"holds no adapter_model.safetensors"):
        load_causal_lm(str(adapter))


def test_an_adapter_of_another_base_is_refused(llama, tmp_path):
    adapter = Path(save_lora(tmp_path / "adapter", llama))
    copy = save_model(tmp_path / "copy", load_causal_lm(llama)[0], load_causal_lm(llama)[1])
    for name in ("config.json", "generation_config.json"):
        Path(copy, name).write_bytes(Path(llama, name).read_bytes())
    load_adapter(load_causal_lm(llama)[0], adapter)
    other = make_model()
    other.lm_head.weight.data += 1
    other = save_model(tmp_path / "other", other)
    with pytest.raises(UserError, match=f"was made for {llama}, not for {other}"):
        load_adapter(load_causal_lm(other)[0], adapter)


# --- The same weights ---


def test_a_fingerprint_is_that_of_the_files(llama, tmp_path):
    model, tokenizer = load_causal_lm(llama)
    folder = save_model(tmp_path / "model", model, tokenizer)
    first = fingerprint(folder)
    (tmp_path / "model" / "README.md").write_text("Mine.")
    save_model(tmp_path / "elsewhere", model, tokenizer)
    assert first == fingerprint(folder) == fingerprint(str(tmp_path / "elsewhere"))
    model.lm_head.weight.data[3, 3] += 1
    changed = fingerprint(save_model(tmp_path / "model", model, tokenizer))
    adapter = save_lora(tmp_path / "adapter", folder)
    before = fingerprint(adapter)
    model.lm_head.weight.data[3, 3] -= 1
    save_model(tmp_path / "model", model, tokenizer)
    fingerprints = {first, changed, before, fingerprint(adapter)}  # of its base, too
    assert len(fingerprints) == 4 and fingerprint("no such model") == "no such model"
    assert fingerprint("tiny-gpt2") != fingerprint("tiny-distilbert")


def test_log_probabilities_take_token_ids_for_prompts():
    model, tokenizer = load_causal_lm("tiny-gpt2")
    rng = random.Random(0)
    responses = [[rng.randrange(20, 400) for _ in range(5)] for _ in PROMPTS]
    ids = [encode_prompt(tokenizer, prompt) for prompt in PROMPTS]
    by_text = response_logps(model, tokenizer, PROMPTS, responses)
    assert torch.equal(by_text, response_logps(model, tokenizer, ids, responses))
    assert show_template(tokenizer)[0].startswith("Question: What is two")
