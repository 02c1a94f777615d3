"""What kind of checkpoint a name stands for, and of those that the lab cannot use, what to do.

Everything is read from config.json and the names of the files: no weights, and never any code.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import shorten
from typing import NamedTuple

from common.cli import UserError

HEADS = ("CausalLM", "LMHeadModel", "ConditionalGeneration")  # of models that write text
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
IS_LFS_POINTER = b"version https://git-lfs"


class Checkpoint(NamedTuple):
    """What config.json says of a model, and the names of the files beside it."""

    config: dict
    files: list[str]  # none for a model of the hub
    folder: str

    @property
    def kind(self) -> str:
        """The type of the architecture, such as llama."""
        return str(self.config.get("model_type"))

    @property
    def architecture(self) -> str:
        """The class that was saved, such as LlamaForCausalLM; empty where it is not said."""
        return (self.config.get("architectures") or [""])[0]

    @property
    def method(self) -> str:
        """How the weights are quantised, such as gptq; empty where they are not."""
        return (self.config.get("quantization_config") or {}).get("quant_method", "")

    @property
    def labels(self) -> int:
        """How many outputs a classifier has; the library's default is 2."""
        return len(self.config.get("id2label", "ab"))

    def has(self, *endings: str) -> bool:
        """Whether there is a file whose name ends in one of these."""
        return any(name.endswith(endings) for name in self.files)


# --- The kinds that cannot be used, and what to do: the first row that applies is told ---

Row = tuple[Callable[[Checkpoint], bool], str]


def lacks_weights(it: Checkpoint) -> bool:
    """Whether a folder holds no weights that can be read safely."""
    return bool(it.files) and not it.has(".safetensors")


def is_pointer(it: Checkpoint) -> bool:
    """Whether Git has fetched the names of the weights alone."""
    weights = [Path(it.folder, name) for name in it.files if name.endswith(".safetensors")]
    return any(path.open("rb").read(23) == IS_LFS_POINTER for path in weights)


def is_unknown(it: Checkpoint) -> bool:
    """Whether transformers has no code of its own for the type."""
    from transformers import CONFIG_MAPPING

    return it.kind not in CONFIG_MAPPING


def is_classifier(it: Checkpoint) -> bool:
    """Whether its head labels texts, or their tokens."""
    return it.architecture.endswith(("ForSequenceClassification", "ForTokenClassification"))


def lacks(mapping: str) -> Callable[[Checkpoint], bool]:
    """Whether transformers' table of this name has no model of the type."""

    def is_not_in(it: Checkpoint) -> bool:
        import transformers

        return type_of_config(it.kind) not in getattr(transformers, mapping)

    return is_not_in


def type_of_config(kind: str) -> type:
    """The class of the configuration of a type that transformers knows."""
    from transformers import CONFIG_MAPPING

    return CONFIG_MAPPING[kind]


SAVE_AS_SAFETENSORS = (
    'python -c "from transformers import {saver} as M; '
    "M.from_pretrained('{folder}').save_pretrained('{folder}')\""
)
DECODERS = "give a causal language model (GPT-2, Llama, Qwen, ...)"
BACKBONES = (
    f"{DECODERS}. What a reward model is to start from, reward_model.py takes as --model, and "
    "best_of_n.py and online_rl.py as --reward-backbone"
)
WEIGHTS: Sequence[Row] = (
    (
        lambda it: lacks_weights(it) and it.has(".gguf"),
        "it is a GGUF file, made for running a model and not for training it; give the folder of "
        "the model that it was converted from",
    ),
    (
        lambda it: lacks_weights(it) and it.has(*PICKLED),
        "its weights are pickled (.bin); to read them can run code, so they are not read. If "
        f"you trust it, write them as safetensors: {SAVE_AS_SAFETENSORS}",
    ),
    (
        lacks_weights,
        "the folder holds no weights (model.safetensors); copy or download it once more",
    ),
    (is_pointer, "its weights have not been fetched; type: git lfs pull"),
    (
        lambda it: bool(it.method),
        "its weights are quantised ({method}), and a gradient needs whole ones; give the model "
        "that it was made from",
    ),
)
TYPES: Sequence[Row] = (
    (
        lambda it: not it.config.get("model_type"),
        "its config.json does not say what it is (model_type is missing); copy or download it "
        "once more",
    ),
    (
        lambda it: is_unknown(it) and "auto_map" in it.config,
        "it needs code that comes with it (type {kind}), and such code is never run; give a model "
        "of a type that transformers has",
    ),
    (
        is_unknown,
        "transformers {version} has no models of the type {kind}; give another model",
    ),
)
CAUSAL_LM: Sequence[Row] = (
    (
        lambda it: bool(it.config.get("is_encoder_decoder")),
        f"{{architecture}} is an encoder-decoder, which does not go on with a prompt; {DECODERS}",
    ),
    (
        lacks("MODEL_FOR_CAUSAL_LM_MAPPING"),
        f"a model of the type {{kind}} does not write text; {BACKBONES}",
    ),
    (
        lambda it: it.architecture.endswith("Model") and not it.architecture.endswith(HEADS),
        "it is a {architecture}, not a language model: it has no head that writes, so its answers "
        "would be random; give the model that was saved with its head",
    ),
    (
        lambda it: bool(it.architecture) and not it.architecture.endswith(HEADS),
        f"it is a {{architecture}}, not a language model; {BACKBONES}",
    ),
)
CLASSIFIER: Sequence[Row] = (
    (
        lacks("MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING"),
        "transformers has no reward model of the type {kind}; give an encoder (BERT, RoBERTa, "
        "DeBERTa, ...) or a causal language model (GPT-2, Llama, Qwen, ...)",
    ),
    (
        lambda it: is_classifier(it) and it.labels != 1,
        "it is a classifier with {labels} labels, and a reward is one number; give the model that "
        "it was made from",
    ),
)
KINDS = {"AutoModelForCausalLM": CAUSAL_LM, "AutoModelForSequenceClassification": CLASSIFIER}


def check_kind(name: str, path: str, auto_class: str) -> None:
    """Raise UserError, with what to do, for a checkpoint that `auto_class` cannot make use of."""
    it = read_checkpoint(path)
    check_rows(f"cannot load the model {name}", it, (*WEIGHTS, *TYPES))
    check_rows(f"cannot use the model {name}", it, KINDS[auto_class])


def check_type(name: str, path: str) -> None:
    """The same for a checkpoint of which only the tokenizer is wanted."""
    check_rows(f"cannot load the model {name}", read_checkpoint(path), TYPES)


def check_rows(problem: str, it: Checkpoint, rows: Sequence[Row]) -> None:
    """Raise UserError with the advice of the first row that applies."""
    import transformers

    words = {"version": transformers.__version__, "saver": it.architecture or "AutoModel"}
    for word in ("folder", "kind", "architecture", "method", "labels"):
        words[word] = getattr(it, word)
    for applies, advice in rows:
        if applies(it):
            raise UserError(f"{problem}: {advice.format(**words)}")


def read_checkpoint(path: str) -> Checkpoint:
    """The configuration and the file names of a folder, or of a model of the hub."""
    from transformers import PreTrainedConfig

    try:
        config = PreTrainedConfig.get_config_dict(path)[0]
    except Exception as error:  # whatever the library raises for a broken file
        raise UserError(f"cannot load the model {path}: {in_brief(error)}") from None
    folder = Path(path)
    files = sorted(file.name for file in folder.iterdir()) if folder.is_dir() else []
    return Checkpoint(config, files, path)


def in_brief(error: Exception) -> str:
    """What a library says first. Further on it lists classes, and gives advice of its own."""
    first, *others = (str(error).strip() or type(error).__name__).splitlines()
    if first.endswith(":") and others:
        first = f"{first} {others[0]}"
    return shorten(first, 200, placeholder=" ...")
