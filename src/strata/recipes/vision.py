"""Recipes that classify pictures."""

from __future__ import annotations

import dataclasses

from strata.data.augment import AugmentConfig
from strata.data.catalog import DATASETS
from strata.data.dataset import DataConfig
from strata.models.airbench import AirbenchConfig
from strata.models.lenet import LeNetConfig
from strata.models.resnet import PRESETS, ResNetConfig
from strata.tasks.classify import Classify
from strata.train.recipe import Recipe, Reference, TrainConfig

_TABLE = "the table of kuangliu/pytorch-cifar, 350 passes"
CIFAR10_ELSEWHERE = {
    "vgg16_bn": (0.9264, f"VGG-16 with batch norm in {_TABLE}"),
    "resnet18": (0.9302, f"ResNet-18 in {_TABLE}"),
    "resnet50": (0.9362, f"ResNet-50 in {_TABLE}"),
    "densenet121": (0.9504, f"DenseNet-121 in {_TABLE}"),
    "preresnet18": (0.9511, f"ResNet-18, pre-activation, in {_TABLE}"),
}
"""What was published of other models on the original pictures."""


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
    table = "the table of the Fashion-MNIST repository (Xiao, Rasul and Vollgraf 2017)"
    return Recipe(
        recipe="fashion-mnist",
        summary="A small, wide residual network on Fashion-MNIST",
        model=ResNetConfig(depths=(1, 1, 1), width=48, stem="cifar"),
        data=DataConfig(
            source="fashion-mnist",
            labels=DATASETS["fashion-mnist"].labels,  # for a copy of your own, which only numbers them
            augment=AugmentConfig(flip=0.5, crop=2),
        ),
        task=Classify(label_smoothing=0.1),
        train=TrainConfig(
            epochs=8, batch_size=256, optimizer="muon", learning_rate=0.01, weight_decay=0.05, schedule="one_cycle"
        ),
        reference=Reference(
            metric="accuracy",
            published=0.949,
            source=f"ResNet-18 in {table}",
            of_models={
                "resnet18": (0.949, f"ResNet-18 in {table}"),
                "alexnet": (0.899, f"AlexNet, with a triplet loss, in {table}"),
                "vgg16": (0.935, f"VGG-16 in {table}"),
                "googlenet": (0.937, f"GoogLeNet in {table}"),
                "densenet_bc_100_12": (0.954, f"DenseNet-BC of 768,000 parameters in {table}"),
                "wrn_40_4": (0.967, f"WRN-40-4 in {table}"),
                "wrn_28_10": (0.959, f"WRN-28-10 in {table}"),
            },
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
            step_at=(0.5, 0.75),
        ),
        reference=Reference(
            metric="accuracy",
            published=0.9125,
            source="ResNet-20 in Table 6 of the paper",
            of_models=CIFAR10_ELSEWHERE,
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


def cifar10_speed() -> Recipe:
    """CIFAR-10 in few epochs: whitened first layer, identity initial filters, flips that alternate, flipped test."""
    return Recipe(
        recipe="cifar10-speed",
        summary="The CIFAR-10 speed-run network, with Muon",
        model=AirbenchConfig(),
        data=DataConfig(source="cifar10", augment=AugmentConfig(flip_alternate=True, crop=2, padding="reflect")),
        task=Classify(label_smoothing=0.2, flip_test=True),
        train=TrainConfig(
            epochs=8,
            batch_size=512,
            optimizer="muon",
            learning_rate=0.02,
            weight_decay=0.05,
            schedule="one_cycle",
            ema=0.95,
            grow_from=0.5,
            grow_until=0.8,
        ),
        reference=Reference(
            metric="accuracy",
            published=0.94,
            source="airbench94 (Jordan 2024): 94.0 in 2.59 s on an A100, on the original pictures",
            of_models=CIFAR10_ELSEWHERE,
        ),
    )


def finetune() -> Recipe:
    """A network that was trained before, on your pictures: a new head first, then all of it, the first layers least."""
    return Recipe(
        recipe="finetune",
        summary="Fine-tuning on pictures",
        model=PRESETS["resnet18"],
        data=DataConfig(source="cifar10", augment=AugmentConfig(flip=0.5, resized_crop=0.5)),
        task=Classify(label_smoothing=0.1),
        train=TrainConfig(
            epochs=20, batch_size=32, optimizer="adamw", learning_rate=1e-3, weight_decay=0.05, schedule="one_cycle"
        ),
    )


def pneumonia() -> Recipe:
    """Chest X-rays of children, 28x28 pixels, normal or pneumonia: PneumoniaMNIST of MedMNIST v2.

    Its validation split was cut from the source's training pictures and its test split was not: figures fall from one
    to the other, and the threshold that validation chooses leaves fewer of the normal test pictures alone.
    """
    return Recipe(
        recipe="pneumonia",
        summary="ResNet-18 on chest X-rays of 28x28 pixels, with calibrated probabilities",
        model=dataclasses.replace(PRESETS["resnet18"], stem="patch"),
        data=DataConfig(
            source="pneumoniamnist",
            labels=("normal", "pneumonia"),
            augment=AugmentConfig(rotate=10, scale=0.1, translate=0.08),
        ),
        task=Classify(
            label_smoothing=0.1, main="auroc", positive="pneumonia", specificity=0.9, calibrate=True, flip_test=True
        ),
        train=TrainConfig(
            epochs=12,
            batch_size=64,
            optimizer="adamw",
            learning_rate=2e-3,
            weight_decay=0.05,
            schedule="one_cycle",
            ema=0.99,
            grow_from=0.6,
        ),
        reference=Reference(
            metric="auroc",
            published=0.944,
            source="ResNet-18 (28) in the benchmark of MedMNIST v2 (Yang et al. 2023), whose accuracy is .854",
        ),
    )
