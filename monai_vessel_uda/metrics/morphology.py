r"""What is measured on a vessel mask: how much of the retina is vessel, how long the vessels are, and how wide.

With :math:`A` the vessel pixels and :math:`S` the pixels of their skeleton, :math:`X` all pixels of the image, or those
of the field of view where there is one, and :math:`p` the side of a pixel in mm:

==================================  =============================  =========  ========================================
key                                 definition                     unit       name
==================================  =============================  =========  ========================================
vessel_area_density                 \|A\| / \|X\|                  (share)    vessel area density (VAD)
vessel_skeleton_density_per_px      \|S\| / \|X\|                  1 / px     vessel skeleton density (VSD), also
                                                                              vessel length density
vessel_skeleton_density_mm_per_mm2  \|S\| / (\|X\| p)              mm / mm²   the same
vessel_diameter_index_px            \|A\| / \|S\|                  px         vessel diameter index (VDI), the mean
                                                                              calibre
vessel_diameter_index_um            1000 p \|A\| / \|S\|           µm         the same
==================================  =============================  =========  ========================================

All are those of Chu et al. A pixel of the skeleton counts as one pixel of length also where it runs diagonally, as it
does there, so a diagonal vessel seems up to :math:`\sqrt 2` shorter and wider than it is.

They depend on the threshold that made the mask, on the resolution of the image and on how the segmenter's annotators
drew vessels: compare only values obtained with one segmenter, threshold and kind of image.

References:
    Z. Chu et al., Quantitative assessment of the retinal microvasculature using optical coherence tomography
    angiography, J. Biomed. Opt. 21(6), 066008, 2016.
    A. Y. Kim et al., Quantifying microvascular density and morphology in diabetic retinopathy using spectral-domain
    optical coherence tomography angiography, Invest. Ophthalmol. Vis. Sci. 57(9), OCT362-OCT370, 2016.
"""

import math

import numpy as np
from numpy.typing import NDArray


def vessel_morphology(
    mask: NDArray[np.bool_], fov: NDArray[np.bool_] | None = None, pixel_mm: tuple[float, float] | None = None
) -> dict[str, float]:
    """Vessel area density, vessel skeleton density and vessel diameter index of one mask.

    Args:
        mask: (H, W), True on vessels.
        fov: (H, W), True inside; ``None`` means the whole image.
        pixel_mm: (row, column) size of a pixel; where the two differ, their geometric mean counts.

    Returns:
        The five values of the module's table. NaN stands for the calibre of no vessel, for what needs ``pixel_mm``
        where that is not known, and for all of an empty field of view.

    Example:
        >>> line = np.zeros((10, 20), bool)
        >>> line[4] = True
        >>> measured = vessel_morphology(line, pixel_mm=(0.01, 0.01))
        >>> [round(value, 3) for value in measured.values()]
        [0.1, 0.1, 10.0, 1.0, 10.0]
    """
    from skimage.morphology import skeletonize

    inside = mask if fov is None else mask & fov
    everything = mask.size if fov is None else int(fov.sum())
    area, length = int(inside.sum()), int(skeletonize(inside).sum())
    side = math.nan if pixel_mm is None else math.sqrt(pixel_mm[0] * pixel_mm[1])
    density, diameter = _ratio(length, everything), _ratio(area, length)
    return {
        "vessel_area_density": _ratio(area, everything),
        "vessel_skeleton_density_per_px": density,
        "vessel_skeleton_density_mm_per_mm2": density / side,
        "vessel_diameter_index_px": diameter,
        "vessel_diameter_index_um": 1000 * side * diameter,
    }


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
