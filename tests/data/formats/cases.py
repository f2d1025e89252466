"""Write small data sets in each annotation format."""

import json

import numpy
from PIL import Image

BOXES = {"cat": (10, 20, 30, 15), "dog": (0, 0, 64, 48)}
"""x, y, width, height in images of 64 x 48."""


def make_image(path, size=(64, 48), seed=0):
    """Write an image of large random blocks, which JPEG compression preserves."""
    path.parent.mkdir(parents=True, exist_ok=True)
    blocks = numpy.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=numpy.uint8)
    image = Image.fromarray(blocks).resize(size, Image.Resampling.BICUBIC)
    image.save(path, "PNG" if path.suffix.lower() == ".png" else "JPEG")
    return path


def set_orientation(path, orientation):
    """Write an EXIF orientation into an image file: 3 rotates by 180 degrees, 6 by 90."""
    with Image.open(path) as image:
        exif = image.getexif()
        exif[0x0112] = orientation
        image.save(path, exif=exif)


def voc_text(boxes, size=(64, 48), name="x.jpg", extra=""):
    """Return the VOC XML of boxes (class, x, y, width, height); VOC counts pixels from 1."""
    objects = "".join(
        f"<object><name>{label}</name>{extra}<bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin>"
        f"<xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>"
        for label, x, y, w, h in boxes
    )
    size_tag = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>" if size else ""
    return f"<annotation><filename>{name}</filename>{size_tag}{objects}</annotation>"


def write_text(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def voc_set(root, lists=("train", "val"), per_split=2):
    """Write images 0, 1, ... with a cat and a dog each, listed by split."""
    for number, split in enumerate(lists):
        stems = [str(number * per_split + i) for i in range(per_split)]
        write_text(root / "ImageSets" / "Main" / f"{split}.txt", "\n".join(stems) + "\n")
        for stem in stems:
            make_image(root / "JPEGImages" / f"{stem}.jpg", seed=int(stem))
            boxes = [(name, *box) for name, box in BOXES.items()]
            write_text(root / "Annotations" / f"{stem}.xml", voc_text(boxes, name=f"{stem}.jpg"))
    return root


def yolo_line(index, box, size=(64, 48)):
    x, y, w, h = box
    values = (x + w / 2) / size[0], (y + h / 2) / size[1], w / size[0], h / size[1]
    return " ".join([str(index), *map(str, values)]) + "\n"


def yolo_set(root, description="train: images/train\nval: images/val\nnames: [cat, dog]\n"):
    for split in ("train", "val"):
        for i in range(2):
            make_image(root / "images" / split / f"{split}{i}.jpg", seed=i)
            text = "".join(yolo_line(k, box) for k, box in enumerate(BOXES.values()))
            write_text(root / "labels" / split / f"{split}{i}.txt", text)
    if description:
        write_text(root / "data.yaml", description)
    return root


def via_region(shape, **attributes):
    return {"shape_attributes": shape, "region_attributes": attributes}


def via_polygon(*points):
    xs, ys = zip(*points)
    return {"name": "polygon", "all_points_x": list(xs), "all_points_y": list(ys)}


def via_file(path, regions, name="1.jpg", project=False):
    make_image(path.parent / name)
    content = {f"{name}123": {"filename": name, "size": 123, "regions": regions}}
    write_json(path, {"_via_img_metadata": content, "_via_settings": {}} if project else content)
    return path


def labelme_file(path, shapes, image="1.jpg", name=None, size=(64, 48)):
    make_image(path.parent / image)
    content = {
        "version": "5.2.0",
        "shapes": [
            {"label": label, "points": points, "shape_type": kind, "group_id": group}
            for label, kind, points, group in shapes
        ],
        "imagePath": name or image,
        "imageData": None,
        "imageWidth": size[0],
        "imageHeight": size[1],
    }
    write_json(path, content)
    return path


def coco_content(names, boxes=None, size=(64, 48)):
    """Return a COCO JSON with a cat and a dog in each image."""
    boxes = BOXES if boxes is None else boxes
    annotations = [
        {
            "id": i * len(boxes) + k,
            "image_id": i,
            "category_id": 7 + 2 * k,
            "bbox": list(box),
            "area": box[2] * box[3],
            "iscrowd": 0,
        }
        for i in range(len(names))
        for k, box in enumerate(boxes.values())
    ]
    return {
        "images": [
            {"id": i, "file_name": name, "width": size[0], "height": size[1]}
            for i, name in enumerate(names)
        ],
        "annotations": annotations,
        "categories": [{"id": 7 + 2 * k, "name": name} for k, name in enumerate(boxes)],
    }


def coco_set(root, splits=("train", "valid"), per_split=2, file="_annotations.coco.json"):
    """Write a JSON next to the images of each split, as Roboflow exports it."""
    for number, split in enumerate(splits):
        names = [f"{split}{i}.jpg" for i in range(per_split)]
        for i, name in enumerate(names):
            make_image(root / split / name, seed=number * per_split + i)
        write_json(root / split / file, coco_content(names))
    return root


def write_json(path, content):
    write_text(path, json.dumps(content))


def objects_of(content):
    """Return the (image, class, box) of a COCO JSON, sorted."""
    images = {image["id"]: image["file_name"].rsplit("/", 1)[-1] for image in content["images"]}
    names = {category["id"]: category["name"] for category in content["categories"]}
    return sorted(
        (images[a["image_id"]], names[a["category_id"]], tuple(a["bbox"]))
        for a in content["annotations"]
    )


def expected_objects(*images):
    return sorted((image, name, box) for image in images for name, box in BOXES.items())
