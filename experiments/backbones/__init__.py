"""The networks of the studies."""

from experiments.backbones.efficientnet import EfficientNetLite0 as EfficientNetLite0
from experiments.backbones.efficientnet import efficientnet_lite0 as efficientnet_lite0
from experiments.backbones.features import Backbone as Backbone
from experiments.backbones.features import extract_features as extract_features
from experiments.backbones.resnet_cifar import CifarResNet as CifarResNet
from experiments.backbones.resnet_cifar import cifar_resnet as cifar_resnet
from experiments.backbones.resnet_imagenet import ImageNetResNet as ImageNetResNet
from experiments.backbones.resnet_imagenet import imagenet_resnet as imagenet_resnet
from experiments.backbones.rul import RulCNN as RulCNN
from experiments.backbones.rul import TemporalConv as TemporalConv
from experiments.backbones.rul import fold_time as fold_time
from experiments.backbones.rul import unfold_time as unfold_time
