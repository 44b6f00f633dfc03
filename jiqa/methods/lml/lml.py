"""LML-IQA (Gao et al., arXiv 2406.19247): contrast between the crops of an image beside quality regression.

No code was published, and of the paper only the abstract was available here: this is LML-IQA as its abstract describes
it, on DEIQT's network. docs/lml.md says which is which.

Every image gives K crops and a view of the whole. A teacher, the moving average of the network, looks at the whole:
the crop to which it pays most attention is the salient one. Every crop is then drawn to the teacher's embedding of the
salient crop of its image, away from the other crops of the same image (intra-class negatives) and from all crops of
other images (inter-class negatives), while the network learns to predict the image's mos from every single crop.
"""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from scipy import stats

from jiqa import losses
from jiqa.errors import UserError
from jiqa.methods.base import Method, check
from jiqa.methods.lml._crops import fitted, grouped_crops, image_id, whole_view
from jiqa.methods.lml._saliency import attention_map, box_means
from jiqa.models.panel_decoder import PanelDecoder
from jiqa.models.vit import ViT
from jiqa.runtime.sharding import replicated
from jiqa.runtime.state import merge_module, new_state, split_module
from jiqa.weights.store import adopt

SALIENCY = ("teacher", "random")
TEACHERS = ("average", "frozen")
ANCHORS = ("all", "salient")
# ImageNet's, with which the published encoders were trained.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


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
    """[b, s, s, 3] uint8 to dict: 'score' [b], 'feature' [b, d] of unit length, 'attention' [b, heads, t]."""
    x = (images.astype(jnp.float32) / 255 - jnp.array(MEAN)) / jnp.array(STD)
    tokens, attention = self.encoder(x)
    feature = tokens[:, 0]
    feature = feature * jax.lax.rsqrt(jnp.square(feature).sum(-1, keepdims=True) + 1e-12)
    return {"score": self.head(tokens), "feature": feature, "attention": attention}


def teacher_momentum(updates, most):
  """How much of the teacher stays: min(most, (1 + t) / (10 + t)) after t updates, so that it follows quickly at first.

  Example:
    >>> [round(float(teacher_momentum(t, 0.99)), 3) for t in (0, 10, 1000)]
    [0.1, 0.55, 0.99]
  """
  return jnp.minimum(most, (1.0 + updates) / (10.0 + updates))


class LML(Method):
  """LML-IQA behind the contract of `methods/base.py`."""

  input = "RGB; {test_crops} crops of {crop} pixels, their scores averaged"
  prediction_keys = ("test_crops",)
  published = ({"card": {"model": "lml"}, "config": "lml", "keys": ()},)

  def __init__(self, config, mesh):
    super().__init__(config, mesh)
    _check(config)
    self.score_range = tuple(config.targets) or None
    self.graphdef = split_module(nnx.eval_shape(lambda: QualityNetwork(config, rngs=nnx.Rngs(0))))[0]
    self._look = jax.jit(self._look_at)  # compiled once, however many images are explained

  def init(self, key, weights=None):
    whole = replicated(self.mesh)
    params = jax.jit(self._fresh, out_shardings=whole)(key)
    if weights is not None:
      params = jax.device_put(adopt(params, weights[0], optional=("head",)), whole)
    return jax.jit(self._first_state, out_shardings=whole)(params)

  def _fresh(self, key):
    return split_module(QualityNetwork(self.config, rngs=nnx.Rngs(params=key)))[1]

  def _first_state(self, params):
    return jax.tree.map(jnp.copy, new_state(params, {}, {"teacher": params}))

  def preprocess_train(self, image, record, rng):
    config, mos = self.config, record["mos"]
    if not np.isfinite(mos):
      raise UserError(f"{record['database']}: {record['image_name']} has no score to train on (mos is {mos})")
    if config.targets and not np.isfinite(record["range"]).all():
      raise UserError(
        f"{record['database']} declares no range of scores ({record['range']}) that could be mapped to config.targets "
        f"{tuple(config.targets)}; set config.targets=() to train on its own scale"
      )
    image_for_crops = fitted(image, config.crop, tuple(config.resize))
    return {
      **grouped_crops(image_for_crops, config.crops, config.crop, rng, flip=True),
      "whole": whole_view(image_for_crops, config.crop),
      "target": np.float32(_on_scale(mos, record["range"], tuple(config.targets))),
      "image_id": image_id(image),
    }

  def loss(self, params, state, batch, key):
    config = self.config
    b, k = batch["crops"].shape[:2]
    crops = batch["crops"].reshape(b * k, *batch["crops"].shape[2:])
    student = merge_module(self.graphdef, params, {})(crops)
    scores = student["score"].reshape(b, k)
    regression = losses.smooth_l1(scores, batch["target"][:, None]).mean()
    loss, metrics = regression, {"regression": regression}
    if config.contrast or config.consistency:
      teacher = merge_module(self.graphdef, jax.lax.stop_gradient(state.extra["teacher"]), {})
      taught = jax.lax.stop_gradient(teacher(crops))
    if config.contrast:
      salient = self._salient(teacher, batch, key)
      contrast = losses.local_manifold(
        student["feature"].reshape(b, k, -1),
        taught["feature"].reshape(b, k, -1),
        salient,
        batch["image_id"],
        temperature=config.temperature,
        w_intra=config.w_intra,
        w_inter=config.w_inter,
        anchors=config.anchors,
      ).mean()
      loss, metrics["contrast"] = loss + config.contrast * contrast, contrast
    if config.consistency:
      agreed = taught["score"].reshape(b, k).mean(1, keepdims=True)
      consistency = losses.smooth_l1(scores, agreed).mean()
      loss, metrics["consistency"] = loss + config.consistency * consistency, consistency
    return loss, (state.stats, {}, metrics)

  def saliency(self, network, batch):
    """How much a network looks at each crop of an image: [b, k] float32, and the map [b, g, g] that says so.

    The attention is that to the whole image: attention to a crop sums to one whatever the crop shows, so that crops
    seen one by one cannot be ranked.

    Args:
      network: QualityNetwork.
      batch: 'whole' [b, s, s, 3] uint8 and 'boxes' [b, k, 4] float32, from `preprocess_train`.
    """
    maps = attention_map(network(batch["whole"])["attention"], self.config.attention_percentile)
    return box_means(maps, batch["boxes"]), maps

  def _salient(self, teacher, batch, key):
    b, k = batch["crops"].shape[:2]
    if self.config.saliency == "random":
      return jax.random.randint(key, (b,), 0, k)
    return jax.lax.stop_gradient(self.saliency(teacher, batch)[0]).argmax(-1)

  def post_update(self, state, aux):
    if self.config.teacher == "frozen":
      return state
    # state.step counts the update that has just been made.
    momentum = teacher_momentum(state.step - 1, self.config.teacher_momentum)
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

  def precompute(self, params, stats, extra=None):
    """The teacher, which is needed for its own scores and for explanations only."""
    return {"teacher": extra["teacher"]} if extra else {}

  def explain(self, params, stats, extra, image):
    """What the score of one image is made of: crops, their scores, and where the teacher looks.

    Weights without a teacher are a teacher's first state, which is the network itself.
    """
    crops = self._test_crops(image)
    batch = {"whole": whole_view(crops["image"], self.config.crop)[None], "boxes": crops["boxes"][None]}
    return crops | jax.device_get(self._look(params, extra.get("teacher", params), crops["crops"], batch))

  def _look_at(self, params, teacher, crops, batch):
    scores = merge_module(self.graphdef, params, {})(crops)["score"]
    saliency, maps = self.saliency(merge_module(self.graphdef, teacher, {}), batch)
    return {"scores": scores, "score": scores.mean(), "map": maps[0], "saliency": saliency[0]}

  def predict(self, params, stats, extra, batch):
    """Score [b], features [b, d]; and inside a run teacher_score [b]."""
    b, n = batch["crops"].shape[:2]
    crops = batch["crops"].reshape(b * n, *batch["crops"].shape[2:])
    outputs, networks = {}, {"score": params}
    if extra:
      networks["teacher_score"] = extra["teacher"]
    for name, params in networks.items():
      found = merge_module(self.graphdef, params, {})(crops)
      outputs[name] = found["score"].reshape(b, n).mean(1)
      if name == "score":  # and to fit heads to, the mean of the crops' unit vectors
        outputs["features"] = found["feature"].reshape(b, n, -1).mean(1)
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


def _on_scale(mos, own, scale):
  """A mos on a database's own range, mapped linearly to `scale`; () keeps it."""
  if not scale:
    return mos
  return scale[0] + (mos - own[0]) / (own[1] - own[0]) * (scale[1] - scale[0])


def _check(config):
  positive = ("crops", "test_crops", "crop", "depth", "temperature", "layer_scale")
  weights = ("contrast", "consistency", "w_intra", "w_inter")
  check(
    (config.saliency in SALIENCY, f"config.saliency is {config.saliency!r}; expected one of {', '.join(SALIENCY)}"),
    (config.teacher in TEACHERS, f"config.teacher is {config.teacher!r}; expected one of {', '.join(TEACHERS)}"),
    (config.anchors in ANCHORS, f"config.anchors is {config.anchors!r}; expected one of {', '.join(ANCHORS)}"),
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
