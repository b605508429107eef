"""One file per family: rows of what is checked against foreign code (see row.py)."""

from peers.families import beit, clip, data2vec, deit, dino, dinov3, google, hybrid, mae, resnet, swin, torchvision, vit
from peers.families.row import Row

ROWS: list[Row] = [
    *vit.ROWS,
    *deit.ROWS,
    *google.ROWS,
    *hybrid.ROWS,
    *torchvision.ROWS,
    *beit.ROWS,
    *data2vec.ROWS,
    *clip.ROWS,
    *dino.ROWS,
    *dinov3.ROWS,
    *mae.ROWS,
    *swin.ROWS,
    *resnet.ROWS,
]
