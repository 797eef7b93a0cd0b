"""What happened to the rows of a catalogue: counts, reasons, and the rows that need a person's look.

Owns the words of the report and the bad-row file. Refuses to decide what is bad: the readers do.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# reason -> (the words of the report, whether the row is still used)
REASONS: Mapping[str, tuple[str, bool]] = {
    "too_few_columns": ("fewer fields than the header", False),
    "too_many_columns": ("more fields than the header, and no way to tell which field the surplus belongs to", False),
    "not_json": ("not a JSON object", False),
    "not_plain_value": ("a needed field holds a list or an object", False),
    "unknown_split": ("the split column holds neither train, val nor test", False),
    "no_label": ("no label in any label column", False),
    "no_photo_no_title": ("neither a readable photo nor a title", False),
    "missing_photo": ("photo not found, used by its title alone", True),
    "ambiguous_photo": ("several photos have that name, used by its title alone", True),
    "undecodable_photo": ("photo damaged, used by its title alone", True),
    "unsupported_photo_type": ("photo is not JPEG, PNG or WebP, used by its title alone", True),
    "photo_too_large": ("photo has too many pixels or bytes, used by its title alone", True),
    "missing_title": ("no title, used by its photo alone", True),
    "unreadable_extra_photo": ("an extra photo is unreadable and left out", True),
    "repaired": ("an unquoted separator split the last field; joined again", True),
}


@dataclass(frozen=True, slots=True)
class RowIssue:
    """One thing to look at. `line` is the line (or row) number in the source, counted from 1."""

    line: int
    row_id: str
    reason: str
    detail: str = ""

    @property
    def used(self) -> bool:
        return REASONS[self.reason][1]


@dataclass(frozen=True)
class CatalogueReport:
    """Counts over one catalogue; `rows_read` = rows kept + rows dropped."""

    source: str
    rows_read: int
    rows_per_split: Mapping[str, int]
    photos: int
    titles: int
    extra_photos: int = 0
    issues: Sequence[RowIssue] = ()
    label_counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Per column, the training rows of every label, most frequent first."""
    rare_labels: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Per column, labels below `min_label_count` that became unknown, with their training rows."""
    unlearnable_rows: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Per column and split, rows outside train whose label no training row teaches. Whoever scores a model on them
    must count them as wrong or say that they are left out."""
    notes: Sequence[str] = ()

    @property
    def rows_kept(self) -> int:
        return sum(self.rows_per_split.values())

    @property
    def rows_dropped(self) -> int:
        return self.rows_read - self.rows_kept

    def counts_by_reason(self) -> dict[str, int]:
        return dict(Counter(issue.reason for issue in self.issues).most_common())

    def lines(self, *, max_issues: int = 10) -> list[str]:
        """The report for a terminal: counts, notes, and the first `max_issues` rows of every reason that drops rows."""
        splits = ", ".join(f"{name} {count:,}" for name, count in self.rows_per_split.items())
        lines = [
            f"{self.source}: {self.rows_read:,} rows read, {self.rows_kept:,} used ({splits})",
            f"  photos {self.photos:,}, titles {self.titles:,}, extra photos {self.extra_photos:,}",
        ]
        for column, counts in self.label_counts.items():
            rare = self.rare_labels.get(column, {})
            dropped = f"; {len(rare)} rare ones became unknown" if rare else ""
            lines.append(f"  {column}: {len(counts)} labels in {sum(counts.values()):,} training rows{dropped}")
        for column, by_split in self.unlearnable_rows.items():
            listed = ", ".join(f"{count} {split}" for split, count in by_split.items())
            lines.append(f"  {column}: labels of {listed} rows are not taught by any training row")
        for reason, count in self.counts_by_reason().items():
            words, used = REASONS[reason]
            lines.append(f"  {count:,} rows {'noted' if used else 'dropped'} ({reason}): {words}")
            shown = [issue for issue in self.issues if issue.reason == reason][:max_issues]
            lines += [f"    line {i.line} ({i.row_id}){': ' + i.detail if i.detail else ''}" for i in shown]
            if count > len(shown):
                lines.append(f"    … and {count - len(shown):,} more")
        return lines + [f"  note: {note}" for note in self.notes]

    def to_json(self) -> dict[str, Any]:
        """Counts only, for `metrics.json` and the model card."""
        return {
            "rows_read": self.rows_read,
            "rows_dropped": self.rows_dropped,
            "rows_per_split": dict(self.rows_per_split),
            "photos": self.photos,
            "titles": self.titles,
            "extra_photos": self.extra_photos,
            "issues": self.counts_by_reason(),
            "labels": {column: len(counts) for column, counts in self.label_counts.items()},
            "rare_labels": {column: dict(labels) for column, labels in self.rare_labels.items()},
            "unlearnable_rows": {column: dict(splits) for column, splits in self.unlearnable_rows.items()},
            "notes": list(self.notes),
        }


def write_bad_rows(report: CatalogueReport, path: Path) -> None:
    """Every issue, one per line: `line,row_id,reason,used,detail`. The folder is made if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["line", "row_id", "reason", "used", "detail"])
        for issue in report.issues:
            writer.writerow([issue.line, issue.row_id, issue.reason, "yes" if issue.used else "no", issue.detail])
