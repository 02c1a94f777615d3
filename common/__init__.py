"""What several labs need: the synthetic world, models, sampling, the command line, results."""

import os

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # huggingface_hub reads it when imported
