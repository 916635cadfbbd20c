"""Time and memory of the model, beside Hugging Face transformers, other engines and the paper's other systems.

    python benchmarks/model.py speed --torch-python=PYTHON    forward passes and training steps of base, in turns
    python benchmarks/model.py systems                        the paper's Table 2: TimeSformers, I3D and SlowFast, in turns
    python benchmarks/model.py compile                        tracing and compiling, scanned and unrolled blocks
    python benchmarks/model.py memory                         temporary memory of training steps, 8 to 96 frames
    python benchmarks/model.py joint                          chunked joint attention on 96 frames

Each command prints one table, in float32 on a CPU and in bfloat16 on a GPU. `speed` and `systems` run each contender in its own
process and alternate between them, so that noise affects all of them alike. PYTHON is an interpreter with the packages of
`benchmarks/requirements.txt`. On a CPU, `speed` also runs both models' ONNX files in ONNX Runtime and OpenVINO.
"""

import argparse
import importlib.util
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).parent.parent)  # replaces this file's folder, whose files hide packages

from benchmarks.contenders.sizes import CLASSES, FRAMES, GRAPHS, SIZE  # noqa: E402
from benchmarks.contenders.table import CONTENDERS, MATRIX_PRODUCT, Contender  # noqa: E402
from benchmarks.contenders.turns import Turns, serve, take_turns  # noqa: E402

GIB = 2**30


def speed(arguments: argparse.Namespace) -> None:
    """Print medians over rounds in which every contender runs once."""
    pythons = {"jax": sys.executable, "torch": arguments.torch_python}
    names = [name for name, contender in CONTENDERS.items() if _runnable(name, contender, pythons, arguments)]
    with tempfile.TemporaryDirectory() as folder:
        # If there is a GPU, several processes share it, so none may preallocate most of its memory.
        env = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false", GRAPHS: folder}
        batch = f"--batch-size={arguments.batch_size}"
        for source in {CONTENDERS[name].source for name in names} - {""}:
            subprocess.run([pythons[source], __file__, "export", f"--source={source}", batch], env=env, check=True)
        commands = {
            name: [pythons[CONTENDERS[name].framework], __file__, "work", f"--contender={name}", batch] for name in names
        }
        turns = take_turns(commands, env, arguments.rounds)
    _print_speed(turns, names, arguments)


def _runnable(name: str, contender: Contender, pythons: dict[str, Any], arguments: argparse.Namespace) -> bool:
    """Return whether this machine can run a contender, and the arguments ask for it."""
    from benchmarks.contenders.ours import on_cpu

    if not pythons[contender.framework] or (arguments.forward_only and contender.training):
        return False
    if contender.engine:
        return on_cpu() and bool(pythons[contender.source] and importlib.util.find_spec(contender.engine))
    return on_cpu() or name != "torch.compile forward"  # "torch forward" is compiled on a GPU


def _print_speed(turns: Turns, names: list[str], arguments: argparse.Namespace) -> None:
    from benchmarks.contenders.ours import PRODUCTS, matrix_side, multiply_adds

    counts = multiply_adds()
    yardstick = PRODUCTS * matrix_side() ** 3 / turns.wall(MATRIX_PRODUCT)
    about = (
        f"base, {FRAMES} x {SIZE}, batch {arguments.batch_size}, medians of {arguments.rounds} rounds; relative to jax. CPU "
        "time excludes waiting for a core. Utilisation: multiply-adds by XLA's count of what runs (a training step: 3 forward "
        "passes; parameters float32 in JAX, of the compute dtype in torch), as a share of the rate of a large matrix product, "
        f"{2 * yardstick / 1e9:,.0f} GFLOP/s."
    )
    print(textwrap.fill(about, 100))
    print(f"{'':<28}{'seconds':>9}{'fastest':>9}{'relative':>10}{'CPU time':>10}{'utilisation':>13}")
    for name in names:
        if name == MATRIX_PRODUCT:
            continue
        contender, wall = CONTENDERS[name], turns.wall(name)
        ours = "jax training step" if contender.training else "jax forward"
        done = counts[contender.multiply_adds] * arguments.batch_size * (3 if contender.training else 1)
        print(
            f"{name:<28}{wall:>9.3f}{turns.fastest(name):>9.3f}{wall / turns.wall(ours):>10.2f}"
            f"{turns.cpu(name) / turns.cpu(ours):>10.2f}{done / wall / yardstick:>13.0%}"
        )


def systems(arguments: argparse.Namespace) -> None:
    """Print the paper's Table 2, with the times of this machine."""
    from timesformer_jax.cost import systems_table

    lines = {line.name: line for line in systems_table(CLASSES)}
    commands = {name: [sys.executable, __file__, "work", f"--system={name}"] for name in lines}
    turns = take_turns(commands, {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}, arguments.rounds)
    about = (
        f"Fastest of {arguments.rounds} rounds. View: forward pass of one clip of the test. Video: all its views, one after "
        "the other. Training: a step with one clip of the training size, SGD with momentum. GiB: arguments, results and "
        "temporary arrays by the compiler."
    )
    print(textwrap.fill(about, 100))
    print(
        f"{'':<26}{'parameters':>12}{'views':>6}{'10^12 multiply-adds':>21}{'view s':>9}{'video s':>9}{'training s':>12}"
        f"{'GiB':>7}{'training':>10}"
    )
    for name, line in lines.items():
        view, gib = turns.fastest(name, "view"), turns.facts[name]["gib"]
        print(
            f"{name:<26}{line.parameters:>12,}{line.num_views:>6}{line.video_multiply_adds / 1e12:>21.3f}{view:>9.2f}"
            f"{view * line.num_views:>9.1f}{turns.fastest(name, 'training'):>12.2f}{gib['view']:>7.2f}{gib['training']:>10.2f}"
        )


def work(arguments: argparse.Namespace) -> None:
    """Serve a contender of `speed` or `systems`, which start this."""
    if arguments.system:
        from benchmarks.contenders.ours import system

        runs, gib = system(arguments.system)
        serve(runs, {"gib": gib}, warm=False)
    else:
        serve(CONTENDERS[arguments.contender].make(arguments.batch_size), {}, warm=True)


def export(arguments: argparse.Namespace) -> None:
    """Write a framework's model as an ONNX file, for `speed`, which starts this."""
    path = Path(os.environ[GRAPHS]) / f"{arguments.source}.onnx"
    if arguments.source == "torch":
        from benchmarks.contenders.theirs import export as export_theirs

        export_theirs(path, arguments.batch_size)
    else:
        from benchmarks.contenders.engines import export as export_ours

        export_ours(path)


def _jax_shapes(frames: int, size: int, **fields: Any) -> tuple[Any, Any, Any]:
    """Return a base model and the shapes of its parameters and of one video."""
    import jax
    import jax.numpy as jnp

    import timesformer_jax as tsf

    model = tsf.create("timesformer-base", num_classes=CLASSES, num_frames=frames, image_size=size, **fields)
    video = jax.ShapeDtypeStruct((1, frames, size, size, 3), jnp.float32)
    return model, jax.eval_shape(model.init, jax.random.key(0), video), video


def _compile_step(frames: int, size: int, **fields: Any) -> tuple[float, float, Any]:
    """Trace and compile the training step for one clip; return the seconds of each and the compiled step.

    Follows the official recipe: SGD with momentum and weight decay, stochastic depth of 0.1.
    """
    import jax
    import jax.numpy as jnp

    import timesformer_jax as tsf
    from timesformer_jax import training
    from timesformer_jax.video import normalize

    model = tsf.create(
        "timesformer-base", num_classes=CLASSES, num_frames=frames, image_size=size, drop_path_rate=0.1, **fields
    )
    mesh = training.make_mesh(jax.devices()[:1])
    optimizer = training.make_optimizer(
        name="sgd",
        learning_rate=5e-3,
        schedule="constant",
        steps=(),
        warmup_epochs=0.0,
        weight_decay=1e-4,
        decay_pattern=".*",
        clip_norm=1.0,
        momentum=0.9,
        b2=0.999,
        layer_decay=1.0,
        rates=((".*", 1.0),),
        depth=model.depth,
        num_epochs=1.0,
        steps_per_epoch=100.0,
    ).transformation
    step: Any = training.make_train_step(
        model=model,
        optimizer=optimizer,
        prepare=lambda key, batch: normalize(batch["video"], mean=(0.45,) * 3, std=(0.225,) * 3),
        seed=0,
        mesh=mesh,
    )
    state = jax.eval_shape(lambda: training.init_state(model, optimizer, 0, mesh))
    batch = {
        "video": jax.ShapeDtypeStruct((1, frames, size, size, 3), jnp.uint8),
        "label": jax.ShapeDtypeStruct((1,), jnp.int32),
    }
    begin = time.perf_counter()
    lowered = step.lower(state, batch)
    middle = time.perf_counter()
    compiled = lowered.compile()
    return middle - begin, time.perf_counter() - middle, compiled


def compile_(arguments: argparse.Namespace) -> None:
    """Print the times of scanned and unrolled blocks in float32 and bfloat16, alternating, as medians over rounds."""
    ways = [(dtype, scan) for dtype in ("float32", "bfloat16") for scan in (True, False)]
    times: dict[tuple[str, bool], list[tuple[float, float]]] = {way: [] for way in ways}
    _compile_step(1, 32, scan_layers=True)  # warms up one-time costs
    for _ in range(arguments.rounds):
        for dtype, scan in ways:
            times[dtype, scan].append(_compile_step(FRAMES, SIZE, scan_layers=scan, dtype=dtype)[:2])
    print(f"Training step of base, {FRAMES} x {SIZE}, {arguments.rounds} rounds, median seconds")
    print(f"{'':<24}{'trace':>8}{'compile':>10}{'together':>10}")
    for (dtype, scan), pairs in times.items():
        figures = (statistics.median(column) for column in (*zip(*pairs, strict=True), [sum(pair) for pair in pairs]))
        name = f"{'scan_layers' if scan else 'unrolled'}, {dtype}"
        print(f"{name:<24}" + "".join(f"{figure:>{width}.1f}" for figure, width in zip(figures, (8, 10, 10), strict=True)))


def memory(arguments: argparse.Namespace) -> None:
    """Print the compiler's estimate of memory, without running anything."""
    print("Temporary memory of a training step of base, 1 clip, bfloat16, scan_layers, GiB (by `compiled.memory_analysis()`)")
    ways = [("none", "xla"), ("dots", "xla"), ("full", "xla"), ("full", "chunked")]
    print(f"{'frames':>6}{'size':>6}" + "".join(f"{f'remat {remat}, {how}':>22}" for remat, how in ways))
    for size in (224, 448):
        for frames in (8, 16, 32, 64, 96):
            row = f"{frames:>6}{size:>6}"
            for remat, how in ways:
                *_, compiled = _compile_step(
                    frames, size, scan_layers=True, remat=remat, attention_implementation=how, dtype="bfloat16"
                )
                row += f"{compiled.memory_analysis().temp_size_in_bytes / GIB:>22.2f}"
            print(row, flush=True)


def joint(arguments: argparse.Namespace) -> None:
    """Print the peak memory of the whole process, with weights and video."""
    import jax
    import jax.numpy as jnp

    model, _, video = _jax_shapes(
        96, SIZE, scan_layers=True, attention_type="joint_space_time", attention_implementation="chunked"
    )
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 1, 16, 16, 3)))
    apply = jax.jit(model.apply).lower(variables, video).compile()
    clip = jax.random.normal(jax.random.key(1), video.shape)
    begin = time.perf_counter()
    logits = jax.block_until_ready(apply(variables, clip))
    seconds = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"joint_space_time, 96 x {SIZE}, 18,817 tokens, chunked, {model.dtype.__name__}: {seconds:.0f} s a forward pass,")
    print(f"{peak / GIB:.2f} GiB at the peak; logits {'finite' if jnp.isfinite(logits).all() else 'NOT FINITE'}")


JOBS = {
    "speed": speed,
    "systems": systems,
    "compile": compile_,
    "memory": memory,
    "joint": joint,
    "work": work,
    "export": export,
}
"""Maps each command to its function; `work` and `export` are started by the others."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=JOBS)
    parser.add_argument("--torch-python", metavar="PYTHON", help="interpreter with torch and transformers (default: JAX alone)")
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--forward-only", action="store_true", help="no training steps")
    parser.add_argument("--contender", choices=CONTENDERS, help="for `work`")
    parser.add_argument("--system", help="for `work`")
    parser.add_argument("--source", choices=("jax", "torch"), help="for `export`")
    arguments = parser.parse_args()
    JOBS[arguments.job](arguments)


if __name__ == "__main__":
    main()
