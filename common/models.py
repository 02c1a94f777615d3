"""Models by name: which one a name stands for, loading it, and the precision it computes in.

A name is that of an embedded model, of a folder, of an adapter's folder, or of the hub. What the
lab cannot use is refused in one line, before any work, and never by running code of a checkpoint.
"""

import contextlib
import ctypes
import gc
import hashlib
import json
import logging
import os
import threading
import time
import warnings
from functools import lru_cache
from pathlib import Path

from common.basics import UserError, in_one_line
from common.prompts import reads_pairs, use_template
from common.saving import read_json

TINY = Path(__file__).resolve().parent / "tiny"
EMBEDDED = ("tiny-gpt2", "tiny-distilbert")
HEADS = ("CausalLM", "LMHeadModel", "ConditionalGeneration")  # of models that write text
OF_MODELS = (".safetensors", ".json", ".jinja", ".model", ".txt")  # the files that make a model
NO_EOS = "its tokenizer has no eos token, so no text would end; set one and save it"
# Types whose first position is the one behind the id of the padding token.
COUNT_FROM_PADDING = ("roberta", "xlm-roberta", "camembert", "longformer", "mpnet", "esm")

# --- Names ---


def is_embedded(name: str) -> bool:
    """Whether this is the name, or the folder, of a model that comes with the lab."""
    return name in EMBEDDED or Path(name).parent == TINY


def local_folder(name: str) -> Path | None:
    """The folder of an embedded or local model, if it is one."""
    folder = TINY / name if is_embedded(name) else Path(name).expanduser()
    return folder.resolve() if folder.is_dir() else None


def cached_folder(name: str) -> Path | None:
    """Where the hub's cache has the whole of this model, weights and tokenizer, if it has."""
    from huggingface_hub import try_to_load_from_cache

    with contextlib.suppress(ValueError):  # no name that a hub can have
        file = try_to_load_from_cache(name, "config.json")
        if isinstance(file, str):
            folder = Path(file).parent
            index = read_json(folder / "model.safetensors.index.json").get("weight_map", {})
            weights = {*index.values()} or {"model.safetensors"}
            if any(folder.glob("tokenizer*")) and all((folder / w).is_file() for w in weights):
                return folder
    return None


def adapter_base(name: str) -> str | None:
    """The model that the adapter in a folder was made for; None where there is no adapter."""
    file = Path(local_folder(name) or name, "adapter_config.json")
    if not file.is_file() or file.with_name("config.json").is_file():
        return None
    base = read_json(file).get("base_model_name_or_path")
    if not base:
        raise UserError(f"cannot use the adapter {name}: {file.name} names no base model")
    return base


def find_model(name: str) -> str:
    """The folder of an embedded, local or cached model or adapter, or a hub id to be fetched.

    Raises UserError otherwise, within 4 seconds: the library itself would retry for minutes.
    """
    folder = local_folder(name) or cached_folder(name)
    if folder is None:
        is_path = Path(name).is_absolute() or name.startswith((".", "~")) or name.count("/") > 1
        if is_path or Path(name).is_file():
            raise UserError(f"no model {name}: there is no such folder")
        if not hub_answers():
            reason = "no such folder, and the model hub cannot be reached; give the folder of a "
            reason += "downloaded model, or leave the flag out to use the embedded one"
            raise UserError(f"no model {name}: {reason}")
        return name
    weights = {*folder.glob("*.safetensors"), *folder.glob("adapter_config.json")}
    if any(folder.glob("*.gguf")) and not weights:
        reason = "a GGUF file cannot be trained; give the model that it was converted from"
        raise UserError(f"cannot use the model {name}: {reason}")
    if not (folder / "config.json").is_file():
        base = adapter_base(name)
        if base is None:
            raise UserError(f"no model {name}: the folder holds no model (no config.json)")
        try:
            find_model(base)
        except UserError as error:
            reason = f"it was made for {base}, which is not there ({error}); write its place into "
            reason += "base_model_name_or_path of adapter_config.json"
            raise UserError(f"cannot use the adapter {name}: {reason}") from None
    return str(folder)


def hub_answers(seconds: float = 4.0) -> bool:
    """Whether the hub answers at all, decided within `seconds` (name resolution included)."""
    from huggingface_hub import get_session

    answers = []

    def ask() -> None:
        endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
        with contextlib.suppress(Exception):  # no network, no address, offline by choice, ...
            answers.append(get_session().head(endpoint, timeout=seconds))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return len(answers) > 0


def fingerprint(what) -> str:
    """A hash of a model's files (its name, or a loaded one), or of rows of data."""
    name = what if isinstance(what, str) else getattr(what, "name_or_path", None)
    if name is None:
        rows = json.dumps([dict(row) for row in what], sort_keys=True, default=str)
        return hashlib.sha256(rows.encode()).hexdigest()[:16]
    folder = local_folder(name) or cached_folder(name)
    if folder is None:  # a model of the hub that is not in the cache yet
        return name
    digest, base = hashlib.sha256(), adapter_base(name)
    for path in sorted(folder.iterdir()):
        if path.suffix in OF_MODELS and path.is_file():
            digest.update(f"{path.name} {_hash_file(path, path.stat().st_mtime_ns)}\n".encode())
    digest.update(fingerprint(base).encode() if base else b"")
    return digest.hexdigest()[:16]


@lru_cache(maxsize=1024)
def _hash_file(path: Path, changed: int) -> str:
    """The hash of a file; read once, as long as its time of change stays."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- Loading ---


def load_causal_lm(name: str, device: str = "cpu") -> tuple:
    """(causal LM in float32, tokenizer), from a folder or the hub; an adapter is merged.

    Raises UserError for what is no causal LM, and says what to do.
    """
    from transformers import AutoModelForCausalLM

    model, tokenizer, missing = _load(AutoModelForCausalLM, name, device)
    if tokenizer.eos_token is None:
        raise UserError(f"cannot use the model {name}: {NO_EOS}")
    if missing:
        reason = f"{len(missing)} of its weights are not there and would be random ({missing[0]})"
        raise UserError(f"cannot use the model {name}: {reason}; give one with all of them")
    use_template(tokenizer)
    return model, tokenizer


def load_reward_model(name: str, device: str = "cpu", trained: bool = False) -> tuple:
    """(sequence classifier with one output, tokenizer); a bare backbone gets a fresh head.

    Raises UserError for a bare backbone where a `trained` one is needed.
    """
    from transformers import AutoModelForSequenceClassification as RewardModel

    model, tokenizer, missing = _load(RewardModel, name, device, num_labels=1)
    if missing and trained:
        reason = f"it gives no reward: its head ({missing[0]}) is not there and would be random"
        raise UserError(f"cannot use the model {name}: {reason}; train it with reward_model.py")
    model.config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


def load_tokenizer(name: str):
    """The tokenizer of a model, with a token to pad with and a chat template where it needs one."""
    from transformers import AutoConfig, AutoTokenizer

    path, base = find_model(name), adapter_base(name)
    if Path(path).is_dir() and not [*Path(path).glob("tokenizer*"), *Path(path).glob("vocab*")]:
        if base:
            return load_tokenizer(base)
        raise UserError(f"cannot load the model {name}: the folder holds no tokenizer")
    configured = path
    while base:  # an adapter has no configuration of its own, and may be one to an adapter
        configured, base = find_model(base), adapter_base(base)
    with in_one_line(f"cannot load the model {name}"):
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        config = AutoConfig.from_pretrained(configured, trust_remote_code=False)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token or tokenizer.sep_token
    if tokenizer.pad_token is None:
        raise UserError(f"cannot use the model {name}: {NO_EOS}")
    if not reads_pairs(tokenizer):
        use_template(tokenizer)
    positions = getattr(config.get_text_config(), "max_position_embeddings", None) or float("inf")
    if config.model_type in COUNT_FROM_PADDING:
        positions -= config.pad_token_id + 1
    tokenizer.model_max_length = min(tokenizer.model_max_length, positions)
    return tokenizer


def _load(auto_class, name: str, device: str, **options) -> tuple:
    """(model, tokenizer, names of the weights that the checkpoint lacks)."""
    import torch

    path, base = find_model(name), adapter_base(name)
    if base:
        model, _, missing = _load(auto_class, base, device, **options)
        model, tokenizer = load_adapter(model, Path(path), merge=True), load_tokenizer(name)
    else:
        check_checkpoint(name, path, auto_class.__name__)
        tokenizer = load_tokenizer(name)
        options |= {"dtype": torch.float32, "use_safetensors": True, "trust_remote_code": False}
        with in_one_line(f"cannot load the model {name}"):
            model, info = auto_class.from_pretrained(path, output_loading_info=True, **options)
        missing = sorted(info["missing_keys"])
        if not local_folder(name):  # what is saved should name the hub's model, not the cache
            model.name_or_path = model.config._name_or_path = name
    size = model.get_input_embeddings().weight.shape[0]
    # Of bytes none is unknown: that token is never written, unless it stands for another one.
    spared = {tokenizer.unk_token} - {tokenizer.pad_token, tokenizer.eos_token}
    beyond = {token for token, index in tokenizer.get_vocab().items() if index >= size} - spared
    if beyond:
        reason = f"it embeds {size} tokens, its tokenizer writes {len(beyond)} more"
        remedy = f"call resize_token_embeddings({len(tokenizer)}) on it and save it"
        raise UserError(f"cannot use the model {name}: {reason} ({min(beyond)!r:.30}); {remedy}")
    return model.to(device).eval(), tokenizer, missing


def check_checkpoint(name: str, path: str, auto_class: str) -> None:
    """Raise UserError for a checkpoint that `auto_class` cannot make use of, and say what to do.

    Read from config.json and the names of the files: no weights, no code.
    """
    from transformers import PreTrainedConfig
    from transformers.models.auto import modeling_auto

    with in_one_line(f"cannot load the model {name}"):
        config = PreTrainedConfig.get_config_dict(path)[0]
    kind, architecture = config.get("model_type"), (config.get("architectures") or [""])[0]
    quantised = (config.get("quantization_config") or {}).get("quant_method")
    safe = any(Path(path).glob("*.safetensors"))
    writes = auto_class == "AutoModelForCausalLM"
    task = "CAUSAL_LM" if writes else "SEQUENCE_CLASSIFICATION"
    is_known = kind in getattr(modeling_auto, f"MODEL_FOR_{task}_MAPPING_NAMES")
    labels = len(config.get("id2label") or "ab")
    give = "give a causal language model (GPT-2, Llama, Qwen, ...)"
    if quantised:
        reason = f"its weights are quantised ({quantised}); give the model that it was made from"
    elif not safe and any(Path(path).glob("pytorch_model*.bin")):
        save = f"from transformers import {architecture or 'AutoModel'} as M; "
        save += f"M.from_pretrained('{path}').save_pretrained('{path}')"
        reason = "its weights are pickled (.bin), and to read them can run code; if you trust it, "
        reason += f'save them as safetensors: python -c "{save}"'
    elif kind not in modeling_auto.MODEL_MAPPING_NAMES:
        reason = f"transformers has no models of the type {kind}, and code that comes with a model "
        reason += "is never run; give another one"
    elif writes and config.get("is_encoder_decoder"):
        reason = f"{architecture} is an encoder-decoder, which goes on with no prompt; {give}"
    elif writes and "vision_config" in config:
        reason = f"it is a model of pictures and text ({kind}), which is not supported; {give}"
    elif writes and (not is_known or (architecture and not architecture.endswith(HEADS))):
        reason = f"{architecture or kind} is not a language model: it does not write; {give}; "
        reason += "an encoder goes to reward_model.py --model, or to --reward-backbone"
    elif not is_known:
        reason = f"transformers has no reward model of the type {kind}; give an encoder (BERT, ...)"
    elif architecture.endswith("Classification") and labels != 1:
        reason = f"it is a classifier with {labels} labels, and a reward is one number"
    else:
        return
    raise UserError(f"cannot use the model {name}: {reason}")


def load_adapter(model, folder: Path, merge: bool = False):
    """The model with the adapter of a folder on it, or, with `merge`, in its weights.

    Raises UserError where it was made for another model: two places with the same files are one
    model, and a base that is not at hand cannot be compared.
    """
    from peft import PeftConfig, PeftModel

    problem = f"cannot use the adapter {folder}"
    if not (folder / "adapter_model.safetensors").is_file():
        raise UserError(f"{problem}: the folder holds no adapter_model.safetensors")
    base = adapter_base(str(folder))
    if base and local_folder(base) and fingerprint(base) != fingerprint(model):
        reason = f"it was made for {base}, not for {model.name_or_path}"
        raise UserError(f"{problem}: {reason}; give that one with --model")
    with in_one_line(problem):
        config = PeftConfig.from_pretrained(folder)
        if merge:  # a reward model can start from an adapter of a language model
            config.task_type = None
        policy = PeftModel.from_pretrained(model, folder, config=config).eval()
        if not merge:
            return policy
        model = policy.merge_and_unload().requires_grad_(True)
    model.name_or_path = model.config._name_or_path = str(folder)  # what PEFT saves as its base
    return model


# --- Device and precision ---


def quiet_libraries() -> None:
    """Keep the libraries' progress bars and warnings about defaults out of the terminal."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore")
    import datasets
    import transformers

    logging.getLogger("trl").setLevel(logging.ERROR)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    os.environ["TQDM_DISABLE"] = "1"  # TRL's bars; set here, since it hides all if tqdm finds it


def init_compute(device: str) -> str:
    """The device to compute on; "auto" is cuda, mps or cpu. Of several processes each has a GPU."""
    quiet_libraries()
    import torch
    from accelerate import PartialState

    found = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    available = [*(name for name in found if found[name]), "cpu"]
    device = available[0] if device == "auto" else device
    if device not in available:
        raise UserError(f"--device {device}: PyTorch finds no such device; use --device auto")
    if device == "cpu":  # glibc keeps freed tensors: giving them back costs up to half of a step
        with contextlib.suppress(OSError, AttributeError):
            mallopt = ctypes.CDLL("libc.so.6").mallopt
            mallopt(-4, 0)  # M_MMAP_MAX
            mallopt(-1, -1)  # M_TRIM_THRESHOLD
    state = PartialState(cpu=device == "cpu")
    gc.freeze()  # what the libraries hold need not be searched for garbage at every training
    return str(state.device) if device == "cuda" else device


@lru_cache
def gains_from_bfloat16(device: str) -> bool:
    """Whether a product of matrices is faster in bfloat16: to have it is not enough for that."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device != "cpu":
        return False
    seconds = {}  # measured once, in 20 ms
    for dtype in (torch.float32, torch.bfloat16):
        matrix = torch.ones(768, 768, dtype=dtype)
        matrix @ matrix  # the first product prepares the kernel
        started = time.perf_counter()
        for _ in range(3):
            matrix @ matrix
        seconds[dtype] = time.perf_counter() - started
    return seconds[torch.bfloat16] < seconds[torch.float32] / 1.2


def is_wide(model) -> bool:
    """Whether the matrices of a model are large enough to gain from bfloat16."""
    return model.config.get_text_config().hidden_size >= 256


def autocast(model):
    """bfloat16 autocast where the hardware gains from it and the model is wide; else a no-op."""
    import torch

    device = model.device.type
    enabled = is_wide(model) and gains_from_bfloat16(device)
    return torch.autocast(device, torch.bfloat16, enabled=enabled)
