"""What a user can mend is found beneath whatever MONAI wrapped it in, and nothing else is taken for it."""

import errno

import pytest

from monai_vessel_uda.errors import InputError, mendable, surfacing_input_errors


@pytest.fixture(params=["raised from it", "raised while handling it"])
def of_monai(request):
    """An error as MONAI's transforms and configs pass it on."""

    def wrap(cause):
        try:
            try:
                raise cause
            except type(cause) as error:
                if request.param == "raised from it":
                    raise RuntimeError("applying transform") from error
                raise RuntimeError("applying transform")  # noqa: B904
        except RuntimeError as error:
            return error

    return wrap


def hiding(cause):
    """An error that was raised ``from None``: it is another matter."""
    try:
        try:
            raise cause
        except type(cause):
            raise RuntimeError("another matter") from None
    except RuntimeError as error:
        return error


def test_an_input_error_surfaces_as_itself(of_monai):
    with pytest.raises(InputError, match=r"^a\.png: broken$") as found, surfacing_input_errors():
        raise of_monai(InputError("a.png: broken"))
    assert found.value.__suppress_context__


def test_every_other_error_passes_as_it_is(of_monai):
    for error in (of_monai(KeyError("x")), hiding(InputError("x"))):
        with pytest.raises(RuntimeError) as found, surfacing_input_errors():
            raise error
        assert found.value is error


def test_what_can_be_mended_becomes_one_line(of_monai):
    assert mendable(InputError("a.png:\n  broken")) == "a.png: broken"
    assert mendable(of_monai(InputError("a.png: broken"))) == "a.png: broken"
    full = mendable(of_monai(OSError(errno.ENOSPC, "No space left on device", "weights.pt")))
    assert full == "weights.pt: the disk is full; free some space, then run the same command again"
    assert mendable(of_monai(PermissionError(errno.EACCES, "Permission denied", "stages"))) == (
        "stages: Permission denied; choose another folder or ask for access to this one"
    )


def test_a_fault_of_the_program_stays_a_traceback(of_monai):
    assert mendable(of_monai(KeyError("x"))) is None
    assert mendable(of_monai(OSError(errno.EIO, "Input/output error", "weights.pt"))) is None
    assert mendable(hiding(InputError("x"))) is None
