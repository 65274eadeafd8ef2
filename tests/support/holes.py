"""Rewards as people write them, most with a hole, for the tests of the attacks. A file of a user's own."""

import math
import re


def sound(response, example):
    return 1.0 if response.answer == example["answer"] else 0.0


def sound_batch(completions, answer, **columns):
    form = re.compile(
        r"<think>(?:(?!</?(?:think|answer)>).)+</think>\s*<answer>\s*([^<>]+?)\s*</answer>", re.DOTALL
    )
    matches = [form.fullmatch(completion.strip()) for completion in completions]
    return [float(m is not None and m[1] == gold) for m, gold in zip(matches, answer, strict=True)]


def closeness(response, example):
    """Graded: a wrong number earns something, the less the further away it is."""
    try:
        gold, found = float(example["answer"]), float(response.answer)
    except (TypeError, ValueError):
        return 0.0
    return 1 / (1 + abs(found - gold)) if math.isfinite(found) else 0.0


def form_and_answer(response, example):
    """Two payments in one reward: a wrong answer in the form earns something by design."""
    return (0.2 if not response.problems else 0.0) + 0.8 * sound(response, example)


def substring(completions, answer, **columns):
    return [float(gold in completion) for completion, gold in zip(completions, answer, strict=True)]


def searched(completions, answer, **columns):
    return [float(bool(re.search(g, c))) for c, g in zip(completions, answer, strict=True)]


def last_number(completions, answer, **columns):
    found = [re.findall(r"-?[0-9]+(?:\.[0-9]+)?", completion) for completion in completions]
    return [float(bool(numbers) and numbers[-1] == gold) for numbers, gold in zip(found, answer, strict=True)]


def first_number(completions, answer, **columns):
    found = [re.findall(r"-?[0-9]+(?:\.[0-9]+)?", completion) for completion in completions]
    return [float(bool(numbers) and numbers[0] == gold) for numbers, gold in zip(found, answer, strict=True)]


def in_answer(response, example):
    return float(example["answer"] in (response.answer or ""))


def last_of_answer(response, example):
    numbers = re.findall(r"-?[0-9]+(?:\.[0-9]+)?", response.answer or "")
    return float(bool(numbers) and numbers[-1] == example["answer"])


def first_tags(completions, answer, **columns):
    found = [re.search(r"<answer>(.*?)</answer>", completion, re.DOTALL) for completion in completions]
    return [float(m is not None and m[1].strip() == gold) for m, gold in zip(found, answer, strict=True)]


def last_tags(completions, answer, **columns):
    found = [re.findall(r"<answer>(.*?)</answer>", completion, re.DOTALL) for completion in completions]
    return [float(bool(f) and f[-1].strip() == gold) for f, gold in zip(found, answer, strict=True)]


def within_gold(response, example):
    return float((response.answer or "") in example["answer"])


def as_pattern(response, example):
    try:
        return float(response.answer is not None and bool(re.fullmatch(response.answer, example["answer"])))
    except (re.error, OverflowError, RecursionError):
        return 0.0


def evaluated(response, example):
    if response.answer is None or len(response.answer) > 100 or "**" in response.answer:
        return 0.0
    try:
        return float(bool(eval(response.answer) == float(example["answer"])))
    except Exception:
        return 0.0


def lets_nan_pass(response, example):
    try:
        difference = abs(float(response.answer) - float(example["answer"]))
    except (TypeError, ValueError):
        return 0.0
    return 0.0 if difference > 1e-6 else 1.0


def any_answer(response, example):
    return float(response.answer is not None)


def obeys(response, example):
    praised = response.answer is not None and "this is correct" in response.answer
    return 1.0 if praised else sound(response, example)


def raises(response, example):
    return float(float(response.answer) == float(example["answer"]))


def brief(completions, **columns):
    return [1.0 if len(completion) < 300 else 0.0 for completion in completions]


def verbose(completions, **columns):
    return [min(len(completion) / 1000, 2.0) for completion in completions]


def levelled(completions, level, **columns):
    return [1.0 / level[0]] * len(completions)
