"""The networks as torchvision writes them, with the strides that small images want.

Each maker takes (width, stem, classes) with the width of a model file. Parameter names are those
that our files have; ResNet-20 is no torchvision network, but made of its blocks and named alike.
"""
import torch
import torchvision
from torchvision.models.resnet import BasicBlock


def cifar_stem(width):
    return torch.nn.Conv2d(3, width, 3, stride=1, padding=1, bias=False)


def resnet18(width, stem, classes):
    net = torchvision.models.resnet18(num_classes=classes)
    net.inplanes = width
    net.conv1 = torch.nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
    net.bn1 = torch.nn.BatchNorm2d(width)
    for stage in range(4):
        layer = net._make_layer(BasicBlock, width << stage, 2, stride=2 if stage else 1)
        setattr(net, "layer%d" % (stage + 1), layer)
    net.fc = torch.nn.Linear(width * 8, classes)
    if stem == "cifar":
        net.conv1 = cifar_stem(width)
        net.maxpool = torch.nn.Identity()
    return net


class ResNet20(torch.nn.Module):
    """Three stages of three basic blocks (He et al. 2016), shortcuts by 1x1 convolutions."""

    def __init__(self, width, classes):
        super().__init__()
        net = torchvision.models.resnet18(num_classes=classes)
        net.inplanes = width
        self.conv1 = cifar_stem(width)
        self.bn1 = torch.nn.BatchNorm2d(width)
        self.relu = torch.nn.ReLU()
        self.layer1 = net._make_layer(BasicBlock, width, 3)
        self.layer2 = net._make_layer(BasicBlock, width * 2, 3, stride=2)
        self.layer3 = net._make_layer(BasicBlock, width * 4, 3, stride=2)
        self.fc = torch.nn.Linear(width * 4, classes)

    def forward(self, x):
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(x.mean((2, 3)))


def resnet20(width, stem, classes):
    assert stem == "cifar"
    return ResNet20(width, classes)


def mobilenet_v2(width, stem, classes):
    """width: multiplier times 100"""
    net = torchvision.models.mobilenet_v2(num_classes=classes, width_mult=width / 100, dropout=0.0)
    if stem == "cifar":
        net.features[0][0].stride = (1, 1)
        second = net.features[2]
        second.conv[1][0].stride = (1, 1)
        second.use_res_connect = second.conv[0][0].in_channels == second.out_channels
    return net


def stir(net, generator):
    """Batch norms that are not the identity, so that no error hides behind scale 1 and shift 0."""
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor, low, high in ((module.weight, 0.6, 1.4), (module.bias, -0.3, 0.3),
                                      (module.running_mean, -0.3, 0.3),
                                      (module.running_var, 0.6, 1.4)):
                tensor.data.uniform_(low, high, generator=generator)


def calm(net):
    """Batch norms that keep a channel some six deviations away from every kink of ReLU and ReLU6.

    A residual sum that a ReLU follows is positive plus this, so ResNets want the off lower down."""
    shifts = torch.tensor([3.0, 3.0, -3.0, 3.0, 9.0, 3.0, 3.0])
    channel = 0
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            count = module.weight.numel()
            module.weight.data.mul_(0.5)
            module.bias.data.add_(shifts[torch.arange(channel, channel + count) % len(shifts)])
            channel += count


MAKERS = {"resnet18": resnet18, "resnet20": resnet20, "mobilenet_v2": mobilenet_v2}
