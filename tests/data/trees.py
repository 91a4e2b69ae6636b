"""Public data sets as they are downloaded, made small."""

import gzip

import numpy as np
from PIL import Image

# layout: files of a small data set
TREES = {
    "fives": [
        *[f"train/{part}/{n}.png" for part in ("Original", "Ground truth") for n in ("1_A", "2_D", "10_G")],
        *[f"test/{part}/{n}.png" for part in ("Original", "Ground truth") for n in ("1_A", "3_N")],
    ],
    "drive": [
        *["training/images/21_training.tif", "training/images/22_training.tif"],
        *["training/1st_manual/21_manual1.gif", "training/1st_manual/22_manual1.gif"],
        *["training/mask/21_training_mask.gif", "training/mask/22_training_mask.gif"],
        *["test/images/01_test.tif", "test/1st_manual/01_manual1.gif", "test/mask/01_test_mask.gif"],
        "test/2nd_manual/01_manual2.gif",
    ],
    "chase_db1": [f"Image_{n}{rest}" for n in ("01L", "01R", "02L") for rest in (".jpg", "_1stHO.png", "_2ndHO.png")],
    "stare": [
        *["stare-images/im0001.ppm.gz", "stare-images/im0139.ppm.gz"],
        *["labels-ah/im0001.ah.ppm.gz", "labels-ah/im0139.ah.ppm.gz", "labels-vk/im0001.vk.ppm.gz"],
    ],
    "hrf": [
        *[f"images/{n}.JPG" for n in ("01_dr", "01_g", "01_h")],
        *[f"manual1/{n}.tif" for n in ("01_dr", "01_g", "01_h")],
        *[f"mask/{n}_mask.tif" for n in ("01_dr", "01_g", "01_h")],
    ],
    "octa500_3m": [
        *[f"OCTA_3mm/Projection Maps/{m}/{n}.bmp" for m in ("OCTA(ILM_OPL)", "OCT(FULL)") for n in (10301, 10451)],
        *[f"Label/GT_LargeVessel/{n}.bmp" for n in (10001, 10301, 10451)],
        *[f"Label/GT_Capillary/{n}.bmp" for n in (10001, 10301, 10451)],
    ],
    "octa500_6m": [
        f"OCTA_6M/{part}/{n}.bmp"
        for part in ("Projection Maps/OCTA(ILM_OPL)", "Projection Maps/OCTA(FULL)", "GroundTruth")
        for n in (10001, 10200, 10201)
    ],
    "rose1": [
        f"{layer}/{split}/{part}/{n}.tif"
        for layer in ("SVC", "DVC")
        for split, numbers in (("train", ("01", "02")), ("test", ("01",)))
        for part in ("img", "gt", "thick_gt")
        for n in numbers
    ],
    "rose2": [
        f"{split}/{part}/{n}_SVP.png"
        for split, numbers in (("train", ("1_OD", "1_OS")), ("test", ("11_OD",)))
        for part in ("original", "gt")
        for n in numbers
    ],
    "rossa": [
        f"{split}/{part}/{n}.png"
        for split, numbers in (("train_manual", (1, 2)), ("train_sam", (101,)), ("val", (301,)), ("test", (201,)))
        for part in ("image", "label")
        for n in numbers
    ],
    "plain": [f"{part}/eye {n}.png" for part in ("images", "labels") for n in "abc"],
}
# ids expected from the root, from the root with split="test", and the folder of each first item's mask
EXPECTED = {
    "fives": (["FIVES-train-10_G", "FIVES-train-1_A", "FIVES-train-2_D"], 2, "train/Ground truth/10_G.png"),
    "drive": (["DRIVE-train-21", "DRIVE-train-22"], 1, "training/1st_manual/21_manual1.gif"),
    "chase_db1": ([f"CHASE_DB1-Image_{n}" for n in ("01L", "01R", "02L")], None, "Image_01L_1stHO.png"),
    "stare": (["STARE-im0001", "STARE-im0139"], None, "labels-ah/im0001.ah.ppm.gz"),
    "hrf": (["HRF-01_dr", "HRF-01_g", "HRF-01_h"], None, "manual1/01_dr.tif"),
    "octa500_3m": (["OCTA-500_3M-10301"], 1, "Label/GT_LargeVessel/10301.bmp"),
    "octa500_6m": (["OCTA-500_6M-10001", "OCTA-500_6M-10200"], 1, "OCTA_6M/GroundTruth/10001.bmp"),
    "rose1": (["ROSE-1-train-01", "ROSE-1-train-02"], 1, "SVC/train/gt/01.tif"),
    "rose2": (["ROSE-2-train-1_OD_SVP", "ROSE-2-train-1_OS_SVP"], 1, "train/gt/1_OD_SVP.png"),
    "rossa": (["ROSSA-train-1", "ROSSA-train-2"], 1, "train_manual/label/1.png"),
    "plain": (["clinic-eye_a", "clinic-eye_b", "clinic-eye_c"], None, "labels/eye a.png"),
}


def make(root, files, size=(8, 12)):
    for name in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(np.arange(size[0] * size[1], dtype=np.uint8).reshape(size))
        picture.save(path.with_suffix("") if path.suffix == ".gz" else path)
        if path.suffix == ".gz":
            path.write_bytes(gzip.compress(path.with_suffix("").read_bytes()))
            path.with_suffix("").unlink()
    return root


def ids(items):
    return [item["id"] for item in items]
