"""The nouns that rooms hand to each other. Nothing here imports torch."""

from dataclasses import dataclass, field
from typing import Any, Literal

Message = dict[str, str]
FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Example:
    """One question. `prompt` is a list of chat messages; `answer` the gold answer as text.

    `metadata` holds the further columns of the row; rewards receive them by name.
    """

    prompt: list[Message]
    answer: str
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def question(self) -> str:
        """The last user message: what a reader calls the question."""
        return next((m["content"] for m in reversed(self.prompt) if m["role"] == "user"), "")


@dataclass(frozen=True)
class Rollout:
    """One sampled completion.

    `completion_ids` are the sampled tokens, the end-of-sequence token included when there is one;
    `logprobs` holds one natural log-probability a token under the sampler's temperature, before any
    top-p, top-k or min-p cut. Token ids are the truth: nothing re-tokenizes a completion.
    """

    prompt_ids: list[int]
    completion_ids: list[int]
    logprobs: list[float]
    finish_reason: FinishReason
