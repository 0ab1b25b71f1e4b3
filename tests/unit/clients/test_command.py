"""The command: errors in one sentence, exit codes, verbs that are told from a table."""

import argparse
import errno
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from asr.offline import read_audio
from asr.scripted import ScriptedEngine
from clients.__main__ import VERBS, main, parser_of
from clients.audiofile import BadAudioFile, open_audio, to_s16
from clients.captions import latency_of, later, segments_of, why
from clients.connection import RivuletError
from clients.demo import SAMPLES, model_options, read_samples
from clients.errors import CommandError, missing_module
from clients.live import Heard
from clients.meeting import participants_of
from clients.results import Result, figures, is_failed, row
from clients.saving import check, save
from clients.serving import ServerProcess
from server import cli
from server.wire.messages import Chunk, Final, WordSpan


def final(text: str, *, channel: int = 0, start_ms: int = 0) -> Final:
    word = WordSpan(w="x", s=start_ms, e=start_ms + 80)
    return Final(
        id=0,
        channel=channel,
        text=text,
        start_ms=start_ms,
        end_ms=start_ms + 80,
        cause="stop",
        words=(word,),
    )


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_teaches_with_examples(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    assert ended.value.code == 0
    assert "examples:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["captions"], "needs either FILEs or --microphone"),
        (["captions", "nothing.wav"], "nothing.wav: there is no such file"),
        (["captions", "none.wav", "--latency", "low", "nor.wav"], "none.wav: there is no such"),
        (["captions", "--microphone", "--save", "x.doc"], "the ending must be one of"),
        (["transcribe", "nothing.wav"], "nothing.wav: there is no such file"),
        (["captions", str(SAMPLES / "02-timer.ogg"), "--latency", "soon"], "--latency is low"),
        (
            ["captions", str(SAMPLES / "02-timer.ogg"), "--url", "ws://127.0.0.1:9/v1/stream"],
            "connect",
        ),
        (["captions", str(SAMPLES / "02-timer.ogg"), "--url", "http://x/v1/stream"], "no address"),
        (["captions", str(SAMPLES / "02-timer.ogg"), "--url", "ws://x:99999/"], "no address"),
        (["captions", str(SAMPLES / "02-timer.ogg"), "--latency", "99999"], "80 to 2000 ms"),
        (["captions", str(SAMPLES / "02-timer.ogg"), "--save", "/no/x.srt"], "no such folder"),
        (
            ["captions", str(SAMPLES / "02-timer.ogg"), "--language", "klingon"],
            "--language is a tag",
        ),
        (["captions", str(SAMPLES)], "a folder, not a sound file"),
        (["captions", str(SAMPLES / "README.md")], "ffmpeg -i"),
        (["meeting", f"={SAMPLES / '02-timer.ogg'}"], "a name has 1 to 64 characters"),
        (["meeting", f"{'n' * 65}={SAMPLES / '02-timer.ogg'}"], "a name has 1 to 64 characters"),
        (["meeting", str(SAMPLES / "02-timer.ogg"), "--room", "a/b"], "--room is 1 to 64 letters"),
        (["captions", str(SAMPLES / "02-timer.ogg"), "--save", "/dev/full.srt/x.srt"], "no such"),
        (["lm", "train", "x.txt", "--out", "/dev/full"], "something that is no file"),
        (["lm", "train", "x.txt", "--out", "/no/x.lm"], "no such folder"),
        (["lm", "train", "x.txt", "--out", "x.lm", "--most", "0"], "--most is at least 1"),
        (["lm", "train", "nothing.txt", "--out", "x.lm"], "nothing.txt: No such file"),
        (["evaluate", "x.jsonl", "--every", "0"], "--every is at least 1"),
        (["transcribe", str(SAMPLES / "02-timer.ogg"), "--lm-weight", "nan"], "must be 0 to 10"),
        (["train", str(SAMPLES / "README.md")], "is no TOML"),
        (["demo", "--port", "99999"], "--port is 1 to 65535"),
        (["load", "--json", str(SAMPLES)], "this is a folder"),
        (["plan", "--sessions=9", "--a-ms=9", "--b-ms=9", "--chunk-ms=nan"], "more than 0"),
        (["plan", "--sessions=9", "--a-ms=9", "--b-ms=9", "--burst=nan"], "not negative"),
        (["serve", "--keys", ""], "--keys names no file"),
        (["models", "inspect"], "needs the PATH or NAME"),
        (["models", "export", str(SAMPLES)], "needs the folder of a run and OUT"),
        (["models", "export", str(SAMPLES), "nobody"], "holds no best.pt"),
        (["models", "export", str(SAMPLES), "/no/x.nemo"], "no such folder"),
        (["models", "calibrate", str(SAMPLES)], "needs the PATH of a model and a MANIFEST"),
        (["models", "calibrate", "rivulet-en", str(SAMPLES)], "no such file or folder"),
        (["models", "calibrate", str(SAMPLES), str(SAMPLES)], "holds neither a config"),
        (["demo", "--samples", "nowhere"], "the samples cannot be read"),
    ],
)
def test_an_error_is_one_sentence_without_a_traceback(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 1
    err = capsys.readouterr().err
    assert said in err
    assert err.startswith("rivulet: ")
    assert "Traceback" not in err
    assert err.count("\n") == 1


def test_lines_that_a_language_model_cannot_hold_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("hello there\nHello, there!\nmore of it\n")
    assert main(["lm", "train", str(text), "--out", str(tmp_path / "x.lm")]) == 0
    said = capsys.readouterr()
    assert "of 2 sentences" in said.out
    assert said.err.startswith("1 lines are left out")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("plan --sessions 9 --measured {}", "is nested too deep: give what `python -m"),
        ("load --draw {} --picture x.svg", "is nested too deep: give a report of `rivulet load"),
        ("evaluate {}", "line 1 is not an object"),
        ("train {}", "is no TOML"),
        ("keys list --file {}", "is not a file of `rivulet keys`"),
        ("demo --samples {folder}", "manifest.jsonl is nested too deep"),
    ],
)
def test_a_file_that_is_nested_too_deep_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], argv: str, said: str
) -> None:
    path = tmp_path / "manifest.jsonl"
    path.write_text(("deep = " if "train" in argv else "") + "[" * 100_000 + "]" * 100_000)
    given = argv.format(path, folder=tmp_path).split()
    test_an_error_is_one_sentence_without_a_traceback(given, said, capsys)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("evaluate samples/manifest.jsonl nothing.jsonl", "nothing.jsonl: there is no such file"),
        ("evaluate samples/manifest.jsonl --model ./none", "./none: there is no such file or f"),
        ("models inspect nothing.nemo", "nothing.nemo: there is no such file or folder"),
    ],
)
def test_a_path_that_is_not_there_is_said_without_an_engine(argv: str, said: str) -> None:
    code = "import sys; from clients.__main__ import main; main(); print('torch' in sys.modules)"
    command = [sys.executable, "-c", code, *argv.split()]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=SAMPLES.parent)
    assert said in ended.stderr
    assert ended.stdout == "False\n"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("plan --sessions 9 --measured /dev/zero", "more than 64 MiB: give what"),
        ("load --draw /dev/zero --picture x.svg", "more than 64 MiB: give a report"),
        ("evaluate /dev/zero", "it is a device, no file"),
        ("models inspect /dev/zero", "a device is no model"),
        ("lm train /dev/zero --out x.lm", "a device is no file of text"),
        ("keys add shop --file /dev/full", "/dev/full is no file"),
        ("keys list --file {pipe}", "pipe is no file"),
    ],
)
def test_a_file_without_an_end_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], argv: str, said: str
) -> None:
    os.mkfifo(tmp_path / "pipe")
    given = argv.format(pipe=tmp_path / "pipe").split()
    test_an_error_is_one_sentence_without_a_traceback(given, said, capsys)


def test_what_is_no_report_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.json"
    for text, said in (("[]", "report"), ("{", "JSON"), ('{"points": 1}', "report")):
        path.write_text(text)
        given = ["load", "--draw", str(path), "--picture", "x.svg"]
        test_an_error_is_one_sentence_without_a_traceback(given, f"{path} is no {said}", capsys)


def test_a_wrong_verb_is_wrong_usage() -> None:
    with pytest.raises(SystemExit) as ended:
        main(["recognise"])
    assert ended.value.code == 2


def test_a_missing_package_names_the_extra_and_the_line_that_installs_it() -> None:
    said = missing_module(ModuleNotFoundError("No module named 'torch'", name="torch"))
    assert "'engine'" in said
    assert "pip install -e '.[engine]'" in said


def test_a_taken_port_is_said_before_a_server_is_started() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(CommandError, match=f"port {port} .* is taken"):
            ServerProcess(port)


def test_what_failed_in_a_stream_beside_others_is_said_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(args: argparse.Namespace) -> int:
        full = OSError(errno.ENOSPC, "No space left on device")
        raise ExceptionGroup("beside", [ExceptionGroup("within", [full])])

    monkeypatch.setattr("clients.verbs.models.run", fail)
    assert main(["models"]) == 1
    assert capsys.readouterr().err == "rivulet: No space left on device\n"


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_cannot_be_written_is_said_and_is_a_failure(unbuffered: str) -> None:
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, "-m", "clients", "plan", "--sessions=9", "--a-ms=9", "--b-ms=9"]
        run = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, env=environment)
    assert (run.returncode, run.stderr) == (1, b"rivulet: No space left on device\n")


def test_what_a_lone_speaker_of_a_meeting_failed_of_is_said_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    argv = ["meeting", str(SAMPLES / "02-timer.ogg"), "--url", "ws://127.0.0.1:9/v1/stream"]
    assert main(argv) == 1
    said = capsys.readouterr()
    assert (said.out + said.err).count("cannot connect") == 1


@pytest.mark.parametrize("verb", ["captions", "transcribe"])
def test_a_closed_output_is_said(verb: str) -> None:
    command = f'exec "{sys.executable}" -m clients {verb} {SAMPLES / "02-timer.ogg"} >&-'
    ended = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 1
    assert ended.stderr == (
        "rivulet: standard output is closed: >/dev/null throws the words away\n"
    )


def test_a_name_that_is_no_text_is_a_file_as_any_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/M\xfcller.wav"))
    soundfile.write(os.fsencode(path), np.zeros(16_000), 16_000)
    assert len(b"".join(open_audio(path).packets())) == 32_000
    assert len(read_audio(path)) == 16_000
    assert [one.name for one in participants_of([str(path)])] == ["M\ufffdller"]
    assert main(["transcribe", str(path), str(path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/M\\udcfcller.wav: \n" * 2


def test_an_output_that_cannot_write_a_letter_gets_its_number() -> None:
    said = "import sys, clients.verbs.plan as plan; plan.run = lambda _: print('\u00e9') or 0"
    program = f"{said}; from clients.__main__ import main; main(['plan', '--sessions=9'])"
    run = subprocess.run(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
    )
    assert run.stdout == b"\\xe9\n"


def test_what_stands_behind_two_dashes_is_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["captions", "--latency", "low", "--", "-x.wav"]) == 1
    assert capsys.readouterr().err == "rivulet: -x.wav: there is no such file\n"


def test_nobody_needs_what_is_noted_beside() -> None:
    command = f'exec "{sys.executable}" -m clients captions nothing.wav 2>&-'
    ended = subprocess.run(["sh", "-c", command], stdout=subprocess.PIPE, text=True)
    assert (ended.returncode, ended.stdout) == (1, "")


def test_a_worker_whose_model_lacks_the_look_ahead_says_so_and_joins_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("server.worker.engines.build", lambda _: ScriptedEngine())
    monkeypatch.setattr("server.worker.join.serve", lambda *_: None)
    monkeypatch.setenv("RIVULET_WORKER_SECRET", "0123456789abcdef" * 2)
    choice = cli.ModelChoice(look_ahead=3)
    with pytest.raises(cli.CliError, match=r"^scripted has no look-ahead 3; it has 0, 1, 6, 13$"):
        cli.work(choice, cli.Hardware(), "127.0.0.1:1", "", lambda _: None)


def test_a_worker_that_joined_says_where_and_what_it_carries(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "server.worker.engines.build", lambda spec: ScriptedEngine(slots=spec.slots)
    )
    monkeypatch.setattr("server.worker.join.serve", lambda *_, on_joined: on_joined())
    monkeypatch.setenv("RIVULET_WORKER_SECRET", "0123456789abcdef" * 2)
    assert main(["worker", "--join", "10.0.0.1:8771", "--slots", "5"]) == 0
    said = "joined 10.0.0.1:8771: scripted (fp32) on cpu, 5 streams\n"
    assert capsys.readouterr().out == said


def test_the_demo_hands_every_model_option_on() -> None:
    argv = ["--model", "m", "--lm", "none", "--lm-weight", "2", "--beam", "1", "--look-ahead", "1"]
    given = model_options(parser_of("demo").parse_args(argv))
    again = parser_of("serve").parse_args(given)
    assert (again.lm, again.lm_weight, again.beam, again.look_ahead) == ("none", 2.0, 1, 1)


def test_a_saved_file_is_whole_or_as_it_was(tmp_path: Path) -> None:
    kept, made = tmp_path / "kept.srt", tmp_path / "made.txt"
    kept.write_text("before")
    (tmp_path / f".kept.srt.{os.getpid()}").mkdir()  # what is written beside it cannot be
    with pytest.raises(CommandError, match=r"kept\.srt"):
        save({kept: "after", made: "größer"})
    assert (kept.read_text(), made.read_text(encoding="utf-8")) == ("before", "größer")
    save({made: "x"})
    assert made.read_text() == "x"


def test_a_name_is_as_long_as_the_folder_takes_or_refused_before_anybody_speaks(
    tmp_path: Path,
) -> None:
    longest = tmp_path / f"{'ß' * 125}n.srt"
    longer, around = longest.with_name(f"n{longest.name}"), tmp_path / "around.srt"
    around.symlink_to(around)
    check([longest], ("srt",))
    save({longest: "x"})
    assert [path.read_text() for path in tmp_path.glob("*n.srt")] == ["x"]
    for path, reason in ((longer, "File name too long"), (around, "Too many levels")):
        with pytest.raises(CommandError, match=f"{reason}.*: choose another name"):
            check([path], ("srt",))


@pytest.mark.parametrize("verb", ["captions", "meeting"])
def test_where_nobody_was_heard_a_saved_file_stays(tmp_path: Path, verb: str) -> None:
    kept = tmp_path / "kept.srt"
    kept.write_text("before")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"ws://127.0.0.1:{free.getsockname()[1]}/v1/stream"
        argv = [verb, str(SAMPLES / "02-timer.ogg"), "--url", url, "--save", str(kept)]
        assert main(argv) == 1
    assert kept.read_text() == "before"


def test_who_may_not_come_in_is_not_told_to_start_a_server() -> None:
    assert "--token" in why(RivuletError("unauthorized", "HTTP 401"), "ws://x")
    assert why(RivuletError("over_capacity", "full"), "ws://x") == "over_capacity: full (ws://x)"


def test_model_options_are_the_same_wherever_a_model_is_loaded() -> None:
    argv = ["--model", "m.nemo", "--look-ahead", "6", "--precision", "fp32", "--backend", "nemo"]
    for verb, given_first in (
        ("serve", []),
        ("transcribe", ["f"]),
        ("evaluate", ["f"]),
        ("demo", []),
    ):
        args = parser_of(verb).parse_args([*given_first, *argv])
        assert (args.model, args.look_ahead, args.precision, args.backend) == (
            "m.nemo",
            6,
            "fp32",
            "nemo",
        )


def test_latency_is_a_class_or_milliseconds() -> None:
    assert latency_of(None) is None
    assert latency_of("low") == "low"
    assert latency_of("160") == Chunk(chunk_ms=160)


# ---- sound files


@pytest.mark.parametrize(("rate", "wire"), [(8_000, 8_000), (44_100, 44_100), (96_000, 48_000)])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_packets_hold_the_whole_file(tmp_path: Path, rate: int, wire: int, channels: int) -> None:
    path = tmp_path / "x.wav"
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, (rate // 2, channels)).astype(np.float32)
    soundfile.write(path, sound, rate, subtype="FLOAT")
    file = open_audio(path)
    assert (file.rate, file.channels) == (wire, channels if channels <= 2 else 1)
    packets = list(file.packets())
    assert sum(map(len, packets)) == wire // 2 * file.channels * 2
    assert {len(p) for p in packets[:-1]} == {wire * 80 // 1000 * file.channels * 2}


@given(st.lists(st.floats(width=32), min_size=1, max_size=50))
def test_any_float_becomes_a_16_bit_sample(values: list[float]) -> None:
    assert len(to_s16(np.array(values, np.float32))) == 2 * len(values)


@pytest.mark.parametrize("content", [b"", b"RIFF", b"no sound at all"])
def test_a_file_that_is_no_sound_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.wav"
    path.write_bytes(content)
    with pytest.raises(BadAudioFile, match=r"x\.wav"):
        open_audio(path)


def test_a_pipe_is_no_file_and_that_is_said(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    os.mkfifo(path)
    with pytest.raises(BadAudioFile, match=r"x\.wav: a pipe or a device"):
        open_audio(path)


def test_a_file_that_breaks_off_is_named(tmp_path: Path) -> None:
    path = broken_off(tmp_path / "x.flac")
    with pytest.raises(BadAudioFile, match=r"x\.flac: cannot be read on"):
        list(open_audio(path).packets())


def broken_off(path: Path) -> Path:
    """A FLAC file whose second half is missing."""
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 32_000)
    soundfile.write(path, noise, 16_000)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    return path


# ---- what became of samples


def heard(*finals: Final, error: str = "", delay_s: float | None = 0.03) -> Heard:
    return Heard(finals=list(finals), lags_s=[0.02, 0.04], finalize_delay_s=delay_s, error=error)


def test_many_wrong_words_are_no_failure_but_none_or_an_error_are() -> None:
    sample = next(s for s in read_samples(SAMPLES) if s.name == "02-timer")
    assert not is_failed(Result(sample, heard(final("something else"))))
    assert is_failed(Result(sample, heard(final(""))))
    assert is_failed(Result(sample, heard(final("stop the timer"), error="connection_lost")))
    assert is_failed(Result(sample, heard(final("stop the timer"), delay_s=None)))


def test_a_meeting_fails_when_one_of_its_speakers_was_not_heard() -> None:
    sample = next(s for s in read_samples(SAMPLES) if s.name == "12-meeting")
    assert is_failed(Result(sample, heard(final("good morning"))))
    assert not is_failed(Result(sample, heard(final("good morning"), final("yes", channel=1))))


def test_a_row_and_the_figures_tell_the_same() -> None:
    sample = next(s for s in read_samples(SAMPLES) if s.name == "02-timer")
    result = Result(sample, heard(final("stop a timer")))
    assert row(result) == ("02-timer", "stop a timer", "33.3%", "20 ms", "40 ms", "30 ms")
    told = figures([result])
    assert (told["wer"], told["lag_p50_ms"], told["failed"]) == (0.3333, 20.0, 0)
    json.dumps(figures([Result(sample, Heard(error="internal"))]))


def test_saved_words_of_a_second_file_come_later_and_speakers_are_named() -> None:
    moved = later(final("b", channel=1), 5_000)
    first, second = segments_of([final("a"), moved])
    assert (first.speaker, second.speaker) == ("Speaker 1", "Speaker 2")
    assert second.start_ms == second.words[0].start_ms == 5_000


def test_the_embedded_model_names_its_licence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    assert "Apache-2.0" in capsys.readouterr().out


def test_transcribe_says_that_channels_are_mixed() -> None:
    assert "channels are mixed" in " ".join(parser_of("transcribe").format_help().split())


def test_arguments_of_a_verb_run_that_verb() -> None:
    args = parser_of("captions").parse_args(["x.wav"])
    assert isinstance(args, argparse.Namespace)
    assert args.run.__module__ == "clients.captions"
