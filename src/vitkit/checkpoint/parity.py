"""Where timm, transformers and the authors' code differ over the same weights, and a checkpoint run as one of them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from vitkit.checkpoint.origins import LIBRARIES, ORIGINS, Library, Origin
from vitkit.checkpoint.presets import find_preset
from vitkit.checkpoint.read import Checkpoint, Difference
from vitkit.checkpoint.weights import read_json
from vitkit.errors import ConfigError
from vitkit.image.preprocess import Preprocess
from vitkit.model.build import model_spec

__all__ = ["check_parity", "with_parity"]

FROM_THE_HUB = re.compile(r"([^/@]+/[^/@]+)@[0-9a-f]{40}")
"""How a downloaded model is called: its id and commit. A folder's name proves nothing."""
OWN: Mapping[str, Library] = {"timm": "timm", "transformers": "hf", "transformers5": "hf"}
"""Whose configuration comes with a layout."""


class Practice(NamedTuple):
    """How these weights are run: fields of the spec, and the preprocessing, None where it isn't known."""

    fields: Mapping[str, Any]
    preprocess: Preprocess | None

    def settings(self) -> dict[str, str]:
        """By name, in words."""
        words = {name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in self.fields.items()}
        return {**words, **_picture_settings(self.preprocess)} if self.preprocess else words


def check_parity(parity: str | None) -> None:
    """Raises ConfigError unless `parity` is None or a library."""
    if parity is not None and parity not in LIBRARIES:
        raise ConfigError(f"parity is {parity!r}; allowed: {', '.join(LIBRARIES)}")


def with_parity(checkpoint: Checkpoint, parity: str | None, *, preset: str | None = None) -> Checkpoint:
    """The checkpoint as the library `parity` runs its weights; as it says itself for None.

    Its report tells where libraries differ, if the Hub, timm's configuration or the caller's `preset` says which
    published weights these are, or are like. Raises ConfigError for a library whose way with them isn't known.
    """
    check_parity(parity)
    named = ((name, origin) for name in _names(checkpoint, preset) if (origin := _origin(name)))
    published, origin = next(named, (None, None))
    practices = _practices(checkpoint, origin)
    if parity is not None:
        checkpoint = _run_as(checkpoint, parity, practices)
    report = dataclasses.replace(
        checkpoint.report,
        published=published,
        original=origin.code if origin else None,
        differences=_differences(checkpoint, practices),
    )
    return dataclasses.replace(checkpoint, report=report)


def _names(checkpoint: Checkpoint, preset: str | None) -> Iterator[str]:
    """The Hub ids under which these weights, or some like them, are published."""
    provenance = checkpoint.card.provenance
    for source in (checkpoint.report.source, provenance.source if provenance else ""):
        if found := FROM_THE_HUB.fullmatch(source):
            yield found[1]
    file = checkpoint.folder / "config.json" if checkpoint.folder else None
    if file is not None and file.is_file():
        config = read_json(file)
        yield f"timm/{config.get('architecture')}.{(config.get('pretrained_cfg') or {}).get('tag')}"
    if preset is not None:
        yield find_preset(preset).hub_id or ""


def _origin(name: str) -> Origin | None:
    return next((one for one in ORIGINS.values() if any(fnmatchcase(name, pattern) for pattern in one.hub)), None)


def _practices(checkpoint: Checkpoint, origin: Origin | None) -> dict[Library, Practice]:
    """By library. Where a library's own configuration is read, it says its way, whatever is usual."""
    spec, report = checkpoint.model.spec, checkpoint.report
    habits = {name: habit for name in LIBRARIES if (habit := getattr(origin, name, None))}
    if not all(hasattr(spec, field) for habit in habits.values() for field in habit.fields):
        return {}  # the caller's preset is another kind of model
    height, width = spec.image_size
    usual = height == width and spec.in_channels == 3
    found = {name: Practice(habit.fields, habit.pictures(height) if usual else None) for name, habit in habits.items()}
    own = OWN.get(report.layout.split("/")[0])
    if own is not None and report.origins.get("model") == "config.json":
        fields, preprocess = _in_force(checkpoint, found)
        found[own] = Practice(fields, preprocess or (found[own].preprocess if own in found else None))
    return found


def _in_force(checkpoint: Checkpoint, practices: Mapping[Library, Practice]) -> Practice:
    """What the checkpoint does about everything that a practice has a word on."""
    names = dict.fromkeys(name for practice in practices.values() for name in practice.fields)
    return Practice({name: getattr(checkpoint.model.spec, name) for name in names}, checkpoint.card.preprocess)


def _run_as(checkpoint: Checkpoint, parity: str, practices: Mapping[Library, Practice]) -> Checkpoint:
    model, card, report = checkpoint.model, checkpoint.card, checkpoint.report
    known = {str(name): practice for name, practice in practices.items() if practice.preprocess}
    if parity not in known:
        raise ConfigError(
            f"{report.source}: how {parity!r} runs these weights isn't known; known: {', '.join(known) or 'none'}; "
            "a preset of the same training tells more (--preset, preset=)"
        )
    practice = known[parity]
    spec = dataclasses.replace(model.spec, **practice.fields)
    if spec.num_parameters() != model.spec.num_parameters():
        raise ConfigError(f"{report.source}: {parity!r} needs tables of another size than these weights have")
    run = dataclasses.replace(
        checkpoint, model=model_spec(spec), card=dataclasses.replace(card, preprocess=practice.preprocess)
    )
    before, after = _in_force(checkpoint, practices).settings(), _in_force(run, practices).settings()
    changes = [f"{name} {value}" for name, value in after.items() if before.get(name) != value]
    unknown = after.keys() - practice.settings().keys()
    changes += [f"{name} stays {after[name]}, its own isn't known" for name in sorted(unknown)]
    note = f"parity with {parity}, on request: {'; '.join(changes) or 'nothing changes'}"
    origins = {**report.origins, "preprocess": f"parity with {parity}"}
    return dataclasses.replace(run, report=dataclasses.replace(report, notes=(*report.notes, note), origins=origins))


def _differences(checkpoint: Checkpoint, practices: Mapping[Library, Practice]) -> tuple[Difference, ...]:
    """A row for each setting that isn't the same everywhere, as far as it is known."""
    in_force = _in_force(checkpoint, practices).settings()
    columns = {name: practice.settings() for name, practice in practices.items()}
    rows = []
    for setting in {**in_force, **{name: "" for column in columns.values() for name in column}}:
        values = {library: column.get(setting) for library, column in columns.items()}
        if len({in_force.get(setting), *values.values()} - {None}) > 1:
            rows.append(Difference(setting=setting, in_force=in_force.get(setting), **values))
    return tuple(rows)


def _picture_settings(preprocess: Preprocess) -> dict[str, str]:
    """The fields of a Preprocess in words."""
    size, resized = (f"{sides[0]}x{sides[1]}" for sides in (preprocess.size, preprocess.resize_size or preprocess.size))
    return {
        "size": size,
        "resize": "none" if preprocess.resize == "none" else f"{preprocess.resize} {resized}",
        "interpolation": preprocess.interpolation,
        "antialias": "yes" if preprocess.antialias else "no",
        "crop": preprocess.crop,
        "order": preprocess.order,
        "mean": " ".join(f"{value:g}" for value in preprocess.mean),
        "std": " ".join(f"{value:g}" for value in preprocess.std),
    }
