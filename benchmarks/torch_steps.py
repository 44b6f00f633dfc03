"""Training steps in PyTorch as one would tune them there: channels_last, autocast, torch.compile, fused AdamW.

The networks of our methods at the same sizes on random pixels; distortions and cropping are left out on this side.
"""

import os
import pathlib
import sys

import torch
from torch import nn

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests" / "fixtures"))

BLOCKS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}


class Residual(nn.Module):
  """A basic block, or with `bottleneck` one of three convolutions."""

  def __init__(self, inputs, planes, stride, bottleneck):
    super().__init__()
    kernels = ((1, planes, 1), (3, planes, stride), (1, 4 * planes, 1)) if bottleneck else (
      (3, planes, stride), (3, planes, 1)
    )  # fmt: skip
    layers, width = [], inputs
    for kernel, outputs, step in kernels:
      layers += [nn.Conv2d(width, outputs, kernel, step, kernel // 2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
      width = outputs
    self.body, self.shortcut = nn.Sequential(*layers[:-1]), nn.Identity()
    if stride > 1 or inputs != width:
      self.shortcut = nn.Sequential(nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width))

  def forward(self, x):
    return torch.relu(self.body(x) + self.shortcut(x))


def resnet(depth, width, embedding):
  """Encoder and MoCo-v2's projector."""
  bottleneck, channels = depth == 50, width
  layers = [nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
  for stage, blocks in enumerate(BLOCKS[depth]):
    planes = width * 2**stage
    for i in range(blocks):
      layers.append(Residual(channels, planes, 2 if stage and not i else 1, bottleneck))
      channels = planes * (4 if bottleneck else 1)
  projector = [nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, embedding)]
  return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), *projector)


def compiled(network, device):
  """A network on a device in the layout that suits its convolutions; on a GPU compiled."""
  network = network.to(device, memory_format=torch.channels_last).train()
  return torch.compile(network) if device == "cuda" else network


def contrastive(config, device):
  """(trained network, function that gives its loss): queries, and keys without gradient unless loss is 'in_batch'."""
  scales = len(config.get("scales", (1,))) if config.get("every_scale", True) else 1
  pairs = config.batch_size * config.get("versions", 1) * scales
  query = resnet(config.depth, config.width, config.embedding)
  key = compiled(resnet(config.depth, config.width, config.embedding), device)
  crops = torch.rand(2, pairs, 3, config.crop, config.crop, device=device)
  crops = [part.contiguous(memory_format=torch.channels_last) for part in crops]
  queue = nn.functional.normalize(torch.randn(config.get("queue", pairs), config.embedding, device=device))

  def loss(network):
    if config.loss == "in_batch":
      first, second = nn.functional.normalize(network(torch.cat(crops)).float()).chunk(2)
      logits = first @ second.T / config.temperature
    else:
      first = nn.functional.normalize(network(crops[0]).float())
      with torch.no_grad():
        second = nn.functional.normalize(key(crops[1]).float())
      logits = torch.cat([(first * second).sum(1, keepdim=True), first @ queue.T], 1) / config.temperature
    target = torch.arange(pairs, device=device) if config.loss == "in_batch" else torch.zeros(
      pairs, dtype=torch.long, device=device
    )  # fmt: skip
    return nn.functional.cross_entropy(logits, target)

  return query, loss


def regression(config, device):
  """LML: scores of crops; the teacher sees the crops and the whole images without gradient."""
  from deiqt_in_torch import Deiqt

  student, teacher = (Deiqt(config.crop, config.patch, config.width, config.depth, config.heads) for _ in range(2))
  teacher = compiled(teacher, device)
  crops = torch.rand(config.batch_size * config.crops, 3, config.crop, config.crop, device=device)
  wholes, target = crops[: config.batch_size], torch.rand(len(crops), device=device)

  def loss(network):
    score = network(crops)
    score = score[0] if isinstance(score, tuple) else score
    with torch.no_grad():
      teacher(crops), teacher(wholes)
    return nn.functional.smooth_l1_loss(score.flatten().float(), target)

  return student, loss


STEPS = {"reiqa": contrastive, "reiqa_content": contrastive, "lml": regression}


def build(config):
  """A function that does one training step of a config and waits for it.

  Raises:
    SystemExit: for LIQE, whose PyTorch side is `python -m benchmarks.liqe`.
  """
  if config.method not in STEPS:
    raise SystemExit(f"no PyTorch step of {config.method} here; see python -m benchmarks.{config.method}")
  if hasattr(os, "sched_getaffinity"):
    torch.set_num_threads(len(os.sched_getaffinity(0)))  # more threads than cores wait for each other
  device = "cuda" if torch.cuda.is_available() else "cpu"
  torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
  torch.backends.cudnn.benchmark = True
  network, loss = STEPS[config.method](config, device)
  fast = compiled(network, device)
  optimizer = torch.optim.AdamW(network.parameters(), 1e-3, fused=True)
  half = config.dtype == "bfloat16"

  def step():
    with torch.autocast(device, torch.bfloat16, enabled=half):
      value = loss(fast)
    optimizer.zero_grad(set_to_none=True)
    value.backward()
    optimizer.step()
    if device == "cuda":
      torch.cuda.synchronize()
    return float(value.detach())

  return step
