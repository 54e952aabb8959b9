"""Attention in one kernel: hpex/kernels/FusedSDPA.py@f186e3d and @bcc5172, which adds `sink`."""

from habana_frameworks.torch import _emulation

import torch


@torch.compiler.disable
def recompute_sdp_enabled():
    """What `sdp_kernel` set for all calls: the compiler traces into nothing of the vendor's."""
    return False


class FusedSDPA(torch.autograd.Function):
    """Positional arguments only.

    Not on the first generation: tests/pytest_working/any_mode/FusedSDPA/test_hpu_sdpa.py@5a56187.
    """

    @staticmethod
    def forward(
        ctx, q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, softmax_mode="None",
        recompute_mode=None, valid_seq_len=None, seq_padding_type="left", return_dropout_mask=False,
        return_attn_probs=False, window_size=(-1, -1), sink=None,
    ):  # fmt: skip
        assert _emulation.GENERATION > 1, "FusedSDPA: not on the first generation"
        assert sink is None or _emulation.RELEASE != "1.21", "FusedSDPA: no sink before 1.24"
        assert attn_mask is None or (attn_mask.dim() == 4 and attn_mask.dtype == q.dtype), "FusedSDPA: additive mask"
        if recompute_mode is None:
            recompute_mode = recompute_sdp_enabled()
        scale = q.shape[-1] ** -0.5 if scale is None else scale
        logits = q @ k.transpose(-2, -1) * scale
        p = (logits if attn_mask is None else logits + attn_mask).softmax(-1).to(q.dtype)
        kept = (torch.rand_like(p) >= dropout_p).to(q.dtype) / (1 - dropout_p) if dropout_p else torch.ones_like(p)
        ctx.save_for_backward(q, k, v, p, kept)
        ctx.scale = scale
        return (p * kept) @ v

    @staticmethod
    def backward(ctx, grad):
        """For q, k and v."""
        q, k, v, p, kept = ctx.saved_tensors
        d_p = grad @ v.transpose(-2, -1) * kept
        d_logits = p * (d_p - (d_p * p).sum(-1, keepdim=True)) * ctx.scale
        return d_logits @ k, d_logits.transpose(-2, -1) @ q, (p * kept).transpose(-2, -1) @ grad, *[None] * 12
