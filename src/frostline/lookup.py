"""What MLflow has of a run: its sweep, its metrics epoch by epoch, its files."""

from __future__ import annotations

from frostline.server import client_of, problems


def parent(uri: str, run_id: str) -> str | None:
    """Return the id of the sweep that a run belongs to, None where it has none."""
    with problems(uri):
        found: str | None = client_of(uri).get_run(run_id).data.tags.get("mlflow.parentRunId")
    return found


def history(uri: str, run_id: str) -> list[dict[str, float]]:
    """Return the metrics that a run has per epoch, a dict with its number as `epoch` for each; a point twice, twice."""
    found: list[dict[str, float]] = []
    with problems(uri):
        client = client_of(uri)
        points = [p for key in client.get_run(run_id).data.metrics for p in client.get_metric_history(run_id, key)]
    for point in points:
        if point.step >= 1:  # others are written once per run
            line = next((line for line in found if line["epoch"] == point.step and point.key not in line), None)
            if line is None:
                found.append(line := {"epoch": point.step})
            line[point.key] = point.value
    return sorted(found, key=lambda line: line["epoch"])


def files(uri: str, run_id: str, folder: str | None = None) -> dict[str, int]:
    """Return the names of the files in `folder` of a run's artifacts, or at their top, and their sizes in bytes."""
    with problems(uri):
        listed = client_of(uri).list_artifacts(run_id, folder)
    return {file.path: file.file_size or 0 for file in listed if not file.is_dir}
