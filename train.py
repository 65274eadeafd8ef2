"""Train a model: `python train.py CONFIG key.sub=value ...`; `--help` lists every field."""

import sys

from rlreason.cli import main_train

if __name__ == "__main__":
    sys.exit(main_train(sys.argv[1:]))
