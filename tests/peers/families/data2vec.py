"""data2vec's vision models, which are BEiT's under other names."""

from pathlib import Path

from peers.families.beit import OTHER, SIZES, answer, back_model, back_transformers, model_answer
from peers.families.row import Foreign, Row, transformers_folder


def write_transformers(folder: Path) -> Foreign:
    import transformers

    config = transformers.Data2VecVisionConfig(use_relative_position_bias=True, num_labels=11, **SIZES)
    return Foreign(transformers_folder(folder, transformers.Data2VecVisionForImageClassification(config)), answer)


def write_pretrained(folder: Path) -> Foreign:
    import transformers

    config = transformers.Data2VecVisionConfig(use_shared_relative_position_bias=True, use_mean_pooling=False, **SIZES)
    return Foreign(transformers_folder(folder, transformers.Data2VecVisionModel(config)), model_answer)


ROWS = [
    Row("data2vec", "transformers", write_transformers, back_transformers, "hf", sizes=OTHER, gradients=True),
    Row("data2vec, pre-trained", "transformers", write_pretrained, back_model, "hf", sizes=OTHER),
]
