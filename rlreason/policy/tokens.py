"""What the model reads, token by token, and which of it carries loss."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlreason.policy.chat import RenderedPrompt, Renderer
from rlreason.policy.packing import Completion, PassSize, Sharing, pack


@dataclass(frozen=True)
class Token:
    """`loss` says whether it is learned to be predicted; `kind` is prompt, prefill, completion or end."""

    id: int
    text: str
    loss: bool
    kind: str


def online_mask(prompt: Sequence[int], completion: Sequence[int]) -> list[bool]:
    """Which tokens of a prompt and its completion the loss of the loop counts: told by how it packs them."""
    (packed,) = pack(
        [Completion(0, prompt, completion)], share=Sharing.NOTHING, size=PassSize(1, 1), pad_id=0
    )
    # The token behind each predictor is the one that is learned.
    learned = (packed.source_F + 1).tolist()
    return [place in set(learned) for place in range(len(prompt) + len(completion))]


def tokens(
    renderer: Renderer,
    prompt: RenderedPrompt,
    completion: Sequence[int],
    mask: Sequence[bool],
    eos_ids: Sequence[int],
) -> list[Token]:
    """Each token of a prompt and its completion; the prefill is what the template wrote of the latter."""
    tokenizer: Any = renderer.tokenizer
    ids = [*prompt.ids, *completion]
    prefilled = _prefill_tokens(tokenizer, prompt)
    found = []
    for place, (token, loss) in enumerate(zip(ids, mask, strict=True)):
        if place < len(prompt.ids):
            kind = "prefill" if place >= len(prompt.ids) - prefilled else "prompt"
        else:
            kind = "end" if token in eos_ids else "completion"
        found.append(Token(token, _text(tokenizer, [token]), loss, kind))
    return found


def _text(tokenizer: Any, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _prefill_tokens(tokenizer: Any, prompt: RenderedPrompt) -> int:
    """How many tokens at the end of a prompt are the prefill: the fewest whose text holds it."""
    if not prompt.prefill:
        return 0
    for count in range(1, len(prompt.ids) + 1):
        if _text(tokenizer, prompt.ids[-count:]).endswith(prompt.prefill):
            return count
    return 0


def beginnings(tokenizer: Any, ids: Sequence[int]) -> int | None:
    """How often the beginning-of-sequence token stands at the start of a prompt; None if there is none.

    Some templates write it in front of every turn: later ones are no mistake.
    """
    bos = tokenizer.bos_token_id
    if bos is None:
        return None
    count = 0
    while count < len(ids) and ids[count] == bos:
        count += 1
    return count


def in_short(tokenizer: Any, prompt: RenderedPrompt, eos_ids: Sequence[int]) -> str:
    """One line on a prompt and the end of its completion: what stands where, and whether it carries loss."""
    mask = online_mask(prompt.ids, [eos_ids[0]])
    ends = [f"{_text(tokenizer, [token])!r} (id {token})" for token in eos_ids]
    prefill = f"{prompt.prefill!r} ({_prefill_tokens(tokenizer, prompt)})" if prompt.prefill else "none"
    begins = beginnings(tokenizer, prompt.ids)
    return (
        f"prompt {len(prompt.ids)}, of which {sum(mask[:-1])} carry loss; completion ends with "
        f"{' or '.join(ends)}, which carries {'loss' if mask[-1] else 'no loss'}; prefill {prefill}; bos "
        f"{'none' if begins is None else begins}"
    )
