import pytest

from monai_vessel_uda.data.inference_items import images_to_evaluate, images_to_segment
from monai_vessel_uda.errors import InputError


def test_what_to_segment_and_to_evaluate(tmp_path):
    with pytest.raises(InputError, match="no such"):
        images_to_segment(tmp_path / "nowhere")
    with pytest.raises(InputError, match="found none"):
        images_to_segment(tmp_path)
    with pytest.raises(InputError, match="either a folder"):
        images_to_evaluate()
    with pytest.raises(InputError, match="either a folder"):
        images_to_evaluate(tmp_path, tmp_path)


def test_results_of_an_earlier_run_are_not_segmented(tmp_path):
    for name in ("a.png", "a_vessels.png", "a_probability.tif", "a_overlay.png", "b_vessels.png", "sub/a_vessels.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert [item["id"] for item in images_to_segment(tmp_path)] == ["a", "b_vessels"]
    assert [item["id"] for item in images_to_segment(tmp_path / "a_vessels.png")] == ["a_vessels"]
    for name in ("out/a_vessels.png", "out/sub/a_overlay.png", ".writing-x/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text("")
    for results in ("out", "out2", "", "elsewhere"):
        assert len(images_to_segment(tmp_path, tmp_path / results)) == 2, "wherever results of any run went"
    (tmp_path / "sub" / "b.png").write_text("")
    (tmp_path / "out" / "sub" / "b_vessels.png").write_text("")
    assert [item["id"] for item in images_to_segment(tmp_path, tmp_path / "out2")] == ["a", "b_vessels", "b"]


def test_folders_behind_links_are_searched_once(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "b.png").write_text("")
    (images / "a.png").write_text("")
    (images / "link").symlink_to(tmp_path / "else", target_is_directory=True)
    (images / "round").symlink_to(images, target_is_directory=True)
    (images / "broken.png").symlink_to(tmp_path / "gone.png")
    assert [item["id"] for item in images_to_segment(images)] == ["a", "b"]


def test_one_image_may_get_its_mask_beside_it(tmp_path):
    (tmp_path / "a.png").write_text("")
    assert [item["id"] for item in images_to_segment(tmp_path / "a.png", tmp_path)] == ["a"]


def test_masks_beside_the_images_and_other_formats_are_counted_not_segmented(tmp_path, caplog):
    caplog.set_level("INFO", "monai_vessel_uda")
    for name in ("images/a.png", "images/b.webp", "Labels/a.png", "labels/final/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text("")
    assert [item["image"] for item in images_to_segment(tmp_path)] == [str(tmp_path / "images" / "a.png")]
    assert f"1 files of other formats passed over, such as {tmp_path / 'images' / 'b.webp'}" in caplog.messages
    assert f"2 files passed over as masks, such as {tmp_path / 'Labels' / 'a.png'}" in caplog.messages
    (tmp_path / "images" / "a.png").unlink()
    assert len(images_to_segment(tmp_path)) == 2, "where there is nothing else, they are what is meant"
