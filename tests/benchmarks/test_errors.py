import numpy as np
import pytest

from tests.benchmarks.errors import HEADINGS, errors, summary


@pytest.fixture
def annotated():
    mask = np.zeros((20, 20), bool)
    mask[10] = True
    return mask


def test_wrong_pixels_are_told_by_how_far_they_lie_from_the_other_mask(annotated):
    marked = np.roll(annotated, 1, axis=0)  # a row beside: all is wrong, and near
    counts, distances = errors(marked, annotated)
    assert counts.tolist() == [20, 0, 20, 0]
    assert distances.tolist() == [1, 1]

    marked = annotated.copy()
    marked[10, 10:] = False
    marked[0, 0] = True
    counts, (marked_to_annotated, annotated_to_marked) = errors(marked, annotated)
    assert counts.tolist() == [2, 8, 0, 1]
    assert marked_to_annotated == pytest.approx(10 / 11)
    assert annotated_to_marked == pytest.approx(sum(range(1, 11)) / 20)


def test_one_empty_mask_is_all_far_and_has_no_distance(annotated):
    empty = np.zeros_like(annotated)
    for pair, expected in (((empty, annotated), [0, 20, 0, 0]), ((annotated, empty), [0, 0, 0, 20])):
        counts, distances = errors(*pair)
        assert counts.tolist() == expected
        assert np.isnan(distances).all()


def test_shares_are_of_all_annotated_pixels_and_distances_means_over_images(annotated):
    images = [(0.9 * annotated, annotated), (0.9 * np.roll(annotated, 3, axis=0), annotated)]
    assert summary(iter(images), 0.5) == pytest.approx([0, 50, 0, 50, 1.5, 1.5])
    assert len(HEADINGS) == 6
