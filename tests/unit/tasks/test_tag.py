"""Tags of words: spans are counted as conlleval counts them, and answers know their places."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from torch import Tensor

import strata
from strata.data import open_data
from strata.data.dataset import DataConfig
from strata.errors import ConfigError, DataError
from strata.tasks.base import Answering, Draw
from strata.tasks.tag import Tag, span_sums, spans_of

LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
TASK = Tag(types=("PER", "LOC"))


def numbers(tags: str) -> Tensor:
    return torch.tensor([LABELS.index(tag) for tag in tags.split()])


def counted(true: str, found: str) -> list[tuple[int, int, int]]:
    """Return by type the spans that are right, found, and there, of sentences that bars divide."""
    first = torch.cat([torch.arange(len(sentence.split())) == 0 for sentence in true.split("|")])
    sums = span_sums(numbers(found.replace("|", " ")), numbers(true.replace("|", " ")), first, 2)
    rows = (sums[name].tolist() for name in ("spans_right", "spans_found", "spans_true"))
    return list(zip(*rows, strict=True))


@pytest.mark.parametrize(
    ("true", "found", "per", "loc"),
    [
        ("B-PER I-PER O B-LOC", "B-PER I-PER O B-LOC", (1, 1, 1), (1, 1, 1)),
        ("B-PER I-PER O B-LOC", "B-PER O O B-LOC", (0, 1, 1), (1, 1, 1)),  # ends too early
        ("B-PER I-PER O", "B-PER I-PER I-PER", (0, 1, 1), (0, 0, 0)),  # ends too late
        ("B-PER I-PER O", "B-LOC I-LOC O", (0, 0, 1), (0, 1, 0)),  # of another type
        ("B-PER I-PER O", "I-PER I-PER O", (1, 1, 1), (0, 0, 0)),  # an I- without a B- begins a span
        ("B-PER B-LOC I-LOC", "B-PER I-LOC I-LOC", (1, 1, 1), (1, 1, 1)),  # so does an I- of another type
        ("B-PER B-PER", "B-PER I-PER", (0, 1, 2), (0, 0, 0)),
        ("O B-PER | B-PER O", "O I-PER | I-PER O", (2, 2, 2), (0, 0, 0)),  # no span goes on in the next sentence
        ("O O", "B-PER O", (0, 1, 0), (0, 0, 0)),
    ],
)
def test_spans_are_counted_by_conllevals_rules(
    true: str, found: str, per: tuple[int, int, int], loc: tuple[int, int, int]
) -> None:
    assert counted(true, found) == [per, loc]


def test_spans_are_those_of_a_plain_walk_over_the_words() -> None:
    draw = random.Random(0)
    for _ in range(50):
        n = draw.randrange(1, 12)
        tag_N = torch.tensor([draw.randrange(5) for _ in range(n)])
        first_N = torch.tensor([k == 0 or draw.random() < 0.2 for k in range(n)])
        wanted, open_at, kind = [], -1, -1
        for k in [*range(n), n]:
            tag = 0 if k == n else int(tag_N[k])
            now = (tag - 1) // 2 if tag else -1
            if open_at >= 0 and (k == n or tag == 0 or tag % 2 == 1 or bool(first_N[k]) or now != kind):
                wanted.append((open_at, k - 1, kind))
                open_at = -1
            if tag and open_at < 0:
                open_at, kind = k, now
        spans = spans_of(tag_N, first_N)
        begins = spans.begins_N.nonzero()[:, 0].tolist()
        assert [(k, int(spans.last_N[k]), int(spans.type_N[k])) for k in begins] == wanted


class Fixed(torch.nn.Module):
    """Is sure of given tags, whatever it reads."""

    def __init__(self, tag_BT: Tensor) -> None:
        super().__init__()
        self.tag_BT = tag_BT

    def forward(self, token_BT: Tensor, mask_BT: Tensor | None = None) -> Tensor:
        return 9.0 * torch.nn.functional.one_hot(self.tag_BT, len(LABELS)).float()


def test_the_metrics_of_a_hand_worked_batch() -> None:
    target_BT = torch.tensor([[-100, 1, -100, 2, 0, 3], [1, 0, -100, -100, -100, -100]])
    found_BT = torch.tensor([[1, 1, 3, 2, 0, 0], [1, 3, 0, 0, 0, 0]])
    batch = {"input": torch.zeros(2, 6, dtype=torch.int64), "target": target_BT}
    measure = TASK.measure(Fixed(found_BT), batch, Draw(0, 0, torch.arange(2)))
    metrics = TASK.metrics(measure.sums, {})
    # Three spans are there; three are found, of which the two persons are right.
    assert metrics["span_precision"] == metrics["span_recall"] == pytest.approx(2 / 3)
    assert metrics["span_f1"] == pytest.approx(2 / 3)
    assert metrics["accuracy"] == pytest.approx(4 / 6)
    rows = TASK.findings(measure.sums, {}, LABELS).classes
    assert rows[0] == {"label": "PER", "support": 2, "precision": 1.0, "recall": 1.0, "f1": 1.0}
    assert rows[1] == {"label": "LOC", "support": 1, "precision": 0.0, "recall": 0.0, "f1": 0.0}


def test_two_batches_add_up_to_one() -> None:
    draw = torch.Generator().manual_seed(0)
    target_BT, found_BT = (torch.randint(5, (6, 9), generator=draw) for _ in range(2))

    def sums(rows: slice) -> dict[str, Tensor]:
        batch = {"input": target_BT[rows], "target": target_BT[rows]}
        return TASK.measure(Fixed(found_BT[rows]), batch, Draw(0, 0, torch.arange(1))).sums

    one, two, whole = sums(slice(0, 2)), sums(slice(2, 6)), sums(slice(0, 6))
    for name, value in whole.items():
        torch.testing.assert_close(one[name] + two[name], value)


def written(folder: Path) -> Path:
    names, places = ["Ada", "Bob", "Eve", "Mia"], ["Rome", "Oslo", "New York", "Bonn"]
    blocks = []
    for k in range(48):
        name, place = names[k % 4], places[k // 4 % 4].split()
        lines = [f"{name}\tB-person", "went\tO", "to\tO", f"{place[0]}\tB-place"]
        lines += [f"{word}\tI-place" for word in place[1:]]
        blocks.append("\n".join(lines))
    path = folder / "trips.conll"
    path.write_text("\n\n".join(blocks) + "\n", encoding="utf-8")
    return path


def test_it_learns_and_answers_with_places_in_the_text(tmp_path: Path) -> None:
    settings = {"model.width": 16, "model.embedding_width": 16, "model.num_layers": 1, "model.dropout": 0.0}
    settings |= {"train.epochs": 12, "train.batch_size": 8, "train.device": "cpu", "data.tokens": "word"}
    settings |= {"train.learning_rate": 0.02, "train.precision": "fp32"}
    run = strata.train(str(written(tmp_path)), settings, runs=tmp_path / "runs")
    assert run.metrics["test"]["span_f1"] == 1
    answer = run.predict("Eve  went to New York")
    assert [(span["text"], span["type"]) for span in answer["entities"]] == [("Eve", "person"), ("New York", "place")]
    assert [(span["start"], span["end"]) for span in answer["entities"]] == [(0, 3), (13, 21)]
    assert all(0.3 < span["probability"] <= 1 for span in answer["entities"])
    alone = run.predict(["Eve  went to New York", ["Mia", "went"], ""])
    assert alone[0]["entities"][0]["probability"] == pytest.approx(answer["entities"][0]["probability"], abs=1e-5)
    assert [span["text"] for span in alone[1]["entities"]] == ["Mia"] and "no words" in alone[2]["error"]
    example = run.finished["texts"][0]
    assert example["written"] == example["references"][0]


def test_a_text_of_several_pieces_is_answered_whole(tmp_path: Path) -> None:
    data = open_data(DataConfig(source=str(written(tmp_path)), tokens="word", max_length=3))
    words = ["a", "b", "Ada", "went", "to", "New", "York", "and", "Ada"]

    class KnowsAda(torch.nn.Module):
        def forward(self, token_BT: Tensor, mask_BT: Tensor | None = None) -> Tensor:
            assert token_BT.shape[1] <= 8 and mask_BT is not None and int(mask_BT.sum(1).max()) <= 3
            is_ada = token_BT == data.preprocess.text.encode("Ada")[0]  # type: ignore[attr-defined]
            return torch.nn.functional.one_hot(is_ada.long(), 5).float()

    task = Tag(types=("person", "place"))
    context = Answering(data.labels, data.preprocess, torch.device("cpu"))
    (answer,) = task.answers_to(KnowsAda(), [words], context)
    assert [span["start"] for span in answer["entities"]] == [4, 29]


def test_tags_of_single_words_have_an_accuracy_and_no_spans(tmp_path: Path) -> None:
    path = tmp_path / "a.conll"
    path.write_text("the\tDET\ndog\tNOUN\n\na\tDET\ncat\tNOUN\n\n" * 8, encoding="utf-8")
    data = open_data(DataConfig(source=str(path), kind="tags"))
    task = Tag().resolve(data)
    assert isinstance(task, Tag) and task.types == () and task.main_metric == "accuracy"
    model = strata.create("bilstm", head="token_class", num_classes=2, vocab_size=data.sizes["vocab_size"]).eval()
    batch = data.splits["train"].gather(torch.arange(2), torch.zeros(2))
    metrics = task.metrics(task.measure(model, batch, Draw(0, 0, torch.arange(2))).sums, {})
    assert metrics.keys() == {"accuracy", "loss"}
    (answer,) = task.answers_to(model, ["the cat"], Answering(data.labels, data.preprocess, torch.device("cpu")))
    assert [word["text"] for word in answer["tags"]] == ["the", "cat"]
    with pytest.raises(ConfigError, match="of single words"):
        Tag(main="span_f1").resolve(data)


def test_other_data_is_refused() -> None:
    with pytest.raises(DataError, match="words with a tag each"):
        Tag().resolve(open_data(DataConfig(source="iris")))
