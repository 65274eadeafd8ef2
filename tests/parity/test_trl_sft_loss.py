"""Loss and gradient of a batch of the cold start against TRL 1.16's `SFTTrainer.compute_loss`."""

from pathlib import Path
from typing import Any

import torch
from tiny import tiny_model, tiny_policy

from rlreason.policy.examples import IGNORED, ExampleLoss


def test_the_mean_over_labelled_tokens_is_that_of_trl(trainer: Any, tmp_path: Path) -> None:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    generator = torch.Generator().manual_seed(0)
    system = torch.randint(3, 40, (20,), generator=generator).tolist()
    rows = []
    for length in (3, 9, 5, 7):
        own = torch.randint(3, 40, (4 + length,), generator=generator).tolist()
        mask = [0] * (len(system) + 4) + [1] * length
        rows.append({"input_ids": [*system, *own], "completion_mask": mask})
    model = tiny_model("llama")
    theirs = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(tmp_path),
            per_device_train_batch_size=4,
            completion_only_loss=True,
            shuffle_dataset=False,
            max_length=None,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            report_to="none",
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=trainer.processing_class,
    )
    (batch,) = list(theirs.get_train_dataloader())
    count = int((batch["labels"] != IGNORED).sum())
    assert count == 24
    wanted = theirs.compute_loss(model, dict(batch), num_items_in_batch=torch.tensor(count))
    wanted.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    loss = ExampleLoss(tiny_policy(model))(batch["input_ids"], batch["labels"], batch["attention_mask"])
    (loss / count).backward()
    torch.testing.assert_close(loss / count, wanted, rtol=1e-5, atol=0)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-4, atol=1e-6)
