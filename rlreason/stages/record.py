"""Record: what a step leaves behind in `metrics.jsonl` and `samples.jsonl`."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rewards import SPECS, parse
from rewards.repetition import repeated_share
from rlreason.config import RunConfig
from rlreason.scoring import FORMAT
from rlreason.stages.collect import Sample, greedy_of
from rlreason.tasks import derives


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def step_record(
    config: RunConfig,
    step: int,
    samples: Sequence[Sample],
    drawn: Sequence[Sample],
    numbers: Mapping[str, float | None],
    *,
    main: str,
) -> dict[str, Any]:
    """The line of a step. Shares are in [0, 1]; lengths in tokens; log-probs, KL and entropy in nats.

    `numbers` are what advantage and update have measured. `drawn` are all completions of the step, those that
    dynamic sampling has put aside and greedy ones among them. Failures and abstentions are counted over
    these, as numbers of completions; `failed` is a share. Of the rest, greedy ones are in `tokens` alone.
    """
    spec = SPECS[config.prompt.format]
    lengths = [len(s.rollout.completion_ids) for s in samples]
    record: dict[str, Any] = {
        "stage": config.online_stage,
        "step": step,
        "steps": config.online.steps,
        "reward": _mean(s.reward for s in samples),
        "accuracy": _mean(s.score.parts[main].value for s in samples),
        "format": _mean(s.score.parts[FORMAT].value for s in samples),
        "derives": _mean(
            float(derives(parse(s.text, prefill=s.prompt.prefill, spec=spec).think or "")) for s in samples
        ),
        "length": _mean(float(n) for n in lengths),
        "length_reward": length_reward(samples),
        "repeated": _mean(repeated_share(s.rollout.completion_ids, ngram=20) for s in samples),
        "truncated": _mean(float(s.truncated) for s in samples),
        "abstained": _mean(float(s.score.total is None) for s in samples),
        "failed": _mean(float(any(part.failed for part in s.score.parts.values())) for s in drawn),
        "tokens": sum(lengths) + sum(len(s.rollout.completion_ids) for s in greedy_of(samples)),
        **numbers,
    }
    for name in samples[0].score.parts:
        record[f"reward/{name}"] = _mean(s.score.parts[name].value for s in samples)
        parts = [s.score.parts[name] for s in drawn]
        record[f"reward_failed/{name}"] = sum(part.failed for part in parts)
        record[f"reward_abstained/{name}"] = sum(part.value is None and not part.failed for part in parts)
    return record


def length_reward(samples: Sequence[Sample]) -> float | None:
    """Pearson's correlation of tokens and reward within groups; None where either is the same in all of them.

    Each is taken from the mean of its group, so that hard questions with long answers do not count.
    """
    groups: dict[int, list[tuple[int, float]]] = {}
    for sample in samples:
        if sample.reward is not None:
            groups.setdefault(sample.group, []).append((len(sample.rollout.completion_ids), sample.reward))
    lengths, rewards = [], []
    for pairs in groups.values():
        middle = [math.fsum(column) / len(pairs) for column in zip(*pairs, strict=True)]
        lengths += [length - middle[0] for length, _ in pairs]
        rewards += [reward - middle[1] for _, reward in pairs]
    together = math.fsum(a * b for a, b in zip(lengths, rewards, strict=True))
    apart = math.fsum(a * a for a in lengths) * math.fsum(b * b for b in rewards)
    # What rounding leaves of rewards that are all the same is no variance.
    return together / math.sqrt(apart) if apart > 1e-18 else None


def sample_records(stage: str, step: int, samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """One record a rollout: its prompt, its text, each reward with its reason, its advantage.

    That is None where nothing was learned from it, as down-sampling had left it out.
    """
    return [
        {
            "stage": stage,
            "step": step,
            "group": sample.group,
            "question": sample.prompt.example.question,
            "answer": sample.prompt.example.answer,
            "prefill": sample.prompt.prefill,
            "text": sample.text,
            "finish_reason": sample.rollout.finish_reason,
            "tokens": len(sample.rollout.completion_ids),
            "reward": sample.reward,
            "advantage": sample.advantage if sample.learned else None,
            "scores": {
                name: {"value": part.value, "reason": part.reason, "failed": part.failed}
                for name, part in sample.score.parts.items()
            },
            **({"greedy_reward": sample.greedy.reward} if sample.greedy else {}),
        }
        for sample in samples
    ]
