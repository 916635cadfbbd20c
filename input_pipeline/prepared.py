"""Builders with their data on disk, which the first process prepares if necessary while the others wait."""

import contextlib
import dataclasses
import io
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from etils import epath

from input_pipeline._tensorflow import quiet_tfds, tfds
from input_pipeline.builders import older_name
from input_pipeline.shares import Share, SharePrepared, alone
from input_pipeline.sources import Contents, check_source, read_contents
from input_pipeline.video_builder import VideoBuilder, VideoConfig
from timesformer_jax.errors import InputError, check_utf8
from timesformer_jax.os_errors import sentence
from timesformer_jax.processes import from_first, wait_for_all
from timesformer_jax.state_files import refuse

log = logging.getLogger("timesformer_jax")

CheckLabels = Callable[[Sequence[str], bool], None]
"""Function called with a data set's label names and whether a video may have several; may raise `InputError`."""


def prepared(
    builder_class: type[tfds.core.DatasetBuilder],
    base: tfds.core.BuilderConfig,
    data_dir: str | None,
    complete: Callable[[], VideoConfig] | None = None,
    check: CheckLabels | None = None,
    share: Share | None = None,
) -> tfds.core.DatasetBuilder:
    """Return a builder whose data are on disk.

    The first process lists the videos, compares prepared data with their source, and writes unprepared data, while the other
    processes wait.

    Args:
        builder_class: Class of the builder.
        base: Config of the builder, to be completed by `complete` if that is given.
        data_dir: Folder for prepared data; None for TFDS's default.
        complete: Lists the videos and returns the config; needed if the config's name depends on the videos.
        check: Called before data are prepared, as in `open_dataset`.
        share: Share of unprepared data to write.

    Raises:
        InputError: If the data can't be prepared, are damaged, or differ from their source.
        SharePrepared: Once `share` is written, if it isn't everything.
    """
    data_dir = data_dir and os.path.expanduser(data_dir)
    check_utf8("data.data_dir", data_dir or "")
    if data_dir and "://" not in data_dir:
        try:
            os.makedirs(data_dir, exist_ok=True)
        except OSError as error:
            raise InputError(f"data.data_dir={data_dir} can't be used as a folder: {error.strerror}.") from error
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()

    here: list[tfds.core.DatasetBuilder] = []

    def prepare() -> dict[str, Any]:
        """Add the builder to `here`; returns the config's fields that other processes need to open the same data."""
        config = base if complete is None else complete()
        builder = _open(builder_class, config, data_dir)
        if isinstance(config, VideoConfig):
            builder = _known(builder, config, data_dir)
        _check_info(builder)
        if not builder.is_prepared():
            listing = getattr(config, "listing", None)
            if check is not None and listing is not None:
                check(listing.label_names, listing.several)
            if share is not None and not share.is_all:
                _write_share(builder, share)
            builder = _write(builder, data_dir)
        elif isinstance(config, VideoConfig):
            _check(builder, config)
        here.append(builder)
        opened: Any = builder.builder_config
        return {"name": opened.name, "several": getattr(config, "several", False)}

    with quiet_tfds():
        found = from_first(prepare, "the first process to prepare the data set")
        if not here:
            builder = _open(builder_class, dataclasses.replace(base, **found) if complete else base, data_dir)
            if builder.is_prepared():
                here.append(builder)
            else:
                prepare()  # this process has its own disk
        wait_for_all("processes with their own disks to prepare the data set")
        return here[0]


def _open(
    builder_class: type[tfds.core.DatasetBuilder], config: tfds.core.BuilderConfig, data_dir: str | None
) -> tfds.core.DatasetBuilder:
    listed = builder_class.builder_configs.get(config.name, config)  # TFDS expects its own object for a listed name
    builder = builder_class(data_dir=data_dir, config=listed)
    if isinstance(config, VideoConfig):
        known: Any = builder.builder_config
        # What isn't part of the name. Of the storage these are the limits.
        known.root, known.num_workers, known.storage = config.root, config.num_workers, config.storage
    return builder


def _known(builder: tfds.core.DatasetBuilder, config: VideoConfig, data_dir: str | None) -> tfds.core.DatasetBuilder:
    """Return the builder of the same videos if prepared under another folder name or by an older version, else `builder`."""
    if config.listing is None or builder.is_prepared():
        return builder
    title, _, digest = config.name.rpartition("_")
    beside = epath.Path(builder.data_path).parent.parent
    names = sorted(path.name for path in beside.glob(f"*_{digest}")) if beside.exists() else []
    names.append(older_name(config, title))
    others = (_open(type(builder), dataclasses.replace(config, name=name), data_dir) for name in names)
    return next((other for other in others if other.is_prepared()), builder)


def _write(builder: tfds.core.DatasetBuilder, data_dir: str | None) -> tfds.core.DatasetBuilder:
    """Prepare the data, unless another process has done so in the meantime, and return a builder that finds them."""
    config: Any = builder.builder_config
    _check_root(builder)
    with alone(builder.data_path):
        again = _open(type(builder), config, data_dir)
        if again.is_prepared():
            return again
        _delete_unfinished(epath.Path(builder.data_path))
        log.info("Preparing the data set in %s; this is done once.", builder.data_path)
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS prints download sizes, which are unknown here
            try:
                builder.download_and_prepare()
            except OSError as error:
                raise InputError(sentence(error, f"{builder.name} can't be prepared in {builder.data_path}")) from error
    return builder


def _write_share(builder: Any, share: Share) -> NoReturn:
    _check_root(builder)
    log.info("Preparing the share %s of the data set in %s.", share, builder.data_path)
    try:
        builder.prepare_share(share)
    except OSError as error:
        raise InputError(sentence(error, f"{builder.name} can't be prepared in {builder.data_path}")) from error
    raise SharePrepared(share, builder.data_path)


def _check_root(builder: tfds.core.DatasetBuilder) -> None:
    """Raise `InputError` if data are unprepared and the folder of their videos isn't given."""
    config: Any = builder.builder_config
    if isinstance(config, VideoConfig) and config.root is None and config.listing is None:
        raise InputError(
            f"{builder.name} isn't prepared in {builder.data_path}, and data.root is not set: give the folder of its "
            "videos and lists as --config.data.root=FOLDER, or where it is prepared as --config.data.data_dir=FOLDER."
        )


def _check_info(builder: tfds.core.DatasetBuilder) -> None:
    """Raise `InputError` if prepared data lack TFDS's description; TFDS would treat their splits as empty."""
    folder = epath.Path(builder.data_path)
    if folder.exists() and not (folder / "dataset_info.json").exists():
        refuse(folder / "dataset_info.json", "it is missing", f"delete {folder} to prepare the data again")


def _delete_unfinished(folder: epath.Path) -> None:
    """Delete the leftovers of killed preparations: TFDS writes into folders with random names and renames them at the end."""
    left = list(folder.parent.glob(f"incomplete.*_{folder.name}")) if folder.parent.exists() else []
    for path in left:
        path.rmtree()


def _check(builder: tfds.core.DatasetBuilder, config: VideoConfig) -> None:
    """Raise `InputError` if the prepared data differ from the current contents of `data.root`."""
    root = None if config.root is None else Path(config.root)

    def read() -> Contents:
        assert root is not None
        assert isinstance(builder, VideoBuilder)
        return config.contents or read_contents(builder.read(root), root)

    check_source(epath.Path(builder.data_path), root, read)
