"""The networks of the studies."""

from experiments.models.efficientnet import EfficientNetLite0 as EfficientNetLite0
from experiments.models.efficientnet import efficientnet_lite0 as efficientnet_lite0
from experiments.models.features import Backbone as Backbone
from experiments.models.features import extract_features as extract_features
from experiments.models.resnet_cifar import CifarResNet as CifarResNet
from experiments.models.resnet_cifar import cifar_resnet as cifar_resnet
from experiments.models.resnet_imagenet import ImageNetResNet as ImageNetResNet
from experiments.models.resnet_imagenet import imagenet_resnet as imagenet_resnet
from experiments.models.rul import RulCNN as RulCNN
from experiments.models.rul import TemporalConv as TemporalConv
from experiments.models.rul import fold_time as fold_time
from experiments.models.rul import unfold_time as unfold_time
