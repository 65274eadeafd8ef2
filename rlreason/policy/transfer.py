"""From the host to a device, without waiting for what the device still does."""

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` on `device`.

    A copy from ordinary memory to a GPU begins when all work before it is done, and the host waits for that;
    one from pinned memory takes its place in the queue.
    """
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
