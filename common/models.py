"""Loading models, their format of prompts and responses, work for several processes.

A causal language model sees its own chat template, or, where it has none, a question and its answer
(common/templates.py).
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.checkpoints import check_kind, check_type, in_brief
from common.cli import UserError, show_progress
from common.model_names import find_base, find_model
from common.preferences import SIDES
from common.prompts import Prompt, as_messages, as_text
from common.templates import QUESTION, is_plain, shared_length, tokens_after_answer, use_template

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Types whose first position is the one behind the id of the padding token.
COUNT_FROM_PADDING = ("roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod")
COUNT_FROM_PADDING += ("camembert", "longformer", "mpnet", "ibert", "data2vec-text", "esm")

# --- Loading ---


def load_causal_lm(
    name: str, device: str = "cpu"
) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    """A causal LM in float32 and its tokenizer, from a folder or the hub.

    An adapter is merged into the model that it was made for. Raises UserError for what is no causal
    LM, and says what to do.
    """
    from transformers import AutoModelForCausalLM

    model, tokenizer, missing = _load(AutoModelForCausalLM, name, device)
    if tokenizer.eos_token is None:
        raise UserError(
            f"cannot use the model {name}: its tokenizer has no eos token, so no answer would end; "
            "set one and save it"
        )
    if missing:
        raise UserError(
            f"cannot use the model {name}: {len(missing)} of its weights are not in the checkpoint "
            f"and would be random ({missing[0]}); give a complete one, with its language-model head"
        )
    use_template_of(name, tokenizer)
    return model, tokenizer


def load_reward_model(
    name: str, device: str = "cpu"
) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    """A sequence classifier with one output (a fresh head on a bare backbone), its tokenizer."""
    from transformers import AutoModelForSequenceClassification

    model, tokenizer, _ = _load(AutoModelForSequenceClassification, name, device, num_labels=1)
    model.config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


def load_tokenizer(name: str) -> "PreTrainedTokenizerBase":
    """The tokenizer of a model, with a token to pad with and a chat template where it needs one."""
    from transformers import AutoConfig, AutoTokenizer

    path, base = find_model(name), find_base(name)
    while base and find_base(base):  # an adapter to an adapter
        base = find_base(base)
    if base and not holds_tokenizer(path):
        return load_tokenizer(base)
    if not base:
        check_type(name, path)
    if Path(path).is_dir() and not holds_tokenizer(path):
        raise UserError(f"cannot load the model {name}: the folder holds no tokenizer")
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        config = AutoConfig.from_pretrained(find_model(base or name), trust_remote_code=False)
    except Exception as error:  # the libraries raise many kinds for a broken model
        raise UserError(f"cannot load the model {name}: {in_brief(error)}") from None
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.sep_token
    if tokenizer.pad_token is None:
        raise UserError(
            f"cannot use the model {name}: its tokenizer has no token to pad with and none that "
            "ends a text; set an eos token and save it"
        )
    if not reads_pairs(tokenizer):
        use_template_of(name, tokenizer)
    tokenizer.model_max_length = min(tokenizer.model_max_length, count_positions(config))
    return tokenizer


def count_positions(config) -> float:
    """How many tokens a model of this configuration reads; infinity where it names no limit."""
    positions = getattr(config.get_text_config(), "max_position_embeddings", None) or float("inf")
    if config.model_type in COUNT_FROM_PADDING:
        positions -= config.pad_token_id + 1
    return positions


def holds_tokenizer(path: str) -> bool:
    """Whether there is a tokenizer in a folder."""
    return any([*Path(path).glob("tokenizer*"), *Path(path).glob("vocab*")])


def use_template_of(name: str, tokenizer: "PreTrainedTokenizerBase") -> None:
    """Make the tokenizer's chat template ready; see `use_template`."""
    try:
        use_template(tokenizer)
    except UserError as error:
        raise UserError(f"cannot use the model {name}: {error}") from None


def _load(auto_class, name: str, device: str, **options) -> tuple:
    """(model, tokenizer, names of the weights that the checkpoint lacks)."""
    path, base = find_model(name), find_base(name)
    if base:
        model, _, missing = _load(auto_class, base, device, **options)
        model = merge_adapter(model, name)
    else:
        check_kind(name, path, auto_class.__name__)
    tokenizer = load_tokenizer(name)
    if not base:
        model, missing = load_weights(auto_class, name, **options)
    check_vocabulary(name, model, tokenizer)
    return model.to(device).eval(), tokenizer, missing


def load_weights(auto_class, name: str, **options) -> tuple["PreTrainedModel", list[str]]:
    """(model in float32, names of the weights that the checkpoint lacks)."""
    import torch

    safe = {"dtype": torch.float32, "use_safetensors": True, "trust_remote_code": False}
    options |= {**safe, "output_loading_info": True}
    try:
        model, info = auto_class.from_pretrained(find_model(name), **options)
    except Exception as error:  # the libraries raise many kinds for a broken model
        raise UserError(f"cannot load the model {name}: {in_brief(error)}") from None
    return model, sorted(info["missing_keys"])


def merge_adapter(model: "PreTrainedModel", name: str) -> "PreTrainedModel":
    """The model with the adapter in its weights; to PEFT its name is then that of the adapter."""
    from peft import PeftConfig, PeftModel

    path = find_model(name)
    if not Path(path, "adapter_model.safetensors").is_file():
        raise UserError(
            f"cannot use the adapter {name}: the folder holds no adapter_model.safetensors"
        )
    try:
        config = PeftConfig.from_pretrained(path)
        config.task_type = None  # a reward model can start from an adapter of a language model
        merged = PeftModel.from_pretrained(model, path, config=config).merge_and_unload()
    except Exception as error:  # whatever the library raises for what does not fit
        raise UserError(f"cannot use the adapter {name}: {in_brief(error)}") from None
    merged.name_or_path = merged.config._name_or_path = path
    return merged.eval()


def check_vocabulary(
    name: str, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase"
) -> None:
    """Raise UserError where the tokenizer writes tokens that the model has no embedding for."""
    size = model.get_input_embeddings().weight.shape[0]
    beyond = [token for token, index in tokenizer.get_vocab().items() if index >= size]
    if tokenizer.unk_token not in (tokenizer.pad_token, tokenizer.eos_token):
        beyond = [token for token in beyond if token != tokenizer.unk_token]  # bytes are all known
    if beyond:
        raise UserError(
            f"cannot use the model {name}: it embeds {size} tokens, and its tokenizer writes "
            f"{len(beyond)} more ({beyond[0]!r:.30}); call resize_token_embeddings("
            f"{len(tokenizer)}) on the model and save it, or save the tokenizer without them"
        )


# --- Work for several processes ---


def my_batches(order: list[int], size: int, what: str) -> Iterable[list[int]]:
    """Batches of indices for this process: every K-th of `order`, so that K processes do as much.

    Work that takes a while shows a progress bar that says `what` is done.
    """
    from accelerate import PartialState

    state = PartialState()
    mine = order[state.process_index :: state.num_processes]
    return show_progress([mine[start : start + size] for start in range(0, len(mine), size)], what)


def collect(results: dict[int, Any]) -> list:
    """The results of this and all other processes, in the order of their indices."""
    from accelerate.utils import gather_object

    everything = {}
    for part in gather_object([results]):
        everything |= part
    return [everything[index] for index in sorted(everything)]


# --- Text in and out of a causal LM ---


def format_prompt(tokenizer: "PreTrainedTokenizerBase", prompt: Prompt) -> str:
    """The text that a causal LM continues."""
    return write_turns(tokenizer, as_messages(prompt), add_generation_prompt=True)


def write_turns(tokenizer: "PreTrainedTokenizerBase", turns: list[dict], **options) -> str:
    """What the chat template makes of the turns. Raises UserError where it rejects their roles."""
    from jinja2 import TemplateError

    try:
        return tokenizer.apply_chat_template(turns, tokenize=False, **options)
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in turns)
        raise UserError(
            f"the chat template of the model rejects the turns {roles}: {error}; leave such rows "
            "out, or put a system message in front of the text of the first user turn"
        ) from None


def format_pair(row: dict) -> dict:
    """A row of prompt, chosen, rejected as messages: TRL writes them in the chat template."""
    answers = {side: [{"role": "assistant", "content": row[side]}] for side in SIDES}
    return {"prompt": as_messages(row["prompt"]), **answers}


def encode_prompt(tokenizer: "PreTrainedTokenizerBase", prompt: Prompt | list[int]) -> list[int]:
    """Token ids of the formatted prompt, whose template writes special tokens itself.

    Token ids stay as they are.
    """
    if prompt and not isinstance(prompt[0], str | dict):
        return prompt
    return tokenizer(format_prompt(tokenizer, prompt), add_special_tokens=False)["input_ids"]


def encode_response(
    tokenizer: "PreTrainedTokenizerBase", text: str, prompt: Prompt = QUESTION
) -> list[int]:
    """Token ids of a response as TRL has them: with the EOS, and what a template puts behind it."""
    if not (text or is_plain(tokenizer)):  # some templates refuse an empty message
        return tokens_after_answer(tokenizer)
    return encode_answers(tokenizer, prompt, [text])[1]


def encode_answers(
    tokenizer: "PreTrainedTokenizerBase", prompt: Prompt, texts: Sequence[str]
) -> list[list[int]]:
    """Token ids of a prompt and of each of the responses to it, as TRL has them.

    TRL cuts prompt + response where the first of the responses parts from the prompt.
    """
    shown = encode_prompt(tokenizer, prompt)
    rows, shared = [], len(shown)
    for text in texts:
        turns = [*as_messages(prompt), {"role": "assistant", "content": text}]
        both = write_turns(tokenizer, turns)
        rows.append(tokenizer(both, add_special_tokens=False)["input_ids"])
        shared = min(shared, shared_length(shown, rows[-1]))
    return [shown[:shared], *(row[shared:] for row in rows)]


def encode_row(
    tokenizer: "PreTrainedTokenizerBase", prompt: Prompt, texts: Sequence[str]
) -> list[list[int]]:
    """`encode_answers`, or what an encoder reads: the prompt, and what each response adds to it."""
    if not reads_pairs(tokenizer):
        return encode_answers(tokenizer, prompt, texts)
    shown = tokenizer(as_text(prompt))["input_ids"]
    pairs = [tokenizer(as_text(prompt), text)["input_ids"] for text in texts]
    return [shown, *(pair[len(shown) :] for pair in pairs)]


def check_length(tokens: int, tokenizer: "PreTrainedTokenizerBase") -> None:
    """Raise UserError for a text that is longer than the model reads."""
    if tokens > tokenizer.model_max_length:
        raise UserError(
            f"a text of {tokens} tokens, but the model reads {tokenizer.model_max_length}: "
            "shorten it"
        )


def reads_pairs(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether the tokenizer writes a pair of texts with a separator, as BERT's does."""
    separator = tokenizer.sep_token_id
    return separator is not None and separator in tokenizer("a", "b")["input_ids"]


# --- Precision ---


def gains_from_bfloat16(device: str) -> bool:
    """Whether the hardware is faster in bfloat16: GPUs that have it, CPUs with AVX-512 BF16."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device == "cpu" and torch.cpu._is_avx512_bf16_supported()


def is_wide(model: "PreTrainedModel") -> bool:
    """Whether the matrices of a model are large enough to gain from bfloat16."""
    return model.config.get_text_config().hidden_size >= 256


def autocast(model: "PreTrainedModel"):
    """bfloat16 autocast where the hardware gains from it and the model is wide; else a no-op."""
    import torch

    device = model.device.type
    enabled = is_wide(model) and gains_from_bfloat16(device)
    return torch.autocast(device, torch.bfloat16, enabled=enabled)
