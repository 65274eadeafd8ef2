"""The one exception that is meant for the person at the keyboard."""


class UserError(ValueError):
    """Something the user wrote or pointed at cannot be used.

    The message names the field or file, the value found there and the remedy. `train.py` and
    `python -m rlreason` print it without a traceback and exit with code 2.
    """
