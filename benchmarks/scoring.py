"""1,000 photographs of mixed sizes: `jiqa score` beside a loop of eager PyTorch over the same files, one by one.

    python -m benchmarks.scoring --images=1000
    python -m benchmarks.scoring --images=1000 --torch=/path/to/python    # an interpreter with torch, pillow and numpy

Both sides have the same network (a ResNet-18 of 32 channels on full and half scale, random weights, a linear head), the
same files, the same cores, and decode with Pillow; each is a process of its own. Ours has compiled nothing before (an
empty cache); --warm adds a second turn. The photographs are made: colours that flow into each other, as JPEG. Two
mixtures: the sizes of published databases, and sizes drawn at random. Prints images/s from the reading of the weights
on, imports left out; processor time (on a busy machine it says more), the largest difference of scores, and our memory
over time.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

import numpy as np
from PIL import Image

# Height and width as in KonIQ-10k, KADID-10k, CLIVE, LIVE, BIQ2021, and in small versions of camera images.
PUBLISHED = ((768, 1024), (384, 512), (500, 500), (512, 768), (512, 512), (480, 640), (640, 480), (400, 600))

TORCH = """
import json, sys, time
import numpy as np, torch
from PIL import Image
from torch import nn
torch.set_num_threads(int(sys.argv[4]))
arrays, files = np.load(sys.argv[1]), json.load(open(sys.argv[2]))

class Block(nn.Module):
  def __init__(self, i, o, s):
    super().__init__()
    self.conv1, self.bn1 = nn.Conv2d(i, o, 3, s, 1, bias=False), nn.BatchNorm2d(o)
    self.conv2, self.bn2 = nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o)
    shortcut = s > 1 or i != o
    self.downsample = nn.Sequential(nn.Conv2d(i, o, 1, s, bias=False), nn.BatchNorm2d(o)) if shortcut else nn.Identity()
  def forward(self, x):
    y = torch.relu(self.bn1(self.conv1(x)))
    return torch.relu(self.bn2(self.conv2(y)) + self.downsample(x))

class Net(nn.Module):
  def __init__(self, w=32):
    super().__init__()
    self.conv1, self.bn1, channels = nn.Conv2d(3, w, 7, 2, 3, bias=False), nn.BatchNorm2d(w), w
    for stage in range(4):
      planes = w * 2**stage
      blocks = [Block(channels if b == 0 else planes, planes, 2 if stage and b == 0 else 1) for b in range(2)]
      setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
      channels = planes
  def forward(self, x):
    x = nn.functional.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 3, 2, 1)
    return self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean((2, 3))

start, cpu = time.perf_counter(), time.process_time()
net = Net().eval()
net.load_state_dict({k: torch.from_numpy(arrays[k]) for k in arrays.files if "." in k}, strict=False)
head, scores = arrays["head"], []
with torch.no_grad():
  for file in files:
    image = Image.open(file).convert("RGB")
    half = image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC)
    parts = [net(torch.from_numpy(np.array(x)).permute(2, 0, 1)[None].float() / 255)[0].numpy() for x in (image, half)]
    scores.append(float(np.concatenate(parts) @ head))
measured = {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu, "scores": scores}
json.dump(measured, open(sys.argv[3], "w"))
"""

OURS = """
import json, sys, time
from jiqa.inference import startup
startup.prepare()
import jiqa
from jiqa.inference import command
start, cpu = time.perf_counter(), time.process_time()
metric = jiqa.load(sys.argv[1])
command.score(metric, json.load(open(sys.argv[2])), out=sys.argv[3])
measured = {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu}
print(json.dumps({**measured, "buckets": len(metric.models[0].programs._programs)}))
"""


def main():
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--images", type=int, default=1000)
  parser.add_argument("--torch", default=sys.executable, help="interpreter with torch")
  parser.add_argument("--mixtures", nargs="+", default=["published", "random"])
  parser.add_argument("--warm", action="store_true", help="run ours twice, with what the first time compiled")
  flags = parser.parse_args()
  with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    make_weights(folder)
    for mixture in flags.mixtures:
      compare(folder, mixture, flags)


def make_weights(folder):
  """The same random network as a folder of weights and as an .npz for torch."""
  from configs import reiqa
  from jiqa.evaluation.head import Head
  from jiqa.weights import reiqa as source
  from jiqa.weights import rename
  from jiqa.weights.store import save_weights

  config = reiqa.get_config("small")
  rng = np.random.default_rng(0)
  tensors, rules = {}, source.SOURCES["resnet50"]._replace(network=lambda: source.resnet(18, 32)).tensors()
  for rule in rules:
    if len(rule.shape) == 4:
      tensors[rule.theirs] = rng.normal(0, (2 / np.prod(rule.shape[1:])) ** 0.5, rule.shape).astype(np.float32)
    else:
      centre = 0.0 if rule.theirs.endswith(("bias", "running_mean")) else 1.0
      tensors[rule.theirs] = (centre + rng.uniform(-0.2, 0.2, rule.shape)).astype(np.float32)
  params, stats, _ = rename.to_ours(tensors, rules, "benchmark")
  card = {"method": "reiqa", "config": json.loads(config.to_json_best_effort())}
  card = save_weights(folder / "weights", params, stats, card)
  weights = rng.normal(0, 1, 512)
  head = Head(weights, np.zeros(512), np.ones(512), np.float64(0), {"weights_sha256": card["weights_sha256"]})
  head.save(folder / "weights/head.safetensors")
  np.savez(folder / "torch.npz", **tensors, head=weights)


def make_photographs(folder, mixture, count):
  """`count` JPEG files; their names."""
  rng, names = np.random.default_rng(1), []
  folder.mkdir()
  for i in range(count):
    if mixture == "published":
      height, width = PUBLISHED[rng.integers(len(PUBLISHED))]
    else:
      height, width = rng.integers(240, 1025, 2)
    small = rng.integers(0, 256, (height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8)
    names.append(str(folder / f"{i:05d}.jpg"))
    Image.fromarray(small).resize((int(width), int(height)), Image.Resampling.BICUBIC).save(names[-1], quality=85)
  return names


def compare(folder, mixture, flags):
  """Runs both sides on one mixture and prints what came out."""
  names = make_photographs(folder / mixture, mixture, flags.images)
  files = folder / f"{mixture}.json"
  files.write_text(json.dumps(names))
  cores = len(os.sched_getaffinity(0))
  print(f"\n{mixture}: {len(names)} photographs, {cores} core(s)")
  theirs = torch_side(folder, files, flags.torch, cores)
  for turn in range(2 if flags.warm else 1):
    ours, memory, scores = our_side(folder, files, mixture)
    what = "jiqa, " + ("compiled before" if turn else "compiling")
    print(f"{what}: {rates(ours, len(names))}, {ours['buckets']} programs")
    print("  memory of the process, MiB, in tenths of the time: " + " ".join(f"{m:.0f}" for m in memory))
    if theirs:
      worst = np.abs(np.array(scores) - np.array(theirs["scores"])).max()
      ratio, cpu = (theirs[clock] / ours[clock] for clock in ("seconds", "cpu"))
      print(f"  {ratio:.2f} times as fast as torch, {cpu:.2f} times by processor time")
      print(f"  largest difference of scores {worst:.1e}, their standard deviation {np.std(scores):.2g}")


def rates(measured, count):
  """Seconds by the clock and of the processor, in words."""
  return f"{count / measured['seconds']:.1f} images/s, {measured['seconds']:.1f} s, processor {measured['cpu']:.1f} s"


def torch_side(folder, files, python, cores):
  """The loop in PyTorch, with one thread and with one a core: the faster's seconds and scores; None without torch."""
  out, turns = folder / "torch.json", []
  for threads in sorted({1, cores}):
    arguments = [python, "-c", TORCH, folder / "torch.npz", files, out, str(threads)]
    answer = subprocess.run(list(map(str, arguments)), capture_output=True, text=True, check=False)
    if answer.returncode:
      print(f"torch: skipped ({answer.stderr.strip().splitlines()[-1]})")
      return None
    turns.append(json.loads(out.read_text()))
    print(f"torch, eager, one by one, {threads} thread(s): {rates(turns[-1], len(turns[-1]['scores']))}")
  return min(turns, key=lambda measured: measured["seconds"])


def our_side(folder, files, mixture):
  """`jiqa score` in a process: (what it printed, memory over time, scores)."""
  import csv

  out = folder / f"{mixture}.csv"
  out.unlink(missing_ok=True)
  environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(folder / f"compiled_{mixture}")}
  arguments = [sys.executable, "-c", OURS, str(folder / "weights"), str(files), str(out)]
  process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
  memory = []
  watcher = threading.Thread(target=_watch, args=(process, memory))
  watcher.start()
  printed = process.communicate()[0]
  watcher.join()
  if process.returncode:
    raise SystemExit(f"jiqa score failed with status {process.returncode}")
  with open(out, newline="") as file:
    scores = [float(row["score"]) for row in csv.DictReader(file)]
  tenths = [float(np.max(part)) for part in np.array_split(memory, 10)]
  return json.loads(printed.strip().splitlines()[-1]), tenths, scores


def _watch(process, memory):
  page = os.sysconf("SC_PAGE_SIZE")
  while process.poll() is None:
    try:
      resident = int(pathlib.Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
      break
    memory.append(resident * page / 2**20)
    time.sleep(0.25)


if __name__ == "__main__":
  main()
