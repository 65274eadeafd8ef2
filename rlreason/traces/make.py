"""`python -m rlreason traces CONFIG --out FILE`: what stage sft imitates, made instead of brought."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Literal

from rewards import SPECS, parse
from rlreason.config import RunConfig
from rlreason.errors import UserError
from rlreason.scoring import Scorer, readable, stand_in_ids, without_own_model
from rlreason.seeds import derive_seed
from rlreason.tasks import load_tasks, traces
from rlreason.traces.select import Candidate, Selection
from rlreason.types import Example

_FILLS = 4
"""How often a chunk of questions fills the engine: at the end of a chunk there are few side by side."""

Note = Callable[[str], None]
Groups = Iterator[list[Candidate]]


@dataclass(frozen=True)
class Options:
    """What the command is asked for. `model` is a model or run; None takes `model.path` of the config.

    `questions` bounds the training questions, `samples` is the number of completions of each.
    """

    source: Literal["samples", "derivations"]
    model: str | None = None
    questions: int | None = None
    samples: int = 8
    keep: int = 1
    min_reward: float | None = None
    shortest: bool = False


@dataclass
class Made:
    """What came of it. `asked` of `planned` questions were asked; fewer only after an interrupt.

    `model` is the path of what was sampled from, "" for derivations. `too_long` questions were left out.
    `unanswered` is the number of those without any right completion, `unused` of those with one, but none
    that could be kept.
    """

    model: str
    planned: int
    too_long: int = 0
    asked: int = 0
    sampled: int = 0
    in_form: int = 0
    cut_off: int = 0
    right: int = 0
    usable: int = 0
    distinct: int = 0
    unanswered: int = 0
    unused: int = 0
    kept: list[Candidate] = field(default_factory=list)
    interrupted: bool = False

    @property
    def unit(self) -> str:
        """What lengths are counted in: derivations are not tokenized."""
        return "tokens" if self.model else "words"

    def add(self, group: Sequence[Candidate], selection: Selection) -> None:
        """Count the completions of one question and keep the best."""
        distinct = selection.distinct(group)
        right = sum(map(selection.right, group))
        self.asked += 1
        self.sampled += len(group)
        self.in_form += sum(not one.response.problems for one in group)
        self.cut_off += sum(not one.ended for one in group)
        self.right += right
        self.usable += sum(map(selection.usable, group))
        self.distinct += len(distinct)
        self.unanswered += not right
        self.unused += bool(right) and not distinct
        self.kept += distinct[: selection.keep]


def make_traces(config: RunConfig, options: Options, note: Note) -> Made:
    """Make traces for training questions; held-out ones are never asked. `note` is told how far it is.

    A first Ctrl-C ends the sampling, and what was found up to then is returned. Raises UserError for a task
    without derivations, a model that cannot be loaded, and rewards that cannot be used.
    """
    data = load_tasks(config.task, seed=config.seed, eval_questions=config.eval.questions)
    rules = without_own_model(config)
    if rules is not config:
        note("rewards.learned is left out: its model is one that a run makes; name one in its args to use it")
    with Scorer(rules) as scorer:
        data, left_out = readable(config, scorer, data)
        if left_out:
            note(left_out)
        selection = Selection(
            scorer.main, config.seed, options.keep, options.min_reward, shortest=options.shortest
        )
        examples = data.train[: options.questions or config.sft.size]
        source = _sampled if options.source == "samples" else _derived
        made, groups = source(config, options, examples, scorer, note)
        with closing(groups):
            try:
                for group in groups:
                    made.add(group, selection)
            except KeyboardInterrupt:
                made.interrupted = True
    return made


def _derived(
    config: RunConfig, options: Options, examples: Sequence[Example], scorer: Scorer, note: Note
) -> tuple[Made, Any]:
    """The task's derivations, in the styles of the config, under the same rewards as samples."""
    seed = derive_seed("traces", config.seed)
    spec = SPECS[config.prompt.format]
    asked, remedy = "--from derivations", "sample a model instead (--from samples)"
    found = traces(config.task, examples, config.sft.styles, seed, field=asked, remedy=remedy)
    try:
        texts = [spec.render(trace.think, trace.answer) for trace in found]
    except ValueError as error:
        raise UserError(f"--from derivations: {error}; choose another prompt.format") from error
    words = [len(text.split()) for text in texts]

    def groups() -> Groups:
        ids = [stand_in_ids(text, count) for text, count in zip(texts, words, strict=True)]
        scores = scorer.score(examples, texts, [""] * len(texts), ids)
        scorer.check(scores)
        rows = zip(found, texts, scores, words, strict=True)
        for place, (trace, text, score, count) in enumerate(rows):
            response = parse(text, spec=spec)
            yield [Candidate(trace.example, text, response, score, True, count, place, 0, trace.style)]

    return Made("", len(examples)), groups()


def _sampled(
    config: RunConfig, options: Options, examples: Sequence[Example], scorer: Scorer, note: Note
) -> tuple[Made, Any]:
    """Completions of a model, in chunks of questions, so that an interrupt costs little."""
    import torch
    from transformers.utils.logging import disable_progress_bar

    from rlreason.evaluation.asking import Asker, Marked
    from rlreason.policy.chat import Renderer, check_context, render_all
    from rlreason.rollout import build_engine, sampling_of, sequences_at_once

    disable_progress_bar()
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    path, policy = _policy(config, options.model)
    renderer = Renderer(policy.tokenizer, prompt_format=config.prompt.format, system=config.prompt.system)
    prompts, too_long = render_all(renderer, examples, max_tokens=config.prompt.max_tokens)
    if not prompts:
        raise UserError(f"prompt.max_tokens={config.prompt.max_tokens}: no training question fits; raise it")
    check_context(policy.model, prompts, config.rollout.max_new_tokens)
    engine, engine_name = build_engine(policy, config.rollout)
    note(f"{path}: {len(prompts)} training questions ({too_long} too long), sampler {engine_name}")
    asker = Asker(engine, renderer, policy.eos_ids, scorer)

    def candidate(one: Marked, place: int, number: int) -> Candidate:
        return Candidate(
            one.prompt.example,
            one.prompt.prefill + one.text,
            parse(one.text, prefill=one.prompt.prefill, spec=renderer.spec),
            one.score,
            one.rollout.finish_reason == "stop",
            len(one.rollout.completion_ids),
            place,
            number,
        )

    def groups() -> Groups:
        at_once = sequences_at_once(config.rollout.max_sequences, policy.device)
        chunk = max(1, _FILLS * at_once // options.samples)
        for start in range(0, len(prompts), chunk):
            part = prompts[start : start + chunk]
            places = range(start, start + len(part))
            seeds = [
                [derive_seed("traces", config.seed, p, n) for n in range(options.samples)] for p in places
            ]
            asked = asker.ask(part, seeds, sampling_of(config.rollout))
            for place, group in zip(places, asked, strict=True):
                yield [candidate(one, place, number) for number, one in enumerate(group)]
            note(f"{places.stop} of {len(prompts)} questions asked")

    return Made(path, len(prompts), too_long), groups()


def _policy(config: RunConfig, model: str | None) -> tuple[str, Any]:
    """The model to sample from, whole and without an adapter of its own, and its path."""
    from rlreason.evaluation.command import model_path
    from rlreason.policy.model import load_policy

    path = config.model.path if model is None else model_path(model)
    changes: dict[str, Any] = {"lora": None, "scratch": None, "path": path}
    if model is not None:
        changes["revision"] = None  # it belongs to the model of the config
    return path, load_policy(config.model.model_copy(update=changes))


def record(config: RunConfig, made: Made, one: Candidate) -> Mapping[str, Any]:
    """A line of the file: what `sft.traces` reads, and where it comes from."""
    prompt = one.example.prompt
    own = {key: value for key, value in one.example.metadata.items() if isinstance(value, str | int | float)}
    origin = {"source": "samples", "model": made.model} if made.model else {"source": "derivations"}
    return {
        "prompt": prompt[0]["content"] if len(prompt) == 1 else prompt,
        "think": one.response.think,
        "answer": one.response.answer,
        "gold": one.example.answer,
        **origin,
        **({"style": one.style} if one.style else {"sample": one.number}),
        "task": config.task.name,
        "seed": config.seed,
        "place": one.place,
        made.unit: one.tokens,
        "reward": one.score.total,
        "scores": {name: part.value for name, part in one.score.parts.items()},
        "metadata": own,
    }
