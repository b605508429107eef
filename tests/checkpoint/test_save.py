"""Writing: whole or absent, with a proof that notices, and notes on what others can't express."""

import json
import os
import resource
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

import vitkit
from small import NAMES, PREPROCESS, randomise, small_folder, small_model
from vitkit import CheckpointError, ConfigError
from vitkit.checkpoint import proof
from vitkit.checkpoint.read import read


def test_a_folder_in_use_is_kept_unless_overwriting_is_asked_for(tmp_path: Path) -> None:
    folder = small_folder(tmp_path / "m")
    before = (folder / "model.safetensors").read_bytes()
    other = small_model(num_classes=3)
    with pytest.raises(ConfigError, match="exists and isn't empty"):
        vitkit.save(other, folder, preprocess=PREPROCESS)
    assert (folder / "model.safetensors").read_bytes() == before
    vitkit.save(other, folder, preprocess=PREPROCESS, overwrite=True)
    assert read(folder).model.spec.num_classes == 3
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_written_files_have_ordinary_modes(tmp_path: Path) -> None:
    folder = small_folder(tmp_path / "m")
    modes = {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}
    umask = os.umask(0)
    os.umask(umask)
    assert modes == {0o666 & ~umask}


def test_a_model_without_preprocessing_isnt_saved(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"pass preprocess=vitkit.Preprocess"):
        small_model().save_pretrained(tmp_path / "m")
    with pytest.raises(CheckpointError, match="class_names has 2 entries, the model 7 outputs"):
        small_model().save_pretrained(tmp_path / "m", preprocess=PREPROCESS, class_names=["a", "b"])
    with pytest.raises(CheckpointError, match="preprocess gives 3 channels, the model reads 1"):
        small_model(in_channels=1).save_pretrained(tmp_path / "m", preprocess=PREPROCESS)
    assert list(tmp_path.iterdir()) == []


def test_what_timm_would_compute_differently_isnt_offered_to_it(tmp_path: Path) -> None:
    for number, (changes, says) in enumerate(
        (
            ({"norm_eps": 1e-12}, "eps 1e-6, these weights need 1e-12"),
            ({"pre_logits_dim": 8}, "hidden layer"),
            ({"position": "sincos"}, "position is 'sincos'"),
        )
    ):
        notes = vitkit.save(small_model(**changes), tmp_path / str(number), preprocess=PREPROCESS)
        assert len(notes) == 1 and says in notes[0]
        assert not (tmp_path / str(number) / "config.json").exists()
        assert says in (tmp_path / str(number) / "README.md").read_text()


def test_what_transformers_cant_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"ViT can't hold .*position is 'sincos'.*pool is 'mean', it knows 'cls'"):
        vitkit.save(small_model(pool="mean", position="sincos"), tmp_path / "m", preprocess=PREPROCESS, layout="hf")
    assert not (tmp_path / "m").exists()


def test_a_distilled_model_without_heads_is_no_class_of_transformers(tmp_path: Path) -> None:
    small_model(distillation_token=True, num_classes=0).save_pretrained(tmp_path / "m", preprocess=PREPROCESS)
    with pytest.raises(CheckpointError, match="distilled DeiT can't hold .* no class without heads that reads both"):
        vitkit.convert(tmp_path / "m", tmp_path / "hf", to="hf")


def test_the_proof_is_small_and_agrees_where_it_was_made(tmp_path: Path) -> None:
    folder = small_folder(tmp_path / "m")
    assert (folder / proof.FILE).stat().st_size < 200_000
    result = vitkit.verify(folder)
    assert result.agrees
    names = [stage.name for stage in result.stages]
    assert names[0] == "pixels" and names[-1] == "logits"
    assert names.index("patch_embed") < names.index("blocks.0") < names.index("blocks.1") < names.index("norm")


def test_the_proof_of_a_21k_head_stays_small(tmp_path: Path) -> None:
    model = small_model(num_classes=21_843)
    vitkit.save(model, tmp_path / "m", preprocess=PREPROCESS)
    assert (tmp_path / "m" / proof.FILE).stat().st_size < 200_000
    assert vitkit.verify(tmp_path / "m").agrees


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("patch_embed.proj.weight", "patch_embed"),
        ("pos_embed", "pos_drop"),
        ("blocks.0.attn.proj.bias", "blocks.0"),
        ("blocks.1.mlp.fc1.weight", "blocks.1"),
        ("norm.weight", "norm"),
        ("head.bias", "head"),
    ],
)
def test_the_proof_names_the_first_stage_that_departs(tmp_path: Path, name: str, stage: str) -> None:
    folder = small_folder(tmp_path / "m")
    state = load_file(folder / "model.safetensors")
    state[name] = state[name] * 1.1
    save_file(state, folder / "model.safetensors")
    content = json.loads((folder / "vitkit.json").read_text())
    (folder / "vitkit.json").write_text(json.dumps({**content, "sha256": {}}))
    result = vitkit.verify(folder)
    assert not result.agrees and result.departure is not None and result.departure.name == stage


def test_the_proof_notices_other_preprocessing(tmp_path: Path) -> None:
    folder = small_folder(tmp_path / "m")
    content = json.loads((folder / "vitkit.json").read_text())
    for field, value in (("mean", [0.5, 0.4, 0.31]), ("interpolation", "bilinear"), ("crop", "center_floor")):
        preprocess = {**content["card"]["preprocess"], field: value}
        changed = {**content, "sha256": {}, "card": {**content["card"], "preprocess": preprocess}}
        (folder / "vitkit.json").write_text(json.dumps(changed))
        departure = vitkit.verify(folder).departure
        assert departure is not None and departure.name == "pixels", field


def test_the_proof_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    model = randomise(small_model(dropout=0.3)).train()
    model.blocks[0].eval()  # type: ignore[union-attr, operator]
    vitkit.save(model, tmp_path / "m", preprocess=PREPROCESS)
    assert model.training and not model.blocks[0].training and model.blocks[1].training  # type: ignore[union-attr]
    assert not any(part._forward_hooks for part in model.modules())
    assert vitkit.verify(tmp_path / "m").agrees


def test_nan_never_agrees() -> None:
    assert not proof.Stage("x", float("nan"), 1.0).agrees


def test_a_folder_without_proof_says_so(tmp_path: Path) -> None:
    folder = small_folder(tmp_path / "m")
    vitkit.convert(folder, tmp_path / "hf", to="hf")
    with pytest.raises(CheckpointError, match="carries no proof; vitkit convert writes one"):
        vitkit.verify(tmp_path / "hf")
    with pytest.raises(CheckpointError, match="a bare weight file carries no proof"):
        vitkit.verify(folder / "model.safetensors")


SAVE = """
import sys
sys.path.insert(0, {tests!r})
from small import PREPROCESS, small_model
import vitkit
try:
    vitkit.save(small_model(embed_dim=256, num_heads=4, mlp_dim=1024), {folder!r}, preprocess=PREPROCESS)
except vitkit.CheckpointError as error:
    print(error)
    sys.exit(2)
"""


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    """A real one, as far as the kernel tells: files may not grow past 1 MB, the weights need 6 MB."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    code = SAVE.format(tests=str(Path(__file__).parents[1]), folder=str(tmp_path / "m"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, preexec_fn=limit, check=False)
    assert done.returncode == 2, done.stderr
    assert "can't be written (the disk is full); nothing was left behind" in done.stdout
    assert done.stdout.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_class_names_and_card_survive(tmp_path: Path) -> None:
    folder = small_folder(tmp_path / "m")
    vit = vitkit.load(folder)
    assert vit.class_names == NAMES
    config = json.loads((folder / "config.json").read_text())
    assert config["num_classes"] == 7 and "num_classes" not in config["model_args"]
    assert config["label_names"] == list(NAMES)
