"""What was trained, on disk: saved whole, replaced only by the lab, found again.

A folder that the lab wrote holds `lab_settings.json`: the settings of the training and the names of
the files. Whatever else stands in a folder is somebody's, and is never deleted.
"""

import contextlib
import copy
import glob
import hashlib
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

from common.cli import UserError, is_main_process
from common.files import replace_folder, scratch_folder, sweep
from common.fingerprint import model_fingerprint
from common.model_names import adapter_base
from common.prompts import Prompt, as_messages

SETTINGS = "lab_settings.json"

# --- Saving ---


def save_trained(folder: Path, settings: dict, *parts, readme: str = "") -> None:
    """Save model, tokenizer, ..., a README and the settings that made them, all or nothing.

    Replaces what the lab wrote there before, and raises UserError where anything else is in the
    way. Of several processes the first one writes, and the others wait for it.
    """
    from accelerate import PartialState

    if is_main_process():
        check_ours(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder = folder.resolve()  # what a symbolic link points to is replaced, not the link
        sweep(folder.parent)
        with scratch_folder(folder.parent, folder.name) as scratch:
            new = scratch / "new"
            for part in parts:
                part.save_pretrained(new)
            if readme:
                (new / "README.md").write_text(readme, encoding="utf-8")
            stored = {"settings": settings, "files": files_below(new)}
            (new / SETTINGS).write_text(json.dumps(stored, indent=2) + "\n", encoding="utf-8")
            replace_folder(new, folder)
    PartialState().wait_for_everyone()


def check_ours(*folders: Path) -> None:
    """Raise UserError where a folder to be replaced holds what the lab did not write."""
    for folder in folders:
        try:
            mode = folder.lstat().st_mode  # at once, since another run may be replacing it
        except FileNotFoundError:
            continue
        remedy = "move it, or choose another folder with --output-dir"
        if not (stat.S_ISDIR(mode) or folder.is_dir()):
            raise UserError(f"{folder} is not a folder, so it is not replaced; {remedy}")
        strangers = strangers_in(folder)
        if strangers:
            reason = f"{folder} holds {strangers[0]}, which the lab did not write"
            raise UserError(f"{reason}; {remedy}")


def strangers_in(folder: Path) -> list[str]:
    """The files in a folder that the lab did not write, even while another run replaces it."""
    while True:
        before = _stored(folder)
        with contextlib.suppress(FileNotFoundError):
            present = files_below(folder)
            if _stored(folder) == before:
                return sorted(set(present) - set(before.get("files", [])) - {SETTINGS})


def files_below(folder: Path) -> list[str]:
    """The names of all files and links below a folder, relative to it."""
    paths = [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
    return sorted(str(path.relative_to(folder)) for path in paths)


def trained_settings(folder: Path) -> dict | None:
    """The settings of what the lab trained into a folder, or None where there is no such thing."""
    return _stored(folder).get("settings")


def _stored(folder: Path) -> dict:
    try:
        return json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


# --- Adapters ---

HOW_TO_USE = """\
# A LoRA adapter, trained with DPO

Trained by dpo_trainer.py of the preference-tuning lab with these settings:

    {settings}

This loads it on its base model and answers a question (`pip install transformers peft torch`):

```python
{imports}
from transformers import AutoTokenizer

folder = {folder}
tokenizer = AutoTokenizer.from_pretrained(folder)
{load}
chat = {chat}
text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt")
answer = model.generate(**inputs, max_new_tokens=48)[0, inputs["input_ids"].shape[1] :]
print(tokenizer.decode(answer, skip_special_tokens=True).strip())
```
"""
IMPORTS = "from peft import AutoPeftModelForCausalLM"
LOAD = "model = AutoPeftModelForCausalLM.from_pretrained(folder)"
# An adapter to an adapter, which AutoPeftModel would load in the place of the first.
IMPORTS_OF_SEVERAL = "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM"
LOAD_SEVERAL = """\
model = AutoModelForCausalLM.from_pretrained({base})
for adapter in {adapters}:
    model = PeftModel.from_pretrained(model, adapter).merge_and_unload()"""


def loading_code(policy, folder: str) -> dict[str, str]:
    """The lines of a README that load an adapter on its base, which may be an adapter itself."""
    base, adapters = policy.peft_config["default"].base_model_name_or_path, [folder]
    while base and adapter_base(base):
        adapters.insert(0, base)
        base = adapter_base(base)
    if len(adapters) == 1:
        return {"imports": IMPORTS, "load": LOAD}
    texts = {"base": json.dumps(base), "adapters": json.dumps(adapters)}
    return {"imports": IMPORTS_OF_SEVERAL, "load": LOAD_SEVERAL.format(**texts)}


def adapter_folders(folder: Path, merge: bool) -> list[Path]:
    """Where an adapter goes, and with `merge` the whole model.

    Raises UserError where something is there that the lab did not write.
    """
    folders = [folder, folder.with_name(f"{folder.name}-merged")] if merge else [folder]
    check_ours(*folders)
    return folders


def save_adapter(folders: list[Path], settings: dict, policy, tokenizer, prompt: Prompt) -> None:
    """Save an adapter with a README that says how to use it, in the first of `adapter_folders`.

    In the second, if any, the model with the adapter in it, for tools that know no adapters.
    """
    folder, *merged = folders
    stored = stored_settings(settings)
    named = ", ".join(f"{name} {value}" for name, value in stored.items() if value is not None)
    place = str(folder.resolve())
    texts = {"folder": json.dumps(place), "chat": json.dumps(as_messages(prompt))}
    readme = HOW_TO_USE.format(settings=named, **texts, **loading_code(policy, place))
    save_trained(folder, stored, policy, tokenizer, readme=readme)
    for folder in merged:
        model = copy.deepcopy(policy).merge_and_unload()
        save_trained(folder, {**stored, "merged": True}, model, tokenizer)


def check_adapter(folder: Path) -> None:
    """Raise UserError where a folder holds no PEFT adapter."""
    if not (folder / "adapter_model.safetensors").is_file():
        reason = "the folder holds no adapter (adapter_model.safetensors is missing)"
        raise UserError(f"--adapter {folder}: {reason}")


def load_adapter(model, folder: Path):
    """The model with the adapter of a folder. Raises UserError where the two do not fit."""
    from peft import PeftModel

    check_base(model, folder)
    try:
        return PeftModel.from_pretrained(model, folder).eval()
    except Exception as error:  # whatever the library raises for what does not fit
        raise UserError(f"--adapter {folder}: does not fit the model: {error}") from None


def check_base(model, folder: Path) -> None:
    """Raise UserError where an adapter was made for another model than this one.

    Two places with the same files are one model. A base that is not at hand cannot be compared.
    """
    base = adapter_base(str(folder))
    theirs = base and model_fingerprint(base)
    ours = model.name_or_path and model_fingerprint(model.name_or_path)
    if theirs and ours and theirs != ours:
        reason = f"was made for {base}, not for {model.name_or_path}"
        raise UserError(f"--adapter {folder}: it {reason}; give that one with --model")


# --- Find or train ---


def find_or_train(folder: Path, settings: dict, train: Callable[..., tuple], **options) -> Path:
    """The folder of a training with these settings: one that is there, or `folder`, trained now.

    `train(**settings, **options)` returns what is to be saved: model, tokenizer. Folders whose
    names begin like `folder` are looked at; what was trained with other settings is left alone.
    """
    settings = stored_settings(settings)
    for path in sorted(folder.parent.glob(f"{glob.escape(folder.name)}*/{SETTINGS}")):
        if trained_settings(path.parent) == settings:
            print(f"using {path.parent}")
            return path.parent
    while os.path.lexists(folder):
        folder = folder.with_name(f"{folder.name}-other")
    print(f"{folder} is not there yet: training it now")
    save_trained(folder, settings, *train(**settings_for(settings), **options))
    return folder


def stored_settings(settings: dict) -> dict:
    """Settings as JSON gives them back, with hashes of data file and model: edited is another."""
    settings = json.loads(json.dumps(settings))
    dataset, model = settings.get("dataset"), settings.get("model")
    hashes = {}
    if dataset and Path(dataset).expanduser().exists():
        hashes["dataset_sha256"] = data_fingerprint(Path(dataset).expanduser())
    if model:
        hashes["model_sha256"] = model_fingerprint(model)
    return {**settings, **hashes}


def data_fingerprint(path: Path) -> str:
    """SHA-256 of a file, or of all files of a folder with their names."""
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    whole = hashlib.sha256()
    for name in files_below(path):
        whole.update(name.encode() + (path / name).read_bytes())
    return whole.hexdigest()


def settings_for(stored: dict) -> dict:
    """Stored settings as the training function takes them."""
    return {name: value for name, value in stored.items() if not name.endswith("_sha256")}
