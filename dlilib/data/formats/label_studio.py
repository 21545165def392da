"""Label Studio's brush export: a PNG a stroke, and the JSON that says which photograph it is of."""

import re
from collections import defaultdict
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from dlilib.data.files import DataError, Files
from dlilib.data.formats.annotations import (
    Annotations,
    Notes,
    OddValueError,
    Options,
    Photograph,
    Pictures,
    Region,
    add_unlisted,
    address_path,
    class_name,
    expected,
    plain,
    read_json,
    whose,
)
from dlilib.data.images import IMAGE_SUFFIXES, check_same_size, mask_values
from dlilib.data.mask_files import marked
from dlilib.data.subsets import folder_subset

# The label follows the user and the name of the labelling control, "tag" unless it was changed.
STROKE = re.compile(r"task-(\d+)-annotation-(\d+)-by-(.+)-(\d+)\.png", re.IGNORECASE)
CONTROL = "tag"
LABELS = "labels"  # ends the keys under which a result has a region's names, as "brushlabels"
# Types of results that mark nothing on the photograph. All others do, those of later versions too.
UNMARKED = (
    *("choices", "taxonomy", "rating", "number", "textarea", "datetime", "pairwise", "ranker"),
    "relation",
)
# Keys of a region in the short kind of JSON, which tells no types.
GEOMETRY = {"x", "y", "points", "vertices", "rle", "format", "imageDataURL"}


def read(files: Files, root: object, options: Options, notes: Notes) -> Annotations:
    """Read task-….png files, the photographs, and the project's JSON export."""
    tasks = _tasks(files, root)
    controls = {CONTROL} | {
        result.get("from_name") for _, item, _ in tasks for result in _all(item)
    }
    strokes: dict[int, list[tuple[int, int, str, str]]] = defaultdict(list)
    for path in sorted(files):
        found = STROKE.fullmatch(PurePosixPath(path).name)
        if found:
            task, annotation, rest, number = found.groups()
            label = _label_in(rest, controls, f"{root}/{path}")
            strokes[int(task)].append((int(annotation), int(number), label, path))
    pictures = Pictures({path: files[path] for path in files if not _is_stroke(path)})
    found: dict[str, Photograph | None] = {}  # None: nobody has annotated it
    missing = False  # whether a task may be that of a photograph of another name
    for task, item, place in tasks:
        path = _photograph(item, place, pictures, notes)
        cancelled = {a.get("id") for a in _listed(item) or [] if a.get("was_cancelled")}
        drawn = [stroke for stroke in sorted(strokes.pop(task, [])) if stroke[0] not in cancelled]
        if path is None:
            missing = True
            continue
        if path in found:
            raise DataError(f"{place}: shows {path}, as another task does")
        if not drawn and not _annotations(item):
            found[path] = None
            notes.leave_out("photograph", "not annotated yet, or skipped", f"{root}/{path}")
            continue
        found[path] = photograph = Photograph(path, files[path], split=folder_subset(path))
        for _, _, label, stroke in drawn:
            region = Region(label, partial(_pixels, files, stroke), f"{root}/{stroke}")
            photograph.regions.append(region)
        photograph.said = _choices(item)
        _check_strokes(photograph, item, place, notes)
    if strokes:
        task, drawn = min(strokes.items())
        raise DataError(
            f"{root}/{drawn[0][3]}: is of task {task}, which no JSON export lists: export all "
            "tasks of the project"
        )
    known = {path: photograph for path, photograph in found.items() if photograph}
    others = {path: files[path] for path in files if not (_is_stroke(path) or path in found)}
    where = "of no task in the JSON export"
    add_unlisted(others, known, root, options, notes, where=where, missing=missing)
    photographs = list(known.values())
    labels = {region.label for photograph in photographs for region in photograph.regions}
    used = len({place.rpartition(",")[0] for _, _, place in tasks})
    return Annotations(photographs, sorted(labels), used)


def _is_stroke(path: str) -> bool:
    return bool(STROKE.fullmatch(PurePosixPath(path).name))


def _tasks(files: Files, root: object) -> list[tuple[int, dict[str, Any], str]]:
    """Id, content and place of every task that the JSON exports list."""
    paths = [path for path in sorted(files) if path.lower().endswith(".json")]
    if not paths:
        raise DataError(
            f"{root}: the PNGs do not say which photograph they are of; add the project's export "
            "as JSON, which does"
        )
    tasks = []
    for path in paths:
        place = f"{root}/{path}"
        with expected("Label Studio", place):
            content = read_json(files, root, path)
            other = whose(content)
            if other and not isinstance(content, list):
                raise OddValueError(other)
            for item in content if isinstance(content, list) else [content]:
                tasks.append((int(item["id"]), item, f"{place}, task {item['id']}"))
    return tasks


def _label_in(rest: str, controls: set[str], place: str) -> str:
    """The label in "user-control-label"; the user's name may hold a "-" too."""
    for control in sorted(filter(None, controls), key=len, reverse=True):
        _, found, label = rest.partition(f"-{control}-")
        if found:
            with expected("Label Studio", place):
                return class_name(label)
    raise DataError(
        f"{place}: of none of the controls {', '.join(sorted(filter(None, controls)))} that the "
        "JSON export names"
    )


def _all(item: dict[str, Any]) -> list[dict[str, Any]]:
    """The results of a task's finished annotations, in both kinds of JSON."""
    found = []
    for annotation in _annotations(item):
        lists = [annotation.get("result")]
        if "result" not in annotation:  # the short kind has a list for each control
            lists = [
                [{"from_name": name, "value": mark, "type": ""} for mark in marks]
                for name, marks in annotation.items()
                if isinstance(marks, list)
            ]
        found += [result for results in lists for result in results or []]
    return [result for result in found if isinstance(result, dict)]


def _annotations(item: dict[str, Any]) -> list[dict[str, Any]]:
    """The finished annotations of a task."""
    listed = _listed(item)
    if listed is None:  # the short kind of JSON has them in the task itself
        listed = [item] if "annotation_id" in item else []
    return [annotation for annotation in listed if not annotation.get("was_cancelled")]


def _listed(item: dict[str, Any]) -> list[dict[str, Any]] | None:
    """A task's annotations, which were called completions before version 1.0."""
    return item.get("annotations", item.get("completions"))


def _choices(item: dict[str, Any]) -> list[str]:
    """What was chosen for the whole photograph."""
    values = [result.get("value") for result in _all(item)]
    chosen = [value.get("choices") for value in values if isinstance(value, dict)]
    return [str(name) for names in chosen if isinstance(names, list) for name in names]


def _photograph(item: dict[str, Any], place: str, pictures: Pictures, notes: Notes) -> str | None:
    """The path of a task's photograph; None where it is not there."""
    with expected("Label Studio", place):
        values = [v for v in (item.get("data") or item).values() if isinstance(v, str)]
        names = [
            name for name in map(address_path, values) if name.lower().endswith(IMAGE_SUFFIXES)
        ]
    there = {path for name in names if (path := pictures.find(name, place))}
    if len(there) == 1:
        return there.pop()
    if not names:
        notes.slip("task", "of no photograph of a format that is read", place)
    elif there:
        notes.slip("task", f"of several photographs: {sorted(there)}", place)
    else:
        notes.slip("photograph", "named by a task, but not there", f"{place}, {names[0]}")
    return None


def _check_strokes(photograph: Photograph, item: dict[str, Any], place: str, notes: Notes) -> None:
    """Count the labels that the JSON has and no PNG shows, and several annotators."""
    names = {plain(region.label).replace("/", "-") for region in photograph.regions}
    marks = []
    for result in _all(item):
        value = result.get("value")
        value = value if isinstance(value, dict) else {}
        named = [names for key, names in value.items() if key.endswith(LABELS)]
        labels = [str(name) for names in named if isinstance(names, list) for name in names]
        kind = result.get("type")
        if labels or (kind not in UNMARKED if kind else GEOMETRY & value.keys()):
            marks.append(labels)
    for labels in marks:
        missing = [label for label in labels if plain(label).replace("/", "-") not in names]
        if missing or not names:
            what = missing[0] if missing else "an unnamed mark"
            why = f"of {what}, for which there is no PNG: export the brush labels as PNG"
            notes.slip("annotation", why, place)
            photograph.unread += 1
    short = len(marks) - len(photograph.regions)
    if names and short > 0 and not photograph.unread:
        notes.remark(f"{place}: {short} of {len(marks)} marks have no PNG of their own")
    if len(_annotations(item)) > 1:
        notes.remark("tasks with several annotations: all of them are drawn, one over the other")


def _pixels(files: Files, path: str, height: int, width: int) -> np.ndarray:
    mask = mask_values(files, path)
    check_same_size(mask, path, (height, width))
    return marked(mask)
