"""LIQE: CLIP trained to agree with sentences about quality, scene and distortion (docs/liqe.md).

Variants, each with its command, what to expect and how long it takes:

demo: photographs that ship with scikit-image and scikit-learn, a narrow network from scratch; needs nothing else.

    python launch.py --config=configs/liqe.py:demo --workdir=runs/liqe_demo

  The labels are SSIM to the pristine image, a proxy and no human score; scenes are what the photographs show.

small: the BIQ2021 subset, a narrow network from scratch, quality alone; the official test images are predicted.

    jiqa prepare biq2021 --manual-dir=BIQ2021
    python launch.py --config=configs/liqe.py:small --workdir=runs/liqe_small

  Results and times of these on 2 CPU cores: docs/results.md.

joint (the default): the paper's training on LIVE, CSIQ, BID, CLIVE, KonIQ-10k and KADID-10k together, from OpenAI's
ViT-B/32, on split 0 of the ten published ones.

    jiqa convert clip-vit-b-32 ViT-B-32.pt weights/clip
    python launch.py --config=configs/liqe.py --workdir=runs/liqe_0 --config.init_from=weights/clip --config.split=0

  The paper's results, as others quote them (SRCC, PLCC): LIVE .970 .951, CSIQ .936 .939, KADID .930 .931, BID .875
  .900, CLIVE .904 .910, KonIQ .919 .908. This variant has not been run yet: neither the images nor the weights were
  available. Compiled, it fits one v5e chip (v5e:1x1, 6.5 of 15.8 GiB) and takes at least 0.13 hours there; estimated
  one GPU of 16 GB: docs/scaling.md. The ten splits as ten jobs: cloud/ten_splits.sh. The published training rounds
  its weights to float16 after every step: for parity, --config.optimizer.param_rounding=fp16.

quality_scene, quality_distortion, frozen_text: joint with fewer questions, or with the text tower left as it is.

single: one database (KonIQ-10k, its official split) and quality alone, six epochs, as the authors' other script.
Another one: --config.data[0].name=clive --config.data[0].protocol=folds --config.evaluation.databases=clive
--config.evaluation.protocol=folds.
"""

from ml_collections import ConfigDict

from configs import base

VARIANTS = ("joint", "single", "quality_scene", "quality_distortion", "frozen_text", "small", "demo")
# Images of each database in a step.
COMPOSITION = {"live": 4, "csiq": 4, "bid": 4, "clive": 4, "koniq10k": 16, "kadid10k": 16}
QUALITY = "a photo with {quality} quality"


def get_config(variant="joint"):
  """The config of a variant.

  Raises:
    ValueError: if the variant is not one of `VARIANTS`.
  """
  base.check_variant("liqe", variant, VARIANTS)
  config = _joint()
  if variant == "single":
    _single(config)
  elif variant == "quality_scene":
    config.prompt = "a photo of a {scene}, which is of {quality} quality"
  elif variant == "quality_distortion":
    config.prompt = "a photo with {distortion} artifacts, which is of {quality} quality"
  elif variant == "frozen_text":
    config.freeze_text = True
  elif variant == "small":
    _small(config)
  elif variant == "demo":
    _demo(config)
  return config.lock()


def _joint():
  data = [base.images(name, count=count, protocol="liqe") for name, count in COMPOSITION.items()]
  c = base.training(
    "liqe", data, split=0, batch_size=48, epochs=0, steps=16_000, checkpoint_every=200, validate_every=200
  )
  c.labels = "published"  # of scenes and distortions; 'fixed' corrects their known defects

  # Questions: {quality}, and perhaps {scene} and {distortion}. Words that the published prompts do not have need CLIP's
  # vocabulary: a file, or 'installed' for that of the extra jiqa[prompts].
  c.prompt = "a photo of a {scene} with {distortion} artifacts, which is of {quality} quality"
  c.vocabulary = ""

  # Network: CLIP ViT-B/32.
  c.patch = 32
  c.width = 768
  c.depth = 12
  c.heads = 12
  c.embedding = 512
  c.text = ConfigDict({"vocabulary": 49408, "context": 77, "width": 512, "depth": 12, "heads": 8})
  c.logit_scale = 4.6052  # initial, ln(100); never trained
  c.freeze_text = False
  c.dtype = "bfloat16"  # of the matrix products

  # Images.
  c.resize = 768  # shorter side of larger images
  c.crop = 224
  c.train_crops = 3  # of every image in a step
  c.test_crops = 15
  c.crops = "official"  # grid of 32 or 48 pixels; 'uniform': from edge to edge; 'pyiqa': grid of 32, no resizing

  # Losses.
  c.soft_targets = False  # True: pairs by the MOS' standard deviations, where a database has them
  c.weighting = "dwa"  # dynamic weight averaging between tasks, or 'equal'
  c.epoch_steps = 200  # what DWA and the schedule call an epoch

  c.optimizer = base.optimizer(
    "adamw_all",
    "liqe",  # the published one; or 'cosine'
    learning_rate=5e-6,
    weight_decay=1e-3,
    epoch_steps=c.get_ref("epoch_steps"),
    param_rounding="",  # 'fp16': the parameters that the original holds in float16 are rounded to it
  )
  # After training: scores of the test parts, with the state that was best on the validation parts.
  c.evaluation = base.evaluation(
    tuple(COMPOSITION),
    "liqe",
    pixels_per_batch=16 * 15 * 224 * 224,
    untrained=True,
    checkpoint="best",
  )
  return c


def _single(c):
  c.data = [base.images("koniq10k", protocol="official")]
  c.prompt = QUALITY
  c.batch_size, c.steps = 32, 1200
  c.evaluation.update(databases=("koniq10k",), protocol="official")


def _narrow(c):
  """A network that trains from scratch on a small set in minutes."""
  c.threads = 2
  # Small patches: noise, blur and blocks are told apart within a few hundred steps; with 8 pixels they were not.
  c.patch, c.width, c.depth, c.heads, c.embedding = 4, 64, 2, 4, 64
  c.text.update(width=64, depth=2, heads=4)
  c.logit_scale, c.dtype = 3.0, "float32"
  c.optimizer.update(name="adamw", schedule="cosine", learning_rate=2e-3, weight_decay=1e-2, clip_norm=1.0)


def _small(c):
  _narrow(c)
  c.data = [base.images("biq2021", protocol="official")]
  c.prompt = QUALITY
  c.crop = 48
  c.batch_size, c.steps, c.epoch_steps = 32, 500, 25
  c.optimizer.warmup_steps = 25
  c.checkpoint_every = c.validate_every = 50
  c.evaluation.update(databases=("biq2021",), protocol="official", pixels_per_batch=16 * 15 * 48 * 48)


def _demo(c):
  _narrow(c)
  c.data = [base.images("demo", protocol="folds")]
  c.split = 9  # its test photographs show scenes that photographs of the training part show too
  c.crop = 32
  c.batch_size, c.steps, c.epoch_steps = 32, 500, 25
  c.optimizer.warmup_steps = 25
  c.checkpoint_every = c.validate_every = 100
  c.log_every = 10
  c.evaluation.update(databases=("demo",), protocol="folds", pixels_per_batch=16 * 15 * 32 * 32)
