"""LML-IQA: quality regression on crops, with contrast between the crops of an image (docs/lml.md).

Variants, each with its command, what to expect and how long it takes:

demo: photographs that ship with scikit-image and scikit-learn; needs nothing else.

    python launch.py --config=configs/lml.py:demo --workdir=runs/lml_demo

  One busy CPU core: 6 minutes. The labels are SSIM to the pristine image, a proxy and no human score. Recorded: SRCC
  0.40 (PLCC 0.50), untrained -0.02 (0.07), on one split with three photographs in its test part.

small: the BIQ2021 subset, from scratch, a narrow network; the official test images are predicted.

    jiqa prepare biq2021 --manual-dir=BIQ2021
    python launch.py --config=configs/lml.py:small --workdir=runs/lml_small
    python -m benchmarks.lml_ablation --variant=small --out=runs/lml_ablation

  Results and times of these on 2 CPU cores: docs/results.md.

livec (the default), koniq, spaq, livefb, live, csiq, tid2013, kadid: DEIQT's recipe on ViT-S/16 from DeiT III weights,
on one of ten random 80/20 splits by reference; papers report the median over ten, config.split = 0..9.

    jiqa convert deit3-small deit_3_small_224_1k.pth weights/deit3
    python launch.py --config=configs/lml.py:livec --workdir=runs/lml_livec_0 --config.init_from=weights/deit3

  The abstract gives PLCC 0.914 for LIVEC, 0.942 for TID2013 and 0.977 for CSIQ. These variants have not been run yet:
  the weights were not available. Compiled, livec fits one v5e chip (v5e:1x1, 5.1 of 15.8 GiB), koniq only with
  --config.remat=True (14.88); estimated GPUs of 16 and 40 GB: docs/scaling.md. The ten splits as ten jobs:
  cloud/ten_splits.sh.

  The state after the last epoch counts. For the best state on a validation part instead, the test part as it is:
  --config.evaluation.fractions=0.7,0.1,0.2 --config.validate_every=100 --config.evaluation.checkpoint=best.
  Less training data, the test part as it is: --config.evaluation.fractions=0.2,0.6,0.2 (0.4,0.4,0.2; 0.6,0.2,0.2).
  All of one database, tested on all of another: --config.data[0].protocol= --config.evaluation.fractions=0,0,1
  --config.evaluation.databases=koniq10k

ablation: livec for `python -m benchmarks.lml_ablation --variant=ablation --init_from=weights/deit3`, which trains it
for every entry of ABLATIONS and every seed and goes on where it stopped.
"""

from configs import base

# Variant -> (database, size (height, width) to which every image is scaled first, images a step). DEIQT scales
# KonIQ-10k and SPAQ; its sets of fewer than 3,500 training images get small batches.
DATABASES = {
  "livec": ("clive", (), 8),
  "koniq": ("koniq10k", (384, 512), 48),
  "spaq": ("spaq", (384, 512), 48),
  "livefb": ("flive", (), 48),
  "live": ("live", (), 8),
  "csiq": ("csiq", (), 8),
  "tid2013": ("tid2013", (), 8),
  "kadid": ("kadid10k", (), 48),
}
VARIANTS = (*DATABASES, "ablation", "small", "demo")
# What would support the paper's claim: full above no_intra above no_contrast, and full above random_crop.
ABLATIONS = {
  "full": {},
  "no_intra": {"w_intra": 0.0},
  "no_contrast": {"contrast": 0.0},
  "random_crop": {"saliency": "random"},
  "frozen_teacher": {"teacher": "frozen"},
  "salient_anchors": {"anchors": "salient"},
}


def get_config(variant="livec"):
  """The config of a variant.

  Raises:
    ValueError: if the variant is not one of `VARIANTS`.
  """
  base.check_variant("lml", variant, VARIANTS)
  config = _published()
  if variant == "small":
    _small(config)
  elif variant == "demo":
    _demo(config)
  else:
    _database(config, *DATABASES["livec" if variant == "ablation" else variant])
  if variant == "ablation":
    config.evaluation.untrained = False
    config.checkpoints_kept = 1
  return config.lock()


def _published():
  """DEIQT's recipe, and our reading of the abstract where DEIQT has no say."""
  data = [base.images("clive", protocol="folds")]
  # LiveC: 116 steps of 80 crops an epoch.
  c = base.training("lml", data, split=0, batch_size=8, epochs=9, steps=0, checkpoint_every=500)

  # Network: ViT-S/16.
  c.crop = 224  # side of a crop and of the view of the whole, pixels
  c.patch = 16
  c.width = 384
  c.depth = 12
  c.heads = 6
  c.layer_scale = 1e-4  # initial; converted weights bring their own
  c.dtype = "bfloat16"  # of the matrix products

  # Images.
  c.crops = 10  # of every image in a step
  c.test_crops = 10
  c.resize = ()  # (height, width) to scale images to before cropping; () keeps their size
  c.targets = (0.0, 100.0)  # what the database's range is mapped to; () trains on its own scale

  # Contrast.
  c.contrast = 0.1  # weight beside the regression; 0 leaves it out
  c.w_intra = 1.0  # negatives within the image
  c.w_inter = 1.0  # negatives from other images
  c.temperature = 0.2
  c.anchors = "all"  # or 'salient'
  c.saliency = "teacher"  # or 'random'
  c.attention_percentile = 99.0  # attention above it is cut off; 100 keeps all
  c.teacher = "average"  # or 'frozen'
  c.teacher_momentum = 0.99
  c.consistency = 0.0  # weight of agreeing with the teacher's mean score of an image's crops

  c.optimizer = base.optimizer(
    "adamw",
    "step",  # or 'step_after_warmup'
    learning_rate=2e-4,
    weight_decay=0.05,
    clip_norm=5.0,
    warmup_epochs=3,
    decay_epochs=3,
  )
  # After training: scores of the test part of this split.
  c.evaluation = base.evaluation(
    ("clive",),
    "folds",
    pixels_per_batch=16 * 10 * 224 * 224,
    fractions=(0.8, 0.0, 0.2),
    untrained=True,
  )
  return c


def _database(c, name, size, batch_size):
  c.data = [base.images(name, protocol="folds")]
  c.evaluation.databases = (name,)
  c.resize, c.batch_size = size, batch_size


def _narrow(c):
  """A network and a step that a CPU core can train from scratch in a minute or two."""
  c.threads = 2
  c.crop, c.patch, c.width, c.depth, c.heads = 64, 8, 64, 2, 4
  c.layer_scale, c.dtype = 1.0, "float32"
  c.crops, c.test_crops = 4, 8
  c.batch_size = 8
  c.epochs = 0
  c.optimizer.update(schedule="cosine", learning_rate=1e-3)
  c.evaluation.pixels_per_batch = 32 * 8 * 64 * 64


def _small(c):
  _narrow(c)
  c.data = [base.images("biq2021", protocol="official")]
  c.evaluation.update(databases=("biq2021",), protocol="official")
  # 20 units, 0 near the mean mos: the head has no bias, and to learn one makes all features alike.
  c.targets = (-12.0, 8.0)
  c.steps = 800
  c.optimizer.warmup_steps = 50
  c.checkpoint_every = 400


def _demo(c):
  _narrow(c)
  c.data = [base.images("demo", protocol="folds")]
  c.evaluation.databases = ("demo",)
  c.targets = (-18.0, 2.0)  # of -1 to 1, though hardly any SSIM is below 0; 0 near the mean, as in small
  c.steps = 1000
  c.optimizer.warmup_steps = 40
  c.checkpoint_every, c.log_every = 100, 20
