"""One training run of vitkit, of timm or of transformers, on the same pictures: what train_speed.py compares.

Each imports its own library only when it runs, so that a process holds no other.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import peers  # noqa: F401  # isort: skip  # first: it lets timm and transformers import
import torch
import torch._dynamo  # torch's optimisers import it when they are made: a second or two that aren't training
from PIL import Image
from torch import nn

from vitkit.checkpoint.presets import PRESETS
from vitkit.model.spec import VitSpec
from vitkit.training.starts import small_spec

LR, WEIGHT_DECAY, WARMUP, FINAL_LR = 1e-3, 0.05, 0.1, 0.01
SMOOTHING, CLIP_NORM, EMA_DECAY = 0.1, 1.0, 0.998
CROP_SCALE, FLIP = (0.25, 1.0), 0.5
MEAN = STD = (0.5, 0.5, 0.5)
PRESET = PRESETS["vit_tiny_patch16_224"]


@dataclass(frozen=True)
class Task:
    """One run, as its process is told."""

    side: str
    workers: int
    model: str
    folder: str
    classes: int
    epochs: int
    batch: int
    threads: int
    dtype: str

    @property
    def autocast(self) -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16, enabled=self.dtype == "bfloat16")

    @property
    def spec(self) -> VitSpec:
        if self.model == "small32":
            return small_spec((32, 32), in_channels=3, num_classes=self.classes)
        return dataclasses.replace(PRESET.model.spec, num_classes=self.classes)


class Watch:
    """Seconds of each step and in all, and the memory of the workers."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.workers_bytes = 0
        self._started = self._last = 0.0

    def start(self) -> None:
        """All is imported: the work begins."""
        self._started = self._last = time.perf_counter()

    def total(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._started

    def step(self) -> None:
        """A step ended."""
        now = time.perf_counter()
        self.seconds.append(now - self._last)
        self._last = now

    def epoch(self) -> None:
        """An epoch ended and its checkpoint is written: the next step begins."""
        held = (memory(process.pid, "smaps_rollup", "Private_") for process in active_children())
        self.workers_bytes = max(self.workers_bytes, sum(held))
        self._last = time.perf_counter()


def memory(pid: int | str | None, file: str, prefix: str) -> int:
    """The bytes in the lines of /proc/`pid`/`file` that begin with `prefix`, added up."""
    lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(prefix))


def train_vitkit(task: Task, watch: Watch, output: Path) -> tuple[nn.Module, list[float]]:
    """The path of `vitkit train`: files, store, loader, loop. Returns the model and losses in order."""
    from vitkit.data.augment import Augmentation, AugmentSpec
    from vitkit.data.loader import Loader
    from vitkit.data.samples import Samples
    from vitkit.data.sources.open import open_data
    from vitkit.data.store import make_store
    from vitkit.device import keep_freed_memory, parse_dtype
    from vitkit.model.build import build
    from vitkit.model.spec import ModelSpec
    from vitkit.training.log import read_log
    from vitkit.training.loop import fit
    from vitkit.training.objective import Classification
    from vitkit.training.spec import TrainSpec

    watch.start()
    samples = open_data(task.folder)
    assert isinstance(samples, Samples)
    preprocess = PRESET.preprocess
    if task.model == "small32":
        preprocess = dataclasses.replace(preprocess, size=task.spec.image_size, resize_size=task.spec.image_size)
    store = make_store(samples, preprocess, training=True)
    spec = TrainSpec(
        epochs=task.epochs,
        batch_size=task.batch,
        lr=LR,
        weight_decay=WEIGHT_DECAY,
        warmup=WARMUP,
        final_lr=FINAL_LR,
        clip_norm=CLIP_NORM,
        label_smoothing=SMOOTHING,
        ema_decay=EMA_DECAY,
        augment=AugmentSpec(crop_scale=CROP_SCALE, flip=FLIP),
        save_every_s=float("inf"),
    )
    loader = Loader(
        store,
        samples.labels,
        task.classes,
        preprocess,
        batch_size=task.batch,
        shuffle=True,
        drop_last=True,
        augment=[Augmentation(spec.augment, store.size, preprocess.size)],
    )
    model = build(ModelSpec(arch="vit", spec=task.spec))
    cpu = torch.device("cpu")
    keep_freed_memory()
    fit(
        model,
        Classification(label_smoothing=SMOOTHING),
        loader,
        None,
        spec,
        output,
        device=cpu,
        dtype=parse_dtype(task.dtype),
    )
    rows = [row for row in read_log(output / "log.jsonl") if row["kind"] == "step"]
    watch.seconds = [row["seconds"] for row in rows]  # the loop's own clock: without checkpoints
    return model, [row["loss"] for row in rows]


def train_timm(task: Task, watch: Watch, output: Path) -> tuple[nn.Module, list[float]]:
    """What timm's train.py does with its parts, under the switches that are fastest on a CPU."""
    from timm.data import create_dataset, create_loader
    from timm.loss import LabelSmoothingCrossEntropy
    from timm.models.vision_transformer import VisionTransformer
    from timm.optim import create_optimizer_v2
    from timm.scheduler import create_scheduler_v2
    from timm.task import ClassificationTask
    from timm.utils import AverageMeter, CheckpointSaver, dispatch_clip_grad

    watch.start()
    spec = task.spec
    loader = create_loader(
        create_dataset("", root=task.folder, is_training=True),
        input_size=(3, *spec.image_size),
        batch_size=task.batch,
        is_training=True,
        scale=CROP_SCALE,
        hflip=FLIP,
        color_jitter=None,
        interpolation="bilinear",
        mean=MEAN,
        std=STD,
        num_workers=task.workers,
        persistent_workers=task.workers > 0,
        use_multi_epochs_loader=task.workers > 0,
        device=torch.device("cpu"),
    )
    model = VisionTransformer(
        img_size=spec.image_size,
        patch_size=spec.patch_size,
        embed_dim=spec.embed_dim,
        depth=spec.depth,
        num_heads=spec.num_heads,
        mlp_ratio=spec.mlp_dim / spec.embed_dim,
        class_token=spec.class_token,
        global_pool="token" if spec.class_token else "avg",
        num_classes=task.classes,
    )
    step = ClassificationTask(model, LabelSmoothingCrossEntropy(SMOOTHING), device=torch.device("cpu"))
    optimizer = create_optimizer_v2(model, "adamw", lr=LR, weight_decay=WEIGHT_DECAY, fused=True)
    step.setup_ema(decay=EMA_DECAY)
    saver = CheckpointSaver(
        model, optimizer, checkpoint_dir=str(output), recovery_dir=str(output), decreasing=True, task=step
    )
    scheduler, epochs = create_scheduler_v2(
        optimizer,
        num_epochs=task.epochs,
        warmup_epochs=WARMUP * task.epochs,
        min_lr=FINAL_LR * LR,
        step_on_epochs=False,
        updates_per_epoch=len(loader),
    )
    losses: list[float] = []
    for epoch in range(epochs):
        model.train()
        meter = AverageMeter()
        optimizer.zero_grad()
        for pixels, labels in loader:
            with task.autocast:
                loss = step(pixels, labels)["loss"]
            loss.backward()
            dispatch_clip_grad(step.get_clip_parameters(), value=CLIP_NORM)
            optimizer.step()
            losses.append(loss.item())
            meter.update(losses[-1], len(pixels))
            optimizer.zero_grad()
            step.update_ema(step=len(losses))
            scheduler.step_update(num_updates=len(losses), metric=meter.avg)
            watch.step()
        saver.save_checkpoint(epoch, metric=meter.avg)
        scheduler.step(epoch + 1, meter.avg)
        watch.epoch()
    return model, losses


def train_transformers(task: Task, watch: Watch, output: Path) -> tuple[nn.Module, list[float]]:
    """Trainer over a data set of files, which are transformed as in its example of image classification."""
    from torchvision import transforms
    from transformers import Trainer, TrainerCallback, TrainingArguments, ViTConfig, ViTForImageClassification

    watch.start()
    spec = task.spec
    steps = [
        transforms.RandomResizedCrop(spec.image_size, scale=CROP_SCALE),  # bilinear
        transforms.RandomHorizontalFlip(FLIP),
        transforms.ToTensor(),
        transforms.Normalize(MEAN, STD),
    ]
    transform = transforms.Compose(steps)
    folders = sorted(Path(task.folder).iterdir())
    files = [(path, label) for label, folder in enumerate(folders) for path in sorted(folder.iterdir())]

    class Files(torch.utils.data.Dataset[dict[str, Any]]):
        def __len__(self) -> int:
            return len(files)

        def __getitem__(self, index: int) -> dict[str, Any]:
            path, label = files[index]
            with Image.open(path) as picture:
                return {"pixel_values": transform(picture.convert("RGB")), "labels": label}

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            watch.step()

        def on_save(self, *args: Any, **kwargs: Any) -> None:
            watch.epoch()

    config = ViTConfig(
        image_size=spec.image_size[0],
        patch_size=spec.patch_size,
        hidden_size=spec.embed_dim,
        num_hidden_layers=spec.depth,
        num_attention_heads=spec.num_heads,
        intermediate_size=spec.mlp_dim,
        layer_norm_eps=spec.norm_eps,
        num_labels=task.classes,
    )
    arguments = TrainingArguments(
        output_dir=str(output),
        num_train_epochs=task.epochs,
        per_device_train_batch_size=task.batch,
        learning_rate=LR,
        weight_decay=WEIGHT_DECAY,
        lr_scheduler_type="cosine",
        warmup_steps=WARMUP,  # below 1: of all steps
        label_smoothing_factor=SMOOTHING,
        max_grad_norm=CLIP_NORM,
        optim="adamw_torch_fused",
        dataloader_num_workers=task.workers,
        dataloader_persistent_workers=task.workers > 0,
        dataloader_drop_last=True,
        dataloader_pin_memory=False,
        logging_strategy="epoch",
        save_strategy="epoch",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        bf16=task.dtype == "bfloat16",
    )
    model = ViTForImageClassification(config)
    trainer = Trainer(model, arguments, train_dataset=Files(), callbacks=[Clock()])
    trainer.train()
    return model, [row["loss"] for row in trainer.state.log_history if "loss" in row]


SIDES: Mapping[str, Callable[[Task, Watch, Path], tuple[nn.Module, list[float]]]] = {
    "vitkit": train_vitkit,
    "timm": train_timm,
    "transformers": train_transformers,
}
