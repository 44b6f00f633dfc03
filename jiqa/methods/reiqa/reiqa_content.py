"""Re-IQA's content expert: MoCo-v2 (Chen et al. 2020, arXiv 2003.04297), two augmented views of every image.

Published as "vanilla" MoCo-v2 on ImageNet. The views are made on the accelerator from the whole image; one larger
than the window is reduced to fit into it first.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from jiqa.data.decode import resize
from jiqa.distortions import augment
from jiqa.methods.base import check
from jiqa.methods.reiqa._moco import MomentumContrast, converted
from jiqa.models.layers import IMAGENET
from jiqa.runtime.state import BLOCK


class ReIQAContent(MomentumContrast):
  """The content expert behind the contract of `methods/base.py`."""

  expert = "content"
  mean, std = IMAGENET["mean"], IMAGENET["std"]
  published = converted(expert)
  how_to_get = "jiqa convert reiqa-content content_aware_r50.pth weights/content"

  def check_training(self):
    config = self.config
    check((config.window >= config.crop, f"config.window is {config.window}; a crop needs {config.crop} pixels"))
    super().check_training()

  def preprocess_train(self, image, record, rng):
    """The whole image in a window: 'image' [w, w, 3] uint8, black where there is none, and 'size' [2] int32."""
    side = self.config.window
    shrink = side / max(image.shape[:2])
    if shrink < 1:
      image = resize(image, *(max(round(n * shrink), 1) for n in image.shape[:2]), "BICUBIC")
    window = np.zeros((side, side, 3), np.uint8)
    window[: image.shape[0], : image.shape[1]] = image
    return {"image": window, "size": np.int32(image.shape[:2])}

  def loss(self, params, state, batch, key):
    view_key, shuffle_key = jax.random.split(key)
    with jax.named_scope("augment"):  # its arithmetic is not the model's
      images = batch["image"].astype(jnp.float32) / 255
      view = jax.vmap(lambda k, image, size: augment.moco_v2(k, image, size, self.config.crop))
      keys = jax.random.split(view_key, (2, len(images)))
      views = checkpoint_name(jnp.stack([view(each, images, batch["size"]) for each in keys]), BLOCK)
    return self.contrast(params, state, views, shuffle_key)
