"""One model in every form gives one checkpoint; what cannot stream exactly is refused and why."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from asr.calibration import Calibration
from asr.checkpoint import (
    DEFAULT_MODEL,
    ModelSpec,
    UnreadableCheckpoint,
    UnsupportedModel,
    bytes_per_stream,
    calibration_of,
    inspect,
    load_checkpoint,
)
from asr.checkpoint.config import Config
from asr.checkpoint.hub import locate

Write = Callable[..., Path]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_nemo_file_gives_spec_tensors_and_pieces(
    write_nemo: Write, spec: ModelSpec, weights: dict[str, Tensor], mode: str
) -> None:
    checkpoint = load_checkpoint(write_nemo(mode=mode))
    assert checkpoint.name == "tiny"
    assert checkpoint.spec == spec
    assert checkpoint.tensors.keys() == weights.keys()
    assert all(torch.equal(checkpoint.tensors[name], weights[name]) for name in weights)
    assert len(checkpoint.tokenizer.pieces) == 40
    assert checkpoint.tokenizer.pieces[0] == "<unk>"


@pytest.mark.parametrize("shards", [1, 3])
def test_a_folder_is_the_same_model_as_the_nemo_file(
    write_nemo: Write, write_folder: Write, shards: int
) -> None:
    archive, folder = load_checkpoint(write_nemo()), load_checkpoint(write_folder(shards=shards))
    assert folder.spec == archive.spec
    assert folder.fingerprint == archive.fingerprint
    assert folder.tokenizer == archive.tokenizer


def test_a_folder_with_one_nemo_file_in_it_is_that_file(write_nemo: Write) -> None:
    path = write_nemo()
    assert load_checkpoint(path.parent).fingerprint == load_checkpoint(path).fingerprint


def test_the_fingerprint_follows_the_weights_and_the_spec(
    write_nemo: Write, weights: dict[str, Tensor]
) -> None:
    before = load_checkpoint(write_nemo()).fingerprint
    assert load_checkpoint(write_nemo()).fingerprint == before
    assert load_checkpoint(write_nemo({"encoder.xscaling": False})).fingerprint != before
    weights["encoder.layers.1.norm_out.bias"][-1] += 1
    assert load_checkpoint(write_nemo()).fingerprint != before


def test_the_joints_output_is_found_wherever_dropout_puts_it(
    write_nemo: Write, weights: dict[str, Tensor]
) -> None:
    before = load_checkpoint(write_nemo())
    for part in ("weight", "bias"):
        weights[f"joint.joint_net.1.{part}"] = weights.pop(f"joint.joint_net.2.{part}")
    assert load_checkpoint(write_nemo()).fingerprint == before.fingerprint


def test_layers_without_biases_load(write_nemo: Write, weights: dict[str, Tensor]) -> None:
    gone = [name for name in weights if "linear_" in name and name.endswith(".bias")]
    for name in gone:
        del weights[name]
    assert gone and not set(gone) & set(load_checkpoint(write_nemo()).tensors)


def test_a_missing_front_end_is_computed(write_nemo: Write, weights: dict[str, Tensor]) -> None:
    del weights["preprocessor.featurizer.fb"], weights["preprocessor.featurizer.window"]
    tensors = load_checkpoint(write_nemo()).tensors
    assert tensors["preprocessor.featurizer.fb"].shape == (1, 80, 257)
    assert float(tensors["preprocessor.featurizer.window"][0]) == 0.0


@pytest.mark.parametrize(
    "name",
    ["joint.enc.bias", "encoder.layers.1.norm_out.weight", "ctc_decoder.decoder_layers.0.bias"],
)
def test_a_missing_tensor_is_named(
    write_nemo: Write, weights: dict[str, Tensor], name: str
) -> None:
    del weights[name]
    with pytest.raises(UnreadableCheckpoint, match=name):
        load_checkpoint(write_nemo())


def test_what_was_measured_of_a_nemo_file_lies_beside_it(write_nemo: Write) -> None:
    path = write_nemo()
    assert load_checkpoint(path).calibration == Calibration()
    for source in (path, path.parent):  # a folder with one .nemo is that file
        assert calibration_of(source) == path.with_suffix(".calibration.json")
    calibration_of(path).write_text('{"late_ms": 40}')
    assert load_checkpoint(path).calibration.late_ms == 40
    assert load_checkpoint(path.parent).calibration.late_ms == 40


@pytest.mark.parametrize(
    ("file", "why"),
    [("best.pt", "run: `rivulet models export`"), ("notes.txt", "neither a config")],
)
def test_a_folder_that_is_no_model_says_what_it_is(tmp_path: Path, file: str, why: str) -> None:
    (tmp_path / file).touch()
    with pytest.raises(UnreadableCheckpoint, match=why):
        load_checkpoint(tmp_path)


def test_a_misshaped_tensor_is_named(write_nemo: Write, weights: dict[str, Tensor]) -> None:
    weights["encoder.layers.0.feed_forward1.linear2.weight"] = torch.zeros(16, 23)
    with pytest.raises(UnreadableCheckpoint, match="fit together"):
        load_checkpoint(write_nemo())
    weights["joint.enc.weight"] = torch.zeros(20, 17)
    with pytest.raises(UnreadableCheckpoint, match="20x17, not 20x16"):
        load_checkpoint(write_nemo())


def test_a_view_that_costs_no_bytes_on_disk_is_refused(
    write_nemo: Write, weights: dict[str, Tensor]
) -> None:
    weights["joint.enc.weight"] = torch.zeros(1).expand(20, 16)
    with pytest.raises(UnreadableCheckpoint, match="contiguously"):
        load_checkpoint(write_nemo())


@pytest.mark.parametrize(
    "name",
    [
        "encoder.layers.0.adapter_layer.mine.module.0.weight",
        "decoder.adapter_layer.mine.module.0.weight",
        "joint.timing.weight",
    ],
)
def test_a_tensor_that_changes_the_words_and_is_not_known_is_refused(
    write_nemo: Write, weights: dict[str, Tensor], name: str
) -> None:
    weights["loss.weight"] = weights["preprocessor.other"] = torch.zeros(4)
    load_checkpoint(write_nemo())
    weights[name] = torch.zeros(4)
    with pytest.raises(UnsupportedModel, match=name):
        load_checkpoint(write_nemo())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers_are_refused(
    write_nemo: Write, weights: dict[str, Tensor], number: float, dtype: torch.dtype
) -> None:
    weights["joint.enc.weight"] = weights["joint.enc.weight"].to(dtype)
    load_checkpoint(write_nemo())
    weights["joint.enc.weight"][3, 5] = number
    with pytest.raises(UnreadableCheckpoint, match=r"joint.enc.weight holds .* not finite"):
        load_checkpoint(write_nemo())


def test_a_layer_of_no_width_is_refused(write_nemo: Write, weights: dict[str, Tensor]) -> None:
    block = "encoder.layers.0.feed_forward1"
    weights[f"{block}.linear1.weight"] = torch.zeros(0, 16)
    weights[f"{block}.linear2.weight"] = torch.zeros(16, 0)
    with pytest.raises(UnreadableCheckpoint, match=r"0x16, not \?x16"):
        load_checkpoint(write_nemo())


def test_as_many_channels_as_the_model_is_wide_may_be_written_as_minus_one(
    write_nemo: Write, weights: dict[str, Tensor]
) -> None:
    wide = {"encoder.d_model": 8, "encoder.subsampling_conv_channels": 8}
    with pytest.raises(UnreadableCheckpoint, match="shape") as known:
        load_checkpoint(write_nemo(wide))
    with pytest.raises(UnreadableCheckpoint, match="shape") as same:
        load_checkpoint(write_nemo(wide | {"encoder.subsampling_conv_channels": -1}))
    assert str(same.value) == str(known.value)


def test_features_that_are_not_normalised_may_be_written_as_null(
    write_nemo: Write, config: dict[str, Any]
) -> None:
    assert (
        load_checkpoint(
            write_nemo({"preprocessor": config["preprocessor"] | {"normalize": None}})
        ).spec.mel_bins
        == 80
    )


@pytest.mark.parametrize(
    "path",
    ["preprocessor.preemph", "preprocessor.log", "encoder.untie_biases", "encoder.xscaling"],
)
def test_what_nemo_leaves_out_by_null_is_refused(
    write_nemo: Write, config: dict[str, Any], path: str
) -> None:
    part, key = path.split(".")
    with pytest.raises(UnsupportedModel, match=f"{path} is null"):
        load_checkpoint(write_nemo({part: config[part] | {key: None}}))


def test_whole_numbers_for_weights_are_refused(
    write_nemo: Write, weights: dict[str, Tensor]
) -> None:
    weights["joint.enc.weight"] = torch.zeros(20, 16, dtype=torch.int64)
    with pytest.raises(UnreadableCheckpoint, match="floats"):
        load_checkpoint(write_nemo())


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("target", "nemo.x.EncDecMultiTaskModel", "EncDecMultiTaskModel"),
        ("encoder.att_context_size", [-1, -1], "whole utterance"),
        ("encoder.att_context_size", None, "whole utterance"),
        ("encoder.att_context_size", [[70, -1]], "whole utterance"),
        ("encoder.att_context_size", [[70, 2], [70, 3]], "no look-ahead streams exactly"),
        ("encoder.att_context_size", [["a", 1]], "not a list"),
        ("encoder.att_context_style", "regular", "att_context_style"),
        ("encoder.att_context_style", None, "att_context_style"),
        ("encoder.causal_downsampling", False, "causal_downsampling"),
        ("encoder.conv_context_size", None, "look ahead"),
        ("encoder.conv_context_size", [4, 4], "look ahead"),
        ("encoder.conv_norm_type", "batch_norm", "conv_norm_type"),
        ("encoder.subsampling_factor", 4, "subsampling_factor"),
        ("encoder.self_attention_model", "abs_pos", "self_attention_model"),
        ("preprocessor.normalize", "per_feature", "per_feature"),
        ("preprocessor.normalize", None, "per_feature"),
        ("preprocessor.sample_rate", 8000, "sample_rate"),
        ("preprocessor.window_stride", 0.02, "window_stride"),
        ("preprocessor.exact_pad", True, "exact_pad"),
        ("preprocessor._target_", "nemo.x.AudioToMFCCPreprocessor", "AudioToMFCCPreprocessor"),
        ("encoder._target_", "nemo.x.SqueezeformerEncoder", "SqueezeformerEncoder"),
        ("decoder._target_", "nemo.x.StatelessTransducerDecoder", "StatelessTransducerDecoder"),
        ("joint._target_", "nemo.x.HATJoint", "HATJoint"),
        ("joint.num_extra_outputs", 5, "num_extra_outputs"),
        ("joint.jointnet.activation", "tanh", "activation"),
        ("decoder.blank_as_pad", False, "blank_as_pad"),
        ("tokenizer.type", "wpe", "SentencePiece"),
    ],
)
def test_what_cannot_stream_exactly_is_refused_with_the_reason(
    write_nemo: Write, config: dict[str, Any], path: str, value: object, reason: str
) -> None:
    with pytest.raises(UnsupportedModel, match=reason) as caught:
        load_checkpoint(write_nemo({path: value}))
    assert "\n" not in str(caught.value)


def test_an_offline_model_is_told_what_to_take_in_its_place(write_nemo: Write) -> None:
    offline = {
        "encoder.att_context_size": [-1, -1],
        "encoder.att_context_style": "regular",
        "encoder.conv_context_size": None,
        "encoder.causal_downsampling": False,
        "preprocessor.normalize": "per_feature",
    }
    with pytest.raises(UnsupportedModel, match="take a cache-aware one"):
        load_checkpoint(write_nemo(offline))


def test_look_aheads_whose_chunk_does_not_divide_the_left_context_are_dropped(
    write_nemo: Write,
) -> None:
    contexts = [[70, 6], [70, 3], [70, 0], [69, 2]]
    spec = load_checkpoint(write_nemo({"encoder.att_context_size": contexts})).spec
    assert spec.look_aheads == (6, 0)
    assert spec.dropped_look_aheads == (3, 2)


def test_a_single_attention_context_is_one_look_ahead(write_nemo: Write) -> None:
    spec = load_checkpoint(write_nemo({"encoder.att_context_size": [70, 1]})).spec
    assert spec.look_aheads == (1,) and spec.left_context == 70


def test_a_pure_ctc_model_loads_from_its_own_names(
    write_nemo: Write, weights: dict[str, Tensor], spec: ModelSpec
) -> None:
    for part in ("weight", "bias"):
        head = weights.pop(f"ctc_decoder.decoder_layers.0.{part}")
        weights[f"decoder.decoder_layers.0.{part}"] = head
    for name in [name for name in weights if name.startswith(("joint.", "decoder.prediction."))]:
        del weights[name]
    loaded = load_checkpoint(write_nemo({"target": "x.EncDecCTCModelBPE"})).spec
    assert (loaded.has_rnnt, loaded.has_ctc) == (False, True)
    assert (loaded.pred_hidden, loaded.pred_layers, loaded.joint_hidden) == (0, 0, 0)


def test_a_prompted_model_carries_its_dictionary(
    write_nemo: Write, weights: dict[str, Tensor]
) -> None:
    for name, shape in (("0", (32, 24)), ("2", (16, 32))):
        weights[f"prompt_kernel.{name}.weight"] = torch.zeros(shape)
        weights[f"prompt_kernel.{name}.bias"] = torch.zeros(shape[0])
    prompted = {
        "model_defaults.initialize_prompt_feature": True,
        "model_defaults.num_prompts": 8,
        "model_defaults.prompt_dictionary": {"en-US": 0, "auto": 7},
    }
    loaded = load_checkpoint(write_nemo(prompted))
    assert loaded.spec.prompts == {"en-US": 0, "auto": 7} and loaded.spec.num_prompts == 8
    assert loaded.languages == ("auto", "en-US")
    with pytest.raises(UnsupportedModel, match="outside"):
        load_checkpoint(write_nemo(prompted | {"model_defaults.prompt_dictionary": {"x": 8}}))


def test_a_tokenizer_of_another_size_is_refused(
    write_nemo: Write, weights: dict[str, Tensor], spec: ModelSpec
) -> None:
    weights["joint.joint_net.2.weight"] = torch.zeros(40, 20)
    with pytest.raises(UnreadableCheckpoint, match="40 pieces, the model 39"):
        load_checkpoint(write_nemo())


def test_shards_outside_the_folder_are_refused(write_folder: Write) -> None:
    folder = write_folder(shards=2)
    index = folder / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("model-0", "../model-0"))
    with pytest.raises(UnreadableCheckpoint, match="plain file names"):
        load_checkpoint(folder)


def test_a_hub_name_is_found_in_the_hub_cache(
    write_nemo: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    path = write_nemo()
    repository = tmp_path / "home" / "hub" / "models--nvidia--tiny"
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    (snapshot / "tiny.nemo").symlink_to(path)
    (snapshot / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n")
    checkpoint = load_checkpoint("nvidia/tiny")
    assert checkpoint.name == "nvidia/tiny"
    assert checkpoint.licence == "cc-by-4.0"


def test_inspect_sums_the_model_up_in_plain_values(write_nemo: Write) -> None:
    summary = inspect(write_nemo())
    assert summary["decoders"] == ["rnnt", "ctc"]
    assert summary["look_aheads"] == [13, 6, 1, 0]
    assert summary["stored_as"] == "float32"
    assert summary["bytes_per_stream"]["bf16"] < summary["bytes_per_stream"]["fp32"]


def test_bytes_per_stream_of_the_published_hybrid_is_what_was_measured(spec: ModelSpec) -> None:
    hybrid = replace(
        spec,
        d_model=512,
        layers=17,
        heads=8,
        subsampling_channels=256,
        pred_hidden=640,
        joint_hidden=640,
    )
    # K/V 4.87 MB, conv 0.28, subsampling 0.06, LSTM 0.008 (nemo-streaming.md section 3).
    assert bytes_per_stream(hybrid) == pytest.approx(5.22e6, rel=0.01)


def test_reading_a_nemo_file_imports_no_nemo(write_nemo: Write) -> None:
    code = (
        "import sys; from asr.checkpoint import load_checkpoint; load_checkpoint(sys.argv[1]);"
        "assert not {'nemo', 'transformers', 'librosa'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(write_nemo())], check=True)


def test_a_config_in_json_needs_no_yaml_reader(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)  # a machine with a GPU may have none
    embedded = locate(DEFAULT_MODEL) / "model_config.yaml"
    assert Config.parse(embedded.read_bytes()).count("encoder.d_model") > 1
