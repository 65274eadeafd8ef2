"""What a guard keeps and says, without a model."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from micro import lines

from rlreason.errors import UserError
from rlreason.runs import RunDirectory
from rlreason.stages.guards import FiniteGuard, check_labels

NAN = float("nan")


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunDirectory]:
    with RunDirectory.open(tmp_path / "run", "name: x\n") as run:
        yield run


def test_two_skips_of_a_step_with_one_taken_between_are_both_kept(run: RunDirectory) -> None:
    guard = FiniteGuard(run, "grpo", lambda _: None)
    guard.skipped(3, {"gradient": NAN}, [{"row": "first"}])
    guard.passed()
    guard.skipped(3, {"gradient": NAN}, [{"row": "second"}])
    guard.skipped(4, {"gradient": NAN}, [{"row": "third"}])
    kept = {path.name: lines(path)[1]["row"] for path in (run.root / "skipped").iterdir()}
    assert kept == {
        "grpo-step-000003-1.jsonl": "first",
        "grpo-step-000003-2.jsonl": "second",
        "grpo-step-000004-1.jsonl": "third",
    }


@pytest.mark.parametrize(
    ("numbers", "rate"),
    [
        (
            {"loss": NAN, "gradient": 1.0, "critic gradient": NAN},
            "had a critic gradient .*ppo.critic.optim.lr or",
        ),
        ({"loss": NAN, "gradient": NAN, "critic gradient": 1.0}, "Lower ppo.optim.lr or"),
        (
            {"loss": NAN, "gradient": NAN, "critic gradient": NAN},
            "gradient and a critic gradient .*Lower ppo.optim.lr and ppo.critic.optim.lr or",
        ),
        ({"loss": 1.0, "gradient": 1.0, "ratio": NAN}, "had a ratio .*Lower ppo.optim.lr or"),
    ],
)
def test_the_rate_to_lower_is_that_of_what_broke(
    run: RunDirectory, numbers: dict[str, float], rate: str
) -> None:
    guard = FiniteGuard(run, "ppo", lambda _: None)
    for step in (1, 2, 3):
        guard.skipped(step, numbers, [])
    with pytest.raises(UserError, match=rate):
        guard.skipped(4, numbers, [])


def test_an_end_without_loss_is_refused_with_a_remedy() -> None:
    ids = torch.tensor([[5, 2], [6, 2]])
    check_labels(ids, torch.tensor([[-100, 2], [6, 2]]), 2)
    with pytest.raises(UserError, match=r"model\.path: in row 1 .*\(id 2\) carries no loss.*rlreason check"):
        check_labels(ids, torch.tensor([[5, 2], [6, -100]]), 2)
