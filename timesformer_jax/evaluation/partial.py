"""Resumption of interrupted evaluations, whose scores so far are kept in a folder until the results are written."""

import hashlib
import io
import json
import logging
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from timesformer_jax._typing import Array
from timesformer_jax.atomic_write import write_whole
from timesformer_jax.errors import InputError
from timesformer_jax.evaluation.clip_scores import ClipRows
from timesformer_jax.processes import wait_for_all
from timesformer_jax.state_files import read_arrays, read_json
from timesformer_jax.training.mesh import replicated

log = logging.getLogger("timesformer_jax")

DESCRIPTION = "description.json"
PIECES = 100
"""Number of files that each process writes during an evaluation, so that a kill loses at most a hundredth of it."""


class PartialEvaluation:
    """Batches of an evaluation that have been scored, saved in a folder by each process in its own files.

    The processes agree on the smallest number of batches that all of them have. If nothing can be written, the evaluation
    continues with a warning.

    Args:
        folder: Folder of the files; may be in a bucket.
        description: JSON values that identify the evaluation. Batches of another evaluation are discarded, and this is logged.
        num_batches: Number of batches of the whole evaluation.
    """

    def __init__(self, folder: str, description: dict[str, Any], num_batches: int):
        self._folder = epath.Path(folder)
        self._num_batches = num_batches
        self._every = max(num_batches // PIECES, 1)
        self._warned = False
        text = json.dumps(description, indent=2, sort_keys=True)
        self._prefix = f"{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}-{jax.process_index():05d}-"
        if jax.process_index() == 0:
            self._begin(description, text + "\n")
        wait_for_all("the description of the evaluation to be written")
        self.rows = ClipRows()
        self._read()
        if jax.process_count() > 1:
            self.rows.keep(int(multihost_utils.process_allgather(np.array(len(self.rows))).min()))
        self._written = self.num_done = len(self.rows)
        """Number of batches that were restored."""
        if self.num_done:
            log.info("Resuming the evaluation: %d of %d batches are done.", self.num_done, num_batches)

    def _begin(self, description: dict[str, Any], text: str) -> None:
        """Discard batches of another evaluation, and write the description."""
        path = self._folder / DESCRIPTION
        try:
            if self._folder.exists() and not (path.exists() and path.read_bytes() == text.encode()):
                log.info("Discarding the unfinished evaluation in %s, which differs%s.", self._folder, _told(path, description))
                self._folder.rmtree()
            self._folder.mkdir(parents=True, exist_ok=True)
            write_whole(path, text)
        except OSError as error:
            self._warn(error)

    def tick(self) -> None:
        """Write the new batches at intervals that are equal on all processes; to be called after each batch added to `rows`."""
        if len(self.rows) - self._written >= self._every:
            self.write()

    def write(self) -> None:
        """Write the batches that have not been written yet."""
        if len(self.rows) == self._written:
            return
        part: dict[str, Any] = self.rows.part(self._written, len(self.rows))
        file = io.BytesIO()
        np.savez(file, **part)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_whole(self._folder / f"{self._prefix}{self._written:08d}.npz", file.getvalue())
        except OSError as error:
            self._warn(error)
            return
        self._written = len(self.rows)

    def _read(self) -> None:
        """Read this process's files, up to the first missing batch."""
        for path in sorted(self._folder.glob(f"{self._prefix}*.npz")):
            first = int(path.stem.removeprefix(self._prefix))
            if first > len(self.rows):
                return
            try:
                part = read_arrays(path, remedy="it will be rewritten")
            except InputError as error:  # treated like a missing file
                log.warning("Scoring the batches in %s again: %s", path, error)
                return
            # Files may overlap: a process that had more batches than the processes agreed on has written them again.
            self.rows.add_part(part, len(self.rows) - first)

    def delete(self) -> None:
        """Delete the folder, once the results have been written."""
        if jax.process_index() == 0 and self._folder.exists():
            self._folder.rmtree()

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            log.warning("Can't save scores in %s (%s): if interrupted, the evaluation will start over.", self._folder, error)
        self._warned = True


def _told(path: epath.Path, description: dict[str, Any]) -> str:
    """Describe for the log how the other evaluation differs."""
    try:
        theirs = read_json(path, remedy="it will be rewritten")
    except InputError:
        return ""
    ours = json.loads(json.dumps(description))
    names = [name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name)]
    return f" in {', '.join(names)}"


def fingerprint(params: Any, mesh: Mesh) -> str:
    """Compute a digest of the parameters' bits, independent of their sharding; collisions are very unlikely."""

    def checksums(params: Any) -> Array:
        """Sum the bits as integers, which, unlike floats, give the same sum in any order."""
        words = [jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32) for x in jax.tree.leaves(params)]
        return jnp.stack([x.sum(dtype=jnp.uint32) for x in words])

    sums = np.asarray(jax.jit(checksums, out_shardings=replicated(mesh))(params))
    return hashlib.blake2b(sums.tobytes(), digest_size=16).hexdigest()
