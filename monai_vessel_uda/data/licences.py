"""What is known about the licences of the data sets whose layout is recognised, and of folders that state one."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

SITE = "terms of the data set's site"


@dataclass(frozen=True)
class DataLicence:
    """Citation and licence of a public data set, as known when this was written."""

    citation: str
    licence: str


DATA_LICENCES = {
    "FIVES": DataLicence("Jin et al., Scientific Data 9:475, 2022", "CC BY 4.0"),
    "DRIVE": DataLicence("Staal et al., IEEE Trans. Medical Imaging 23(4), 2004", SITE),
    "CHASE_DB1": DataLicence("Fraz et al., IEEE Trans. Biomedical Engineering 59(9), 2012", "CC BY 4.0"),
    "STARE": DataLicence("Hoover et al., IEEE Trans. Medical Imaging 19(3), 2000", SITE),
    "HRF": DataLicence("Budai et al., Int. J. Biomedical Imaging 2013:154860", "CC BY 4.0"),
    "OCTA-500": DataLicence("Li et al., Medical Image Analysis 93, 2024", SITE),
    "ROSE": DataLicence("Ma et al., IEEE Trans. Medical Imaging 40(3), 2021", SITE),
    "ROSSA": DataLicence("Ning et al., ICASSP 2024", "MIT"),
}


def known_licence(dataset: str) -> DataLicence | None:
    """Licence of a recognised data set; variants ("OCTA-500_3M", "ROSE-1") count as their family.

    Example:
        >>> known_licence("ROSE-2").licence
        "terms of the data set's site"
        >>> known_licence("rose_hospital") is None
        True
    """
    for family, licence in DATA_LICENCES.items():
        if re.fullmatch(rf"{re.escape(family)}([-_ ]?\d\w*)?", dataset, re.IGNORECASE):
            return licence
    return None


def licence_file(images: Iterable[str | Path]) -> Path | None:
    """A licence text that lies beside the images or in the folder above, if there is one."""
    folders = dict.fromkeys(folder for image in images for folder in list(Path(image).parents)[:2])
    for folder in folders:
        found = sorted(path for path in folder.glob("[Ll][Ii][Cc][Ee][Nn][CcSs][Ee]*") if path.is_file())
        if found:
            return found[0]
    return None
