"""Vision: torchvision's and timm's families in small configurations, with random weights."""
from functools import partial

import torch
from torch import nn
from torchvision import models as tv

from common import entry, image


@entry("resnet18", "ResNet")
def _():
    return tv.resnet18(num_classes=10), image(1, 3, 32, 32)


@entry("resnet-fused", "ResNet", optimise="extended")
def _():
    return tv.ResNet(tv.resnet.BasicBlock, [1, 1, 1, 1], num_classes=10), image(1, 3, 32, 32)


@entry("resnet18-norm", "ResNet", training="preserve", opset=13)
def _():
    return tv.resnet18(num_classes=10), image(1, 3, 32, 32)


@entry("resnet-bottleneck", "ResNet", exporter="dynamo", opset=20, training="preserve")
def _():
    return tv.ResNet(tv.resnet.Bottleneck, [1, 1, 1, 1], num_classes=10), image(1, 3, 32, 32)


@entry("densenet", "DenseNet", opset=9)
def _():
    return tv.DenseNet(8, (2, 2, 2, 2), 16, num_classes=10), image(2, 3, 32, 32)


@entry("vgg11", "VGG", opset=11)
def _():
    layers = tv.vgg.make_layers([8, "M", 16, "M", 32, 32, "M"], batch_norm=True)
    net = tv.VGG(layers, num_classes=10)
    net.avgpool = nn.AdaptiveAvgPool2d(1)
    net.classifier = nn.Sequential(nn.Linear(32, 64), nn.ReLU(True), nn.Dropout(), nn.Linear(64, 10))
    return net, image(2, 3, 32, 32)


@entry("squeezenet", "SqueezeNet", opset=12)
def _():
    return tv.squeezenet1_1(num_classes=10), image(2, 3, 32, 32)


@entry("shufflenet", "ShuffleNet", opset=14)
def _():
    return tv.ShuffleNetV2([1, 2, 1], [8, 16, 32, 64, 64], num_classes=10), image(2, 3, 32, 32)


@entry("googlenet", "Inception", opset=15)
def _():
    return tv.GoogLeNet(num_classes=10, aux_logits=False, init_weights=False), image(1, 3, 32, 32)


@entry("mobilenet-v2", "MobileNet", opset=16)
def _():
    return tv.mobilenet_v2(width_mult=0.25, num_classes=10), image(2, 3, 32, 32)


@entry("mobilenet-v3", "MobileNet", exporter="dynamo", opset=18)
def _():
    return tv.mobilenet_v3_small(width_mult=0.5, num_classes=10), image(2, 3, 32, 32)


def mbconv(fused):
    block = tv.efficientnet.FusedMBConvConfig if fused else tv.efficientnet.MBConvConfig
    setting = [block(1, 3, 1, 8, 8, 1), block(4, 3, 2, 8, 16, 1), tv.efficientnet.MBConvConfig(4, 5, 2, 16, 24, 2)]
    return tv.EfficientNet(setting, dropout=0.2, last_channel=64, num_classes=10)


@entry("efficientnet", "EfficientNet")
def _():
    return mbconv(False), image(2, 3, 32, 32)


@entry("efficientnet-v2", "EfficientNet", exporter="dynamo", opset=18, training="preserve")
def _():
    return mbconv(True), image(2, 3, 32, 32)


@entry("convnext", "ConvNeXt")
def _():
    setting = [tv.convnext.CNBlockConfig(8, 16, 1), tv.convnext.CNBlockConfig(16, None, 2)]
    return tv.ConvNeXt(setting, num_classes=10), image(2, 3, 32, 32)


@entry("vit", "ViT")
def _():
    return tv.VisionTransformer(32, 8, 2, 2, 32, 64, num_classes=10), image(2, 3, 32, 32)


@entry("vit-dynamo", "ViT", exporter="dynamo", opset=20)
def _():
    return tv.VisionTransformer(32, 8, 2, 2, 32, 64, num_classes=10), image(2, 3, 32, 32)


@entry("swin", "Swin", opset=18)
def _():
    return tv.SwinTransformer([2, 2], 8, [2, 2], [2, 2], [4, 4], num_classes=10), image(2, 3, 32, 32)


@entry("regnet", "RegNet")
def _():
    params = tv.regnet.BlockParams.from_init_params(depth=4, w_0=16, w_a=8, w_m=2, group_width=8, se_ratio=0.25)
    return tv.RegNet(params, num_classes=10), image(2, 3, 32, 32)


@entry("lraspp", "segmentation")
def _():
    class Out(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, x):
            return self.net(x)["out"]

    return Out(tv.segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4)), image(
        1, 3, 48, 48
    )


@entry("timm-mixer", "timm")
def _():
    from timm.models.mlp_mixer import MlpMixer

    return MlpMixer(num_classes=10, img_size=32, patch_size=8, num_blocks=2, embed_dim=32), image(2, 3, 32, 32)


@entry("timm-resnetv2", "timm", opset=18, exporter="dynamo")
def _():
    from timm.layers import BatchNormAct2d, StdConv2d
    from timm.models.resnetv2 import ResNetV2

    sizes = dict(layers=(1, 1, 1), channels=(16, 16, 32), stem_chs=8)
    return ResNetV2(**sizes, num_classes=10, norm_layer=BatchNormAct2d, conv_layer=StdConv2d), image(2, 3, 32, 32)


@entry("timm-nfnet", "timm")
def _():
    from timm.models.nfnet import NfCfg, NormFreeNet

    cfg = NfCfg(depths=(1, 1), channels=(16, 32), stem_chs=8, attn_layer="se", attn_kwargs={}, extra_conv=True, num_features=0)
    return NormFreeNet(cfg, num_classes=10), image(2, 3, 32, 32)


@entry("timm-levit", "timm")
def _():
    from timm.models.levit import Levit

    net = Levit(img_size=64, num_classes=10, embed_dim=(16, 24), key_dim=8, depth=(1, 1), num_heads=(2, 2))
    return net, image(2, 3, 64, 64)


@entry("timm-pvt", "timm", opset=18)
def _():
    from timm.models.pvt_v2 import PyramidVisionTransformerV2

    sizes = dict(depths=(1, 1, 1, 1), embed_dims=(8, 8, 16, 16), num_heads=(1, 1, 2, 2))
    return PyramidVisionTransformerV2(**sizes, num_classes=10), image(1, 3, 64, 64)


class UNet(nn.Module):
    """Two levels down and up, joined by skips; upsampled or by transposed convolution."""

    def __init__(self, dims, transposed):
        super().__init__()
        conv, norm, pool, up = (
            (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, nn.ConvTranspose2d)
            if dims == 2
            else (nn.Conv3d, nn.InstanceNorm3d, nn.MaxPool3d, nn.ConvTranspose3d)
        )
        mode = "bilinear" if dims == 2 else "trilinear"

        def block(i, o):
            layers = (conv(i, o, 3, padding=1), norm(o, affine=True), nn.LeakyReLU(0.1))
            return nn.Sequential(*layers, conv(o, o, 3, padding=1), nn.ReLU())

        self.down = nn.ModuleList([block(1, 4), block(4, 8)])
        self.middle = block(8, 8)
        grow = partial(nn.Upsample, scale_factor=2, mode=mode, align_corners=False)
        self.grow = nn.ModuleList([up(8, 8, 2, 2) if transposed else grow() for _ in range(2)])
        self.up = nn.ModuleList([block(16, 8), block(12, 4)])
        self.head = conv(4, 2, 1)
        self.pool = pool(2)

    def forward(self, x):
        skips = []
        for block in self.down:
            x = block(x)
            skips.append(x)
            x = self.pool(x)
        x = self.middle(x)
        for grow, block, skip in zip(self.grow, self.up, reversed(skips)):
            x = block(torch.cat([grow(x), skip], 1))
        return self.head(x)


@entry("unet", "UNet", training="preserve")
def _():
    return UNet(2, transposed=True), image(2, 1, 16, 16)


@entry("unet-bilinear", "UNet", exporter="dynamo", opset=18)
def _():
    return UNet(2, transposed=False), image(2, 1, 16, 16)


@entry("unet-3d", "UNet")
def _():
    return UNet(3, transposed=False), image(1, 1, 8, 8, 8)


@entry("autoencoder-3d", "autoencoder")
def _():
    encoder = [nn.Conv3d(1, 4, 3, 2, 1), nn.ELU(), nn.Conv3d(4, 8, 3, 2, 1), nn.GroupNorm(2, 8), nn.SiLU()]
    decoder = [nn.ConvTranspose3d(8, 4, 4, 2, 1), nn.Softplus(), nn.ConvTranspose3d(4, 1, 4, 2, 1), nn.Sigmoid()]
    return nn.Sequential(*encoder, *decoder), image(1, 1, 8, 8, 8)
