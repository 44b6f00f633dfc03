"""Re-IQA: a quality-aware encoder trained without labels, then a ridge regressor on its frozen features.

Variants, each with its command, what to expect and how long it takes:

demo: photographs that ship with scikit-image and scikit-learn; needs nothing else.

    python launch.py --config=configs/reiqa.py:demo --workdir=runs/reiqa_demo

  2 CPU cores: 5 minutes with the installation. The labels are SSIM to the pristine image, a proxy and no human score.
  Recorded: SRCC 0.38 to 0.48 (untrained 0.361), see docs/results.md.

small: the 4,923 training images of BIQ2021, whole, without labels; human scores of the official test images are
predicted.

    jiqa prepare biq2021 --manual-dir=BIQ2021
    python launch.py --config=configs/reiqa.py:small --workdir=runs/reiqa_small

  One CPU core: 40 minutes with the evaluation, SRCC 0.654 (untrained 0.556), see docs/results.md. The weights
  `reiqa-small` that come with jiqa are of another recipe: their config is in jiqa/pretrained/reiqa_small/card.json.
  small_content is the content expert on the same images; both together:

    python launch.py --config=configs/reiqa.py:small_content --workdir=runs/reiqa_small_content
    python launch.py --config=configs/reiqa.py:regress --workdir=runs/reiqa_small_head \
      --config.weights.quality=runs/reiqa_small --config.weights.content=runs/reiqa_small_content \
      --config.evaluation.databases=biq2021

quality (the default): the paper's quality expert, a ResNet-50 with 160-pixel crops and LARS for 40 epochs at 640 images
a step. Needs KADIS-700k's pristine images. `quality,loss=queue` has the published loss, with a queue of 65,536 keys.

    python launch.py --config=configs/reiqa.py --workdir=runs/reiqa_quality

  Later papers quote an SRCC of 0.914 on KonIQ-10k for both experts together. This variant differs: it trains the
  quality expert alone, on KADIS-700k alone, and contrasts every pair with all others of its step. It has not been run
  yet. Compiled, it fits 32 chips of v5e (v5e:4x8), 10.3 of 15.8 GiB each, and takes at least 1.7 hours there; estimated
  16 GPUs of 40 GB or 8 of 80 GB: docs/scaling.md.
  AVA, COCO, VOC and CERTH, which the authors add, are folders: `jiqa prepare image_folder/ava --manual-dir=AVA` and one
  more entry in `data` each.

content: the content expert, MoCo-v2 on ImageNet for 200 epochs, from ILSVRC2012's tar archives or a folder of images.

    jiqa prepare imagenet2012 --manual-dir=ILSVRC2012
    python launch.py --config=configs/reiqa.py:content --workdir=runs/reiqa_content

  It has not been run yet.

regress: heads on frozen features: ridge and elastic net on one expert or both, chosen on the validation parts of the
published splits; no training. Takes converted weights (`jiqa convert`) or workdirs of earlier runs.

    python launch.py --config=configs/reiqa.py:regress --workdir=runs/reiqa_head \\
      --config.weights.quality=weights/quality --config.weights.content=weights/content

arniqa: the same by the protocol of ARNIQA's code (Agnolucci et al. 2024): ridge, one penalty a database, unscaled
features of five crops. What differs from `regress` is listed in docs/protocols.md.

Ablations are written behind the variant, which may be left out: `configs/reiqa.py:small,loss=queue,swap=false`,
`configs/reiqa.py:versions=8,scales=1` (several scales: `scales=1+2`). Everything else is a `--config.key=value`.
"""

from ml_collections import ConfigDict, config_dict

from configs import base

VARIANTS = ("quality", "content", "regress", "arniqa", "small", "small_content", "demo")
# A simple part of the 26 distortions: blurs, noises, JPEG, saturation, tone and resizes.
SIMPLE_KINDS = (0, 1, 4, 6, 7, 8, 9, 11, 13, 14, 15, 17, 19, 25)


def get_config(variant="quality"):
  """The config of a variant.

  Args:
    variant: one of `VARIANTS`, changes such as "loss=queue", or both, separated by commas.

  Raises:
    ValueError: if there is no such variant, or nothing of that name in it to change.

  Example:
    >>> config = get_config("small,loss=queue,scales=1")
    >>> config.loss, config.scales
    ('queue', (1,))
  """
  first, *changes = variant.split(",")
  if "=" in first:
    first, changes = "quality", [first, *changes]
  base.check_variant("reiqa", first, VARIANTS)
  config = _regress() if first in ("regress", "arniqa") else _quality()
  further = {"arniqa": _arniqa, "content": _content, "small": _small, "small_content": _small_content, "demo": _demo}
  if first in further:
    further[first](config)
  for change in changes:
    _change(config, first, change)
  return config.lock()


def _truth(text):
  return {"true": True, "false": False}[text.lower()]


def _change(config, variant, change):
  """Applies "key=value" to an ablation's key."""
  kinds = {"loss": str, "swap": _truth, "versions": int, "scales": lambda text: tuple(map(int, text.split("+")))}
  key, _, text = change.partition("=")
  if key not in kinds or key not in config:
    known = [name for name in kinds if name in config]
    raise ValueError(
      f"variant {variant!r} has no ablation {change!r}; expected {', '.join(known) or 'none'}, as key=value"
    )
  try:
    config[key] = kinds[key](text)
  except (ValueError, KeyError):
    raise ValueError(f"{change!r}: {text!r} is no value of {key}, which is now {config[key]!r}") from None


def _quality():
  # The authors take 630 images a step.
  c = base.training("reiqa", [base.images("kadis700k")], split=-1, batch_size=640, epochs=40, steps=0)

  # Encoder.
  c.encoder = config_dict.placeholder(object)  # a ResNet; or 'vit', 'package.module:Class': docs/reiqa.md
  c.depth = 50
  c.width = 64
  c.embedding = 128
  c.bn_groups = 1  # 1: statistics of the global batch
  c.dtype = "bfloat16"  # of the convolutions

  # Pairs.
  c.window = 608  # pixels of an image that travel to the accelerator
  c.crop = 160
  c.scales = (1, 2)
  c.every_scale = True  # False: an image is seen at one of the scales only, which leaves room for more images
  c.versions = 12  # an image gives versions * len(scales) pairs, or versions
  c.kinds = tuple(range(26))  # distortions, as numbered in jiqa/distortions/bank.py
  c.swap = True  # exchange the crops of half of the versions
  c.compat = "fixed"  # or 'official': what the published code does, where it errs

  # Loss.
  c.loss = "in_batch"  # or 'queue' (as the published code), 'queue+chunk'; compared in docs/results.md
  c.temperature = 0.2
  c.queue = 65536
  c.key_momentum = 0.999

  c.optimizer = base.optimizer("lars", "reiqa", learning_rate=12.0, weight_decay=1e-4)
  # After training: features, ridge, correlations.
  c.evaluation = base.evaluation(
    ("koniq10k",),
    "official",
    pixels_per_batch=16 * 1024 * 768,
    resize=-1,
    untrained=True,
  )
  return c


def _content(c):
  c.method = "reiqa_content"
  c.data = [base.images("imagenet2012")]
  for key in ("scales", "every_scale", "versions", "kinds", "swap", "compat"):
    del c[key]
  c.window = 512  # larger images are reduced to fit before they travel to the accelerator
  c.crop = 224
  c.loss = "queue"  # or 'in_batch'
  c.batch_size = 256
  c.epochs = 200
  c.optimizer.update(name="sgd", schedule="moco", learning_rate=0.03, weight_decay=1e-4)


def _regress():
  c = ConfigDict()
  c.method = "regress"
  c.seed = 0
  c.data_dir = ""
  c.score = "mos"  # or 'raw_score', the release's own scale
  c.batch_size = 16  # images are spread over so many devices at most
  # Folders of converted weights, or workdirs of runs; '' leaves an expert out.
  c.weights = ConfigDict({"quality": "", "content": ""})
  c.split = -1
  c.features = ("quality", "content", "concat")
  c.regressors = ("ridge", "elastic_net")
  c.evaluation = base.evaluation(
    ("koniq10k",),
    "official",
    pixels_per_batch=4 * 1024 * 1024,
    resize=-1,
    five_crops=False,  # True: of 224 pixels, as ARNIQA, instead of whole images
    refit=True,  # the tested head on the training and the validation part
    per_split=True,  # every split chooses its penalty; False: one for a database
    net_alphas=(1e-4, 1.0, 9),  # of the elastic net, in units of the standard deviation of the scores
    l1_ratios=(0.1, 0.5, 0.9),
  )
  del c.evaluation["untrained"], c.evaluation["checkpoint"]  # nothing is trained
  return c


def _arniqa(c):
  c.regressors = ("ridge",)
  c.evaluation.update(
    databases=("live", "csiq", "tid2013", "kadid10k", "flive", "spaq"),
    protocol="arniqa",
    alphas=(1e-3, 1e3, 100),
    standardise=False,
    refit=False,
    per_split=False,
    five_crops=True,
  )


def _on_biq2021(c):
  c.data = [base.images("biq2021", protocol="official")]
  c.threads = 2
  c.depth, c.width, c.dtype = 18, 32, "float32"
  c.loss = "in_batch"
  c.epochs = 0
  c.optimizer.update(name="adamw", schedule="cosine", learning_rate=1e-3, weight_decay=1e-4, warmup_steps=50)
  c.checkpoint_every = 100
  c.evaluation.update(databases=("biq2021",), pixels_per_batch=8 * 512 * 512)


def _small(c):
  _on_biq2021(c)
  # In its half the crops of a pair share 44 to 67 %. In windows of 384 pixels they would share 10 to 30 %, which was no
  # better and takes longer: docs/results.md.
  c.window, c.crop, c.every_scale = 256, 96, False
  c.versions, c.kinds = 8, SIMPLE_KINDS
  c.batch_size, c.steps = 24, 720


def _small_content(c):
  _content(c)
  _on_biq2021(c)
  c.window, c.crop = 256, 64
  c.batch_size, c.steps = 96, 500


def _demo(c):
  c.data = [base.images("demo", distortion="pristine")]
  c.threads = 2
  c.depth, c.width, c.embedding, c.dtype = 18, 16, 64, "float32"
  c.window, c.crop, c.scales = 192, 96, (1,)
  c.versions = 8
  c.kinds = SIMPLE_KINDS
  c.loss = "in_batch"
  c.batch_size = 12
  c.epochs, c.steps = 0, 300
  c.optimizer.update(name="adamw", schedule="cosine", learning_rate=2e-3, weight_decay=1e-4, warmup_steps=20)
  c.checkpoint_every, c.log_every = 50, 10
  # Fifteen photographs: alpha is chosen on six of them rather than on one, and the median is taken over many folds.
  c.evaluation.update(
    databases=("demo",), protocol="folds", splits=30, fractions=(0.4, 0.4, 0.2), pixels_per_batch=16 * 256 * 256
  )
