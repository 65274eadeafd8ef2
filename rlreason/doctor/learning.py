"""Rules on what is learned: signal, accuracy, and what rises in its place."""

import math
from statistics import NormalDist, fmean

from rlreason.doctor.history import ACCURACY, FORMAT, LEARNED, History, share_noise, steadied
from rlreason.doctor.rule import Rule, Seen, note, percent, points, warning
from rlreason.doctor.windows import Windows

WINDOW = 5
WINDOWS = (5, 10, 20)
"""Windows in which a fall of accuracy is looked for: short ones are prompt, long ones see small falls."""

_FALSE = 0.05
"""Runs, about, in which accuracy that only wavers is taken for a fall."""
_SURE = 2.5
"""Standard errors by which what rises in accuracy's place must have risen."""
_SILENT_GROUPS = 60
"""Groups that must have been without signal: where a fifth teach something, one time in 40,000."""
_SILENT_SHARE = 0.02


# ---------------------------------------------------------------------- signal


def _silent(history: History) -> Seen | None:
    steps = max(WINDOW, math.ceil(_SILENT_GROUPS / (history.facts.groups or 6)))
    last = history.last("informative", steps)
    if len(last) < steps or fmean(last) > _SILENT_SHARE:
        return None
    means, *hints = why_silent(history, steps)
    text = f"{percent(fmean(last))} of the groups of the last {steps} steps had different rewards"
    accuracy = history.last(ACCURACY, steps)
    text += f"; accuracy {percent(fmean(accuracy))}" if accuracy else ""
    solved = bool(accuracy) and fmean(accuracy) >= 0.9
    return Seen("note" if solved else "warning", text, means, tuple(hints))


def why_silent(history: History, steps: int) -> tuple[str, ...]:
    """What the last `steps` steps, in which no group had different rewards, say of the cause; and hints."""

    def mean(key: str) -> float | None:
        values = history.last(key, steps)
        return fmean(values) if values else None

    truncated, reward, accuracy = mean("truncated"), mean("reward"), mean(ACCURACY)
    trl = history.facts.trl
    if truncated is not None and truncated > 0.5:
        limit = "`max_completion_length`" if trl else "`rollout.max_new_tokens`"
        return (
            f"{percent(truncated)} of the completions are cut off before their answer",
            f"{limit}: raise it",
        )
    if reward is None:
        return (
            "every reward abstains: the gold answers cannot be read",
            *(() if trl else ("`task.answer_type`: say of which kind they are",)),
        )
    if (reward if accuracy is None else accuracy) <= 0.05:
        return "the questions are too hard: hardly a completion is right, so none is better than another", *(
            ("`num_generations`: larger groups", "`train_dataset`: easier questions, or imitation first")
            if trl
            else (
                "`task.params`: easier questions",
                "`stage`: a cold start (sft) first",
                "`{stage}.group_size`: larger groups",
            )
        )
    return "all completions of a question earn the same: the questions are solved, or too easy", *(
        ("`train_dataset`: harder questions", "`num_generations`: larger groups")
        if trl
        else (
            "`task.params`: harder questions",
            "`{stage}.group_size`: larger groups",
            "`grpo.dynamic_sampling`: further rounds in place of groups without signal",
        )
    )


NO_SIGNAL = Rule(
    "no_signal",
    "no group teaches anything",
    ("informative",),
    _silent,
    "all completions of a question earn the same",
    ("`task.params`: other questions",),
    ("`num_generations`: larger groups",),
)


# ---------------------------------------------------------------------- accuracy


def _flat(history: History) -> Seen | None:
    series = history.series(ACCURACY)
    count, third = series.count, series.count // 3
    planned = history.now("steps") or 0.0  # a long run may begin slowly
    if count < max(50, planned / 4) or history.now(ACCURACY) is None or series.mean(count - 10, count) >= 0.9:
        return None
    variance = history.accuracy_noise()
    early, late = series.mean(0, third), series.mean(count - third, count)
    if _format_apart(history) or _learned_apart(history) or _falls(history):
        return None  # it does move
    if late - early + 2 * math.sqrt(2 * variance / third) >= 0.05 or _has_risen(series, variance):
        return None
    return note(
        f"accuracy was {percent(early)} in the first third of {count} steps and {percent(late)} in the last"
    )


def _has_risen(series: Windows, variance: float) -> bool:
    """Whether there is a step after which accuracy was higher than before it, by 1.25 standard errors.

    So few, so that a quick rise and a long plateau pass for what they are.
    """
    count, cut = series.count, 4
    while cut <= count // 2:
        rise = series.mean(cut, count) - series.mean(0, cut)
        if rise > 1.25 * math.sqrt(variance * (1 / cut + 1 / (count - cut))):
            return True
        cut *= 2
    return False


FLAT = Rule(
    "flat",
    "accuracy does not move",
    (ACCURACY,),
    _flat,
    "there is little to learn from: few groups with signal, too small a rate, a reward that does not go with "
    "being right, or questions beyond the model",
    (
        "`{stage}.optim.lr`: raise it by 3",
        "`{stage}.group_size`: larger groups",
        "`task.params`: easier questions",
        "`rewards.NAME.weight`: is being right what pays most?",
    ),
    (
        "`learning_rate`: raise it by 3",
        "`num_generations`: larger groups",
        "`reward_weights`: is being right what pays most?",
    ),
)


def _sizes(history: History) -> list[int]:
    """The windows to look in. The best of a thousand short ones is mere luck: long runs ask for long ones."""
    return [size for size in WINDOWS if 50 * size >= min(len(history.steps), 50 * WINDOWS[-1])]


def _fall(history: History, size: int, rising: str, least: float) -> tuple[float, float, float, float] | None:
    """A fall of accuracy by `least`, or to half of what it was, that is no chance; else None.

    Returns the rise of `rising` since the best window, its standard error, the fall, and the best accuracy.
    """
    parting = history.windows(rising, ACCURACY, size).parting()
    if parting is None or parting.fall < min(least, parting.best / 2):
        return None
    expected = share_noise((parting.best + parting.now) / 2, history.facts.groups)
    variance = steadied(parting.noise[1], expected, parting.steps)
    error = math.sqrt(2 * max(variance / size, parting.wavering))
    if parting.fall <= _sure(parting.steps) * error:
        return None
    return parting.rise, math.sqrt(2 * parting.noise[0] / size), parting.fall, parting.best


def _sure(steps: int) -> float:
    """Standard errors that a fall must measure: the best of many windows has been lucky, and it is asked
    again in every step. 3.3 at 10 steps, 4.3 at 80."""
    return NormalDist().inv_cdf(1 - _FALSE / steps**2)


def _falls(history: History) -> Seen | None:
    if history.now(ACCURACY) is None or _format_apart(history) or _learned_apart(history):
        return None
    for size in _sizes(history):
        found = _fall(history, size, ACCURACY, 0.1)
        if found:
            _, _, fall, best = found
            return warning(
                f"accuracy of the last {size} steps is {percent(best - fall)}, down by {points(fall)} from "
                f"the best {size} before"
            )
    return None


FALLS = Rule(
    "accuracy_falls",
    "accuracy falls",
    (ACCURACY,),
    _falls,
    "the updates do harm: too large a rate, too many passes over one batch, or another reward that pays more "
    "than being right",
    (
        "`{stage}.optim.lr`: lower it by 3, and go on from a checkpoint before",
        "`{stage}.epochs`: fewer passes",
        "`{stage}.kl.coef`: raise it",
        "`rewards.NAME.weight`: lower those of other rewards",
    ),
    (
        "`learning_rate`: lower it by 3, and go on from a checkpoint before",
        "`num_iterations`: fewer passes",
        "`beta`: raise it",
        "`reward_weights`: lower those of other rewards",
    ),
)


# ---------------------------------------------------------------------- in its place


def _format_apart(history: History) -> Seen | None:
    if history.now(ACCURACY) is None or history.now(FORMAT) is None:
        return None
    for size in _sizes(history):
        found = _fall(history, size, FORMAT, 0.05)
        if found and found[0] > max(0.05, _SURE * found[1]):
            rise, _, fall, best = found
            return warning(
                f"over the last {size} steps the format is up by {points(rise)} and accuracy down by "
                f"{points(fall)} (to {percent(best - fall)}), against the best {size} before"
            )
    return None


FORMAT_APART = Rule(
    "format_apart",
    "the format rises while accuracy falls",
    (FORMAT, ACCURACY),
    _format_apart,
    "the form is easier to earn than the answer, and the policy is learning to look right",
    (
        "`rewards.accuracy.gate`: think_format, and a small weight for the form",
        "`rewards.think_format.weight`: lower it",
        "`{stage}.optim.lr`: lower it by 3",
    ),
    ("`reward_weights`: a tenth for the form", "`learning_rate`: lower it by 3"),
)


def _learned_apart(history: History) -> Seen | None:
    if not history.facts.learned or history.now(LEARNED) is None:
        return None
    parting = history.windows(LEARNED, ACCURACY, WINDOW).parting()
    if parting is None:
        return None
    # Marks that are shares vary at least as the answers to so many questions do.
    share = (parting.best + parting.now) / 2
    floor = share * (1 - share) / history.facts.groups if history.facts.groups else 0.0
    errors = [math.sqrt(2 * v / WINDOW) for v in (parting.noise[0], max(parting.noise[1], floor))]
    if parting.rise <= _SURE * errors[0] or parting.fall <= _sure(parting.steps) * errors[1]:
        return None
    return warning(
        f"over the last {WINDOW} steps the learned reward is up by {parting.rise:.3g} and accuracy down by "
        f"{points(parting.fall)}, against the best {WINDOW} before"
    )


LEARNED_APART = Rule(
    "learned_apart",
    "the learned reward rises while answers get worse",
    (LEARNED, ACCURACY),
    _learned_apart,
    "the policy has found what the reward model likes and is not right (Gao et al., arXiv 2210.10760). Go "
    "back to a checkpoint before, or train the reward model on completions of now",
    (
        "`rewards.learned.weight`: lower it",
        "`{stage}.kl.coef`: raise it",
        "`rewards.accuracy.weight`: pay for right answers too",
    ),
    ("`reward_weights`: lower that of the reward model", "`beta`: raise it"),
)


def _held_out(history: History) -> Seen | None:
    if len(history.held_out) < 2:
        return None
    *earlier, now = history.held_out
    best = max(earlier, key=lambda one: one.accuracy)
    error = math.hypot(best.error, now.error)
    fall = best.accuracy - now.accuracy
    sure = NormalDist().inv_cdf(1 - 0.01 / len(earlier) ** 2)
    if fall <= sure * error:
        return None
    rewards = history.known("reward")
    rising = len(rewards) >= 2 * WINDOW and fmean(rewards[-WINDOW:]) > fmean(rewards[:WINDOW])
    text = (
        f"held-out accuracy is {percent(now.accuracy)} after step {now.step}, and was "
        f"{percent(best.accuracy)} after step {best.step}"
    )
    return warning(f"{text}; the reward has risen meanwhile" if rising else text)


HELD_OUT = Rule(
    "held_out_falls",
    "held-out accuracy falls",
    ("held_out",),
    _held_out,
    "what is learned does not carry over to questions that are not trained on: the questions are known by "
    "heart, a reward is earned without being right, or the updates do harm",
    (
        "`task.train_size`: more questions",
        "`{stage}.optim.lr`: lower it, and go on from a checkpoint before",
        "`rewards.NAME.weight`: lower those that are not about being right",
    ),
    (),
)
