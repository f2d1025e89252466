"""Shared fixtures of the engine tests."""

import json

import numpy as np
import pytest
from PIL import Image, ImageDraw

COLORS = {5: (255, 0, 0), 9: (0, 255, 0), 40: (0, 0, 255)}


@pytest.fixture(scope="session")
def custom_data(tmp_path_factory):
    """COCO files with 3 classes, whose ids are 5, 9 and 40; every third image has no objects."""
    root = tmp_path_factory.mktemp("custom")
    for split, count in (("train", 9), ("val", 4)):
        rng = np.random.default_rng(count)
        folder = root / split
        folder.mkdir()
        images, annotations = [], []
        for i in range(count):
            image = Image.new("RGB", (64, 48), (90, 90, 90))
            for category in () if i % 3 == 2 else COLORS:
                x, y = (int(v) for v in rng.integers(0, (40, 24)))
                ImageDraw.Draw(image).rectangle([x, y, x + 19, y + 19], COLORS[category])
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": 100 + i,
                        "category_id": category,
                        "bbox": [x, y, 20, 20],
                    }
                )
            image.save(folder / f"{i}.png")
            images.append({"id": 100 + i, "file_name": f"{i}.png", "width": 64, "height": 48})
        names = {5: "red", 9: "green", 40: "blue"}
        categories = [{"id": i, "name": name} for i, name in names.items()]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / f"{split}.json").write_text(json.dumps(content))
    return root
