"""Commands run in this process."""

from typer.testing import CliRunner

from monai_vessel_uda.cli import app


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])
