"""The graph of an export holds ops of stock TensorFlow only, all of which are known here."""

import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from esmm_tf import methods
from esmm_tf.calibration.layers import build_calibrated
from esmm_tf.calibration.maps import Isotonic, Platt
from esmm_tf.config.training import ModelConfig
from esmm_tf.methods import load_method
from esmm_tf.schema.columns import HashBucketColumn, IdentityColumn
from esmm_tf.schema.schema import Feature, Schema
from esmm_tf.serving import dense_inputs, saved_model

# A server has these: they are TensorFlow's own, run on CPUs, and draw no random numbers.
ALLOWED = {
    "assertions": "Assert If StaticRegexFullMatch",
    "comparisons": "All Equal GreaterEqual IsFinite IsNan Less LogicalAnd LogicalNot LogicalOr "
    "NotEqual Select SelectV2 Where",
    "functions": "Const Identity NoOp Placeholder StatefulPartitionedCall",
    "layers": "BiasAdd MatMul Relu Sigmoid Softplus",
    "lookups": "AsString HashTableV2 InitializeTableFromTextFileV2 LookupTableFindV2 "
    "ResourceGather StringToHashBucketFast UpperBound",
    "mathematics": "Abs AddV2 Cast Cumsum DivNoNan Exp Expm1 Log Log1p Maximum Minimum Mul Neg "
    "RealDiv Sign Sqrt Sub",
    "parsing": "ParseExampleV2 RaggedTensorToTensor",
    "reductions": "Max Prod Sum UnsortedSegmentSum",
    "shapes": "BroadcastTo ConcatV2 ExpandDims Fill GatherV2 Pack Range Reshape Shape Size Squeeze "
    "StridedSlice TensorScatterUpdate Tile Transpose",
    "variables": "AssignVariableOp DisableCopyOnRead MergeV2Checkpoints ReadVariableOp RestoreV2 "
    "SaveV2 ShardedFilename StringJoin VarHandleOp VarIsInitializedOp",
}
NAMES = {name for group in ALLOWED.values() for name in group.split()}

SCHEMA = Schema(
    name="shelf",
    features=(
        Feature(
            name="tastes",
            side="context",
            dtype="int64",
            column=HashBucketColumn(hash_buckets=30),
            values="many",
        ),
        Feature(
            name="item", side="impression", dtype="int64", column=IdentityColumn(vocabulary_size=10)
        ),
    ),
)


def ops_of(graph):
    """Returns the ops of a graph and of the functions in it."""
    functions = [node for function in graph.library.function for node in function.node_def]
    return {node.op for node in (*graph.node, *functions)}


def test_what_is_allowed_is_in_stock_tensorflow():
    missing = {name for name in NAMES if not hasattr(tf.raw_ops, name)}

    assert missing == set()


@pytest.mark.slow
@pytest.mark.parametrize("name", methods.names())
def test_the_graph_of_a_method_holds_allowed_ops_only(name):
    model = load_method(name).build(SCHEMA, ModelConfig(embedding_dim=2, hidden_units=(4,)))
    specs = {key: tensor.type_spec for key, tensor in model.input.items()}

    score = tf.function(lambda inputs: model(inputs, training=False), autograph=False)
    ops = ops_of(score.get_concrete_function(specs).graph.as_graph_def())

    assert {"MatMul", "ResourceGather"} < ops
    assert ops - NAMES == set()


@pytest.mark.slow
def test_an_export_of_every_kind_of_feature_and_of_calibration_holds_allowed_ops_only(
    trained, tmp_path
):
    maps = {
        "pctr": Isotonic(knots=(-2.0, 0.0, 0.5), values=(-3.0, -0.25, 1.5)),
        "pcvr": Platt(slope=0.8, offset=-0.5),
    }
    model = build_calibrated(trained.model, maps, negative_keep_rate=0.1)
    widths = {feature.name: 4 for feature in dense_inputs.many_valued(trained.schema)}

    saved_model.save(model, trained.schema, str(tmp_path), widths=widths)

    serialized = (tmp_path / "saved_model.pb").read_bytes()
    (meta_graph,) = saved_model_pb2.SavedModel.FromString(serialized).meta_graphs
    ops = ops_of(meta_graph.graph_def)
    assert {"LookupTableFindV2", "StringToHashBucketFast", "UpperBound"} < ops
    assert {"MatMul", "ParseExampleV2"} < ops
    assert ops - NAMES == set()
