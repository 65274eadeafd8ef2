"""Which number formats and kernels are computed with: what is native is probed, not assumed."""

import torch


def resolve_precision(wanted: str, device: torch.device) -> torch.dtype:
    """Turn `auto`, `float32` or `bfloat16` into the dtype to compute in on `device`.

    `auto` is bfloat16 where the processor or GPU multiplies it natively, else float32.
    """
    if wanted == "float32":
        return torch.float32
    if wanted == "bfloat16":
        return torch.bfloat16
    return torch.bfloat16 if native_bfloat16(device) else torch.float32


def native_bfloat16(device: torch.device) -> bool:
    """Whether matrix products in bfloat16 run in hardware on `device`."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return bool(
            capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16")
        )
    return False


def leave_cudnn_attention_out() -> None:
    """Have torch's attention choose among its other kernels, in this process.

    On Hopper cuDNN's come first from torch 2.11 on. Under a mask their gradients are NaN for some lengths
    (pytorch/pytorch#196678), and they are built anew for each shape, in half a second
    (modelscope/FunASR#3704), where here every pass has a shape of its own.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)
