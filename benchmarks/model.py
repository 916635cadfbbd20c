"""Time and memory of the model, compared with Hugging Face transformers in PyTorch, and both as ONNX files in other engines.

    python benchmarks/model.py speed --torch-python=PYTHON    forward passes and training steps, alternating
    python benchmarks/model.py compile                        tracing and compiling, scanned and unrolled blocks
    python benchmarks/model.py memory                         temporary memory of training steps, 8 to 96 frames
    python benchmarks/model.py joint                          chunked joint attention on 96 frames

Each command prints one table, in float32 on a CPU and in bfloat16 on a GPU. `speed` runs each contender in its own process and
alternates between them, so that noise affects all of them alike. PYTHON is an interpreter with the packages of
`benchmarks/requirements.txt`. On a CPU, `speed` also runs both models' ONNX files in ONNX Runtime and OpenVINO.
"""

import argparse
import functools
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

FRAMES, SIZE, CLASSES = 8, 224, 400  # base
PRODUCTS = 10
GIB = 2**30


# Contenders of `speed`. Each returns a function that runs once and blocks until the result is ready.


def jax_forward(batch_size: int, *, folded: bool = False) -> Callable[[], None]:
    import jax

    import timesformer_jax as tsf

    model, variables, videos = _jax_model(batch_size)
    if folded:
        variables = {"params": tsf.fold_for_inference(variables["params"])}
    apply = jax.jit(model.apply)
    return lambda: jax.block_until_ready(apply(variables, next(videos)))


def jax_folded_forward(batch_size: int) -> Callable[[], None]:
    return jax_forward(batch_size, folded=True)


def jax_training_step(batch_size: int) -> Callable[[], None]:
    import jax

    model, variables, videos = _jax_model(batch_size, scan_layers=True)
    step, state = _training_step(model, variables)
    step = jax.jit(step, donate_argnums=(0, 1))

    def run() -> None:
        nonlocal variables, state
        variables, state, loss = step(variables, state, next(videos))
        jax.block_until_ready(loss)

    return run


def jax_matrix_product(batch_size: int) -> Callable[[], None]:
    """Return the reference for utilisation: `PRODUCTS` times `_matrix()`^3 multiply-adds."""
    import jax

    a = (jax.random.normal(jax.random.key(0), (_matrix(), _matrix())) / _matrix() ** 0.5).astype(_jax_dtype())

    @jax.jit
    def products(a: Any) -> Any:
        result = a
        for _ in range(PRODUCTS):
            result = result @ a
        return result

    return lambda: jax.block_until_ready(products(a))


def torch_forward(batch_size: int, *, compiled: bool = False) -> Callable[[], None]:
    import torch

    model, videos, device = _torch_model(batch_size)
    if compiled or device == "cuda":
        model = torch.compile(model)

    def run() -> None:
        with torch.inference_mode():
            model(next(videos)).logits.sum().item()

    return run


def torch_training_step(batch_size: int) -> Callable[[], None]:
    import torch

    model, videos, device = _torch_model(batch_size)
    compiled = torch.compile(model.train()) if device == "cuda" else model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss = compiled(next(videos)).logits.float().square().mean()
        loss.backward()
        optimizer.step()
        loss.item()

    return run


def engine_forward(engine: str, source: str, batch_size: int) -> Callable[[], None]:
    """Run the ONNX file that `export` wrote for a framework."""
    import itertools

    import numpy as np

    run, shape = ENGINES[engine](Path(os.environ[GRAPHS]) / f"{source}.onnx")
    draw = np.random.default_rng(0)
    videos = itertools.cycle([draw.normal(size=(batch_size, *shape[1:])).astype(np.float32) for _ in range(3)])
    return lambda: run(next(videos))


def _onnxruntime(path: Path) -> tuple[Callable[[Any], None], Any]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (video,) = session.get_inputs()
    return lambda clips: session.run(None, {video.name: clips}), video.shape


def _openvino(path: Path) -> tuple[Callable[[Any], None], Any]:
    sys.modules["openvino_telemetry"] = None  # it sends usage statistics  # pyright: ignore[reportArgumentType]
    import openvino

    compiled = openvino.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    shape = compiled.input(0).partial_shape
    return compiled, [None, *(shape[axis].get_length() for axis in range(1, len(shape)))]


ENGINES = {"onnxruntime": _onnxruntime, "openvino": _openvino}
GRAPHS = "BENCHMARK_GRAPHS"
"""Environment variable that names the folder of the exported files."""


def export(source: str, batch_size: int) -> None:
    """Write a framework's model, with random weights, as an ONNX file; torch's has a fixed batch."""
    path = Path(os.environ[GRAPHS]) / f"{source}.onnx"
    if source == "torch":
        import torch

        model, videos, _ = _torch_model(batch_size)
        torch.onnx.export(model, (next(videos),), path, external_data=False)
        return
    import timesformer_jax as tsf
    from timesformer_jax.pretrained import save_onnx

    model, variables, _ = _jax_model(batch_size)
    save_onnx(tsf.Pretrained(model, variables["params"], tsf.Preprocess(num_frames=FRAMES, crop_size=SIZE)), path)


CONTENDERS: dict[str, tuple[str, Callable[[int], Callable[[], None]]]] = {
    "torch forward": ("torch", torch_forward),
    "torch.compile forward": ("torch", functools.partial(torch_forward, compiled=True)),
    "jax forward": ("jax", jax_forward),
    "jax forward, folded": ("jax", jax_folded_forward),
    **{
        f"{engine}, {source}'s graph": ("jax", functools.partial(engine_forward, engine, source))
        for source in ("torch", "jax")
        for engine in ENGINES
    },
    "torch training step": ("torch", torch_training_step),
    "jax training step": ("jax", jax_training_step),
    "jax matrix product": ("jax", jax_matrix_product),
}
"""Maps each contender to its framework and function."""


def _jax_model(batch_size: int, **fields: Any) -> tuple[Any, Any, Iterator[Any]]:
    import itertools

    import jax

    import timesformer_jax as tsf

    model = tsf.create("timesformer-base", num_classes=CLASSES, dtype=_jax_dtype(), **fields)
    videos = [jax.random.normal(jax.random.key(i), (batch_size, FRAMES, SIZE, SIZE, 3)) for i in range(3)]
    return model, jax.jit(model.init)(jax.random.key(0), videos[0]), itertools.cycle(videos)


def _torch_model(batch_size: int) -> tuple[Any, Iterator[Any], str]:
    import itertools

    import torch
    from transformers import TimesformerConfig, TimesformerForVideoClassification

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    model = TimesformerForVideoClassification(TimesformerConfig(num_labels=CLASSES)).eval().to(device, dtype)
    videos = [torch.randn(batch_size, FRAMES, 3, SIZE, SIZE, device=device, dtype=dtype) for _ in range(3)]
    return model, itertools.cycle(videos), device


def _training_step(model: Any, variables: Any) -> tuple[Callable, Any]:
    import jax
    import optax

    optimizer = optax.sgd(1e-3, momentum=0.9)

    def step(variables: Any, state: Any, video: Any) -> tuple[Any, Any, Any]:
        loss, grads = jax.value_and_grad(lambda v: (model.apply(v, video) ** 2).mean())(variables)
        updates, state = optimizer.update(grads, state, variables)
        return optax.apply_updates(variables, updates), state, loss

    return step, optimizer.init(variables)


def _jax_dtype() -> Any:
    import jax
    import jax.numpy as jnp

    return jnp.bfloat16 if jax.default_backend() == "gpu" else jnp.float32


def _matrix() -> int:
    return 2048 if _on_cpu() else 8192


def _on_cpu() -> bool:
    import jax

    return jax.default_backend() == "cpu"


def work(name: str, batch_size: int) -> None:
    """Serve a contender: for each line on stdin, run it twice and print the seconds of the second run.

    The first run reclaims memory that the system took while the others ran, which can take as long as the run itself.
    """
    run = CONTENDERS[name][1](batch_size)
    run()  # compiles
    print("ready", flush=True)
    for _ in sys.stdin:
        run()
        start = time.perf_counter()
        run()
        print(json.dumps(time.perf_counter() - start), flush=True)


def speed(arguments: argparse.Namespace) -> None:
    """Print medians over rounds in which every contender runs once."""
    pythons = {"jax": sys.executable, "torch": arguments.torch_python}
    names = [name for name, (kind, _) in CONTENDERS.items() if pythons[kind]]
    if arguments.forward_only:
        names = [name for name in names if "training" not in name]
    engines = [engine for engine in ENGINES if _on_cpu() and importlib.util.find_spec(engine)]
    graphs = [source for source, python in pythons.items() if python] if engines else []
    runnable = [f"{engine}, {source}'s graph" for engine in engines for source in graphs]
    names = [name for name in names if "graph" not in name or name in runnable]
    if not _on_cpu():
        names = [name for name in names if name != "torch.compile forward"]  # "torch forward" is compiled there
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        # If there is a GPU, several processes share it, so none may preallocate most of its memory.
        env = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false", GRAPHS: folder}
        for source in graphs:
            command = [pythons[source], __file__, "export", f"--source={source}", f"--batch-size={arguments.batch_size}"]
            subprocess.run(command, env=env, check=True)
        workers = {}
        for name in names:
            command = [
                pythons[CONTENDERS[name][0]],
                __file__,
                "work",
                f"--contender={name}",
                f"--batch-size={arguments.batch_size}",
            ]
            worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
            stack.callback(worker.kill)
            workers[name] = worker
            if not _answer(worker):  # wait for each, so that none compiles while another is timed
                sys.exit(f"Error: the process of {name!r} ended; its message is above.")
        seconds: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(arguments.rounds):
            for name, worker in workers.items():
                print("go", file=worker.stdin, flush=True)
                seconds[name].append(json.loads(_answer(worker)))
    whole, short, folded = _multiply_adds()
    yardstick = PRODUCTS * _matrix() ** 3 / statistics.median(seconds["jax matrix product"])
    print(
        f"base, {FRAMES} x {SIZE}, batch {arguments.batch_size}, {arguments.rounds} rounds. Utilisation: multiply-adds by XLA's"
    )
    print(
        "count of what runs (a training step: 3 forward passes; parameters float32 in JAX, of the compute dtype in torch), as a"
    )
    print(f"share of a {_matrix()}^3 matrix product's {2 * yardstick / 1e9:,.0f} GFLOP/s.")
    print(f"{'':<28}{'median s':>10}{'fastest s':>11}{'of torch':>10}{'utilisation':>13}")
    for name in names[:-1]:
        median = statistics.median(seconds[name])
        peer = seconds.get("torch training step" if "training" in name else "torch forward")
        ratio = f"{median / statistics.median(peer):.2f}" if peer else "-"
        per_clip = whole if "torch" in name else folded if "folded" in name or "graph" in name else short
        work_done = per_clip * arguments.batch_size * (3 if "training" in name else 1)
        share = work_done / median / yardstick
        print(f"{name:<28}{median:>10.3f}{min(seconds[name]):>11.3f}{ratio:>10}{share:>13.0%}")


def _multiply_adds() -> tuple[float, float, float]:
    """Return XLA's count for one clip: with the whole last block (as the peer computes it), for logits alone, and folded."""
    import jax

    import timesformer_jax as tsf

    model, variables, video = _jax_shapes(FRAMES, SIZE)
    folded = jax.eval_shape(lambda v: {"params": tsf.fold_for_inference(v["params"])}, variables)

    def count(variables: Any, **options: Any) -> float:
        analysis: Any = jax.jit(lambda v, x: model.apply(v, x, **options)).lower(variables, video).cost_analysis()
        return analysis["flops"] / 2

    return count(variables, method="features"), count(variables), count(folded)


def _answer(worker: subprocess.Popen) -> str:
    assert worker.stdout is not None
    return worker.stdout.readline()


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
    """Print the times of scanned and unrolled blocks, alternating, as medians over rounds."""
    times: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    _compile_step(1, 32, scan_layers=True)  # warms up one-time costs
    for _ in range(arguments.rounds):
        for scan in times:
            times[scan].append(_compile_step(FRAMES, SIZE, scan_layers=scan)[:2])
    print(f"Training step of base, {FRAMES} x {SIZE}, {arguments.rounds} rounds, median seconds")
    print(f"{'':<14}{'trace':>8}{'compile':>10}{'together':>10}")
    sums = {}
    for scan, pairs in times.items():
        trace, compiling = (statistics.median(column) for column in zip(*pairs, strict=True))
        sums[scan] = statistics.median(sum(pair) for pair in pairs)
        print(f"{'scan_layers' if scan else 'unrolled':<14}{trace:>8.1f}{compiling:>10.1f}{sums[scan]:>10.1f}")
    print(f"scan_layers takes {sums[True] / sums[False]:.2f} of the unrolled time")


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


JOBS = {"speed": speed, "compile": compile_, "memory": memory, "joint": joint}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=[*JOBS, "work", "export"])
    parser.add_argument("--torch-python", metavar="PYTHON", help="interpreter with torch and transformers (default: JAX alone)")
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--forward-only", action="store_true", help="no training steps")
    parser.add_argument("--contender", choices=CONTENDERS, help="for `work`, which `speed` starts")
    parser.add_argument("--source", choices=("jax", "torch"), help="for `export`, which `speed` starts")
    arguments = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parent.parent))
    if arguments.job == "work":
        work(arguments.contender, arguments.batch_size)
    elif arguments.job == "export":
        export(arguments.source, arguments.batch_size)
    else:
        JOBS[arguments.job](arguments)


if __name__ == "__main__":
    main()
