"""`timesformer predict`, `explain` and `convert` as command lines."""

import dataclasses
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import timesformer_jax as tsf
from tests.pretrained.files import official_file
from tests.support import random_variables
from timesformer_jax.__main__ import JOBS, main
from timesformer_jax.video import clip_at, open_video


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with random weights as one of this project's checkpoints."""
    model = tsf.TimeSformer(3, image_size=16, patch_size=8, num_frames=2, embed_dim=24, depth=1, num_heads=3)
    preprocess = tsf.Preprocess(num_frames=2, crop_size=16, sampling_rate=4.0)
    path = tmp_path_factory.mktemp("checkpoints") / "own"
    tsf.save(tsf.Pretrained(model, random_variables(model)["params"], preprocess, ("across", "down", "back")), path)
    return path


def test_predict_job_on_a_folder(checkpoint: Path, made_clips: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["predict", str(made_clips), f"--checkpoint={checkpoint}", "--json", "--top-k=2"]) == 0
    out, err = capsys.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["video"] for line in lines] == sorted(str(path) for path in made_clips.rglob("*.mp4"))
    assert err == ""
    pretrained = tsf.load(checkpoint)
    for line in lines[:2]:
        expected = pretrained.predict(line["video"], top_k=2)
        assert [label for label, _ in line["best"]] == [prediction.label for prediction in expected]
        np.testing.assert_allclose([p for _, p in line["best"]], [p.probability for p in expected], atol=1e-6)
        assert line["views"] == 3


def test_predict_job_prints_a_table(checkpoint: Path, made_clips: Path, capsys: pytest.CaptureFixture[str]):
    video = str(made_clips / "down" / "0.mp4")
    assert main(["predict", video, f"--checkpoint={checkpoint}", "--num-crops=1", "--num-clips=2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == video
    assert len(lines) == 4  # there are three labels
    best = tsf.load(checkpoint).predict(video, num_crops=1, num_clips=2)
    assert [line.split()[1] for line in lines[1:]] == [prediction.label for prediction in best]
    assert lines[1].split()[0] == f"{best[0].probability:.2%}"
    assert sum(prediction.probability for prediction in best) == pytest.approx(1)


def test_explain_job_draws_the_model_input(
    checkpoint: Path, made_clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """The sheet has the model's input frames and a row per label, and the drawn labels are printed."""
    video, output = str(made_clips / "down" / "0.mp4"), tmp_path / "x.PNG"
    asked = ["explain", video, f"--checkpoint={checkpoint}", f"--output={output}", "--num-clips=2", "--draw-on=input"]
    assert main([*asked, "--label=back", "--label=0"]) == 0
    best = tsf.load(checkpoint).predict(video, num_crops=1, num_clips=2)
    out, err = capsys.readouterr()
    assert [line.split()[1] for line in out.splitlines()[1:4]] == [prediction.label for prediction in best]
    assert (out.splitlines()[-1], err) == (f"Written: {output}", "")
    picture = np.asarray(Image.open(output))
    assert picture.shape == (3 * (224 + 22), 4 * (224 + 4), 3)  # plain and two labels; two clips of two frames
    rows = picture.reshape(3, 246, 912, 3)[:, 22:]
    changes = [np.abs(row.astype(int) - rows[0]).mean() for row in rows[1:]]
    assert min(changes) > 1
    assert np.abs(rows[1].astype(int) - rows[2]).mean() > 1  # each label has its own map
    assert main([*asked, "--method=rollout"]) == 0
    assert np.asarray(Image.open(output)).shape == (2 * (224 + 22), 4 * (224 + 4), 3)
    assert [path.name for path in tmp_path.iterdir()] == ["x.PNG"]


def test_explain_job_draws_on_the_video(checkpoint: Path, made_clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The sheet has the sampled frames whole, with their times; the video has all frames."""
    video, sheet = str(made_clips / "down" / "0.mp4"), tmp_path / "x.png"
    asked = ["explain", video, f"--checkpoint={checkpoint}", "--num-crops=3", "--label=back", "--label=0", "--max-side=160"]
    assert main([*asked, f"--output={sheet}"]) == 0
    picture = np.asarray(Image.open(sheet))
    assert picture.shape[1] == 2 * 160 + 6
    rows = picture[:, :160].min(axis=2).max(axis=1) < 200
    assert (np.diff(rows.astype(int)) == 1).sum() == 3  # plain and two labels, each 120 pixels high
    capsys.readouterr()
    assert main([*asked, f"--output={tmp_path / 'x.mp4'}"]) == 0
    assert re.search(r"Written: .*x\.mp4 \(132 x \d+, 1\.2 s\)\n$", capsys.readouterr().out)
    with open_video(tmp_path / "x.mp4") as drawn:
        assert len(list(drawn.frames())) == 37  # the last sampled frame is at 7/30 s, and the margin ends a second later


def test_explain_job_starts_at_a_second(checkpoint: Path, made_clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    video = made_clips / "down" / "0.mp4"
    asked = ["explain", str(video), f"--checkpoint={checkpoint}", "--start=0.8", f"--output={tmp_path / 'x.png'}"]
    assert main([*asked, "--draw-on=input"]) == 0
    pretrained = tsf.load(checkpoint)
    clip = clip_at(pretrained.preprocess, video, 0.8)
    expected = pretrained.best(pretrained.view_scores(clip.views), 1)[0]
    assert capsys.readouterr().out.splitlines()[1].split() == [f"{expected.probability:.2%}", expected.label]
    drawn = np.asarray(Image.open(tmp_path / "x.png"))[22:246].reshape(224, 2, 228, 3)[:, :, :224].transpose(1, 0, 2, 3)

    def error(start: float) -> float:
        clip = clip_at(pretrained.preprocess, video, start)
        frames = pretrained.preprocess.pictures(clip.views[0]).repeat(14, axis=1).repeat(14, axis=2)  # 16 pixels, drawn as 224
        return np.abs(drawn.astype(int) - frames).mean()

    assert error(0.8) < min(error(0.6), error(1.0)) / 2


def test_predict_job_follows_labels_over_time(
    checkpoint: Path, made_clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    video, plot = str(made_clips / "down" / "0.mp4"), tmp_path / "timeline.PNG"
    asked = ["predict", video, f"--checkpoint={checkpoint}", "--window=0.9", "--top-k=1"]
    assert main([*asked, "--json", f"--plot={plot}"]) == 0
    out, err = capsys.readouterr()
    assert err == f"Drawn: {plot}\n"
    with Image.open(plot) as picture:
        assert picture.size == (1350, 540)
    windows = tsf.load(checkpoint).window_scores(video, window=0.9)
    entries = json.loads(out)["windows"]
    assert [(each["start"], each["end"]) for each in entries] == [(0, 0.9), (pytest.approx(13 / 30, abs=1e-3), 1.333)]
    assert [each["best"][0][1] for each in entries] == pytest.approx(windows.probabilities.max(axis=1), abs=1e-5)
    assert main(asked) == 0
    lines = capsys.readouterr().out.splitlines()[2:]
    expected = [
        f"  {each.start:3.1f} to {each.end:3.1f} s  {each.probability:7.2%}  {('across', 'down', 'back')[each.label]}"
        for each in windows.stretches()
    ]
    assert lines == expected


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--plot=x.gif"], "--plot must end in .png, .svg, .pdf, got x.gif."),
        (["--plot=/no/such/x.png"], "There is no folder /no/such to write x.png to."),
        (["--plot=x.png"], "--plot draws a single video, got 12: give one, or use --stride with --json for all."),
        (["--stride=0"], "--stride must be above 0 seconds, got 0.0."),
        (["--window=nan"], "--window must be above 0 seconds, got nan."),
    ],
)
def test_predict_job_rejects_impossible_windows(checkpoint: Path, made_clips: Path, arguments: list[str], words: str, capsys):
    assert main(["predict", str(made_clips), f"--checkpoint={checkpoint}", *arguments]) == 1
    assert capsys.readouterr().err == f"Error: {words}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--output=x.gif", "--strength=2"], "--strength must be from 0 to 1, got 2.0"),
        (["--output=x.gif", "--max-side=9", "--draw-on=input"], "omit them, or --draw-on=input"),
        (["--output=x.jpg"], "--output must end in .gif, .mp4, .png, got x.jpg"),
        (["--output=/no/such/x.gif"], "There is no folder /no/such to write x.gif to"),
        (["--output=x.gif", "--label=dwn"], "no label 'dwn': give a name, or a number below 3. Did you mean 'down'?"),
        (["--output=x.gif", "--label=3"], "no label '3'"),
        (["--output=x.gif", "--label=down", "--method=rollout"], "Rollout is the same for all labels"),
        (["--output=x.gif", "--fps=0"], "--fps must be above 0"),
        (["--output=x.gif", "--num-clips=0"], "--num-clips must be at least 1"),
        (["--output=x.gif", "--start=-1"], "--start must be at least 0 seconds, got -1.0."),
        (["--output=x.gif", "--start=1", "--num-clips=2"], "--start places a single clip: omit --num-clips and --placement."),
        (["--output=x.gif", "--start=8"], "start must be less than the 1.3 seconds of"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_explain_job_rejects_unexplainable_input(checkpoint: Path, made_clips: Path, arguments: list[str], words: str, capsys):
    assert main(["explain", str(made_clips / "down" / "0.mp4"), f"--checkpoint={checkpoint}", *arguments]) == 1
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("where", ["input", "video"])
def test_explain_job_never_replaces_its_video(checkpoint: Path, made_clips: Path, tmp_path: Path, where: str, capsys):
    video = Path(shutil.copy(made_clips / "down" / "0.mp4", tmp_path / "a.mp4"))
    before = video.read_bytes()
    asked = ["explain", str(video), f"--checkpoint={checkpoint}", f"--output={video}", f"--draw-on={where}"]
    assert main(asked) == 1
    assert "a.mp4 is the video itself: choose another name for what is drawn." in capsys.readouterr().err
    assert video.read_bytes() == before


def test_predict_job_takes_clips_from_the_middle(checkpoint: Path, made_clips: Path, capsys: pytest.CaptureFixture[str]):
    video = str(made_clips / "down" / "0.mp4")
    assert main(["predict", video, f"--checkpoint={checkpoint}", "--placement=centre", "--json"]) == 0
    pretrained = tsf.load(checkpoint)
    middle = dataclasses.replace(pretrained, preprocess=dataclasses.replace(pretrained.preprocess, placement="centre"))
    best = dict(json.loads(capsys.readouterr().out)["best"])
    assert best == pytest.approx(dict(middle.predict(video)), abs=1e-6)
    assert best != pytest.approx(dict(pretrained.predict(video)), abs=1e-6)


def test_predict_job_reports_broken_files_and_continues(
    checkpoint: Path, made_clips: Path, broken_clips: Path, capsys: pytest.CaptureFixture[str]
):
    good = str(made_clips / "down" / "0.mp4")
    names = [str(broken_clips / "text.mp4"), good, str(broken_clips / "missing.mp4"), str(broken_clips / "one_frame.mp4")]
    assert main(["predict", *names, f"--checkpoint={checkpoint}", "--json"]) == 1
    out, err = capsys.readouterr()
    assert [json.loads(line)["video"] for line in out.splitlines()] == [good, names[3]]
    errors = err.splitlines()
    assert errors[0].startswith(f"Error: Can't read {names[0]} as a video: ")
    assert errors[1] == f"Error: Can't read {names[2]} as a video: No such file or directory."
    assert errors[2] == "2 of 4 video(s) could not be read."
    assert len(errors) == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--top-k=0"], "--top-k must be at least 1, got 0."),
        (["--num-clips=0"], "--num-clips must be at least 1, got 0."),
        (["--max-pixels=0"], "--max-pixels must be above 0, got 0."),
        (["--max-seconds=nan"], "--max-seconds must be above 0, got nan."),
        (["--labels=missing.txt"], "Can't read the labels in missing.txt: No such file or directory."),
    ],
)
def test_predict_job_rejects_impossible_arguments(checkpoint: Path, made_clips: Path, arguments: list[str], words: str, capsys):
    assert main(["predict", str(made_clips), f"--checkpoint={checkpoint}", *arguments]) == 1
    assert capsys.readouterr().err == f"Error: {words}\n"


def test_predict_job_reports_a_folder_without_videos(
    checkpoint: Path, made_clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    good = str(made_clips / "down" / "0.mp4")
    assert main(["predict", str(tmp_path), good, f"--checkpoint={checkpoint}"]) == 1
    out, err = capsys.readouterr()
    assert f"Error: There is no video in the folder {tmp_path}" in err
    assert out.startswith(good)


def test_predict_job_reads_labels_from_a_file(
    checkpoint: Path, made_clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "labels.txt").write_text("one\ntwo\nthree\n")
    video = str(made_clips / "down" / "0.mp4")
    assert main(["predict", video, f"--checkpoint={checkpoint}", f"--labels={tmp_path / 'labels.txt'}"]) == 0
    assert {line.split()[1] for line in capsys.readouterr().out.splitlines()[1:]} == {"one", "two", "three"}


def test_convert_job_round_trip(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    source = official_file(tmp_path / "a.safetensors")
    assert main(["convert", str(source), str(tmp_path / "folder"), "--num-heads=3"]) == 0
    assert "loaded       49 parameters" in capsys.readouterr().out
    assert main(["convert", str(tmp_path / "folder"), str(tmp_path / "own"), "--to=timesformer_jax"]) == 0
    assert main(["convert", str(tmp_path / "own"), str(tmp_path / "b.safetensors")]) == 0
    one, other = (tsf.load(tmp_path / f"{name}.safetensors", num_heads=3) for name in "ab")
    jax.tree.map(np.testing.assert_array_equal, one.params, other.params)
    capsys.readouterr()
    assert main(["convert", str(source), str(tmp_path / "folder"), "--num-heads=3"]) == 1
    assert "folder exists" in capsys.readouterr().err
    assert main(["convert", str(source), str(tmp_path / "folder"), "--num-heads=3", "--overwrite"]) == 0


@pytest.mark.parametrize("job", JOBS)
def test_job_help_states_every_default(job: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as done:
        main([job, "--help"])
    assert done.value.code == 0
    text = " ".join(capsys.readouterr().out.partition("\noptions:")[2].split())
    flags = re.split(r" (?=--[a-z])", text)[1:]
    for flag in flags:
        takes_value = re.match(r"--[a-z-]+ [A-Z{]", flag)
        required = flag.startswith(("--checkpoint PATH", "--output", "--train", "--val", "--plot"))
        assert "default: " in flag or required or not takes_value, flag


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["predct"], "Error: there is no job 'predct'. Did you mean 'predict'? See `timesformer --help`."),
        (["--vesion"], "Error: there is no flag --vesion. Did you mean --version? See `timesformer --help`."),
        (
            ["predict", "x.mp4", "--num-clip=2"],
            "Error: there is no flag --num-clip. Did you mean --num-clips? See `timesformer predict --help`.",
        ),
        (["predict", "x.mp4", "--chekpoint=y"], "there is no flag --chekpoint. Did you mean --checkpoint?"),
        (["predict", "x.mp4", "--zzz"], "Error: there is no flag --zzz. See `timesformer predict --help`."),
        (["predict"], "Error: the following arguments are required: VIDEO, --checkpoint. See `timesformer predict --help`."),
        (["predict", "x.mp4", "--checkpoint=y", "--top-k=many"], "argument --top-k: invalid int value: 'many'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_usage_errors_are_one_line(arguments: list[str], error: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as done:
        main(arguments)
    out, err = capsys.readouterr()
    assert (done.value.code, out, len(err.splitlines())) == (2, "", 1)
    assert error in err


@pytest.mark.parametrize(
    ("job", "former"), [("predict", "--kind"), ("explain", "--kind"), ("convert", "--kind"), ("features", "--checkpoint-kind")]
)
def test_checkpoint_format_accepts_its_former_names(job: str, former: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Both spellings reach `load`, which then expects an image model in an official file."""
    source = official_file(tmp_path / "a.safetensors")
    arguments = {
        "predict": ["x.mp4", f"--checkpoint={source}"],
        "explain": ["x.mp4", f"--checkpoint={source}", f"--output={tmp_path / 'x.png'}"],
        "features": ["x.mp4", f"--checkpoint={source}", f"--output={tmp_path / 'x'}"],
        "convert": [str(source), str(tmp_path / "y")],
    }[job]
    errors = []
    for name in ("--checkpoint-format", former):
        assert main([job, *arguments, "--num-heads=3", f"{name}=timm"]) == 1
        errors.append(capsys.readouterr().err)
    assert errors[0] == errors[1]
    assert "doesn't fit the model" in errors[0]


def test_command_without_a_job_lists_the_jobs(capsys: pytest.CaptureFixture[str]):
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert all(f"\n    {job} " in err for job in JOBS)


def test_command_prints_the_version(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as done:
        main(["--version"])
    assert (done.value.code, capsys.readouterr().out) == (0, f"timesformer_jax {tsf.__version__}\n")


def test_command_as_a_process(checkpoint: Path, made_clips: Path):
    """Runs it as a process: only JSON on stdout, and help for every job."""
    arguments = ["predict", str(made_clips / "down"), f"--checkpoint={checkpoint}", "--json"]
    done = subprocess.run([sys.executable, "-m", "timesformer_jax", *arguments], capture_output=True, text=True, check=True)
    assert [json.loads(line)["views"] for line in done.stdout.splitlines()] == [3] * 4
    done = subprocess.run([sys.executable, "-m", "timesformer_jax", "--help"], capture_output=True, text=True, check=True)
    assert all(job in done.stdout for job in JOBS)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names of files must be text")
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_jobs_escape_names_and_labels_for_the_terminal(
    checkpoint: Path, made_clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
):
    names = [os.fsdecode(name) for name in (b"a\x1b[31m.mp4", b"caf\xe9.mp4", b"z\n.mp4")]
    for name in names:
        shutil.copy(made_clips / "down" / "0.mp4", tmp_path / name)
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps(["跑 ", "\x9b31m", "\u202eb"]))
    asked = [f"--checkpoint={checkpoint}", f"--labels={labels}"]

    def output_of(*arguments: str) -> str:
        written = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding, errors="strict"))
        assert main([*arguments, *asked]) == 0
        sys.stdout.flush()
        return written.getvalue().decode(encoding)

    shown = "跑 " if encoding == "utf-8" else r"\u8dd1 "
    table = output_of("predict", str(tmp_path)).split("\n")
    assert table[0::4][:3] == [f"{tmp_path}/{name}" for name in (r"a\x1b[31m.mp4", r"caf\xe9.mp4", r"z\n.mp4")]
    assert {line[11:] for line in table[1:4]} == {shown, r"\x9b31m", r"\u202eb"}
    text = output_of("predict", str(tmp_path), "--json")
    assert text.replace("\n", "").isprintable()
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["video"] for line in lines] == [f"{tmp_path}/{name}" for name in (names[0], r"caf\xe9.mp4", names[2])]
    assert {label for label, _ in lines[0]["best"]} == {"跑 ", "\x9b31m", "\u202eb"}
    drawn = output_of("explain", str(tmp_path / names[1]), f"--output={tmp_path / names[1]}.png", "--label=跑 ")
    assert drawn.endswith("caf\\xe9.mp4.png\n")
