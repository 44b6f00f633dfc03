"""The blocks that configs share, and what their keys mean."""

from ml_collections import ConfigDict


def check_variant(config, variant, variants):
  """Raises ValueError where a config file ('reiqa') has no such variant."""
  if variant not in variants:
    raise ValueError(f"configs/{config}.py has no variant {variant!r}; expected one of {', '.join(variants)}")


def images(name, *, weight=0.0, count=0, protocol="", distortion=""):
  """One of the sets of images that a run trains on.

  Args:
    name: as in data_builders/, or 'image_folder/NAME'.
    weight: of its images against those of other sets; 0 counts every image once.
    count: > 0: so many of its images in every step.
    protocol: the splits whose test images are kept out; '' keeps all images.
    distortion: only images with this label; '' all.
  """
  return ConfigDict({"name": name, "weight": weight, "count": count, "protocol": protocol, "distortion": distortion})


def training(method, data, *, split, batch_size, epochs, steps, checkpoint_every=1000, validate_every=0):
  """What every training run has; a config adds its method's keys, `optimizer` and `evaluation`."""
  c = ConfigDict()
  c.method = method
  c.seed = 0

  c.data = list(data)  # see `images`
  c.data_dir = ""  # where the prepared sets are; '' is $TFDS_DATA_DIR
  c.damaged_records = 0  # of every set so many may be unreadable: others take their places, each with a warning
  c.score = "mos"  # trained on and tested against; or 'raw_score', the release's own scale (KonIQ-10k's z-scores)
  c.threads = 16  # decoding threads of a host
  c.split = split  # of the protocols' splits, this one's training part; -1: no labels are trained on
  c.init_from = ""  # folder of converted weights to start from, or ADDRESS@sha256:DIGEST; '' starts from scratch

  c.batch_size = batch_size  # images in a step
  c.accumulate = 1  # micro-batches in a step; more save memory, see jiqa/runtime/accumulate.py
  c.remat = False  # True computes what is inside the blocks a second time for the gradient and saves memory
  c.reduce_dtype = "float32"  # of the gradients that devices sum; 'bfloat16' halves what they exchange
  c.sharding = "replicated"  # or 'fsdp': every device holds a part of parameters, optimiser state and teacher
  c.epochs = epochs
  c.steps = steps  # instead of epochs

  c.checkpoint_every = checkpoint_every  # steps
  c.checkpoints_kept = 2
  c.validate_every = validate_every  # steps; 0: never. The best state on the validation parts is kept
  c.log_every = 20  # steps
  return c


def optimizer(name, schedule, learning_rate, weight_decay, *, clip_norm=0.0, **further):
  """Optimiser and schedule by their names in jiqa/runtime/optimizer.py, and what else that schedule reads."""
  return ConfigDict(
    {
      "name": name,
      "schedule": schedule,
      "learning_rate": learning_rate,
      "weight_decay": weight_decay,
      "warmup_steps": 0,  # of the cosine schedule
      "clip_norm": clip_norm,  # of the gradient; 0 leaves it
      **further,
    }
  )


def evaluation(
  databases, protocol, *, pixels_per_batch, fractions=(0.7, 0.1, 0.2), resize=0, untrained=False, checkpoint="newest",
  **further,
):  # fmt: skip
  """What is measured after training.

  Args:
    databases: tuple of names.
    protocol: 'official', 'folds' or a published one, see docs/databases.md.
    pixels_per_batch: of padded images that are predicted at once.
    fractions: of 'folds': train, validation, test.
    resize: pixels of the shorter side of every image tested; -1: the database's own (512 for SPAQ), 0: as it is.
    untrained: also test the network as it is before training.
    checkpoint: which one is tested: 'newest', or 'best' in validation (`validate_every`).
    **further: keys of one method.
  """
  return ConfigDict(
    {
      "databases": databases,
      "protocol": protocol,
      "splits": 10,
      "fractions": fractions,
      "resize": resize,
      "untrained": untrained,
      "checkpoint": checkpoint,
      "standardise": True,  # features, before a head is fitted; False: as scikit-learn by itself
      "alphas": (1e-2, 1e6, 25),  # of the ridge, a geometric grid: first, last, number
      "pixels_per_batch": pixels_per_batch,
      **further,
    }
  )
