"""Questions out of reasoning-gym's generators.

A reasoning-gym data set draws question i with the seed `seed + i`, so that the sets of neighbouring seeds
are the same questions shifted by one. Here questions come in blocks, each a data set of its own whose seed
is a hash of purpose, run seed and block number: nothing is shared but by coincidence, a block costs its
set-up (up to 0.4 s where word lists are read) only once, and the first n questions do not depend on how
many are asked for.
"""

import contextlib
import dataclasses
import io
import itertools
import os
import random
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from rlreason.errors import UserError
from rlreason.seeds import derive_seed
from rlreason.tasks.questions import nearest
from rlreason.types import Example

Entry = dict[str, Any]

BLOCK = 512

# Generators of reasoning-gym 0.1.25 that iterate over sets, or leave it to sympy: what they draw depends on
# Python's string hashing, which differs from process to process unless PYTHONHASHSEED fixes it.
HASH_ORDERED = frozenset(
    {
        "intermediate_integration",
        "isomorphic_strings",
        "knight_swap",
        "polynomial_multiplication",
        "ransom_note",
        "word_ladder",
    }
)


class Generator:
    """One generator with its parameters.

    Raises UserError for an unknown name, an unknown or unusable parameter, and a generator that cannot be
    drawn from reproducibly in this process.
    """

    def __init__(self, name: str, params: Mapping[str, Any]) -> None:
        self.name = name
        self._params = dict(params)
        self._parts = _composite_parts(self._params) if name == "composite" else {}
        _check(name, self._params)
        for part, part_params in self._parts.items():
            _check(part, part_params)

    def entries(self, purpose: str, *coordinates: int | str) -> Iterator[Entry]:
        """Yield items for ever, in an order that is the same in every run of the same coordinates."""
        for block in itertools.count():
            # 31 bits, because some generators hand the seed to numpy, which takes 32.
            seed = derive_seed(purpose, *coordinates, self.name, block) % 2**31
            dataset = self._dataset(seed)
            for index in range(BLOCK):
                yield self._draw(dataset, index, seed)

    def example(self, entry: Entry) -> Example:
        """An item as an Example.

        The gold answer is "" where the generator knows none: its verifier is then the only judge. metadata:
        `reasoning_gym` {dataset, params, entry} is what that verifier needs, `difficulty` what the generator
        says of it, and the item's own metadata (such as `numbers` and `target`) follow by name.
        """
        metadata = dict(entry["metadata"])
        source = metadata["source_dataset"] if self.name == "composite" else self.name
        params = self._parts.get(source, self._params)
        metadata["reasoning_gym"] = {"dataset": source, "params": params, "entry": entry}
        metadata.setdefault("difficulty", None)
        answer = "" if entry["answer"] is None else str(entry["answer"])
        return Example([{"role": "user", "content": entry["question"]}], answer, metadata)

    def _dataset(self, seed: int) -> Any:
        params = {**self._params, "seed": seed, "size": BLOCK}
        try:
            with _isolated(seed):
                return _create(self.name, params)
        except (AssertionError, TypeError, ValueError) as error:
            raise UserError(
                f"task.params: {self.name} does not take {self._params}: {error or type(error).__name__}"
            ) from error

    def _draw(self, dataset: Any, index: int, seed: int) -> Entry:
        try:
            with _isolated(seed + index):
                entry: Entry = dataset[index]
        # The generator is another's code under the user's parameters: whatever it raises on them (a range of
        # 2.5 digits, a puzzle that has no solution) is for the user to change.
        except Exception as error:
            raise UserError(
                f"task.params: {self.name} failed to draw a question with {self._params}: "
                f"{type(error).__name__}: {error}; change them"
            ) from error
        return entry


def _check(name: str, params: Mapping[str, Any]) -> None:
    from reasoning_gym.factory import DATASETS

    if name not in DATASETS:
        raise UserError(f"task.name: reasoning_gym has no generator {name!r}; {nearest(name, DATASETS)}")
    accepted = {field.name for field in dataclasses.fields(DATASETS[name][1])} - {"seed", "size"}
    for key in params:
        if key in ("seed", "size"):
            instead = "seed" if key == "seed" else "task.train_size and eval.questions"
            raise UserError(f"task.params.{key}: is set by rlreason; remove it and set {instead}")
        if key not in accepted:
            raise UserError(f"task.params.{key}: {name} has no such parameter; {nearest(key, accepted)}")
    if name in HASH_ORDERED and not _hashing_is_fixed():
        raise UserError(
            f"task.name: {name} draws other questions in every Python process, so that a later evaluation "
            "could ask what was trained on; set PYTHONHASHSEED=0 in the environment and start again"
        )


def _hashing_is_fixed() -> bool:
    return not sys.flags.hash_randomization or os.environ.get("PYTHONHASHSEED", "random").isdigit()


def _composite_parts(params: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Parameters of each generator in `composite`, whose `datasets` are mappings of name, weight, config."""
    parts = params.get("datasets")
    if not isinstance(parts, list) or not parts or not all(_is_part(part) for part in parts):
        raise UserError(
            f"task.params.datasets: composite takes a list such as [{{name: chain_sum, weight: 1, "
            f"config: {{max_terms: 4}}}}], not {parts!r}"
        )
    return {part["name"]: part.get("config", {}) for part in parts}


def _is_part(part: object) -> bool:
    return (
        isinstance(part, dict)
        and "name" in part
        and part.keys() <= {"name", "weight", "config"}
        and isinstance(part.get("config", {}), dict)
    )


def _create(name: str, params: dict[str, Any]) -> Any:
    from reasoning_gym.composite import DatasetSpec
    from reasoning_gym.factory import create_dataset

    if name == "composite":
        parts = [{"weight": 1.0, "config": {}} | part for part in params["datasets"]]
        params = {**params, "datasets": [DatasetSpec(**part) for part in parts]}
    return create_dataset(name, **params)


@contextlib.contextmanager
def _isolated(seed: int) -> Iterator[None]:
    """Run a generator without letting it touch, or depend on, the process's random state and screen.

    A few draw from the global generators of `random` and numpy or reseed them, and one prints dots.
    """
    import numpy as np

    python_state, numpy_state = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
