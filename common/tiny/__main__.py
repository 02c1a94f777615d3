"""Build the embedded models from nothing: two tokenizers, tiny-gpt2 and tiny-distilbert.

    python -m common.tiny          # about 20 minutes; writes into this folder

tiny-gpt2         the SFT model and the reference of DPO: pre-training on statements of the facts,
                  then SFT on questions with answers in all styles, and on comparisons of two
                  answers by noisy human annotators (A or B)
tiny-distilbert   the backbone of reward models: masked language modelling and replaced-token
                  detection on questions with right answers; it was told no preference

Both see only the prompts of the training split. Weights are stored as float16 safetensors, with the
hash of the recipe and of its training text. tests/test_models.py measures whether they know enough.
"""

from pathlib import Path

from common.models import load_causal_lm, quiet_libraries
from common.runs import OneLineParser

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Build and store both models."""
    parser = OneLineParser(description=__doc__)
    parser.add_argument("--output-dir", type=Path, default=HERE, help="default: this folder")
    folder = parser.parse_args().output_dir
    quiet_libraries()
    from common.tiny import recipe

    recipes = {"tiny-gpt2": recipe.train_gpt2, "tiny-distilbert": recipe.train_distilbert}
    for name, train in recipes.items():
        model, tokenizer = train()
        model.half().save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    # With the plain format as its chat template, so that any tool writes prompts as here.
    _, tokenizer = load_causal_lm(str(folder / "tiny-gpt2"))
    tokenizer.save_pretrained(folder / "tiny-gpt2")
    (folder / "recipe_hash.txt").write_text(recipe.recipe_hash() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
