"""Re-IQA: a quality-aware encoder trained without labels, then a ridge regressor on its frozen features.

Variants, each with its command, what to expect and how long it takes:

demo: photographs that ship with scikit-image and scikit-learn; needs nothing else.

    python launch.py --config=configs/reiqa.py:demo --workdir=runs/reiqa_demo

  2 CPU cores: a few minutes. The labels are SSIM to the pristine picture, a proxy and no human score. Recorded:
  docs/results.md.

small: the BIQ2021 subset's training images and a folder of further crops, without labels; human scores of the official
test images are predicted.

    python -m data_builders.biq2021 --manual_dir=BIQ2021
    python -m data_builders.image_folder --name=crops --manual_dir=CROPS
    python launch.py --config=configs/reiqa.py:small --workdir=runs/reiqa_small

  Expected results and times on 2 CPU cores: docs/results.md.

quality (the default): the paper's quality expert, a ResNet-50 with 160-pixel crops, a queue of 65,536 keys and LARS for
40 epochs at 640 images a step. Needs KADIS-700k's pristine images.

    python launch.py --config=configs/reiqa.py --workdir=runs/reiqa_quality

  The paper reports a median SRCC of 0.914 on KonIQ-10k for both experts together. This variant differs: it trains the
  quality expert alone, on KADIS-700k alone, with the other versions of an image as negatives. It has not been run yet.
"""

from ml_collections import ConfigDict

VARIANTS = ("quality", "small", "demo")
# A simple part of the 26 distortions: blurs, noises, JPEG, saturation, tone and resizes.
SIMPLE_KINDS = (0, 1, 4, 6, 7, 8, 9, 11, 13, 14, 15, 17, 19, 25)


def get_config(variant="quality"):
  """The config of a variant.

  Raises:
    ValueError: if the variant is not one of `VARIANTS`.
  """
  if variant not in VARIANTS:
    raise ValueError(f"configs/reiqa.py has no variant {variant!r}; expected one of {', '.join(VARIANTS)}")
  config = _quality()
  if variant == "small":
    _small(config)
  elif variant == "demo":
    _demo(config)
  return config.lock()


def _images(name, *, weight=0.0, protocol="", distortion=""):
  return ConfigDict({"name": name, "weight": weight, "count": 0, "protocol": protocol, "distortion": distortion})


def _quality():
  c = ConfigDict()
  c.method = "reiqa"
  c.seed = 0

  # Training data: name as in data_builders/; weight 0 counts every image once, count > 0 fixes how many of them every
  # step has; protocol names the splits whose test images are kept out, '' keeps all; distortion keeps only images with
  # that label, '' all.
  c.data = [_images("kadis700k")]
  c.data_dir = ""  # where the prepared sets are; '' is $TFDS_DATA_DIR
  c.threads = 16  # decoding threads of a host
  c.split = -1  # no labels are trained on: all splits are evaluated
  c.init_from = ""  # folder of converted weights to start from

  # Encoder.
  c.depth = 50
  c.width = 64
  c.embedding = 128
  c.bn_groups = 1  # 1: statistics of the global batch
  c.dtype = "bfloat16"  # of the convolutions

  # Pairs.
  c.window = 608  # pixels of an image that travel to the accelerator
  c.crop = 160
  c.scales = (1, 2)
  c.versions = 12
  c.kinds = tuple(range(26))  # distortions, as numbered in jiqa/distortions/bank.py
  c.swap = True  # exchange the crops of half of the versions
  c.compat = "fixed"  # or 'official': what the published code does, where it errs

  # Loss.
  c.loss = "queue+chunk"  # or 'queue' (as the published code), 'in_batch'
  c.temperature = 0.2
  c.queue = 65536
  c.key_momentum = 0.999

  # Length and optimiser.
  c.batch_size = 640  # images; each gives versions * len(scales) pairs. Published: 630
  c.epochs = 40
  c.steps = 0  # instead of epochs
  c.optimizer = ConfigDict(
    {
      "name": "lars",
      "schedule": "reiqa",
      "learning_rate": 12.0,
      "weight_decay": 1e-4,
      "warmup_steps": 0,
      "clip_norm": 0.0,
    }
  )
  c.checkpoint_every = 1000
  c.checkpoints_kept = 2
  c.validate_every = 0
  c.log_every = 20

  # After training: features, ridge, correlations.
  c.evaluation = ConfigDict(
    {
      "databases": ("koniq10k",),
      "protocol": "official",
      "splits": 10,
      "fractions": (0.7, 0.1, 0.2),  # of 'folds': train, validation, test
      "alphas": (1e-2, 1e6, 25),  # geometric grid: first, last, number
      "pixels_per_batch": 16 * 1024 * 768,
      "untrained": True,  # also score the encoder as initialised
      "checkpoint": "newest",
    }
  )
  return c


def _small(c):
  c.data = [_images("biq2021", protocol="official"), _images("image_folder/crops")]
  c.threads = 2
  c.depth, c.width, c.dtype = 18, 32, "float32"
  # Most of these images have 256 pixels a side, so that half-scale pairs overlap by 44 to 67 %, not the published 10 to
  # 30 %.
  c.window, c.crop = 256, 96
  c.versions = 8
  c.kinds = SIMPLE_KINDS
  c.loss = "in_batch"
  c.batch_size = 16
  c.epochs, c.steps = 0, 400
  c.optimizer.update(name="adamw", schedule="cosine", learning_rate=1e-3, weight_decay=1e-4, warmup_steps=50)
  c.checkpoint_every = 100
  c.evaluation.update(databases=("biq2021",), pixels_per_batch=8 * 512 * 512)


def _demo(c):
  c.data = [_images("demo", distortion="pristine")]
  c.threads = 2
  c.depth, c.width, c.embedding, c.dtype = 18, 16, 64, "float32"
  # At half scale the two crops of a pair coincide, so that only the distortion tells it from its negatives.
  c.window, c.crop = 192, 96
  c.versions = 8
  c.kinds = SIMPLE_KINDS
  c.loss = "in_batch"
  c.batch_size = 6
  c.epochs, c.steps = 0, 270
  c.optimizer.update(name="adamw", schedule="cosine", learning_rate=2e-3, weight_decay=1e-4, warmup_steps=20)
  c.checkpoint_every, c.log_every = 40, 10
  c.evaluation.update(databases=("demo",), protocol="folds", pixels_per_batch=16 * 256 * 256)
