"""A test that was stopped goes on where it was: the scores so far, kept in a folder until the test has its results."""

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
"""So many files are written by each process in the course of a test: a kill loses a hundredth of it."""


class PartialEvaluation:
    """The batches of a test that are done already, kept in `folder` by each process in files of its own.

    `description`, JSON, is what they belong to: those of another one are discarded, and the log says so. The processes agree on
    the smallest number of batches that all have. Where nothing can be written the test goes on, with a warning.
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
        wait_for_all("the description of the test to be written")
        self.rows = ClipRows()
        self._read()
        if jax.process_count() > 1:
            self.rows.keep(int(multihost_utils.process_allgather(np.array(len(self.rows))).min()))
        self._written = self.num_done = len(self.rows)
        """How many batches were done when this began."""
        if self.num_done:
            log.info("Going on with the test: %d of %d batches are done.", self.num_done, num_batches)

    def _begin(self, description: dict[str, Any], text: str) -> None:
        """Clears away what belongs to another test, and says what is kept here."""
        path = self._folder / DESCRIPTION
        try:
            if self._folder.exists() and not (path.exists() and path.read_bytes() == text.encode()):
                log.info(
                    "Discarding the unfinished test in %s, which is another one%s.", self._folder, _told(path, description)
                )
                self._folder.rmtree()
            self._folder.mkdir(parents=True, exist_ok=True)
            write_whole(path, text)
        except OSError as error:
            self._warn(error)

    def tick(self) -> None:
        """To be called whenever `rows` has another batch: every so many are written, the same number by every process."""
        if len(self.rows) - self._written >= self._every:
            self.write()

    def write(self) -> None:
        """Writes what hasn't been written."""
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
        """This process's files, up to the first batch that is missing."""
        for path in sorted(self._folder.glob(f"{self._prefix}*.npz")):
            first = int(path.stem.removeprefix(self._prefix))
            if first > len(self.rows):
                return
            try:
                part = read_arrays(path, remedy="it is made again")
            except InputError as error:  # as if it weren't there
                log.warning("Scoring again what was in %s: %s", path, error)
                return
            # Of processes that were stopped at different batches one has more than was agreed on, and wrote them again.
            self.rows.add_part(part, len(self.rows) - first)

    def delete(self) -> None:
        """The test has its results."""
        if jax.process_index() == 0 and self._folder.exists():
            self._folder.rmtree()

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            log.warning("The scores so far can't be kept in %s (%s): a test that is stopped begins again.", self._folder, error)
        self._warned = True


def _told(path: epath.Path, description: dict[str, Any]) -> str:
    """What is different, for the log."""
    try:
        theirs = read_json(path, remedy="it is made again")
    except InputError:
        return ""
    ours = json.loads(json.dumps(description))
    names = [name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name)]
    return f" (other {', '.join(names)})"


def fingerprint(params: Any, mesh: Mesh) -> str:
    """Of the parameters, to the last bit, wherever they are placed; other parameters have another one, but for a rare
    accident."""

    def checksums(params: Any) -> Array:
        """Sums of the bits as whole numbers: the same in any order, which sums of floats are not."""
        words = [jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32) for x in jax.tree.leaves(params)]
        return jnp.stack([x.sum(dtype=jnp.uint32) for x in words])

    sums = np.asarray(jax.jit(checksums, out_shardings=replicated(mesh))(params))
    return hashlib.blake2b(sums.tobytes(), digest_size=16).hexdigest()
