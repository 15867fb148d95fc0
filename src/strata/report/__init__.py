"""A run's report: one HTML file that explains the run to somebody who did not train it, and works offline.

history.py    reads a run folder, also one that is still going, was killed, or was resumed
words.py      numbers and metrics as people read them
detection.py  one class among the others: ROC curve, true probabilities, what to know before use
pictures.py   draws: matplotlib to SVG whose colours follow the page, samples as data URIs
report.py     says what the numbers mean, section by section
report.html.jinja  how it looks
"""

from __future__ import annotations

from strata.report.report import write_report

__all__ = ["write_report"]
