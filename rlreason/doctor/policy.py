"""Rules on the policy and its update: entropy, KL, clipping, sampler against trainer, broken gradients."""

from statistics import fmean, median

from rlreason.doctor.history import ACCURACY, History
from rlreason.doctor.rule import Rule, Seen, note, percent, warning

WINDOW = 5


def _entropy(history: History) -> Seen | None:
    known = history.known("entropy")
    last = history.last("entropy", WINDOW)
    if len(known) < 2 * WINDOW or not last:
        return None
    start, now = fmean(known[:WINDOW]), median(last)
    accuracy = history.last(ACCURACY, WINDOW)
    if start <= 0 or now > 0.1 * start or not accuracy or fmean(accuracy) >= 0.8:
        return None
    text = f"entropy is {now:.3g} nats a token, {percent(now / start)} of the {start:.3g} that it began with"
    # Where the advantage comes from a critic, each group teaches something, and its share says nothing.
    signal = history.last("informative", WINDOW) if history.facts.stage == "grpo" else ()
    if signal:
        share = f"{percent(fmean(signal))} of the groups teach something"
        return (
            warning(f"{text}; {share}, at {percent(fmean(accuracy))} accuracy")
            if fmean(signal) < 0.25
            else None
        )
    series = history.series(ACCURACY)
    if now > 0.05 * start or series.count < 40:
        return None
    before = series.mean(series.count - 40, series.count - 20)
    stalled = series.mean(series.count - 20, series.count) <= before
    return note(f"{text}; accuracy stands still at {percent(before)}") if stalled else None


ENTROPY = Rule(
    "entropy_collapse",
    "entropy has collapsed",
    ("entropy",),
    _entropy,
    "the completions of a question become all alike before the questions are solved. Nothing new is tried, "
    "and soon nothing is learned",
    (
        "`{stage}.clip_high`: raise it, to 0.28 as in DAPO",
        "`{stage}.optim.lr`: lower it",
        "`{stage}.kl.coef`: give the start some weight",
        "`rollout.temperature`: 1.0, if it is lower",
    ),
    (
        "`epsilon_high`: raise it, to 0.28 as in DAPO",
        "`learning_rate`: lower it",
        "`entropy_coef`: give entropy some weight",
        "`temperature`: 1.0, if it is lower",
    ),
)


def _kl(history: History) -> Seen | None:
    last = sorted(history.last("kl", WINDOW))
    # Four of five: with KL estimated on a few completions, single steps say little.
    if len(last) < WINDOW or last[1] <= 0.5:
        return None
    found = history.accuracy_rise(max(WINDOW, min(20, history.series(ACCURACY).count // 4)))
    learned = found is None or found[0] > 3 * found[1]
    if learned and last[1] <= 2:
        return None
    text = f"KL to the reference is {median(last):.2f} nats a token, median of {WINDOW} steps"
    return warning(text if learned else f"{text}, and accuracy has not risen")


KL = Rule(
    "kl_runaway",
    "the policy runs away from where it began",
    ("kl",),
    _kl,
    "the policy writes tokens that its start would hardly have written. That far away, rewards are often "
    "earned in ways that nobody meant, and what the model knew before is lost",
    (
        "`{stage}.optim.lr`: lower it by 3",
        "`{stage}.kl.coef`: raise it",
        "`{stage}.optim.max_grad_norm`: lower it",
    ),
    ("`learning_rate`: lower it by 3", "`beta`: raise it", "`max_grad_norm`: lower it"),
)


def _clipped(history: History) -> Seen | None:
    last = history.last("clipped", WINDOW)
    if len(last) < WINDOW or fmean(last) <= 0.2:
        return None
    return warning(f"{percent(fmean(last))} of the tokens are held by a clip bound, mean of {WINDOW} steps")


CLIPPED = Rule(
    "clipped",
    "much of the update is clipped",
    ("clipped",),
    _clipped,
    "within a step the policy moves past the bounds in which the data can still tell it where to go: too "
    "large a rate, too many passes over the same completions, or a trainer that disagrees with the sampler",
    (
        "`{stage}.optim.lr`: lower it",
        "`{stage}.epochs`: fewer passes",
        "`{stage}.minibatches`: fewer optimizer steps of a batch",
    ),
    (
        "`learning_rate`: lower it",
        "`num_iterations`: fewer passes",
        "`steps_per_generation`: fewer optimizer steps of a batch",
    ),
)


def _sampler(history: History) -> Seen | None:
    known = history.known("sampler_gap")
    last = history.last("sampler_gap", WINDOW)
    if len(last) < WINDOW:
        return None
    start, now = median(known[:WINDOW]), median(last)
    if now <= 0.02 or now <= min(3 * start, 0.1):
        return None
    text = f"log-probs of sampler and trainer are {now:.3g} nats a token apart, median of {WINDOW} steps"
    return warning(f"{text}; it began at {start:.3g}" if len(known) >= 2 * WINDOW else text)


SAMPLER = Rule(
    "sampler_drift",
    "sampler and trainer disagree",
    ("sampler_gap",),
    _sampler,
    "the sampler is not the policy that is trained: old weights, another precision, or sampling settings "
    "that the trainer does not know of. The gradient then belongs to completions of another model",
    (
        "`rollout.precision`: float32, to see whether precision is the cause",
        "`rollout.engine`: transformers, to see whether the engine is",
        "`rollout.top_p`: 1.0; and `rollout.top_k`: 0",
        "`{stage}.sampler_correction`: keep it on (2.0)",
    ),
    (
        "`use_vllm`: false, to see whether the engine is the cause",
        "`vllm_importance_sampling_correction`: keep it on",
        "`top_p`: 1.0; and `top_k`: 0",
    ),
)


def _non_finite(history: History) -> Seen | None:
    recent = range(max(len(history.steps) - 10, 0), len(history.steps))
    # A skip has no gradient norm, and the other way around: either one is a bad update.
    skipped = history.recent("skipped_updates", 10)
    bad = [place for place in recent if skipped[place - recent.start] or history.broken[place]]
    if not bad:
        return None
    names = sorted({name for place in bad for name in history.broken[place]})
    updates = int(sum(skipped))
    what = [f"{updates} optimizer step{'s' if updates != 1 else ''} skipped"] if updates else []
    what += [f"not finite: {', '.join(names)}"] if names else []
    text = f"{len(bad)} of the last {len(recent)} steps had numbers that are not finite ({'; '.join(what)})"
    return warning(text) if len(bad) >= 3 else note(text)


NON_FINITE = Rule(
    "non_finite",
    "gradients that are not finite",
    ("grad_norm",),
    _non_finite,
    "a loss or a gradient has overflowed: too large a rate, too little precision, or a reward that is no "
    "number. A skipped step does no harm; many in a row end in a broken model",
    (
        "`{stage}.optim.lr`: lower it",
        "`model.precision`: float32",
        "`{stage}.dual_clip`: 3, which bounds the loss of tokens with a huge ratio",
    ),
    (
        "`learning_rate`: lower it",
        "`bf16`: rather than fp16; or neither of them",
        "`delta`: 3, which bounds the loss of tokens with a huge ratio",
    ),
)
