"""Seeds by hashing, so that neighbouring seeds, steps and indices never share a stream."""

import hashlib


def derive_seed(purpose: str, *parts: int | str) -> int:
    """Return a seed in [0, 2**63) for one purpose and its coordinates.

    `derive_seed("rollout", seed, step, row)` is the low 63 bits of SHA-256 over the parts, joined with a
    separator that no part contains. Adding an index to a seed instead would let run 0, question 1 and
    run 1, question 0 draw the same numbers.
    """
    text = "\x1f".join([purpose, *(f"{type(part).__name__}:{part}" for part in parts)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
