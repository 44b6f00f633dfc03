"""LML-IQA (Gao et al., arXiv 2406.19247): contrast between the crops of an image beside quality regression.

A teacher, the moving average of the network, looks at the whole image and names the salient crop, which draws the
other crops of its image (`losses.local_manifold`), while the network predicts the image's mos from every single crop.
No code was published: docs/lml.md says what is the paper's and what is ours.
"""

import hashlib
import zlib

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from scipy import stats

from jiqa import losses
from jiqa.data.crops import cut
from jiqa.data.decode import check_enlarged, resize
from jiqa.distortions import resample
from jiqa.errors import UserError
from jiqa.methods.base import NetworkMethod, check
from jiqa.models import layers
from jiqa.models.panel_decoder import PanelDecoder
from jiqa.models.vit import ViT
from jiqa.runtime.state import new_state

CHOICES = {"saliency": ("teacher", "random"), "teacher": ("average", "frozen"), "anchors": ("all", "salient")}


def fitted(image, least, size=()):
  """The image [h, w, 3] uint8 in the size from which crops are cut, scaled by Pillow's bilinear filter.

  First to `size`, (height, width) whatever the aspect ratio, or () to keep its own; then up until the shorter side has
  `least` pixels. A UserError where it is so thin that it would become huge, see `decode.check_enlarged`.
  """
  return resize(image, *_fitted_size(image.shape[:2], least, size))


def _fitted_size(old, least, size):
  height, width = size or old
  factor = least / min(height, width)
  if factor > 1:
    height, width = max(least, round(height * factor)), max(least, round(width * factor))
    check_enlarged(old, (height, width))
  return height, width


def grouped_crops(image, count, side, rng, *, flip):
  """`count` crops of an image [h, w, 3] uint8 at random positions, each independent of the others.

  With `flip` every crop is mirrored left to right with probability 1/2, after it is taken. A dict of 'crops' [count,
  side, side, 3] uint8 and 'boxes' [count, 4] float32: (top, left, bottom, right) as fractions of height and width.
  """
  height, width = image.shape[:2]
  top, left = _corners(height, width, count, side, rng)
  crops = cut(image, zip(top, left, strict=True), side)
  if flip:
    mirrored = rng.random(count) < 0.5
    crops[mirrored] = crops[mirrored, :, ::-1]
  boxes = np.stack([top, left, top + side, left + side], 1) / [height, width, height, width]
  return {"crops": crops, "boxes": boxes.astype(np.float32)}


def _corners(height, width, count, side, rng):
  return np.stack([rng.integers(height - side + 1, size=count), rng.integers(width - side + 1, size=count)])


def image_id(image):
  """[2] int32 from a 64-bit hash of the pixels, which tells images [h, w, 3] apart whatever they are called."""
  digest = hashlib.blake2b(str(image.shape).encode(), digest_size=8)
  digest.update(np.ascontiguousarray(image))
  return np.frombuffer(digest.digest(), np.int32)


def attention_map(attention, percentile=100.0):
  """Class attention [b, heads, g * g] float32 as a map over a square image: [b, g, g], of sum 1 before the cut.

  Values above a percentile of their map are cut off (100: none): single patches of pretrained networks collect
  attention whatever they show. A ValueError where the number of patches is no square.
  """
  b, _, patches = attention.shape
  side = round(patches**0.5)
  if side * side != patches:
    raise ValueError(f"{patches} patches are no square image")
  mean = attention.mean(1)
  mean = mean / mean.sum(-1, keepdims=True)
  if percentile < 100:
    mean = jnp.minimum(mean, jnp.percentile(mean, percentile, axis=-1, keepdims=True))
  return mean.reshape(b, side, side)


def box_means(maps, boxes):
  """The means [b, k] of maps [b, g, g] float32 inside boxes; cells count by the area that lies inside.

  The boxes, [b, k, 4] float32, are (top, left, bottom, right) as fractions of height and width.
  """
  side = maps.shape[-1]
  cells = jnp.arange(side)

  def cover(first, last):
    """[b, k] in cells to [b, k, g]: how much of every cell lies between."""
    return jnp.maximum(jnp.minimum(last[..., None], cells + 1) - jnp.maximum(first[..., None], cells), 0)

  top, left, bottom, right = jnp.moveaxis(boxes * side, -1, 0)
  rows, columns = cover(top, bottom), cover(left, right)
  total = jnp.einsum("bky,byx,bkx->bk", rows, maps, columns, precision="highest")
  return total / (rows.sum(-1) * columns.sum(-1))


def most_salient(saliency):
  """[b] int: the first crop with the largest saliency [b, k], but for rounding: boxes inside one cell of a map tie."""
  return (saliency >= (1 - 1e-5) * saliency.max(-1, keepdims=True)).argmax(-1)


class QualityNetwork(nnx.Module):
  """Encoder and quality head."""

  def __init__(self, config, *, rngs):
    dtype = jnp.dtype(config.dtype)
    self.encoder = ViT(
      config.crop, config.patch, config.width, config.depth, config.heads,
      layer_scale=config.layer_scale, dtype=dtype, rngs=rngs,
    )  # fmt: skip
    self.head = PanelDecoder(config.width, config.heads, dtype=dtype, rngs=rngs)

  def __call__(self, images):
    """To dict: 'score' [b], 'feature' [b, d] of unit length, 'attention' [b, heads, t].

    Images are [b, s, s, 3] uint8, or floats in [0, 1].
    """
    x = (layers.unit_pixels(images) - jnp.array(layers.IMAGENET["mean"])) / jnp.array(layers.IMAGENET["std"])
    tokens, attention = self.encoder(x)
    feature = tokens[:, 0]
    feature = feature * jax.lax.rsqrt(jnp.square(feature).sum(-1, keepdims=True) + 1e-12)
    return {"score": self.head(tokens), "feature": feature, "attention": attention}


class LML(NetworkMethod):
  """LML-IQA behind the contract of `methods/base.py`."""

  input = "RGB; {test_crops} crops of {crop} pixels, their scores averaged"
  prediction_keys = ("test_crops",)
  optional = ("head",)
  published = ({"card": {"model": "lml"}, "config": "lml", "keys": ()},)

  def __init__(self, config, mesh):
    _check(config)
    super().__init__(config, mesh)
    self.score_range = tuple(config.targets) or None
    self._look = jax.jit(self._look_at)  # compiled once, however many images are explained

  def build(self, rngs):
    return QualityNetwork(self.config, rngs=rngs)

  def first_state(self, key, params, stats):
    return new_state(params, stats, {"teacher": params})

  def preprocess_train(self, image, record, rng):
    config, mos = self.config, record["mos"]
    if not np.isfinite(mos):
      raise UserError(f"{record['database']}: {record['image_name']} has no score to train on (mos is {mos})")
    if config.targets:  # the database's own range is mapped to them
      (low, high), (lowest, highest) = record["range"], config.targets
      if not np.isfinite([low, high]).all():
        raise UserError(
          f"{record['database']} declares no range of scores ({record['range']}) that could be mapped to "
          f"config.targets {tuple(config.targets)}; set config.targets=() to train on its own scale"
        )
      mos = lowest + (mos - low) / (high - low) * (highest - lowest)
    image_for_crops = fitted(image, config.crop, tuple(config.resize))
    return {
      **grouped_crops(image_for_crops, config.crops, config.crop, rng, flip=True),
      "whole": resize(image_for_crops, config.crop, config.crop),  # boxes in fractions mean the same in it
      "target": np.float32(mos),
      "image_id": image_id(image),
    }

  def loss(self, params, state, batch, key):
    config, crops = self.config, batch["crops"]
    student = self._of_crops(params, crops)
    scores = student["score"]
    regression = losses.smooth_l1(scores, batch["target"][:, None]).mean()
    loss, metrics = regression, {"regression": regression}
    if config.contrast or config.consistency:
      teacher = jax.lax.stop_gradient(state.extra["teacher"])
      taught = jax.lax.stop_gradient(self._of_crops(teacher, crops))
    if config.contrast:
      if config.saliency == "random":
        salient = jax.random.randint(key, crops.shape[:1], 0, crops.shape[1])
      else:
        salient = most_salient(self.saliency(self.network(teacher), batch)[0])
      options = {name: config[name] for name in ("temperature", "w_intra", "w_inter", "anchors")}
      features = student["feature"], taught["feature"]
      contrast = losses.local_manifold(*features, salient, batch["image_id"], **options).mean()
      loss, metrics["contrast"] = loss + config.contrast * contrast, contrast
    if config.consistency:
      agreed = taught["score"].mean(1, keepdims=True)
      consistency = losses.smooth_l1(scores, agreed).mean()
      loss, metrics["consistency"] = loss + config.consistency * consistency, consistency
    return loss, (state.stats, {}, metrics)

  def _of_crops(self, params, crops):
    """What the network says of crops [b, k, s, s, 3] uint8: dict of arrays [b, k, ...]."""
    outputs = self.network(params)(crops.reshape(-1, *crops.shape[2:]))
    return {name: value.reshape(*crops.shape[:2], *value.shape[1:]) for name, value in outputs.items()}

  def saliency(self, network, batch):
    """How much a QualityNetwork looks at each crop of an image: [b, k] float32, and the map [b, g, g] that says so.

    The attention is that to the 'whole' of the batch: attention to a crop sums to one whatever the crop shows, so that
    crops seen one by one cannot be ranked.
    """
    maps = attention_map(network(batch["whole"])["attention"], self.config.attention_percentile)
    return box_means(maps, batch["boxes"]), maps

  def post_update(self, state, aux):
    if self.config.teacher == "frozen":
      return state
    updates = state.step - 1  # state.step counts the one that has just been made
    momentum = jnp.minimum(self.config.teacher_momentum, (1.0 + updates) / (10.0 + updates))
    teacher = jax.tree.map(lambda old, new: momentum * old + (1 - momentum) * new, state.extra["teacher"], state.params)
    return state.replace(extra={**state.extra, "teacher": teacher})

  def preprocess_eval(self, image):
    """Crops at places drawn from the image's own pixels: the same for one image, wherever it comes up."""
    return {"crops": self._test_crops(image)["crops"]}

  def _test_crops(self, image):
    config = self.config
    rng = np.random.default_rng(zlib.crc32(np.ascontiguousarray(image)))
    image = fitted(image, config.crop, tuple(config.resize))
    return grouped_crops(image, config.test_crops, config.crop, rng, flip=False) | {"image": image}

  def preprocess_float(self, images):
    """Crops at places that are drawn once for a size: they cannot follow from pixels that are being computed."""
    config = self.config
    images = resample.to_size(images, *_fitted_size(images.shape[1:3], config.crop, tuple(config.resize)), "linear")
    at = _corners(*images.shape[1:3], config.test_crops, config.crop, np.random.default_rng(0))
    return {"crops": layers.cut(images, at.T, config.crop)}

  def precompute(self, params, stats, extra=None):
    """The teacher, which is needed for its own scores and for explanations only."""
    return {"teacher": extra["teacher"]} if extra else {}

  def explain(self, params, stats, extra, image):
    """Where the teacher looks; weights without a teacher are a teacher's first state, which is the network itself."""
    crops = self._test_crops(image)
    batch = {"whole": resize(crops["image"], *[self.config.crop] * 2)[None], "boxes": crops["boxes"][None]}
    return crops | jax.device_get(self._look(params, extra.get("teacher", params), crops["crops"], batch))

  def _look_at(self, params, teacher, crops, batch):
    scores = self.network(params)(crops)["score"]
    saliency, maps = self.saliency(self.network(teacher), batch)
    return {"scores": scores, "score": scores.mean(), "map": maps[0], "saliency": saliency[0]}

  def predict(self, params, stats, extra, batch):
    """Score [b], features [b, d]; and inside a run teacher_score [b]."""
    crops = self._of_crops(params, batch["crops"])
    outputs = {"score": crops["score"].mean(1), "features": crops["feature"].mean(1)}
    if extra:
      outputs["teacher_score"] = self._of_crops(extra["teacher"], batch["crops"])["score"].mean(1)
    return outputs

  def compute_metrics(self, outputs, records):
    """The teacher's correlations with the human scores; medians where there are several databases."""
    if "teacher_score" not in outputs:
      return {}
    measured = {"teacher_srcc": [], "teacher_plcc": []}
    for positions in records.reset_index(drop=True).groupby("database").groups.values():
      scores, mos = outputs["teacher_score"][positions], records.mos.to_numpy()[positions]
      if len(mos) > 1 and np.ptp(scores) and np.ptp(mos):
        measured["teacher_srcc"].append(stats.spearmanr(scores, mos).statistic)
        measured["teacher_plcc"].append(stats.pearsonr(scores, mos).statistic)
    return {name: float(np.median(values)) for name, values in measured.items() if values}


def _check(config):
  positive = ("crops", "test_crops", "crop", "depth", "temperature", "layer_scale")
  weights = ("contrast", "consistency", "w_intra", "w_inter")
  check(
    *(
      (config[name] in known, f"config.{name} is {config[name]!r}; expected one of {', '.join(known)}")
      for name, known in CHOICES.items()
    ),
    (
      0 <= config.teacher_momentum < 1,
      f"config.teacher_momentum is {config.teacher_momentum}; expected at least 0 and below 1. A teacher that never "
      "moves is config.teacher='frozen'",
    ),
    (
      0 < config.attention_percentile <= 100,
      f"config.attention_percentile is {config.attention_percentile}; expected more than 0 and at most 100",
    ),
    (
      len(config.targets) in (0, 2) and (not config.targets or config.targets[0] < config.targets[1]),
      f"config.targets is {tuple(config.targets)}; expected (lowest, highest), or () for the database's own scale",
    ),
    (len(config.resize) in (0, 2), f"config.resize is {tuple(config.resize)}; expected (height, width) or ()"),
    *((config[name] > 0, f"config.{name} is {config[name]}; it must be positive") for name in positive),
    *((config[name] >= 0, f"config.{name} is {config[name]}; it must not be negative") for name in weights),
  )
