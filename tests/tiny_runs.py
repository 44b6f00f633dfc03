"""A run of every method that a test can afford: its demo, with a network and images of a few pixels."""

import importlib

# name -> (config file, variant, changes): `python launch.py --config=FILE:VARIANT --config.KEY=VALUE`.
RUNS = {
  "reiqa": (
    "reiqa",
    "demo",
    {
      "depth": 10, "width": 4, "embedding": 8, "window": 64, "crop": 24, "scales": (1, 2), "versions": 3,
      "kinds": (6, 7, 13), "batch_size": 24, "loss": "queue+chunk", "queue": 288,
    },
  ),
  "reiqa_content": (
    "reiqa",
    "content",
    {
      "depth": 10, "width": 4, "embedding": 8, "window": 64, "crop": 24, "batch_size": 16, "queue": 32,
      "dtype": "float32", "data[0].name": "demo", "epochs": 0, "optimizer.schedule": "cosine",
      "evaluation.databases": ("demo",), "evaluation.protocol": "folds",
    },
  ),
  "lml": (
    "lml", "demo",
    {"crop": 32, "patch": 16, "width": 64, "depth": 2, "heads": 2, "crops": 2, "test_crops": 2, "batch_size": 8},
  ),
  "liqe": (
    "liqe",
    "demo",
    {
      "crop": 32, "patch": 16, "width": 64, "depth": 2, "heads": 2, "embedding": 16, "train_crops": 2, "test_crops": 2,
      "text.width": 16, "text.depth": 1, "batch_size": 8, "validate_every": 0, "epoch_steps": 2,
      "evaluation.checkpoint": "newest",
    },
  ),
  "supervised": (
    "supervised",
    "demo",
    {
      "init_from": "", "encoder.width": 0.25, "levels": {"full": 1}, "frozen": ("encoders/full/conv_stem",),
      "at_once": 0, "window": 32, "crop": 16, "hidden": 4, "heads": 2, "batch_size": 8, "ranked": 2,
      "kinds": ("JPEG", "darken"),
    },
  ),
}  # fmt: skip
COMMON = {
  "log_every": 1,
  "threads": 1,
  "optimizer.warmup_steps": 0,
  "evaluation.splits": 2,
  "evaluation.alphas": (1.0, 100.0, 3),
  "evaluation.pixels_per_batch": 32 * 64 * 64,
  "evaluation.untrained": False,
}


def changes_of(method, data_dir, **changes):
  """dict from key to value of a method's run; `changes` are further ones, '__' standing for a dot."""
  further = {key.replace("__", "."): value for key, value in changes.items()}
  return RUNS[method][2] | COMMON | {"data_dir": str(data_dir)} | further


def config_of(method, data_dir, **changes):
  """The ConfigDict of a method's run."""
  file, variant, _ = RUNS[method]
  config = importlib.import_module(f"configs.{file}").get_config(variant)
  with config.unlocked():
    config.update_from_flattened_dict(
      {k: v for k, v in changes_of(method, data_dir, **changes).items() if not k.startswith("data[")}
    )
    for key, value in changes_of(method, data_dir, **changes).items():
      if key.startswith("data[0]."):
        config.data[0][key.removeprefix("data[0].")] = value
  return config


def flags_of(method, data_dir, workdir, **changes):
  """The same as flags of launch.py."""
  file, variant, _ = RUNS[method]
  text = {
    key: f"({','.join(map(repr, value))},)" if isinstance(value, tuple) and value else value
    for key, value in changes_of(method, data_dir, **changes).items()
  }
  return [
    f"--config=configs/{file}.py:{variant}",
    f"--workdir={workdir}",
    *(f"--config.{key}={value}" for key, value in text.items()),
  ]
