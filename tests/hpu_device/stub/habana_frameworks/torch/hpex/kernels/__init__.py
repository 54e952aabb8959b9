"""Attention in one kernel: hpex/kernels/FusedSDPA.py@f186e3d and @bcc5172, which adds `sink`."""

from habana_frameworks.torch import _emulation

import torch
import torch.nn.functional as F


class FusedSDPA(torch.autograd.Function):
    """Positional arguments only.

    Not on the first generation: tests/pytest_working/any_mode/FusedSDPA/test_hpu_sdpa.py@5a56187.
    """

    @staticmethod
    @torch.compiler.disable  # a kernel is opaque to the compiler
    def forward(
        ctx, q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, softmax_mode="None",
        recompute_mode=None, valid_seq_len=None, seq_padding_type="left", return_dropout_mask=False,
        return_attn_probs=False, window_size=(-1, -1), sink=None,
    ):  # fmt: skip
        assert _emulation.GENERATION > 1, "FusedSDPA: not on the first generation"
        assert sink is None or _emulation.RELEASE != "1.21", "FusedSDPA: no sink before 1.24"
        assert attn_mask is None or (attn_mask.dim() == 4 and attn_mask.dtype == q.dtype), "FusedSDPA: additive mask"
        with torch.enable_grad():
            inputs = [t.detach().requires_grad_() for t in (q, k, v)]
            out = F.scaled_dot_product_attention(*inputs, attn_mask=attn_mask, dropout_p=dropout_p, scale=scale)
        ctx.inputs, ctx.out = inputs, out
        return out.detach()

    @staticmethod
    @torch.compiler.disable
    def backward(ctx, grad):
        """For q, k and v."""
        return *torch.autograd.grad(ctx.out, ctx.inputs, grad), *[None] * 12
