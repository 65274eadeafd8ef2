"""A CheckReport for a person: the golds, a table of the rewards, each hole with an example, the verdict."""

from collections.abc import Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from rewards.attacks import FAILS, Hole
from rlreason.check.examine import CheckReport, RewardReport
from rlreason.check.golds import GoldProblem
from rlreason.report.page import QUIET, Completion, counted, line, section
from rlreason.report.text import harmless, one_line

_SHOWN_GOLDS = 5
_SHOWN_NAMES = 8


def show(report: CheckReport, console: Console) -> None:
    """Print all of a report."""
    for part in _parts(report):
        console.print(part)


def _parts(report: CheckReport) -> Iterator[RenderableType]:
    yield _head(report)
    if not report.is_whole:
        yield line(
            "learned is left out: its model is made in the run; attack it with check afterwards", "yellow"
        )
    yield from _golds(report)
    if report.trial.targets:
        yield from _attacks(report)
    else:
        yield section("Attacks", "none: no gold answer can be written in this form", "yellow")
    yield from _verdict(report)


def _head(report: CheckReport) -> RenderableType:
    config, data = report.config, report.data
    rewards = [
        f"{name} {term.weight:g}" + (f" (if {term.gate})" if term.gate else "")
        for name, term in config.rewards.items()
    ]
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style=QUIET, no_wrap=True)
    grid.add_column(overflow="fold")
    for label, value in (
        ("config", config.name),
        ("questions", f"{len(data.train):,} to train on, {len(data.held_out):,} held out"),
        ("form", config.prompt.format),
        ("rewards", ", ".join(rewards)),
        ("right means", f"1 from {config.eval.reward} (eval.reward)"),
    ):
        grid.add_row(Text(label), Text(harmless(value)))
    return grid


def _golds(report: CheckReport) -> Iterator[RenderableType]:
    golds, main = report.golds, report.config.eval.reward
    tried = golds.total - len(golds.untried)
    style = "green" if len(golds.good) == tried else "red" if report.golds_fail else "yellow"
    yield section("Gold answers", f"{len(golds.good):,} of {tried:,} earn 1 from {main}", style)
    if golds.untried:
        yield line(
            f"{len(golds.untried):,} not tried: the gold is no text that an answer could give", "yellow"
        )
    for problems, what in ((golds.unreadable, "cannot be read"), (golds.unpaid, "earn less than 1")):
        if problems:
            yield line(f"{len(problems):,} {what}:", style)
        for problem in problems[:_SHOWN_GOLDS]:
            yield line(_gold(problem), indent=4)
        if len(problems) > _SHOWN_GOLDS:
            yield line(f"and {len(problems) - _SHOWN_GOLDS:,} more", QUIET, indent=4)


def _gold(problem: GoldProblem) -> str:
    value = "abstained" if problem.score.value is None else f"{problem.score.value:g}"
    question = one_line(problem.example.question, 60)
    return f"{problem.where}: {problem.example.answer!r:.60} {value}: {problem.score.reason} ({question})"


def _attacks(report: CheckReport) -> Iterator[RenderableType]:
    trial = report.trial
    kinds = len({shot.attack.name for shot in trial.shots})
    completions = f"{len(trial.shots):,} completions that deserve nothing"
    yield section("Attacks", f"{kinds} kinds on {len(trial.targets)} questions, {completions}")
    yield _table(report)
    yield line("right, wrong: mean of the right answers, and of plain wrong ones in the asked form", QUIET)
    yield line("paid: kinds of attack that earned more than 0", QUIET)
    for reward in report.rewards:
        if reward.open:
            causes = reward.verdict.causes
            yield from _holes(f"Holes of {reward.verdict.name}", reward.open, causes, report)
        if reward.closed:
            why = "its weight is 0" if reward.weight == 0 else f"{reward.gate} shuts them out"
            yield section(f"Holes of {reward.verdict.name} that pay nothing", why, "yellow")
            for hole in reward.closed:
                yield line(f"{hole.hole} ({'; '.join(hole.attacks)})", QUIET)
    if report.beside:
        title = "Attacks that earn as much in total as the right answer, by what else is paid"
        yield from _holes(title, report.beside, (), report)


def _table(report: CheckReport) -> RenderableType:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), border_style=QUIET)
    table.add_column("reward", overflow="fold")
    for heading in ("weight", "right", "wrong", "paid"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict", overflow="fold")
    for reward in report.rewards:
        verdict = reward.verdict
        table.add_row(
            Text(harmless(verdict.name)),
            f"{reward.weight:g}",
            _number(verdict.right),
            _number(verdict.wrong),
            f"{verdict.paid}/{verdict.tried}",
            _judged(reward),
        )
    if report.total is not None:
        total = report.total
        even = len({name for hole in total.holes for name in hole.attacks})
        said = f"{counted(even, 'attack')} earn{'s' if even == 1 else ''} as much as the right answer"
        table.add_section()
        table.add_row(
            "total",
            "",
            _number(total.right),
            _number(total.wrong),
            f"{total.paid}/{total.tried}",
            Text(said, "red") if even else Text("no hole", "green"),
        )
    return table


def _judged(reward: RewardReport) -> Text:
    if reward.open:
        return Text(counted(len(reward.open), "hole"), "red")
    if not reward.verdict.judges:
        own = ":" in reward.verdict.name and reward.weight > 0
        return Text("does not judge answers", "yellow" if own else QUIET)
    if reward.closed:
        return Text(f"{counted(len(reward.closed), 'hole')}, paying nothing", "yellow")
    return Text("no hole", "green")


def _holes(
    title: str, holes: Sequence[Hole], causes: Sequence[str], report: CheckReport
) -> Iterator[RenderableType]:
    yield section(title)
    for cause in causes:
        yield line(f"It {cause}.", "bold red")
    for number, hole in enumerate(holes, 1):
        best = hole.hits[0]
        gold = one_line(report.trial.targets[best.shot.row].gold, 60)
        names = hole.attacks[:_SHOWN_NAMES]
        if len(hole.attacks) > len(names):
            names.append(f"and {len(hole.attacks) - len(names)} more")
        paid = "" if hole.hole == FAILS else f"up to {hole.most:.2f} "
        where = f"{len(hole.rows)} of {counted(len(report.trial.targets), 'question')}"
        yield Text("")
        yield line(f"{number}. {hole.hole}", "red")
        yield line(f"{paid}on {where}: {'; '.join(names)}", indent=5)
        yield Completion(best.shot.attack.text, indent=5)
        yield line(f"gold {gold}: {one_line(best.score.reason, 160)}", QUIET, indent=5)


def _verdict(report: CheckReport) -> Iterator[RenderableType]:
    if report.sound:
        yield section("ok", "the gold answers earn 1, and no attack is paid like an answer", "green")
        return
    yield section("not ok")
    if report.golds_fail:
        failed = len(report.golds.unreadable) + len(report.golds.unpaid)
        yield line(
            f"{counted(failed, 'gold answer')} failed: correct the data, set another task.answer_type or "
            "eval.reward, or let a share be left out with task.max_unreadable",
            "red",
        )
    found = [hole for reward in report.rewards for hole in reward.open] + list(report.beside)
    failing = [hole for hole in found if hole.hole == FAILS]
    if len(found) > len(failing):
        yield line(
            f"{counted(len(found) - len(failing), 'hole')}: compare response.answer as a whole, or use a "
            "reward of this package; a gate on think_format shuts out what breaks the form",
            "red",
        )
    if failing:
        yield line(
            f"{counted(len(failing), 'reward')} cannot take everything that a policy writes: return 0.0 "
            "where there is no answer, or none that can be read",
            "red",
        )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
