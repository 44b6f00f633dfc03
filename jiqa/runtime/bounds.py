"""Numbers of a config with which no run can be made: refused before anything is read, computed or written."""

import numbers

from jiqa.errors import UserError

# Keys that mean a size or a rate wherever they stand in a config, the least and the most of each.
BOUNDS = {
  "seed": (0, 2**31 - 1), "batch_size": (1, 2**20), "threads": (1, 1024), "damaged_records": (0, 10**6),
  "accumulate": (1, 2**20), "steps": (0, 2**31), "epochs": (0, 10**6), "checkpoint_every": (1, 2**31),
  "checkpoints_kept": (1, 10**4), "log_every": (1, 2**31), "validate_every": (0, 2**31), "split": (-1, 999),
  "splits": (1, 1000), "pixels_per_batch": (1, 2**36), "learning_rate": (0, 10**4), "weight_decay": (0, 10**4),
  "clip_norm": (0, 10**9), "warmup_steps": (0, 2**31), "width": (2**-6, 2**14), "depth": (1, 1000),
  "heads": (1, 1000), "embedding": (1, 2**16), "queue": (1, 2**26), "crop": (1, 4096), "window": (1, 8192),
  "patch": (1, 1024), "versions": (1, 1000), "bn_groups": (1, 2**16), "crops": (1, 1000), "train_crops": (1, 1000),
  "test_crops": (1, 1000), "hidden": (1, 2**16),
}  # fmt: skip


def check_bounds(config, path="config"):
  """Raises a UserError for the first number of a config (ConfigDict, dict, list) that is out of its BOUNDS, or NaN."""
  items = enumerate(config) if isinstance(config, (list, tuple)) else config.items()
  for key, value in items:
    name = f"{path}[{key}]" if isinstance(key, int) else f"{path}.{key}"
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
      least, most = BOUNDS.get(key, (-float("inf"), float("inf")))
      if not least <= value <= most:
        raise UserError(f"{name} is {value}; expected at least {least:,}, at most {most:,}")
    elif hasattr(value, "items") or isinstance(value, (list, tuple)):
      check_bounds(value, name)
