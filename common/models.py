"""Loading models, sampling answers and scoring them with a reward model.

A causal language model sees the text `Question: {prompt}\\nAnswer: {response}`, or its own chat template where it
has one. A reward model sees the pair (prompt, response). All functions work on batches sorted by length.
"""

import contextlib
import copy
import errno
import json
import os
import tempfile
import threading
import urllib.request
import uuid
from collections.abc import Iterable
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from common.cli import UserError, is_main_process, show_progress

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

EMBEDDED = Path(__file__).parent / "tiny"

# --- Loading ---


def load_causal_lm(name: str, device: str = "cpu") -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    """A causal LM in float32 and its tokenizer, from a folder or the hub. Raises UserError where there is none."""
    from transformers import AutoModelForCausalLM

    heads = ("CausalLM", "LMHeadModel", "ConditionalGeneration")  # any other would be given a random one
    model, tokenizer = _load(AutoModelForCausalLM, name, device, heads)
    if tokenizer.eos_token is None:
        raise UserError(
            f"cannot use the model {name}: its tokenizer has no eos token, so no answer would end; set one and save it"
        )
    return model, tokenizer


def load_reward_model(name: str, device: str = "cpu") -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    """A sequence classifier with one output (a fresh head on a bare backbone) and its tokenizer."""
    from transformers import AutoModelForSequenceClassification

    model, tokenizer = _load(AutoModelForSequenceClassification, name, device, ("",), num_labels=1)
    model.config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


def load_tokenizer(name: str) -> "PreTrainedTokenizerBase":
    """The tokenizer of a model; it pads with what there is where it has no padding token."""
    from transformers import AutoConfig, AutoTokenizer

    path = find_model(name)
    if Path(path).is_dir() and not [*Path(path).glob("tokenizer*"), *Path(path).glob("vocab*")]:
        raise UserError(f"cannot load the model {name}: the folder holds no tokenizer")
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        positions = getattr(AutoConfig.from_pretrained(path, trust_remote_code=False), "max_position_embeddings", None)
    except Exception as error:  # the libraries raise many kinds for a broken model
        raise UserError(f"cannot load the model {name}: {error}") from None
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.sep_token
    if tokenizer.pad_token is None:
        raise UserError(
            f"cannot use the model {name}: its tokenizer has no token to pad with and none that ends a text"
        )
    tokenizer.model_max_length = min(tokenizer.model_max_length, positions or tokenizer.model_max_length)
    return tokenizer


def _load(auto_class, name: str, device: str, heads: tuple[str, ...], **options):
    import torch
    from transformers import AutoConfig

    tokenizer = load_tokenizer(name)
    kind = (AutoConfig.from_pretrained(find_model(name), trust_remote_code=False).architectures or heads)[0]
    if not kind.endswith(heads):
        raise UserError(f"cannot use the model {name}: it is a {kind}, not a language model")
    how = {"dtype": torch.float32, "use_safetensors": True, "trust_remote_code": False, **options}
    try:
        return auto_class.from_pretrained(find_model(name), **how).to(device).eval(), tokenizer
    except Exception as error:  # the libraries raise many kinds for a broken model
        raise UserError(f"cannot load the model {name}: {error}") from None


def find_model(name: str) -> str:
    """The folder of an embedded or local model, or the hub id if it is cached or the hub answers within 4 seconds.

    Raises UserError otherwise: the library itself would retry for most of a minute.
    """
    from huggingface_hub import try_to_load_from_cache

    folder = EMBEDDED / name if (EMBEDDED / name / "config.json").is_file() else Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UserError(f"no model {name}: the folder holds no model (config.json is missing)")
        return str(folder)
    if folder.exists() or folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise UserError(f"no model {name}: there is no such folder")
    try:
        cached = try_to_load_from_cache(name, "config.json")
    except ValueError:
        raise UserError(f"no model {name}: no such folder, and not a name that a model hub can have") from None
    if isinstance(cached, str):
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    elif not hub_answers():
        raise UserError(
            f"no model {name}: no such folder, and the model hub cannot be reached; "
            "give the folder of a downloaded model, or leave --model out to use the embedded one"
        )
    return name


def hub_answers(seconds: float = 4.0) -> bool:
    """Whether the hub answers at all, decided within `seconds` (name resolution included)."""
    answers = []

    def ask() -> None:
        request = urllib.request.Request(os.environ.get("HF_ENDPOINT", "https://huggingface.co"), method="HEAD")
        with contextlib.suppress(OSError):
            urllib.request.urlopen(request, timeout=seconds)
            answers.append(True)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return bool(answers)


# --- Work for several processes ---


def my_batches(order: list[int], size: int, what: str) -> Iterable[list[int]]:
    """Batches of indices for this process: every K-th of `order`, so that all of K processes get as much to do.

    Work that takes a while shows a progress bar that says `what` is done.
    """
    from accelerate import PartialState

    state = PartialState()
    mine = order[state.process_index :: state.num_processes]
    return show_progress([mine[start : start + size] for start in range(0, len(mine), size)], what)


def collect(found: dict[int, Any]) -> list:
    """What this and all other processes found, by index."""
    from accelerate.utils import gather_object

    everything = {index: value for part in gather_object([found]) for index, value in part.items()}
    return [everything[index] for index in sorted(everything)]


def spare_copy(model: "PreTrainedModel") -> "PreTrainedModel":
    """Where FSDP will cut up the model that it trains, a copy that stays whole (see `copy_weights`); else the model."""
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() != "true":
        return model
    spare = copy.deepcopy(model)
    for module in spare.modules():
        module.__dict__.pop("forward", None)  # the one that TRL puts there would call the original
    return spare


def copy_weights(model: "PreTrainedModel", spare: "PreTrainedModel") -> "PreTrainedModel":
    """The spare copy with the model's present weights; every process must call it, since each holds a part of them."""
    if spare is not model:
        state = model.state_dict().items()
        spare.load_state_dict({name: x.full_tensor() if hasattr(x, "full_tensor") else x for name, x in state})
    return spare


# --- Text in and out of a causal LM ---


class Response(NamedTuple):
    """A sampled response: its text, and its tokens with the EOS where the model ended it."""

    text: str
    token_ids: list[int]


def format_prompt(tokenizer: "PreTrainedTokenizerBase", prompt: str) -> str:
    """The text that a causal LM continues: its chat template where it has one, else a plain question and answer."""
    if tokenizer.chat_template:
        turns = [{"role": "user", "content": prompt}]
        return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return f"Question: {prompt}\nAnswer:"


def format_pair(tokenizer: "PreTrainedTokenizerBase", row: dict) -> dict:
    """A row of prompt, chosen, rejected as TRL wants it: messages for a chat model, else plain text.

    A plain completion starts with a space, so that the prompt ends on a token boundary. TRL appends the EOS.
    """
    if tokenizer.chat_template:
        roles = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
        return {key: [{"role": role, "content": row[key]}] for key, role in roles.items()}
    prompt = format_prompt(tokenizer, row["prompt"])
    return {"prompt": prompt, "chosen": " " + row["chosen"], "rejected": " " + row["rejected"]}


def encode_prompt(tokenizer: "PreTrainedTokenizerBase", prompt: str) -> list[int]:
    """Token ids of the formatted prompt. A chat template writes its own special tokens."""
    return tokenizer(format_prompt(tokenizer, prompt), add_special_tokens=not tokenizer.chat_template)["input_ids"]


def encode_response(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """Token ids of a response as `format_pair` and TRL have them: with the EOS, and what a template adds to it."""
    if not tokenizer.chat_template:
        return tokenizer(" " + text, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    answer = {"role": "assistant", "content": text}
    whole = tokenizer.apply_chat_template([{"role": "user", "content": ""}, answer], tokenize=False)
    shared = takewhile(lambda two: two[0] == two[1], zip(whole, format_prompt(tokenizer, ""), strict=False))
    return tokenizer(whole[len(list(shared)) :], add_special_tokens=False)["input_ids"]


# --- Sampling ---


def sample(
    model, tokenizer, prompts: list[str], n=1, max_new_tokens=48, temperature=1.0, seed=0, batch_size=512
) -> list[list[Response]]:
    """Sample n responses to every prompt; temperature 0 is greedy. Returns one list of n per prompt.

    Each prompt is read once and its cache repeated n times, finished rows leave the batch, and a token costs one
    uniform number (see `draw_tokens`), from a stream that belongs to `seed` and the place of the prompt: how prompts
    are batched or shared among processes changes nothing. `batch_size` counts rows, prompts x n.
    """
    import torch

    encoded = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    check_length(max(map(len, encoded)) + max_new_tokens, tokenizer)
    order = sorted(range(len(prompts)), key=lambda i: len(encoded[i]))
    found, was_training = {}, model.training
    model.eval()
    with torch.inference_mode(), autocast(model):
        for batch in my_batches(order, max(1, batch_size // n), "sampling"):
            draws = [np.random.default_rng([seed, i]).random((n, max_new_tokens), np.float32) for i in batch]
            uniforms, shown = torch.from_numpy(np.concatenate(draws)), [encoded[i] for i in batch]
            rows = _sample_batch(model, tokenizer, shown, n, temperature, uniforms)
            texts = [tokenizer.decode(row, skip_special_tokens=True).strip() for row in rows]
            answers = list(map(Response, texts, rows))
            found |= {i: answers[k * n : (k + 1) * n] for k, i in enumerate(batch)}
    model.train(was_training)
    return collect(found)


def _sample_batch(model, tokenizer, encoded, n: int, temperature: float, uniforms) -> list[list[int]]:
    """n sequences of token ids for each encoded prompt, in order; uniforms (B n, max_new_tokens)."""
    import torch

    width = max(map(len, encoded))
    ids = torch.tensor([[tokenizer.pad_token_id] * (width - len(row)) + row for row in encoded])  # (B, T)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in encoded])
    ids, mask = ids.to(model.device), mask.to(model.device)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    out = model(ids, attention_mask=mask, position_ids=positions, use_cache=True, logits_to_keep=1)
    cache = _repeat_with_room(out.past_key_values, n, uniforms.shape[1])
    logits, mask = out.logits[:, -1].repeat_interleave(n, 0), mask.repeat_interleave(n, 0)  # (B n, V), (B n, T)
    sequences: list[list[int]] = [[] for _ in range(len(logits))]
    rows = torch.arange(len(logits))  # the sequence that each row of the batch belongs to

    last = uniforms.shape[1] - 1
    for step, u in enumerate(uniforms.T):  # (B n,)
        tokens = draw_tokens(logits, temperature, u[rows])
        for row, token in zip(rows.tolist(), tokens.tolist(), strict=True):
            sequences[row].append(token)
        alive = (tokens != tokenizer.eos_token_id).nonzero().squeeze(-1)
        if len(alive) == 0 or step == last:
            break
        if len(alive) < len(tokens):
            cache.batch_select_indices(alive)
            rows, tokens, mask = rows[alive.cpu()], tokens[alive], mask[alive]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        positions = mask.sum(-1, keepdim=True) - 1
        out = model(tokens[:, None], attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True)
        logits = out.logits[:, -1]
    return sequences


def _repeat_with_room(cache, n: int, room: int):
    """The cache with n rows for each, and room for more tokens, so that adding one copies none of those before it."""
    import torch
    from transformers.cache_utils import DynamicLayer

    class RoomyLayer(DynamicLayer):
        def __init__(self, layer):
            self.__dict__ = {**layer.__dict__}
            rows = (x.repeat_interleave(n, 0) for x in (layer.keys, layer.values))
            self.buffers = [torch.nn.functional.pad(x, (0, 0, 0, room)) for x in rows]  # (B n, heads, T + room, D)

        def update(self, keys, values, *_, **__):
            start = self.get_seq_length()
            self.show(start + keys.shape[-2])
            self.keys[:, :, start:], self.values[:, :, start:] = keys, values
            return self.keys, self.values

        def batch_select_indices(self, indices):
            self.buffers = [buffer[indices] for buffer in self.buffers]
            self.show(self.get_seq_length())

        def show(self, length):
            self.keys, self.values = (buffer[:, :, :length] for buffer in self.buffers)

    if all(type(layer) is DynamicLayer for layer in cache.layers):
        cache.layers = [RoomyLayer(layer) for layer in cache.layers]
    else:  # sliding windows and the like
        cache.batch_repeat_interleave(n)
    return cache


def check_length(tokens: int, tokenizer: "PreTrainedTokenizerBase") -> None:
    """Raise UserError for a text that is longer than the model reads."""
    if tokens > tokenizer.model_max_length:
        raise UserError(f"a text of {tokens} tokens, but the model reads {tokenizer.model_max_length}: shorten it")


def draw_tokens(logits: "torch.Tensor", temperature: float, u: "torch.Tensor") -> "torch.Tensor":
    """One token per row of logits (B, V) by inversion: the first whose cumulative probability exceeds u (B,) in [0, 1).

    The same distribution as `torch.multinomial`, which draws an exponential variable for every vocabulary entry.
    """
    import torch

    if temperature == 0:
        return logits.argmax(-1)
    tokens = []
    for few, numbers in zip(logits.split(32), u.to(logits.device).split(32), strict=True):  # as many as a cache holds
        cumulative = (few.float() / temperature).softmax(-1).cumsum(-1)
        tokens.append(torch.searchsorted(cumulative, numbers[:, None] * cumulative[:, -1:], right=True).squeeze(-1))
    return torch.cat(tokens).clamp(max=logits.shape[-1] - 1)


# --- Scoring ---


def score_responses(model, tokenizer, prompts: list[str], responses: list[str], batch_size: int = 32) -> "torch.Tensor":
    """Reward r(prompt, response) of each pair of texts: a float32 tensor (N,) on the CPU, in log-odds units."""
    import torch

    lengths = [len(prompt) + len(response) for prompt, response in zip(prompts, responses, strict=True)]
    order, found = sorted(range(len(prompts)), key=lambda i: lengths[i]), {}
    with torch.inference_mode():
        for batch in my_batches(order, batch_size, "scoring"):
            inputs = encode_for_reward(tokenizer, [prompts[i] for i in batch], [responses[i] for i in batch])
            found |= zip(batch, model(**inputs.to(model.device)).logits.squeeze(-1).tolist(), strict=True)
    return torch.tensor(collect(found))


def encode_for_reward(tokenizer, prompts: list[str], responses: list[str], cut: bool = True):
    """What a reward model reads, padded: the pair where its tokenizer knows pairs, else the text of a causal LM.

    `cut` shortens to the model's length: of a pair only the response, at its end.
    """
    limit = min(tokenizer.model_max_length, 512)
    how = {"padding": True, "padding_side": "right", "return_tensors": "pt", "max_length": limit if cut else None}
    if tokenizer.sep_token_id is None or tokenizer.sep_token_id not in tokenizer("a", "b")["input_ids"]:
        chat = bool(tokenizer.chat_template)
        rows = zip(prompts, responses, strict=True)
        texts = [format_prompt(tokenizer, p) + " " * (not chat) + r + (tokenizer.eos_token or "") for p, r in rows]
        return tokenizer(texts, add_special_tokens=not chat, truncation=cut, **how)
    try:
        return tokenizer(prompts, responses, truncation="only_second" if cut else False, **how)
    except Exception as error:  # the tokenizers library has no exception of its own
        raise UserError(f"a prompt leaves no room for its response in {limit} tokens: {error}") from None


def judge_first_better(model, tokenizer, judge_prompts: list[str], batch_size: int = 64) -> tuple:
    """A language model as judge: P(A) / (P(A) + P(B)) as the next token of each prompt, and P(A) + P(B); tensors (N,).

    A chat model is asked in its template to answer with a letter, any other continues with " A" or " B".
    """
    import torch

    chat = bool(tokenizer.chat_template)
    texts = [format_prompt(tokenizer, f"{p}\nReply with A or B.") if chat else p for p in judge_prompts]
    letters = [tokenizer(x, add_special_tokens=False)["input_ids"][-1] for x in (("A", "B") if chat else (" A", " B"))]
    how = {"add_special_tokens": not chat, "padding": True, "padding_side": "right", "return_tensors": "pt"}
    order, found = sorted(range(len(texts)), key=lambda i: len(texts[i])), {}
    with torch.inference_mode():
        for batch in my_batches(order, batch_size, "judging"):
            inputs = tokenizer([texts[i] for i in batch], **how)
            check_length(inputs["input_ids"].shape[1], tokenizer)
            last = inputs["attention_mask"].sum(-1) - 1  # (B,)
            logits = model(**inputs.to(model.device)).logits[torch.arange(len(batch)), last]
            found |= zip(batch, logits.float().softmax(-1)[:, letters].tolist(), strict=True)  # (B, 2)
    mass = torch.tensor(collect(found)).sum(-1)
    return torch.tensor(collect(found))[:, 0] / mass, mass


# --- Precision, saving ---


def gains_from_bfloat16(device: str) -> bool:
    """Whether the hardware is faster in bfloat16: GPUs that have it, CPUs with AVX-512 BF16 or AMX."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device == "cpu" and torch.cpu._is_avx512_bf16_supported()


def autocast(model: "PreTrainedModel"):
    """bfloat16 autocast where the hardware gains from it and the model's matrices are large enough, else a no-op."""
    import torch

    device, wide = model.device.type, model.config.get_text_config().hidden_size >= 256
    return torch.autocast(device, torch.bfloat16, enabled=wide and gains_from_bfloat16(device))


def save_trained(folder: Path, settings: dict, *parts) -> None:
    """Save model, tokenizer, ... and the settings that made them: the folder is replaced when all is written.

    Of several processes the first one writes, and the others wait for it.
    """
    from accelerate import PartialState

    if is_main_process():
        folder = folder.resolve()  # what a symbolic link points to is replaced, not the link
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
            new = Path(scratch, "new")
            for part in parts:
                part.save_pretrained(new)
            (new / "lab_settings.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
            while new.exists():
                with contextlib.suppress(FileNotFoundError):
                    folder.rename(Path(scratch, uuid.uuid4().hex))
                try:
                    new.rename(folder)
                except OSError as error:  # another run has put its own there in between
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                        raise
    PartialState().wait_for_everyone()


def trained_settings(folder: Path) -> dict | None:
    """The settings that `save_trained` stored, or None where there is nothing trained by the lab."""
    try:
        return json.loads((folder / "lab_settings.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
