"""The network of `models.build`. Importing it takes seconds, which the transform is spared."""

import segmentation_models_pytorch as smp
from segmentation_models_pytorch.base.initialization import initialize_decoder
from segmentation_models_pytorch.base.modules import Conv2dReLU
from torch import Tensor


class Unet(smp.Unet):
    """A U-Net that normalises its images, by the buffers `mean` and `std` that `build` adds."""

    def deepen(self, convs: int) -> None:
        """Give each block of the decoder `convs` convolutions instead of two."""
        for block in self.decoder.blocks:
            channels = block.conv2[0].out_channels
            for _ in range(convs - 2):
                more = Conv2dReLU(channels, channels, kernel_size=3, padding=1)
                initialize_decoder(more)
                block.conv2.extend(more)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits (B, K, H, W) of images (B, C, H, W) in [0, 1], grey or RGB."""
        return super().forward(self.normalised(images))

    def normalised(self, images: Tensor) -> Tensor:
        """Normalise images (B, C, H, W) in [0, 1], grey or RGB: (B, 3, H, W).

        Raises:
            ValueError: The images are integers, which would lie in 0..255.
        """
        if not images.is_floating_point():
            raise ValueError(f"images must be float in [0, 1], got {images.dtype}: divide by 255")
        return (images - self.mean) / self.std
