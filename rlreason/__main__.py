"""`python -m rlreason`."""

import sys

from rlreason.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
