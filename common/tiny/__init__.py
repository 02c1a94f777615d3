"""The embedded models, built by `python -m common.tiny` (see __main__.py for the recipe)."""
