"""How ranks average their gradients: which engine and device can do what, and all gradients in a single all-reduce."""

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import GradBucket
from torch.futures import Future

from bridgetower_train.config import EngineConfig
from bridgetower_train.devices import Device
from bridgetower_train.errors import ConfigError

BUCKETS = EngineConfig()
"""In buckets of float32."""


def check_reduction(engine: str, config: EngineConfig, device: Device | type[Device]) -> None:
    """ConfigError if `engine` on `device` cannot average gradients as configured."""
    if engine != "native" and config.reduce == "once":
        raise ConfigError(
            f"engine.reduce=once: engine={engine} leaves the reduction to DeepSpeed, which has buckets; remove it, or use "
            "engine=native"
        )
    if engine == "native" and (config.reduce, config.reduce_precision) == ("buckets", "bf16") and not device.ddp_hooks:
        raise ConfigError(
            f"engine.reduce_precision=bf16: device {device.name} does not support the hooks of DistributedDataParallel that "
            "convert its buckets; add engine.reduce=once"
        )


def average(gradients: list[Tensor], precision: str) -> None:
    """Replace float32 `gradients` by their means over all ranks, which are sent and summed in `precision` (fp32 or bf16)."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    flat_N = torch.cat([gradient.flatten().to(dtype) for gradient in gradients]).div_(dist.get_world_size())
    dist.all_reduce(flat_N)
    for gradient, mean in zip(gradients, flat_N.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def average_bucket_in_bf16(_: None, bucket: GradBucket) -> Future[Tensor]:
    """A hook of DistributedDataParallel: the mean of a bucket, sent and summed in bf16; torch's own refuses gloo."""
    buffer = bucket.buffer()
    work = dist.all_reduce(buffer.to(torch.bfloat16).div_(dist.get_world_size()), async_op=True)
    mean: Future[Tensor] = work.get_future().then(lambda sent: buffer.copy_(sent.value()[0]))
    return mean
