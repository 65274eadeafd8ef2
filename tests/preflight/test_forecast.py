"""Time to the end, worked out by hand from given rates."""

from typing import Any

import pytest
from micro import MICRO, merged

from rlreason.config import RunConfig
from rlreason.preflight.forecast import Lengths, Rates, forecast, sampling_seconds, total_seconds
from rlreason.preflight.show import percentile
from rlreason.preflight.trial import apart

# 16 side by side: 2 s for their prompts, 0.5 s for one more token of each.
RATES = Rates(width=16, prefill=2.0, token=0.5, score=0.01, update_fixed=3.0, update_token=0.1)
LENGTHS = Lengths(prompt=20, completion=8, update=400, traces=50, trace_rows=10)


def config(**changes: Any) -> RunConfig:
    return RunConfig.model_validate(merged(MICRO, changes))


def test_sampling_takes_rounds_of_the_width_and_no_less_than_one_token_after_the_other() -> None:
    assert sampling_seconds(RATES, 16, 8) == pytest.approx(2 + 0.5 * 8)
    assert sampling_seconds(RATES, 32, 8) == pytest.approx(2 * 2 + 2 * 0.5 * 8)
    assert sampling_seconds(RATES, 4, 8) == pytest.approx(2 / 4 + 0.5 * 8)


def test_a_step_is_sampling_scoring_and_updating() -> None:
    made = config(
        stage="grpo",
        grpo={"steps": 10, "prompts_per_step": 8, "group_size": 4, "epochs": 2, "minibatches": 4},
        eval={"questions": 16, "every": 4},
    )
    (stage,) = forecast(made, RATES, LENGTHS)
    sample = 2 * 2 + 2 * 0.5 * 8
    score = 32 * 0.01
    update = 2 * (400 * 0.1 + 4 * 3.0)
    evaluation = 2 + 0.5 * 8 + 16 * 0.01
    # Before, after, and after steps 4 and 8.
    assert stage.seconds == pytest.approx(10 * (sample + score + update) + 4 * evaluation)


def test_the_cold_start_is_its_rows_and_what_cannot_be_told_is_not_counted() -> None:
    made = config(
        stage=["pretrain", "sft"], sft={"epochs": 2, "batch_size": 4}, pretrain={"sequence_tokens": 128}
    )
    pretrain, sft = forecast(made, RATES, LENGTHS)
    # 10 rows of 50 tokens twice; 3 optimizer steps in each pass.
    assert sft.seconds == pytest.approx(2 * 10 * 50 * 0.1 + 2 * 3 * 3.0)
    assert pretrain.seconds is None
    assert total_seconds([pretrain, sft]) == sft.seconds


def test_a_token_s_time_is_what_the_longer_run_took_more() -> None:
    # 8 tokens more took 4 s more: 0.5 s each; the shorter run had one besides that of the prompt.
    assert apart((2, 10), (3.0, 7.0)) == (2.5, 0.5, True)


@pytest.mark.parametrize("long", [2.0, 1.0])
def test_a_clock_that_cannot_tell_a_token_s_time_gives_an_upper_bound(long: float) -> None:
    # All of the longer run over its 10 tokens.
    assert apart((2, 10), (2.0, long)) == (2.0 - long / 10, long / 10, False)


def test_runs_of_one_length_tell_nothing_apart() -> None:
    assert apart((1, 1), (2.0, 3.0)) == (2.0, 3.0, False)


@pytest.mark.parametrize(("share", "value"), [(0.1, 1), (0.5, 5), (0.9, 9), (1.0, 10)])
def test_percentiles_are_values_that_were_there(share: float, value: int) -> None:
    assert percentile([10, 3, 1, 2, 9, 8, 7, 6, 5, 4], share) == value
    assert percentile([4], share) == 4
