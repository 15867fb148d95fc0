"""Recipes that classify pictures."""

from __future__ import annotations

from strata.data.augment import AugmentConfig
from strata.data.dataset import DataConfig
from strata.models.lenet import LeNetConfig
from strata.models.resnet import PRESETS, ResNetConfig
from strata.tasks.classify import Classify
from strata.train.recipe import Recipe, Reference, TrainConfig


def digits() -> Recipe:
    """1,797 handwritten digits of 8x8 pixels, bundled with scikit-learn."""
    return Recipe(
        recipe="digits",
        summary="A small residual network on 8x8 handwritten digits",
        model=ResNetConfig(depths=(1, 1, 1), width=32, stem="cifar"),
        data=DataConfig(source="digits", augment=AugmentConfig(rotate=10, scale=0.1, translate=0.1)),
        task=Classify(label_smoothing=0.1),
        train=TrainConfig(
            epochs=30, batch_size=64, optimizer="nesterov", learning_rate=0.05, weight_decay=5e-4, schedule="one_cycle"
        ),
    )


def mnist() -> Recipe:
    """60,000 handwritten digits of 28x28 pixels."""
    return Recipe(
        recipe="mnist",
        summary="A small residual network on MNIST",
        model=ResNetConfig(depths=(1, 1, 1), width=32, stem="cifar"),
        data=DataConfig(source="mnist", augment=AugmentConfig(rotate=10, scale=0.1, translate=0.08)),
        task=Classify(label_smoothing=0.1),
        train=TrainConfig(
            epochs=3, batch_size=256, optimizer="muon", learning_rate=0.01, weight_decay=0.05, schedule="one_cycle"
        ),
    )


def fashion_mnist() -> Recipe:
    """60,000 pieces of clothing of 28x28 pixels."""
    return Recipe(
        recipe="fashion-mnist",
        summary="A small, wide residual network on Fashion-MNIST",
        model=ResNetConfig(depths=(1, 1, 1), width=48, stem="cifar"),
        data=DataConfig(source="fashion-mnist", augment=AugmentConfig(flip=0.5, crop=2)),
        task=Classify(label_smoothing=0.1),
        train=TrainConfig(
            epochs=8, batch_size=256, optimizer="muon", learning_rate=0.01, weight_decay=0.05, schedule="one_cycle"
        ),
        reference=Reference(
            metric="accuracy",
            published=0.949,
            source="ResNet-18 in the table of the Fashion-MNIST repository (Xiao, Rasul and Vollgraf 2017)",
        ),
    )


def cifar10() -> Recipe:
    """50,000 colour pictures of 32x32 pixels, with the network and schedule of He et al. 2016, section 4.2."""
    return Recipe(
        recipe="cifar10",
        summary="ResNet-20 on CIFAR-10, as in the paper",
        model=PRESETS["resnet20"],
        data=DataConfig(source="cifar10", augment=AugmentConfig(flip=0.5, crop=4)),
        task=Classify(),
        train=TrainConfig(
            steps=64_000,
            batch_size=128,
            optimizer="momentum",
            learning_rate=0.1,
            weight_decay=1e-4,
            schedule="step",
            step_every=0.25,
        ),
    )


def lenet() -> Recipe:
    """LeNet-5 on MNIST."""
    return Recipe(
        recipe="lenet",
        summary="LeNet-5 on MNIST",
        model=LeNetConfig(),
        data=DataConfig(source="mnist"),
        task=Classify(),
        train=TrainConfig(epochs=10, batch_size=128, optimizer="adamw", learning_rate=2e-3, schedule="cosine"),
    )


def resnet() -> Recipe:
    """ResNet-18 on a folder of class folders, with settings that suit most pictures."""
    return Recipe(
        recipe="resnet",
        summary="ResNet-18 on pictures",
        model=PRESETS["resnet18"],
        data=DataConfig(source="cifar10", augment=AugmentConfig(flip=0.5, resized_crop=0.5)),
        task=Classify(label_smoothing=0.1),
        train=TrainConfig(
            epochs=20,
            batch_size=32,
            optimizer="muon",
            learning_rate=0.005,
            weight_decay=0.05,
            schedule="one_cycle",
        ),
    )
