"""show: what a checkpoint is and which file said so, as lines for people and as plain data."""

from __future__ import annotations

from typing import Any

from vitkit.api.load import Source, read_source
from vitkit.checkpoint.origins import LIBRARIES
from vitkit.checkpoint.presets import PRESETS
from vitkit.checkpoint.read import Checkpoint, Report
from vitkit.config import to_dict
from vitkit.image.preprocess import Preprocess
from vitkit.model.spec import AnySpec

__all__ = ["describe_checkpoint", "describe_preset", "preprocess_line", "show", "show_data"]


def show(
    source: Source, *, revision: str | None = None, preset: str | None = None, parity: str | None = None
) -> Checkpoint:
    """Reads a checkpoint as `load` does; the result's report says what came from where."""
    return read_source(source, revision=revision, preset=preset, parity=parity)


def show_data(checkpoint: Checkpoint) -> dict[str, Any]:
    """A checkpoint without its weights, JSON-able."""
    return {
        "model": to_dict(checkpoint.model),
        "parameters": checkpoint.model.spec.num_parameters(),
        "card": to_dict(checkpoint.card),
        "report": to_dict(checkpoint.report),
    }


def describe_checkpoint(checkpoint: Checkpoint, *, tensors: bool = False) -> str:
    """The load report: everything that decides this model's answers, with the file each part came from.

    Where libraries differ over the same weights, it says what each does and what is in force; `tensors` adds the names
    of those that the file calls otherwise.
    """
    report, card, spec = checkpoint.report, checkpoint.card, checkpoint.model.spec
    lines = [
        ("source", report.source),
        ("layout", f"{report.layout}, weights in {', '.join(report.weights)}"),
        *_spec_lines(spec, report.origins.get("model", "")),
        ("preprocess", preprocess_line(card.preprocess) + _from(report.origins.get("preprocess", ""))),
        ("classes", _classes_line(checkpoint)),
        *([("tokenizer", ", ".join(card.tokenizer) or "none here, so no text is read")] if spec.has_text else []),
        ("tensors", f"{report.used} used, {len(report.dropped)} dropped, {len(report.renamed)} named otherwise here"),
    ]
    lines += [("dropped", f"{name}: {why}") for name, why in report.dropped.items()]
    lines += [("named", f"{ours}: {' + '.join(theirs)}") for ours, theirs in report.renamed.items() if tensors]
    lines += [("note", note) for note in report.notes]
    if card.provenance and card.provenance.source != report.source:
        lines.append(("origin", f"{card.provenance.source} (layout {card.provenance.layout})"))
    if card.provenance and card.provenance.licence:
        lines.append(("licence", card.provenance.licence))
    lines += _difference_lines(report)
    return "\n".join(f"{name:<11} {text}" for name, text in lines)


def describe_preset(name: str) -> str:
    """A preset in the same form."""
    preset = PRESETS[name]
    lines = [
        ("preset", name),
        *_spec_lines(preset.model.spec, ""),
        ("preprocess", preprocess_line(preset.preprocess)),
        ("source", preset.source),
        ("weights", preset.hub_id or "none published under this name"),
        ("licence", preset.licence or "-"),
        ("top-1", "-" if preset.top1 is None else f"{preset.top1:.2f} % (published, ImageNet-1k)"),
    ]
    return "\n".join(f"{label:<11} {text}" for label, text in lines)


def _difference_lines(report: Report) -> list[tuple[str, str]]:
    """A table of what libraries do otherwise with these weights."""
    if report.published is None:
        return [("libraries", "may differ; once --preset names one trained alike, their differences are shown")]
    lines = [("published", f"as {report.published} or alike; the original is {report.original}")]
    if not report.differences:
        return [*lines, ("libraries", "all do the same, as far as is known")]
    rows = [("setting", "in force", *LIBRARIES)]
    rows += [
        (row.setting, *(text or "not known" for text in (row.in_force, row.timm, row.hf, row.original)))
        for row in report.differences
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    lines += zip(("libraries", *[""] * len(report.differences)), table, strict=True)
    known = [name for name in LIBRARIES if any(getattr(row, name) for row in report.differences)]
    alike = [name for name in known if all(getattr(row, name) == row.in_force for row in report.differences)]
    return [
        *lines,
        ("", f"in force as {alike[0] if alike else 'none of them'}; --parity (parity=): {', '.join(known)}"),
    ]


def _spec_lines(spec: AnySpec, origin: str) -> list[tuple[str, str]]:
    counts = f"{spec.num_parameters():,} parameters, {spec.macs() / 1e9:.2f} GMACs"
    return [("model", f"{spec.title}, {counts}{_from(origin)}"), *spec.facts().items()]


def preprocess_line(preprocess: Preprocess | None) -> str:
    """Preprocessing in one line."""
    if preprocess is None:
        return "unknown"
    height, width = preprocess.size
    resized = preprocess.resize_size
    how: str = preprocess.resize
    if resized is not None:
        sides = f"{resized[0]}" if resized[0] == resized[1] and how == "shortest" else f"{resized[0]}x{resized[1]}"
        how = f"{how} {sides} {preprocess.interpolation}"
    crop = "" if preprocess.crop == "none" else f", {preprocess.crop.replace('_', ' ')} crop {height}x{width}"
    first = "" if preprocess.order == "resize_first" else ", rescaled before it is resized"
    first += "" if preprocess.antialias else ", not antialiased"
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (preprocess.mean, preprocess.std))
    return f"{how}{crop}{first}, mean {mean}, std {std}"


def _classes_line(checkpoint: Checkpoint) -> str:
    names = checkpoint.card.class_names
    if names is None:
        return "not named" if checkpoint.model.spec.num_classes else "none"
    first = "; ".join(names[:3]) + ("; ..." if len(names) > 3 else "")
    return f"{len(names):,}: {first}{_from(checkpoint.report.origins.get('class_names', ''))}"


def _from(origin: str) -> str:
    return f" [{origin}]" if origin else ""
