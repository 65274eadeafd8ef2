"""Rules on the completions and their scores: cut off, drifting in length, repeating, unscored."""

from statistics import fmean

from rlreason.doctor.history import ACCURACY, History, share_noise
from rlreason.doctor.rule import Rule, Seen, note, percent, warning

WINDOW = 5
LONG_WINDOW = 10


def _cut_off(history: History) -> Seen | None:
    last = history.last("truncated", WINDOW)
    if len(last) < WINDOW:
        return None
    share = fmean(last)
    groups = history.facts.groups
    error = (share_noise(share, None if groups is None else groups * WINDOW) or 0.0) ** 0.5
    if share <= 0.2 or share - 3 * error <= 0.1:
        return None
    text = f"{percent(share)} of the completions were cut off at the limit, mean of {WINDOW} steps"
    return warning(text) if share >= 0.5 else note(text)


CUT_OFF = Rule(
    "cut_off",
    "completions are cut off",
    ("truncated",),
    _cut_off,
    "the answer comes last, so a completion that is cut off earns nothing even where its reasoning is right. "
    "The policy is taught to be short, and not to be right",
    (
        "`rollout.max_new_tokens`: raise it",
        "`{stage}.overlong_buffer`: a penalty that grows before the limit",
        "`{stage}.mask_truncated`: true, to learn nothing from them",
    ),
    (
        "`max_completion_length`: raise it",
        "`mask_truncated_completions`: true, to learn nothing from them",
    ),
)


def _length(history: History) -> Seen | None:
    values = history.known("length")
    if len(values) < 2 * LONG_WINDOW or history.now("length") is None:
        return None
    start, now = fmean(values[:LONG_WINDOW]), fmean(values[-LONG_WINDOW:])
    error = (2 * history.series("length").noise[1] / LONG_WINDOW) ** 0.5
    found = history.accuracy_rise(LONG_WINDOW)
    # Not "no rise is shown", which few questions never show, but "a rise of 5 points can be ruled out".
    if start <= 0 or abs(now - start) <= 5 * error or found is None or found[0] + 2 * found[1] > 0.05:
        return None
    ratio = now / start
    pays = history.last("length_reward", LONG_WINDOW)
    # Longer completions that earn more, or shorter ones.
    paid = fmean(pays) * (1 if ratio > 1 else -1) if len(pays) == LONG_WINDOW else 0.0
    text = f"completions went from {start:.0f} to {now:.0f} tokens, and accuracy has not risen"
    if paid >= 0.3 and not 1 / 1.2 < ratio < 1.2:
        longer = "longer" if ratio > 1 else "shorter"
        return warning(
            f"{text}; of a question's completions {longer} ones earn more (r = {fmean(pays):+.2f})"
        )
    return note(text) if not 1 / 1.5 < ratio < 1.5 else None


LENGTH = Rule(
    "length_drift",
    "length drifts without a gain",
    ("length", ACCURACY),
    _length,
    "something other than being right pays for length: a reward that counts words or steps, a learned reward "
    "with a liking, a loss that divides by length, or a limit that punishes what is long",
    (
        "`rewards.NAME.weight`: lower that of the reward that goes with length",
        "`grpo.loss`: dr_grpo, which does not divide by a completion's length",
        "`{stage}.kl.coef`: raise it",
        "`rollout.max_new_tokens`: raise it, if completions get shorter",
    ),
    (
        "`reward_weights`: lower that of the reward that goes with length",
        "`loss_type`: dr_grpo or dapo, which do not divide by a completion's length",
        "`beta`: raise it",
    ),
)


def _repeated(history: History) -> Seen | None:
    last = history.last("repeated", WINDOW)
    if len(last) < WINDOW or fmean(last) <= 0.1:
        return None
    known = history.known("repeated")
    start, now = fmean(known[:WINDOW]), fmean(last)
    text = f"{percent(now)} of the runs of 20 tokens were there before in the same completion"
    grown = len(known) >= 2 * WINDOW and now - start > 0.1
    return warning(f"{text}, {percent(start)} in the first steps") if grown else note(text)


REPEATED = Rule(
    "repetition",
    "completions repeat themselves",
    ("repeated",),
    _repeated,
    "completions go round in circles until the limit. Small models do so from the start; where it grows, the "
    "policy has been paid for it, or has been damaged by too large steps",
    (
        "`rewards.NAME.weight`: add the reward `repetition`, with a small weight",
        "`{stage}.optim.lr`: lower it",
        "`{stage}.mask_truncated`: false, so that loops are seen and cost something",
    ),
    ("`reward_weights`: add a penalty on repetition", "`learning_rate`: lower it"),
)


def _failing(history: History) -> Seen | None:
    last = history.last("failed", WINDOW)
    if len(last) < WINDOW or fmean(last) <= 0.01:
        return None
    counts = {
        name.removeprefix("reward_failed/"): sum(history.last(name, WINDOW))
        for name in history.names()
        if name.startswith("reward_failed/")
    }
    worst = max(counts, key=lambda name: counts[name], default="")
    text = f"a reward failed on {percent(fmean(last))} of the completions, mean of {WINDOW} steps"
    text += f"; most often {worst}, {counts[worst]:.0f} times" if worst and counts[worst] else ""
    return warning(text) if fmean(last) > 0.05 else note(text)


FAILING = Rule(
    "reward_errors",
    "a reward fails",
    ("failed",),
    _failing,
    "the reward has raised an error or run out of time; such a completion earns nothing from it, right or "
    "wrong. `samples.jsonl` holds what the reward said",
    (
        "`rewards.NAME.seconds`: raise it, if it runs out of time",
        "`rewards.NAME.max_errors`: lower it, to stop instead",
    ),
    (),
)


def _abstaining(history: History) -> Seen | None:
    last = history.last("abstained", WINDOW)
    if len(last) < WINDOW or fmean(last) <= 0.2:
        return None
    text = f"{percent(fmean(last))} of the completions have no reward at all, mean of {WINDOW} steps"
    return warning(text) if fmean(last) > 0.5 else note(text)


ABSTAINING = Rule(
    "abstaining",
    "completions without a reward",
    ("abstained",),
    _abstaining,
    "every reward abstains on them: most often gold answers that cannot be read. They teach nothing",
    (
        "`task.answer_type`: say of which kind the gold answers are",
        "`task.max_unreadable`: how many gold answers may be unreadable",
    ),
    (),
)
