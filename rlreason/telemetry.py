"""What libraries would report of a run by themselves, switched off."""

import os

# TRL's trainers and transformers report through huggingface_hub, which reads the first two when it is
# imported. The others are what packages of trackers send of themselves, beside what they were asked to.
_OFF = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "WANDB_ERROR_REPORTING": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GRADIO_ANALYTICS_ENABLED": "False",  # of trackio
}


def no_telemetry() -> None:
    """Keep libraries from reporting what is run here. What the user has set in the environment stays.

    Call it before they are imported; processes that are started later inherit it.
    """
    for name, value in _OFF.items():
        os.environ.setdefault(name, value)
