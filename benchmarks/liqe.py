"""LIQE beside what it costs as published: `python -m benchmarks.liqe PART`, PART one of text, score, memory.

text    the prompts of a training step, forward and backward: 495 texts of 77 tokens each for itself, as published, and
        ours; on a CPU the published side goes in five parts of 99 texts, so that it fits into memory.
score   one 512x384 photograph, 15 crops, cached texts: PyTorch in eager mode (needs torch) and ours, same weights.
memory  the largest memory of a process that scores an image of 1024x768, and of 6000x8000.

Both sides run in one process on the same seeded weights at full size, taking turns. Medians of wall time and of CPU
time are shown; on a shared machine the CPU time is the fairer one.
"""

import argparse
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from configs import liqe as config_file
from jiqa.data.decode import decode_rgb
from jiqa.methods.liqe.liqe import LIQE
from jiqa.models.clip import MEAN, STD, unit
from jiqa.runtime.sharding import make_mesh
from jiqa.weights.clip import SOURCES
from jiqa.weights.rename import to_ours


class Published(LIQE):
  """The same method with the published arithmetic: every prompt for itself, padded to 77 tokens."""

  def _text_table(self, model):
    return unit(model.encode_text(padded(self.tokens)))


def padded(tokens):
  return np.pad(tokens, ((0, 0), (0, 77 - tokens.shape[1])))


def config_of(dtype):
  config = config_file.get_config("joint")
  with config.unlocked():
    config.dtype = dtype
  return config


def measure(sides, repeats, first=1):
  """Median (wall, CPU) seconds of each side, taking turns; the `first` turns are not counted."""
  times = {name: [] for name in sides}
  for turn in range(repeats + first):
    for name, work in sides.items():
      wall, cpu = time.perf_counter(), time.process_time()
      work()
      took = time.perf_counter() - wall, time.process_time() - cpu
      if turn >= first:
        times[name].append(took)
        print(f"{name}: {took[0]:.3f} s (CPU {took[1]:.3f} s)", flush=True)
  return {name: np.median(took, axis=0) for name, took in times.items()}


def report(what, seconds, theirs, ours):
  shown = ", ".join(f"{name} {seconds[name][0]:.3f} s (CPU {seconds[name][1]:.3f} s)" for name in (theirs, ours))
  ratio = seconds[theirs] / np.maximum(seconds[ours], 1e-9)
  print(f"{what}: {shown}, ratio {ratio[0]:.2f} (CPU {ratio[1]:.2f}), on {jax.devices()[0].device_kind}")


def text(dtype, repeats):
  method = LIQE(config_of(dtype), make_mesh(jax.devices()[:1]))
  state = method.init(jax.random.key(0))
  tokens = padded(method.tokens)
  parts = 1 if jax.default_backend() != "cpu" else 5
  target = jax.random.normal(jax.random.key(1), (len(tokens), method.config.embedding))

  def network(params):
    return method.network({**params, **state.extra["frozen"]})

  @jax.jit
  def published(params, rows, wanted):
    return jax.value_and_grad(lambda p: (unit(network(p).encode_text(rows)) * wanted).sum())(params)

  @jax.jit
  def shared(params):
    return jax.value_and_grad(lambda p: (method._text_table(network(p)) * target).sum())(params)

  # Compiled beforehand, so that no turn is spent on it.
  published = published.lower(state.params, tokens[: 495 // parts], target[: 495 // parts]).compile()
  shared = shared.lower(state.params).compile()
  outputs = {}

  def run_published():
    values, total = [], None
    for rows, labels in zip(np.split(tokens, parts), np.split(target, parts), strict=True):
      value, gradient = published(state.params, rows, labels)
      total = gradient if total is None else jax.tree.map(jnp.add, total, gradient)
      values.append(value)
    outputs["published"] = jax.block_until_ready((sum(values), total))

  def run_ours():
    outputs["ours"] = jax.block_until_ready(shared(state.params))

  seconds = measure({"published": run_published, "ours": run_ours}, repeats, first=0)
  for (path, a), b in zip(
    jax.tree_util.tree_leaves_with_path(outputs["published"][1]), jax.tree.leaves(outputs["ours"][1]), strict=True
  ):
    if float(jnp.abs(a).max()) and dtype == "float32":
      gap = float(jnp.abs(a - b).max() / jnp.abs(a).max())
      assert gap < 1e-3, f"gradients differ at {jax.tree_util.keystr(path)}: {gap}"
  report("text of a training step, forward and backward", seconds, "published", "ours")


def score(dtype, repeats, photo):
  try:
    import torch

    from tests.fixtures.clip_in_torch import FULL, Clip
    from tests.fixtures.clip_in_torch import score as torch_score
  except ImportError:
    print("score: torch is not installed; nothing to compare with")
    return
  torch.manual_seed(0)
  model = Clip(**FULL).eval()
  tensors = {name: value.numpy() for name, value in model.state_dict().items()}
  method = LIQE(config_of(dtype), make_mesh(jax.devices()[:1]))
  weights = to_ours(tensors, SOURCES["liqe"].tensors(), "CLIP")[0], {}
  params, stats = method.weights(method.init(jax.random.key(0), weights))
  state = params, stats, jax.jit(method.precompute)(params, stats)
  predict = jax.jit(method.predict)
  image = np.asarray(Image.open(photo).convert("RGB").resize((512, 384))) if photo else waves(384, 512)
  outputs = {}

  def ours():
    outputs["ours"] = jax.device_get(predict(*state, {"crops": method.preprocess_eval(image)["crops"][None]}))

  with torch.inference_mode():
    texts = torch.cat([model.encode_text(torch.from_numpy(rows)) for rows in np.split(method.tokens, 5)])
  mean, std = (torch.tensor(x).view(3, 1, 1) for x in (MEAN, STD))

  def theirs():
    with torch.inference_mode():
      whole = (torch.from_numpy(image).permute(2, 0, 1) / 255 - mean) / std
      windows = whole.unfold(1, 224, 32).unfold(2, 224, 32).permute(1, 2, 0, 3, 4).reshape(-1, 3, 224, 224)
      probabilities, scores = torch_score(model.logits(windows[:: len(windows) // 15][:15][None], texts))
    outputs["torch"] = probabilities.numpy()[0], float(scores[0])

  seconds = measure({"torch": theirs, "ours": ours}, repeats)
  gap = np.abs(outputs["ours"]["joint"].reshape(-1) - outputs["torch"][0]).max()
  print(f"largest difference of the 495 probabilities {gap:.1e}, of the score "
        f"{abs(float(outputs['ours']['score'][0]) - outputs['torch'][1]):.1e}")  # fmt: skip
  report(f"one photograph of 512x384, 15 crops, {torch.get_num_threads()} torch threads", seconds, "torch", "ours")


def waves(height, width):
  """An image that anyone can make again."""
  y, x = np.mgrid[:height, :width].astype(np.float32)
  return np.stack([np.uint8(127 + 120 * np.sin(x / a) * np.cos(y / b)) for a, b in ((9, 14), (31, 5), (4, 60))], -1)


def memory():
  """Scores an image of each size in a process of its own."""
  most = {}
  with tempfile.TemporaryDirectory() as folder:
    for height, width in ((768, 1024), (6000, 8000)):
      path = pathlib.Path(folder) / f"{width}.jpg"
      Image.fromarray(waves(height, width)).save(path, quality=90)
      command = [sys.executable, "-m", "benchmarks.liqe", "one", f"--photo={path}"]
      output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
      most[height] = float(output.split()[-1])
      print(f"{width}x{height}: {most[height]:.0f} MiB at most", flush=True)
  print(f"memory: ratio {most[6000] / most[768]:.2f}")


def one(photo):
  """Scores one file with seeded weights at full size; prints the largest memory so far, MiB."""
  method = LIQE(config_of("float32"), make_mesh(jax.devices()[:1]))
  params, stats = method.weights(method.init(jax.random.key(0)))
  table = jax.jit(method.precompute)(params, stats)
  crops = method.preprocess_eval(decode_rgb(pathlib.Path(photo).read_bytes()))["crops"]
  score = jax.jit(method.predict)(params, stats, table, {"crops": crops[None]})["score"]
  print(float(score[0]), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("part", choices=("text", "score", "memory", "one"))
  parser.add_argument("--dtype", default="bfloat16" if jax.default_backend() != "cpu" else "float32")
  parser.add_argument("--repeats", type=int, default=5)
  parser.add_argument("--photo", default="", help="score: an image instead of waves")
  flags = parser.parse_args()
  if flags.part == "text":
    text(flags.dtype, flags.repeats)
  elif flags.part == "score":
    score(flags.dtype, flags.repeats, flags.photo)
  else:
    memory() if flags.part == "memory" else one(flags.photo)


if __name__ == "__main__":
  main()
