"""A version on disk, read back as `esmm_tf.export` wrote it."""

import os

from esmm_tf import files, keys
from esmm_tf.errors import UserError
from esmm_tf.model.feature_columns import tensor_names
from esmm_tf.schema import toml_file
from esmm_tf.schema.schema import Feature, Schema
from esmm_tf.serving import dense_inputs, model_card, saved_model
from esmm_tf.serving.loaded_version import LoadedVersion
from esmm_tf.serving.skew_causes import Export
from esmm_tf.serving.versions import SAVED_MODEL, list_versions


def load_export(export_dir: str, *, version: int) -> tuple[LoadedVersion, Export]:
    """Returns a version in memory, the highest if `version` is 0, and what it tells of itself.

    Raises:
      UserError: if it is not there, or was not written by `esmm_tf.export`.
    """
    versions = list_versions(export_dir)
    if not versions or version not in (0, *versions):
        raise UserError(
            f"{export_dir!r} has {f'no version {version}' if version else 'no version'}; there are "
            f"{versions}. Export one with python -m esmm_tf.export, or check --export_dir."
        )
    number = version or versions[-1]
    path = os.path.join(export_dir, str(number))
    schema_path = os.path.join(path, "assets.extra", keys.SCHEMA_FILE)
    card_path = os.path.join(path, f"{model_card.FILE}.json")
    for name in (os.path.join(path, SAVED_MODEL), schema_path, card_path):
        if not os.path.exists(name):
            raise UserError(
                f"{name} is missing, so that {path!r} is no whole export of this release. Export "
                "again with python -m esmm_tf.export."
            )
    loaded = LoadedVersion(path, number)
    schema = _with_vocabularies_of(toml_file.load_schema(schema_path), path)
    card = files.read_json(
        card_path,
        version=model_card.FORMAT_VERSION,
        remedy="Export again with python -m esmm_tf.export.",
    )
    return loaded, Export(schema=schema, widths=_read_widths(loaded, schema, path), card=card)


def _with_vocabularies_of(schema: Schema, path: str) -> Schema:
    """Returns the schema with the vocabularies that the graph reads, which are its assets."""

    def find_asset(_: Feature, file: str) -> str:
        asset = os.path.join(path, "assets", os.path.basename(file))
        return asset if os.path.exists(asset) else file

    return schema.with_vocabulary_files(find_asset)


def _read_widths(loaded: LoadedVersion, schema: Schema, path: str) -> dict[str, int]:
    """Returns the widths of `predict_tensors`, by the names of the features that need one."""
    names = tensor_names(schema)
    inputs = loaded.signature_defs[saved_model.PREDICT_TENSORS].inputs
    widths = {}
    for feature in dense_inputs.many_valued(schema):
        name = names[feature.name]
        if name not in inputs or len(inputs[name].tensor_shape.dim) != 2:
            raise UserError(
                f"{path!r} has a schema that is not its graph's: predict_tensors takes no many "
                f"values of {feature.name!r}. Export again with python -m esmm_tf.export."
            )
        widths[feature.name] = inputs[name].tensor_shape.dim[1].size
    return widths
