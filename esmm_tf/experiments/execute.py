"""The runs of a comparison, each in a process of its own: trained, then measured."""

import concurrent.futures
import contextlib
import dataclasses
import multiprocessing
import os
import shutil
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import esmm_tf.startup  # noqa: F401 - each process of a run begins here
from esmm_tf.data.source import find_source

# isort: split
import numpy as np
import tensorflow as tf
import tf_keras

from esmm_tf import console, files, keys
from esmm_tf.config.experiments import CompareConfig
from esmm_tf.config.training import (
    OFF,
    GuardConfig,
    InputConfig,
    MethodConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)
from esmm_tf.errors import UserError
from esmm_tf.evaluation import evaluation
from esmm_tf.evaluation.scores import collect_scores
from esmm_tf.experiments.runs import (
    INFLUENCE_FILE,
    LOG_FILE,
    MODEL,
    TEST_FILE,
    TRAINING_FILE,
    VALIDATION_FILE,
    Run,
    is_done,
    save_result,
)
from esmm_tf.training import model_directory, trained_model
from esmm_tf.training.run import train

_READ = InputConfig(batch_size=8192, shuffle_buffer=0, num_readers=1)
_RUNS_PER_PROCESS = 10  # TensorFlow takes seconds to import, and keeps some memory of each graph
_SPLITS = {VALIDATION_FILE: keys.VALIDATION, TEST_FILE: keys.TEST}
_QUIET = GuardConfig(on_label_like_feature=OFF, on_miscalibration=OFF, on_unnested_labels="warn")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComparisonSettings:
    """What all runs of a comparison share."""

    compare: CompareConfig
    model: ModelConfig
    input: InputConfig


def execute(runs: Sequence[Run], settings: ComparisonSettings, *, title: str, file: str) -> None:
    """Trains and measures the runs that are not done yet, several at a time.

    A bar shows how many are done, or without a terminal a line for each run that ends.

    Args:
      runs: all of one stage; none needs another's model.
      settings: of the comparison.
      title: of the bar and the lines.
      file: the result that each is to have, one of the files that `runs` names.

    Raises:
      UserError: if a run fails; what was done by others is kept.
    """
    output_dir = settings.compare.output_dir
    missing = [run for run in runs if not is_done(run, output_dir, file)]
    # Not by max_tasks_per_child, with which an executor can hang: github.com/python/cpython#115634.
    chunk = settings.compare.processes * _RUNS_PER_PROCESS
    done = len(runs) - len(missing)
    with console.build_bar(len(runs), title, unit="run") as bar:
        bar.update(done)
        for start in range(0, len(missing), chunk):
            for run in _execute_some(missing[start : start + chunk], settings, file=file):
                done += 1
                bar.update(1)
                if bar.disable:
                    console.say(f"{title}, run {done} of {len(runs)}: {run.name}")


def _execute_some(runs: Sequence[Run], settings: ComparisonSettings, *, file: str) -> Iterator[Run]:
    """Executes runs in new processes, and yields each as it ends."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(
        settings.compare.processes, mp_context=context, initializer=_end_with_parent
    ) as pool:
        futures = {pool.submit(_run, run, settings, file): run for run in runs}
        try:
            for future in concurrent.futures.as_completed(futures):
                _check_ended_well(future, futures[future], settings.compare.output_dir)
                yield futures[future]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _end_with_parent() -> None:
    """Ends this process as soon as the command is killed, which its executor does not see to.

    Else it would go on with a run that the same command, started again, trains there too.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_exit_after, args=[parent], daemon=True).start()


def _exit_after(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)


def _check_ended_well(future: concurrent.futures.Future[None], run: Run, output_dir: str) -> None:
    error = future.exception()
    if error is not None:
        log = os.path.join(run.directory(output_dir), LOG_FILE)
        (*_, reason) = str(error).strip().splitlines() or [repr(error)]
        raise UserError(
            f"The run {run.name} failed: {reason} Its output is in {log!r}. Start the same command "
            "again when the cause is mended: what is finished is kept."
        ) from error


def _run(run: Run, settings: ComparisonSettings, file: str) -> None:
    directory = run.directory(settings.compare.output_dir)
    os.makedirs(directory, exist_ok=True)
    tf_keras.backend.clear_session()  # what the process built for an earlier run
    tf.get_logger().setLevel("ERROR")  # each run has graphs of its own, which is no retracing
    with _output_in(os.path.join(directory, LOG_FILE)):
        try:
            if not is_done(run, settings.compare.output_dir, TRAINING_FILE):
                _train(run, settings)
            if file in _SPLITS:
                _measure(run, settings, file)
        except Exception:
            traceback.print_exc()  # into the log; the screen shows its last line
            raise


@contextlib.contextmanager
def _output_in(path: str) -> Iterator[None]:
    """Sends what is printed to the end of a file."""
    with (
        open(path, "a", encoding="utf-8") as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        yield


def _train(run: Run, settings: ComparisonSettings) -> None:
    """Trains a run, and removes what only a resumption needs."""
    compare = settings.compare
    model_dir = os.path.join(run.directory(compare.output_dir), MODEL)
    ctr = run.ctr_run()
    train(
        TrainConfig(
            train_files=compare.data_dir,
            validation_files=compare.data_dir,
            model_dir=model_dir,
            schema=compare.schema,
            epochs=compare.epochs,
            early_stopping_patience=compare.early_stopping_patience,
            train_fraction=run.fraction,
            seed=run.seed,
        ),
        settings.model,
        OptimizerConfig(learning_rate=run.learning_rate),
        settings.input,
        _QUIET,
        MethodConfig(
            method=run.method,
            ctr_model_dir=_model_dir(ctr, settings) if ctr else "",
            sampling_rate=-1.0 if run.rate is None else run.rate,
        ),
    )
    history = model_directory.load_history(model_dir)
    losses = [entry[keys.VALIDATION]["loss"] for entry in history]
    result = {
        "run": dataclasses.asdict(run),
        "seconds": sum(_seconds(entry[keys.TRAIN]) for entry in history),
        "epochs": len(history),
        "best_epoch": 1 + losses.index(min(losses)),
        "impressions_an_epoch": history[0][keys.TRAIN]["impressions"],
    }
    shutil.rmtree(os.path.join(model_dir, model_directory.CHECKPOINTS), ignore_errors=True)
    save_result(run, compare.output_dir, TRAINING_FILE, result)


def _seconds(epoch: Mapping[str, Any]) -> float:
    """Returns the seconds that an epoch trained: its impressions / their rate, without the start.

    This holds for a run that was interrupted too. An epoch of one batch has no rate.
    """
    rate = epoch["impressions_per_second"]
    return epoch["impressions"] / rate if rate else 0.0


def _measure(run: Run, settings: ComparisonSettings, file: str) -> None:
    """Measures a trained run on the split of a file, on test with the influences of its AUCs."""
    trained = trained_model.load_model(_model_dir(run, settings))
    source = find_source(settings.compare.data_dir, split=_SPLITS[file])
    scores = collect_scores(trained.model, trained.schema, source, _READ)
    measured, measurements = evaluation.evaluate_scores(scores)
    output_dir = settings.compare.output_dir
    if file == TEST_FILE:
        path = os.path.join(run.directory(output_dir), INFLUENCE_FILE)
        influences = {task: m.estimates["auc"].influence for task, m in measurements.items()}
        files.write_arrays(path, **influences)
    result = {"parameters": trained.model.count_params(), **measured.to_json()}
    save_result(run, output_dir, file, result)


def _model_dir(run: Run, settings: ComparisonSettings) -> str:
    return os.path.join(run.directory(settings.compare.output_dir), MODEL)


def load_influences(run: Run, output_dir: str) -> dict[str, Any]:
    """Returns the influences of each cluster on the test AUCs of a run, by task."""
    path = os.path.join(run.directory(output_dir), INFLUENCE_FILE)
    with open(path, "rb") as file, np.load(file) as saved:
        return {name: saved[name] for name in saved}
