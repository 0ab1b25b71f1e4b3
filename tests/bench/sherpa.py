"""sherpa-onnx as a rival: an environment of its own, our random model exported for it.

Does: make build/bench/sherpa-env once, export encoder, decoder and joiner of a ``.nemo`` for one
look-ahead (fp32 and int8), start sherpa_work.py there.
Does not know: steps, times.
The export follows NeMo's own exporter; sherpa reads its window from the encoder's metadata.
"""

import shutil
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import Any

from tests.bench.sustained import free_port

HERE = Path(__file__).parent
BUILD = HERE.parents[1] / "build" / "bench"
PACKAGES = (
    "sherpa-onnx==2.0.1",
    "sherpa-onnx-bin==2.0.1",
    "numpy==2.4.6",
    "onnx==1.23.2",
    "onnxruntime==1.31.1",
)
TRIO = ("encoder", "decoder", "joiner")


@contextmanager
def started(
    model: Path, look_ahead: int, precision: str, batches: tuple[int, ...]
) -> Iterator[Connection]:
    """Start the rival in its environment; ready when this returns."""
    python = environment()
    folder = exported(model, look_ahead)
    if precision == "int8":
        _quantize(python, folder)
    with Listener(authkey=b"bench") as listener:
        port = str(listener.address[1]) if isinstance(listener.address, tuple) else listener.address
        command = [str(python), str(HERE / "sherpa_work.py"), port, str(folder), precision]
        process = subprocess.Popen([*command, str(look_ahead), ",".join(map(str, batches))])
        try:
            with listener.accept() as link:
                if link.recv() != "ready":
                    raise SystemExit("sherpa-onnx did not start")
                yield link
                link.send(None)
                process.wait(10)
        finally:
            process.kill()
            process.wait()


@contextmanager
def server(model: Path, look_ahead: int) -> Iterator[str]:
    """Run the rival's own server with int8 weights and fair settings; yields its URL."""
    python, folder, port = environment(), exported(model, look_ahead), free_port()
    _quantize(python, folder)
    files = [f"--{name}={folder / name}.int8.onnx" for name in TRIO]
    program = python.with_name("sherpa-onnx-online-websocket-server")
    settings = ["--num-io-threads=1", "--num-work-threads=1", "--num-threads=1"]
    settings += ["--max-batch-size=32", "--loop-interval-ms=10", "--enable-endpoint=false"]
    command = [str(program), f"--port={port}", f"--tokens={folder / 'tokens.txt'}"]
    process = subprocess.Popen([*command, *settings, *files], stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, cwd=folder)  # fmt: skip
    try:
        _await_port(port)
        yield f"ws://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def _await_port(port: int) -> None:
    for _ in range(600):
        with socket.socket() as attempt:
            if attempt.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise SystemExit("the server of sherpa-onnx did not open its port")


def environment() -> Path:
    """Return the interpreter of the rival's environment, made anew for other packages."""
    folder = BUILD / "sherpa-env"
    python, ready, wanted = folder / "bin" / "python", folder / ".ready", "\n".join(PACKAGES)
    if not ready.exists() or ready.read_text() != wanted:
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", *PACKAGES], check=True)
        ready.write_text(wanted)
    return python


def exported(model: Path, look_ahead: int) -> Path:
    """Return the folder of the ONNX trio and tokens.txt, made when the model is new."""
    folder = BUILD / f"sherpa-{model.stem}-{look_ahead}"
    last = folder / "encoder.onnx"
    if not last.exists() or last.stat().st_mtime < model.stat().st_mtime:
        shutil.rmtree(folder, ignore_errors=True)
        _export(model, folder, look_ahead)
    return folder


def _export(path: Path, folder: Path, look_ahead: int) -> None:
    import onnx
    import torch
    from nemo.collections.asr.models import ASRModel
    from nemo.utils import logging

    logging.setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    model: Any = ASRModel.restore_from(str(path), map_location="cpu").eval()
    encoder = model.encoder
    encoder.set_default_att_context_size([70, look_ahead])
    folder.mkdir(parents=True, exist_ok=True)
    pieces = [*model.joint.vocabulary, "<blk>"]
    lines = "".join(f"{piece} {number}\n" for number, piece in enumerate(pieces))
    (folder / "tokens.txt").write_text(lines, encoding="utf-8")
    model.set_export_config({"cache_support": True})
    with torch.no_grad(), chdir(folder):
        encoder.export("first.onnx")
        model.decoder.export("decoder.onnx")
        model.joint.export("joiner.onnx")
    graph = onnx.load(folder / "first.onnx")
    del graph.metadata_props[:]
    for key, value in _metadata(model).items():
        entry = graph.metadata_props.add()
        entry.key, entry.value = key, str(value)
    onnx.save(graph, folder / "encoder.onnx")  # last: its presence says that all is there
    (folder / "first.onnx").unlink()


def _metadata(model: Any) -> dict[str, object]:
    encoder, streaming = model.encoder, model.encoder.streaming_cfg

    def later(value: Any) -> int:
        return int(value[1] if isinstance(value, list | tuple) else value)

    chunk, before = later(streaming.chunk_size), later(streaming.pre_encode_cache_size)
    features = model.cfg.preprocessor
    return {
        "vocab_size": model.decoder.vocab_size,
        "window_size": chunk + before,
        "chunk_shift": chunk,
        "normalize_type": "" if features.normalize == "NA" else features.normalize,
        "cache_last_channel_dim1": len(encoder.layers),
        "cache_last_channel_dim2": streaming.last_channel_cache_size,
        "cache_last_channel_dim3": encoder.d_model,
        "cache_last_time_dim1": len(encoder.layers),
        "cache_last_time_dim2": encoder.d_model,
        "cache_last_time_dim3": encoder.conv_context_size[0],
        "pred_rnn_layers": model.decoder.pred_rnn_layers,
        "pred_hidden": model.decoder.pred_hidden,
        "subsampling_factor": 8,
        "feat_dim": features.features,
        "model_type": "EncDecRNNTBPEModel",
        "version": "1",
        "model_author": "NeMo",
        "comment": "transducer",
    }


def _quantize(python: Path, folder: Path) -> None:
    if all((folder / f"{name}.int8.onnx").exists() for name in TRIO):
        return
    code = (
        "import sys\n"
        "from onnxruntime.quantization import QuantType, quantize_dynamic\n"
        "for name in sys.argv[1:]:\n"
        "    quantize_dynamic(name + '.onnx', name + '.int8.onnx', weight_type=QuantType.QUInt8)\n"
    )
    subprocess.run([str(python), "-c", code, *TRIO], cwd=folder, check=True)
