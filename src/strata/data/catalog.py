"""Data sets that have a name: those bundled with scikit-learn and Python, and those that are downloaded.

Reading this page imports neither torch nor scikit-learn. A new one costs an entry, and a function if its form is new.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from strata.cache import cache_folder
from strata.data.download import RemoteFile, fetch
from strata.errors import UnavailableError

if TYPE_CHECKING:
    from strata.data.dataset import DataConfig, Dataset


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One named data set."""

    name: str
    kind: str
    """"image", "table" or "text"."""
    summary: str
    samples: str
    """How many, in words."""
    origin: str
    """Who made it, and what brings it here."""
    opener: str
    """"module:function", called with the entry and the config."""
    files: tuple[RemoteFile, ...] = ()
    """What has to be downloaded; none where it is bundled."""
    labels: tuple[str, ...] = ()

    @property
    def bundled(self) -> bool:
        """Whether it is here without a download."""
        return not self.files

    @property
    def size(self) -> int:
        """Bytes to download."""
        return sum(file.size for file in self.files)

    def open(self, config: DataConfig) -> Dataset:
        """Read it, downloading what is missing."""
        module, function = self.opener.split(":")
        dataset: Dataset = getattr(importlib.import_module(module), function)(self, config)
        return dataset


def _idx_files(urls: tuple[str, ...], *files: tuple[str, int, str]) -> tuple[RemoteFile, ...]:
    return tuple(
        RemoteFile(name=name, urls=tuple(f"{url}/{name}" for url in urls), size=size, sha256=sha256)
        for name, size, sha256 in files
    )


_MNIST = _idx_files(
    ("https://storage.googleapis.com/cvdf-datasets/mnist", "https://ossci-datasets.s3.amazonaws.com/mnist"),
    (
        "train-images-idx3-ubyte.gz",
        9_912_422,
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    ),
    ("train-labels-idx1-ubyte.gz", 28_881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
    ("t10k-images-idx3-ubyte.gz", 1_648_877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
    ("t10k-labels-idx1-ubyte.gz", 4_542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
)
_FASHION_MNIST = _idx_files(
    (
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
    ),
    (
        "train-images-idx3-ubyte.gz",
        26_421_880,
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    ),
    ("train-labels-idx1-ubyte.gz", 29_515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
    ("t10k-images-idx3-ubyte.gz", 4_422_102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
    ("t10k-labels-idx1-ubyte.gz", 5_148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
)
# The archive that is usually downloaded holds pickles; this one holds the same pictures as plain bytes.
_CIFAR10 = (
    RemoteFile(
        name="cifar-10-binary.tar.gz",
        urls=("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
        size=170_052_171,
        sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    ),
)
_TINY_SHAKESPEARE = (
    RemoteFile(
        name="input.txt",
        urls=("https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",),
        size=1_115_394,
        sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    ),
)

_SKLEARN = "with scikit-learn"
_ENTRIES = (
    Entry(
        name="digits",
        kind="image",
        summary="Handwritten digits, 8x8, grey, 10 classes",
        samples="1,797",
        origin=f"Alpaydin and Kaynak 1998, UCI; {_SKLEARN}",
        opener="strata.data.catalog:_open_digits",
        labels=tuple("0123456789"),
    ),
    Entry(
        name="iris",
        kind="table",
        summary="Three kinds of iris by the sizes of their petals and sepals",
        samples="150",
        origin=f"Fisher 1936; {_SKLEARN}",
        opener="strata.data.catalog:_open_sklearn_table",
    ),
    Entry(
        name="wine",
        kind="table",
        summary="Three growers of wine by chemical analysis, 13 columns",
        samples="178",
        origin=f"Forina et al. 1991, UCI; {_SKLEARN}",
        opener="strata.data.catalog:_open_sklearn_table",
    ),
    Entry(
        name="breast-cancer",
        kind="table",
        summary="Malignant or benign tumours by 30 measures of cell nuclei",
        samples="569",
        origin=f"Wolberg, Street and Mangasarian 1995, UCI; {_SKLEARN}",
        opener="strata.data.catalog:_open_sklearn_table",
    ),
    Entry(
        name="diabetes",
        kind="table",
        summary="Progression of diabetes after a year, a number, by 10 measures",
        samples="442",
        origin=f"Efron et al. 2004; {_SKLEARN}",
        opener="strata.data.catalog:_open_sklearn_table",
    ),
    Entry(
        name="pycode",
        kind="text",
        summary="Source of the Python standard library's modules, as text",
        samples="about 4.5 million characters",
        origin="with Python itself, so it differs between its versions",
        opener="strata.data.catalog:_open_pycode",
    ),
    Entry(
        name="mnist",
        kind="image",
        summary="Handwritten digits, 28x28, grey, 10 classes",
        samples="60,000 + 10,000",
        origin="LeCun, Cortes and Burges 1998",
        opener="strata.data.catalog:_open_idx",
        files=_MNIST,
        labels=tuple("0123456789"),
    ),
    Entry(
        name="fashion-mnist",
        kind="image",
        summary="Pieces of clothing, 28x28, grey, 10 classes",
        samples="60,000 + 10,000",
        origin="Xiao, Rasul and Vollgraf 2017",
        opener="strata.data.catalog:_open_idx",
        files=_FASHION_MNIST,
        labels=(
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),
    ),
    Entry(
        name="cifar10",
        kind="image",
        summary="Photographs of animals and vehicles, 32x32, colour, 10 classes",
        samples="50,000 + 10,000",
        origin="Krizhevsky 2009",
        opener="strata.data.catalog:_open_cifar",
        files=_CIFAR10,
        labels=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    ),
    Entry(
        name="tinyshakespeare",
        kind="text",
        summary="Speeches from Shakespeare's plays, 65 distinct characters",
        samples="1,115,394 characters",
        origin="Karpathy 2015, char-rnn",
        opener="strata.data.catalog:_open_text",
        files=_TINY_SHAKESPEARE,
    ),
)
DATASETS: Mapping[str, Entry] = {entry.name: entry for entry in _ENTRIES}
"""Every named data set."""


def find(name: str) -> Entry | None:
    """Return the data set of that name; underscores are as good as dashes, and case does not matter."""
    return DATASETS.get(name.lower().replace("_", "-"))


def _open_digits(entry: Entry, config: DataConfig) -> Dataset:
    import numpy as np

    from strata.data.arrays import from_parts

    bunch = _load_sklearn("load_digits")
    # The grey values 0 to 16, spread over a byte; v * 16 / 255, rounded, gives them back.
    pixels = np.round(bunch.images * (255.0 / 16.0)).astype(np.uint8)
    return from_parts(entry.name, {"train": (pixels, bunch.target)}, config, labels=entry.labels)


def _open_sklearn_table(entry: Entry, config: DataConfig) -> Dataset:
    from strata.data.arrays import splits, tables

    is_number = entry.name == "diabetes"
    options = {"scaled": False} if is_number else {}
    bunch = _load_sklearn(f"load_{entry.name.replace('-', '_')}", **options)
    labels = () if is_number else tuple(str(label) for label in bunch.target_names)
    plan = splits.plan(config, ())
    parts = {"train": (bunch.data, bunch.target)}
    return tables.from_arrays(entry.name, parts, config, plan, columns=list(bunch.feature_names), labels=labels)


@functools.cache
def _load_sklearn(loader: str, **options: Any) -> Any:
    try:
        import sklearn.datasets
    except ImportError:
        raise UnavailableError(
            "The bundled data sets come with scikit-learn. Install it: pip install scikit-learn"
        ) from None
    return getattr(sklearn.datasets, loader)(**options)


PYCODE_BYTES_AT_MOST = 6_000_000


def _open_pycode(entry: Entry, config: DataConfig) -> Dataset:
    from strata.data.files import read_text
    from strata.data.text import from_texts

    files = pycode_files()
    # Every twentieth file is held out, so that no module is learned from and tested on.
    held_out = {9: "validation", 19: "test"}
    parts: dict[str, list[Path]] = {"train": [], "validation": [], "test": []}
    for k, file in enumerate(files):
        parts[held_out.get(k % 20, "train")].append(file)
    notes = [", ".join(f"{len(found)} files for {part}" for part, found in parts.items())]
    texts = {part: [read_text(file) for file in found] for part, found in parts.items()}
    return from_texts(entry.name, texts, config, notes=notes)


def pycode_files() -> list[Path]:
    """Return the standard library's top-level modules, sorted; only those in ASCII, so that the characters are few.

    Raises UnavailableError where Python comes without its source.
    """
    import sysconfig

    folder = Path(sysconfig.get_paths()["stdlib"])
    found, size = [], 0
    for file in sorted(folder.glob("*.py")):
        content = file.read_bytes()
        if (
            file.name.startswith("_sysconfigdata")
            or not content.isascii()
            or size + len(content) > PYCODE_BYTES_AT_MOST
        ):
            continue
        found.append(file)
        size += len(content)
    if len(found) < 20:
        raise UnavailableError(f"The data set 'pycode' needs Python's own source in {folder}, which is not there.")
    return found


def _folder(entry: Entry) -> Path:
    folder = cache_folder() / entry.name
    fetch(entry.name, entry.files, folder)
    return folder


def _open_idx(entry: Entry, config: DataConfig) -> Dataset:
    from strata.data.arrays import open_idx

    return open_idx(_folder(entry), config, name=entry.name, labels=entry.labels)


def _open_text(entry: Entry, config: DataConfig) -> Dataset:
    from strata.data.files import read_text
    from strata.data.text import from_texts

    texts = {"train": read_text(_folder(entry) / entry.files[0].name)}
    return from_texts(entry.name, texts, config)


def _open_cifar(entry: Entry, config: DataConfig) -> Dataset:
    from strata.data.arrays import open_cifar

    return open_cifar(_folder(entry) / entry.files[0].name, config, name=entry.name, labels=entry.labels)
