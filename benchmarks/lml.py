"""LML-IQA's ViT-S/16 against the same network and step in PyTorch, same weights and images, in one run.

  python -m benchmarks.lml [--images=1] [--crops=4] [--repeats=5] [--threads=0]

  scoring     scores of 10 crops.
  regression  a training step without contrast: forward, gradient, clipping, AdamW.
  full        the whole step: also the teacher on crops and images, saliency, contrast, moving average.

The other side is tests/fixtures/deiqt_in_torch.py (eager, with PyTorch's own attention); without torch it is skipped.
Both sides get the same weights; their losses are compared before anything is timed. They take turns; medians of wall
clock and, on CPUs, of CPU time are printed. On a GPU that both see, products are in bfloat16 (autocast there),
otherwise everything is float32. --threads=1 holds both to one core.
"""

import argparse
import os
import pathlib
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests" / "fixtures"))

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import measure
from configs.lml import get_config
from jiqa import train
from jiqa.methods.lml.lml import box_means
from jiqa.models.layers import IMAGENET
from jiqa.runtime import host_memory
from jiqa.runtime.sharding import make_mesh, put_batch
from jiqa.weights import deit
from jiqa.weights.rename import to_theirs

try:
  import torch
  from deiqt_in_torch import Deiqt
except ImportError:
  torch = None


def some_batch(images, crops):
  """Random images in the layout of `LML.cut`."""
  rng = np.random.default_rng(0)
  corners = rng.uniform(0, 0.5, (images, crops, 2)).astype(np.float32)
  return {
    "crops": rng.integers(0, 256, (images, crops, 224, 224, 3), dtype=np.uint8),
    "whole": rng.integers(0, 256, (images, 224, 224, 3), dtype=np.uint8),
    "boxes": np.concatenate([corners, corners + np.float32(0.4)], -1),
    "target": rng.uniform(0, 100, images).astype(np.float32),
    "image_id": np.arange(2 * images, dtype=np.int32).reshape(images, 2),
  }


class Ours:
  """This project's side: scoring and one training step.

  Args:
    config: ConfigDict.
    mesh: the devices.
  """

  def __init__(self, config, mesh):
    self.method = measure.on_made_up_images(config, mesh)
    tx, schedule, _ = train.build_optimizer(config, 8 * config.batch_size)
    self.state = train.init_state(config, self.method, tx, mesh)
    self.weights = jax.device_get(self.state.params)
    self._step = train.make_step(self.method, tx, schedule, config.seed)
    self._predict = jax.jit(self.method.predict)
    self._mesh = mesh

  def step(self, batch):
    """One step; returns its loss once everything is computed."""
    self.state, metrics = self._step(self.state, put_batch(batch, self._mesh))
    jax.block_until_ready(self.state)
    return float(metrics["loss"])

  def score(self, batch):
    """The score of one image from its crops, by the network alone."""
    return np.asarray(self._predict(*self.method.weights(self.state), {}, batch)["score"])


class Theirs:
  """The same in PyTorch.

  Args:
    config: ConfigDict.
    weights: our parameters, to start from the same.
    device: "cpu" or "cuda".
  """

  def __init__(self, config, weights, device):
    rules = deit.SOURCES["deiqt"].tensors()
    tensors = {name: torch.tensor(x) for name, x in to_theirs(weights, {}, rules, {}).items()}
    self.config, self.device = config, device
    self.student, self.teacher = (Deiqt(224, 16, 384, 12, 6).to(device) for _ in range(2))
    self.student.load_state_dict(tensors)
    self.teacher.load_state_dict(tensors)
    named = list(self.student.named_parameters())
    spared = [p for name, p in named if p.ndim == 1 or name in ("cls_token", "pos_embed")]
    decayed = [p for name, p in named if not any(p is q for q in spared)]
    groups = [{"params": decayed, "weight_decay": config.optimizer.weight_decay}, {"params": spared, "weight_decay": 0}]
    # The first learning rate of our schedule: the comparison is of speed.
    self.optimizer = torch.optim.AdamW(groups, lr=2e-7)
    self.updates = 0

  def _pixels(self, images):
    x = torch.as_tensor(images, device=self.device).float().div(255)
    mean, std = (torch.tensor(IMAGENET[name], device=self.device) for name in ("mean", "std"))
    x = (x - mean) / std
    return x.permute(0, 3, 1, 2).contiguous()

  def _autocast(self):
    return torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda")

  def step(self, batch):
    """One step; returns its loss once everything is computed."""
    b, k = batch["crops"].shape[:2]
    crops = self._pixels(batch["crops"].reshape(b * k, 224, 224, 3))
    with self._autocast():
      scores, tokens = self.student(crops)
    target = torch.tensor(batch["target"], device=self.device).repeat_interleave(k)
    loss = torch.nn.functional.smooth_l1_loss(scores.float(), target)
    if self.config.contrast:
      loss = loss + self.config.contrast * self._contrast(tokens.float(), crops, batch)
    self.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(self.student.parameters(), self.config.optimizer.clip_norm)
    self.optimizer.step()
    momentum = min(self.config.teacher_momentum, (1 + self.updates) / (10 + self.updates))
    self.updates += 1
    with torch.no_grad():
      torch._foreach_lerp_(list(self.teacher.parameters()), list(self.student.parameters()), 1 - momentum)
    return float(loss.detach())

  def _contrast(self, tokens, crops, batch):
    b, k = batch["crops"].shape[:2]
    with torch.no_grad(), self._autocast():
      keys = torch.nn.functional.normalize(self.teacher(crops)[1][:, 0].float(), dim=-1)
      attention = self.teacher.class_attention(self._pixels(batch["whole"])).float().mean(1)
    attention = attention / attention.sum(-1, keepdim=True)
    attention = torch.minimum(attention, attention.quantile(self.config.attention_percentile / 100, -1, keepdim=True))
    # A few multiplications, the same for both sides.
    salient = np.asarray(box_means(jnp.asarray(attention.cpu().reshape(b, 14, 14)), batch["boxes"])).argmax(-1)
    salient = torch.tensor(salient, device=self.device).repeat_interleave(k)
    row = torch.arange(b, device=self.device).repeat_interleave(k)
    crop = torch.arange(k, device=self.device).repeat(b)
    logits = torch.nn.functional.normalize(tokens[:, 0], dim=-1) @ keys.T / self.config.temperature
    positive = (row[:, None] == row) & (crop == salient)
    of_image = (row[:, None] == row) & (crop[:, None] == crop)
    kept = logits.masked_fill(of_image & ~positive, -torch.inf)
    return (kept.logsumexp(-1) - logits[positive]).mean()

  def score(self, batch):
    """The score of one image from its crops."""
    with torch.inference_mode(), self._autocast():
      return self.student(self._pixels(batch["crops"][0]))[0].float().mean().cpu().numpy()[None]


def compare(name, sides, repeats, on_cpu):
  """Times the sides in turns; prints medians and the ratio."""
  times = {side: [] for side in sides}
  for work in sides.values():
    work()
  for _ in range(repeats):
    for side, work in sides.items():
      wall, cpu = time.perf_counter(), time.process_time()
      work()
      times[side].append((time.perf_counter() - wall, time.process_time() - cpu))
  medians = {
    side: [1000 * statistics.median(column) for column in zip(*rows, strict=True)] for side, rows in times.items()
  }
  shown = ", ".join(
    f"{side} {wall:.0f} ms" + (f" (CPU {cpu:.0f})" if on_cpu else "") for side, (wall, cpu) in medians.items()
  )
  if len(sides) == 2:
    ours, theirs = medians["jiqa"], medians["PyTorch"]
    shown += f": ratio {theirs[0] / ours[0]:.2f}" + (f" (CPU {theirs[1] / ours[1]:.2f})" if on_cpu else "")
  print(f"{name:12s}{shown}", flush=True)


def main():
  """Checks that the sides agree, then times them."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--images", type=int, default=1)
  parser.add_argument("--crops", type=int, default=4, help="of an image")
  parser.add_argument("--repeats", type=int, default=5)
  parser.add_argument("--threads", type=int, default=0, help="of both sides; 0: as many as they like")
  options = parser.parse_args()
  host_memory.keep_freed()  # as launch.py does; for both sides, since they share the process
  if options.threads:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
  on_cpu = jax.default_backend() == "cpu"
  device = "cuda" if torch and torch.cuda.is_available() and not on_cpu else "cpu"
  if torch and options.threads:
    torch.set_num_threads(options.threads)
  precision = "bfloat16 products" if device == "cuda" else "float32"
  print(
    f"{jax.devices()[0].device_kind}, jax {jax.__version__}, torch {torch.__version__ if torch else 'not installed'}"
  )
  print(f"{options.images} images of {options.crops} crops a step, {precision}; scoring: 10 crops")
  for name, contrast in (("regression", 0.0), ("full", 0.1)):
    config = get_config("livec")
    config.update(batch_size=options.images, contrast=contrast, dtype="float32" if on_cpu else "bfloat16")
    compare_steps(name, config, device, options)


def compare_steps(name, config, device, options):
  """Builds both sides, checks that they agree, and times their steps; before the first ones also their scoring."""
  batch, on_cpu = some_batch(options.images, options.crops), device == "cpu"
  ours = Ours(config, make_mesh(jax.devices()[:1]))
  sides = {"jiqa": ours}
  if torch:
    sides["PyTorch"] = Theirs(config, ours.weights, device)
  if not config.contrast:
    crops = {"crops": some_batch(1, 10)["crops"]}
    compare(
      "scoring", {label: lambda side=side: side.score(crops) for label, side in sides.items()}, options.repeats, on_cpu
    )
  losses = [side.step(batch) for side in sides.values()]
  if not np.allclose(losses, losses[0], rtol=1e-3 if on_cpu else 2e-2):
    sys.exit(f"the losses differ: {losses}")
  compare(name, {label: lambda side=side: side.step(batch) for label, side in sides.items()}, options.repeats, on_cpu)


if __name__ == "__main__":
  main()
