"""random: a control. A gain that it shows as well does not come from the answers (arXiv 2506.10947)."""

import hashlib
from typing import Any

from rewards.response import Response
from rewards.score import Score


def random_control(response: Response, *, prompts: Any = None, seed: int = 0) -> Score:
    """0.0 or 1.0 with equal odds, from a hash of `seed`, the prompt (column `prompts`) and the text.

    The same input gives the same value on every machine; the gold answer plays no part. The prompt is
    hashed, where given, so that no text earns the same value for every question.
    """
    drawn = f"{seed}\x1f{prompts!r}\x1f{response.text}"
    bit = hashlib.sha256(drawn.encode(errors="surrogatepass")).digest()[0] & 1
    return Score(float(bit), "drawn at random")
