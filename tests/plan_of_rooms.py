"""The plan of the rooms in CONTRIBUTING.md, made from the code: `python tests/plan_of_rooms.py`."""

import ast
import pathlib
import re
import tomllib

ROOT = pathlib.Path(__file__).parents[1]
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
PACKAGES = {"esmm_tf": ROOT / "esmm_tf", "esmm_pipelines": ROOT / "pipelines" / "esmm_pipelines"}
PLAN = re.compile(r"\| wing \| what is in it \| rooms \|\n.*?\n(?=\n)", re.DOTALL)


def build_plan(package):
    """Returns a table with a row for each wing, from the top floor to the lowest."""
    rows = ["| wing | what is in it | rooms |", "|---|---|---|"]
    for floor in _floors(package):
        wings = [name for name in floor if (PACKAGES[package] / name).is_dir()]
        rows += [_wing_row(PACKAGES[package] / name) for name in wings]
        modules = [name for name in floor if name not in wings]
        if modules:
            rows.append(f"| `{package}` | {_described(modules, package)} | {_listed(modules)} |")
    return "\n".join(rows) + "\n"


def _floors(package):
    """Returns the names of each layer of the contract."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (layers,) = (
        contract["layers"]
        for contract in settings["tool"]["importlinter"]["contracts"]
        if contract.get("containers") == [package]
    )
    return [re.split(r" [|:] ", layer) for layer in layers]


def _wing_row(directory):
    rooms = sorted(path.stem for path in directory.glob("*.py") if path.stem != "__init__")
    return f"| `{directory.name}/` | {_first_line(directory / '__init__.py')} | {_listed(rooms)} |"


def _described(modules, package):
    if all((PACKAGES[package] / f"{name}.py").read_text().count("flags.run(") for name in modules):
        return "Commands: flags in, one call, words out."
    return "What every wing may use."


def _listed(names):
    return ", ".join(f"`{name}`" for name in names if name != "__main__")


def _first_line(path):
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))).splitlines()[0]


def written_plans():
    """Returns the tables that CONTRIBUTING.md holds, by their package."""
    tables = PLAN.findall(CONTRIBUTING.read_text(encoding="utf-8"))
    return dict(zip(PACKAGES, tables, strict=True))


def write_plans():
    """Puts the plans of today in the place of those that CONTRIBUTING.md holds."""
    plans = map(build_plan, PACKAGES)
    text = PLAN.sub(lambda _: next(plans), CONTRIBUTING.read_text(encoding="utf-8"))
    CONTRIBUTING.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_plans()
