"""Attention in one kernel: hpex/kernels/FusedSDPA.py@f186e3d and @bcc5172, which adds `sink`."""

import math

from habana_frameworks.torch import _emulation, hpu

import torch


def _probabilities(q, k, attn_mask, scale):
    logits = q @ k.transpose(-2, -1) * scale
    return (logits if attn_mask is None else logits + attn_mask).softmax(-1)


def _kept(shape, dropout_p):
    """The dropout mask, int8; one number where nothing is dropped."""
    return (
        (torch.rand(shape) >= dropout_p).to(torch.int8).to("hpu") if dropout_p else torch.ones(1, device="hpu").char()
    )


class FusedSDPA(torch.autograd.Function):
    """Positional arguments only; not on the first generation (tests/pytest_working/any_mode/FusedSDPA/test_hpu_sdpa.py@5a56187).

    In recompute mode, the default of `recompute_sdp_enabled`, it keeps operands, result, statistics of the softmax and a seed;
    otherwise operands, result, probabilities and the dropout mask (hpu_ops/backend/sdpa_gen.cpp and
    backend/helpers/runtime_config.cpp@5a56187).
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
        recompute = hpu.recompute_sdp_enabled() if recompute_mode is None else recompute_mode
        recompute = recompute and not torch.compiler.is_compiling()  # to whom the kernels are operators of their own
        ctx.dropout_p, ctx.scale, ctx.recompute = dropout_p, scale or 1 / math.sqrt(q.shape[-1]), recompute
        ctx.generator = torch.get_rng_state() if recompute else None
        probabilities = _probabilities(q, k, attn_mask, ctx.scale)
        kept = _kept(probabilities.shape, dropout_p)
        out = (probabilities * kept / (1 - dropout_p)) @ v
        if recompute:
            statistics = torch.empty((*q.shape[:-1], 1), device="hpu")
            ctx.save_for_backward(q, k, v, attn_mask, statistics.to(q.dtype), statistics, out)
        else:
            ctx.save_for_backward(q, k, v, probabilities, kept, out)
        return out

    @staticmethod
    def backward(ctx, grad):
        """For q, k and v."""
        q, k, v, *rest = ctx.saved_tensors
        if ctx.recompute:
            probabilities = _probabilities(q, k, rest[0], ctx.scale)
            with torch.random.fork_rng(devices=[], device_type="cpu"):
                torch.set_rng_state(ctx.generator)
                kept = _kept(probabilities.shape, ctx.dropout_p)
        else:
            probabilities, kept = rest[:2]
        dropped = probabilities * kept / (1 - ctx.dropout_p)
        dv = dropped.transpose(-2, -1) @ grad
        dp = grad @ v.transpose(-2, -1) * kept / (1 - ctx.dropout_p)
        dlogits = probabilities * (dp - (dp * probabilities).sum(-1, keepdim=True))
        return dlogits @ k * ctx.scale, dlogits.transpose(-2, -1) @ q * ctx.scale, dv, *[None] * 12
