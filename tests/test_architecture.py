"""Imports go one way: primitives, methods, engines, segmenter, pipeline, demo, command line."""

import ast
from pathlib import Path

import monai_vessel_uda

ROOT = Path(monai_vessel_uda.__file__).parent
SHARED = {"config_ids", "errors", "files", "progress", "seeding", "preview", "tensors", "training_sets", "weights", ""}
"""Small modules that every part may use."""
MAY_IMPORT = {
    "data": set(),
    "diffusion": set(),
    "losses": set(),
    "metrics": set(),
    "transforms": {"data"},
    "methods": {"data", "transforms", "diffusion", "losses", "metrics"},
    "engines": {"data", "transforms", "diffusion", "losses", "metrics", "methods"},
    "report": set(),
    "limits": set(),
    "settings": {"limits"},
    "deployment": {"data", "settings"},
    "preparation": {"data", "transforms"},
    "scoring": {"data", "deployment", "metrics", "report", "segmenter"},
    "pipeline": {
        "deployment",
        "data",
        "transforms",
        "engines",
        "report",
        "scoring",
        "segmenter",
        "settings",
        "workflows",
    },
    "demo": {"data", "pipeline", "preparation"},
    "label": {"deployment"},
    "workflows": set(),
    "segmenter": {"deployment", "settings", "workflows"},
    "cli": {"demo", "deployment", "label", "pipeline", "preparation", "report", "segmenter", "settings"},
}


def imported_parts(path):
    """First component below the package of everything that a file imports from it, wherever the import stands."""
    package = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            names = [node.module] if node.module else [alias.name for alias in node.names]
            yield from ([*base, *name.split(".")][0] for name in names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "monai_vessel_uda":
            parts = node.module.split(".")
            yield from ([parts[1]] if len(parts) > 1 else [alias.name for alias in node.names])
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "monai_vessel_uda":
                    yield [*alias.name.split("."), ""][1]


def test_imports_go_one_way():
    wrong, seen = [], 0
    for path in sorted(ROOT.rglob("*.py")):
        part = path.relative_to(ROOT).parts[0].removesuffix(".py")
        allowed = MAY_IMPORT.get(part)
        if allowed is None:
            continue
        for other in imported_parts(path):
            seen += 1
            if other not in allowed | SHARED | {part, "__version__"}:
                wrong.append(f"{path.relative_to(ROOT)} imports {other}")
    assert seen > 50
    assert not wrong


def test_no_class_of_monai_is_named_again():
    import monai.engines
    import monai.losses
    import monai.metrics
    import monai.networks.nets
    import monai.transforms

    theirs = {
        name
        for module in (monai.engines, monai.losses, monai.metrics, monai.networks.nets, monai.transforms)
        for name in dir(module)
        if name[0].isupper()
    }
    ours = {
        node.name
        for path in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    }
    assert len(theirs) > 300
    assert not ours & theirs
