"""What stands around a run: signals, shortages of memory and disk, and the log file."""

from __future__ import annotations

import contextlib
import errno
import logging
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextvars import ContextVar

import torch

from strata.checkpoint.run_folder import RunFolder
from strata.errors import RunError, TrainingError
from strata.train.plan import Plan


@contextlib.contextmanager
def listening(ask: Callable[[int], None]) -> Iterator[None]:
    """Call ``ask`` with the number of the first Ctrl-C or SIGTERM; a second one acts at once.

    Does nothing outside the main thread, where Python takes no signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = False

    def handle(number: int, frame: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        ask(number)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def shortages_explained(folder: RunFolder, plan: Plan) -> Iterator[None]:
    """Turn a full disk into RunError and a lack of memory into TrainingError, each saying what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise RunError(
            f"Cannot write to {folder.path}: {error.strerror}. Make room, then: strata resume {folder.path}"
        ) from error
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise  # the second is how a CPU says it
        batch_size = plan.batch_size
        remedy = f"train.batch_size={batch_size // 2} train.accumulate={2 * plan.config.accumulate}"
        words = f"As many samples a step in less memory: {remedy}." if batch_size > 1 else "Take a smaller model."
        raise TrainingError(f"Out of memory with train.batch_size={batch_size}. {words}") from error


class _Kept(logging.Handler):
    """Keeps warnings until they are taken; any thread may log."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: deque[logging.LogRecord] = deque()
        self.addFilter(lambda record: record.levelno == logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


_kept: ContextVar[_Kept | None] = ContextVar("warnings of a run", default=None)


@contextlib.contextmanager
def warnings_kept() -> Iterator[None]:
    """Keep what the library warns of, also before there is a folder to write it to, for `taken_warnings`.

    What nobody took, since the run never began, goes where Python sends it without a handler.
    """
    kept, logger = _Kept(), logging.getLogger("strata")
    token = _kept.set(kept)
    logger.addHandler(kept)
    try:
        yield
    finally:
        logger.removeHandler(kept)
        _kept.reset(token)
        if logging.lastResort is not None and not logger.hasHandlers():
            for record in kept.records:
                logging.lastResort.handle(record)


def taken_warnings() -> Iterator[str]:
    """Yield what was warned of since it was last asked for."""
    kept = _kept.get()
    while kept is not None and kept.records:
        yield kept.records.popleft().getMessage()


@contextlib.contextmanager
def logging_to(folder: RunFolder) -> Iterator[None]:
    """Send what the library logs to the run's log.txt too; warnings that are kept get there as the run's own."""
    handler = logging.FileHandler(folder.log, delay=True, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%Y-%m-%d %H:%M:%S"))
    handler.setLevel(logging.INFO)
    if _kept.get() is not None:
        handler.addFilter(lambda record: record.levelno != logging.WARNING)
    logger = logging.getLogger("strata")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()
