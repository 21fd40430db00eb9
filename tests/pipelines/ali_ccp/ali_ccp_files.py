"""Raw files of Ali-CCP written by hand, and what raw files and records hold, token by token."""

import collections
import dataclasses
import gzip
import io
import tarfile

import numpy as np
import tensorflow as tf

from esmm_tf.data import manifest

SKELETON, COMMON = "sample_skeleton", "common_features"


@dataclasses.dataclass(frozen=True)
class Group:
    """One record: the split that it stands in, and its values by key."""

    split: str
    entries: dict

    def __len__(self):
        return len(self.entries["click"])

    @property
    def index(self):
        return self.entries["common_feature_index"][0].decode()


def join_tokens(tokens):
    """Returns `feature_num,feature_list` of (field, id, value) triples."""
    texts = [f"{field}\x02{number}\x03{value}" for field, number, value in tokens]
    return f"{len(texts)},{chr(1).join(texts)}"


def impression(sample, index, *, click=0, conversion=0, item=5, more=()):
    """Returns a line of a skeleton: the fields that Ali-CCP always has, and more."""
    tokens = [("205", item, "1.0"), ("206", 6, "1.0"), ("207", 7, "1.0"), ("301", 9, "1.0"), *more]
    return f"{sample},{click},{conversion},{index},{join_tokens(tokens)}\n"


def context(index, *, user=1, more=()):
    """Returns a line of common features: a user, and more."""
    return f"{index},{join_tokens([('101', user, '1.0'), *more])}\n"


def to_bytes(lines):
    return b"".join(line.encode() if isinstance(line, str) else line for line in lines)


def pack(members, *, mode="w:gz"):
    """Returns an archive of files, given by name."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def compress(content):
    return gzip.compress(content, mtime=0)


def read_groups(directory):
    """Returns the records of a data set, in the order of its shards."""
    found = manifest.load_manifest(str(directory))
    return [
        Group(split, decode(example))
        for split, shards in sorted(found.splits.items())
        for shard in shards
        for example in tf.data.TFRecordDataset(
            str(directory / shard.file), found.compression
        ).as_numpy_iterator()
    ]


def decode(serialized):
    """Returns the values of a record's keys."""
    feature = tf.train.Example.FromString(serialized).features.feature
    return {
        key: list(getattr(value, value.WhichOneof("kind")).value) for key, value in feature.items()
    }


def read_shards(directory):
    """Returns the bytes of each shard of a data set by its name."""
    return {path.name: path.read_bytes() for path in directory.glob("*.tfrecord*")}


def read_rejected(directory):
    """Returns (name of the file, line, reason) of each rejected row."""
    lines = (directory / "rejected" / "rows.csv").read_text().splitlines()
    assert lines[0] == "file,line,reason"
    rows = [line.split(",") for line in lines[1:]]
    return [(path.rpartition("/")[2], int(line), reason) for path, line, reason in rows]


def raw_tokens(directory, part):
    """Returns (sample or context, field, id, float32) of raw files, and how often each occurs."""
    tokens = collections.Counter()
    for kind, place in ((SKELETON, 0), (COMMON, 0)):
        for line in (directory / f"{kind}_{part}.csv").read_text().splitlines():
            cells = line.split(",")
            for text in cells[-1].split("\x01"):
                field, rest = text.split("\x02")
                number, value = rest.split("\x03")
                tokens[cells[place], field, int(number), float(np.float32(value))] += 1
    return tokens


def record_tokens(groups, schema):
    """Returns the same of records; those of a context that several records share count once."""
    tokens = collections.Counter()
    contexts = {}
    for group in groups:
        for feature in schema.features:
            ids = group.entries.get(feature.name, [])
            values = group.entries.get(f"{feature.name}:weight", [1.0] * len(ids))
            triples = [(feature.name, *pair) for pair in zip(ids, values, strict=True)]
            if feature.side == "context":
                shared = contexts.setdefault((group.index, feature.name), triples)
                assert shared == triples
                continue
            lengths = group.entries.get(f"{feature.name}:lengths", [1] * len(group))
            owners = np.repeat(group.entries["sample_id"], lengths).tolist()
            tokens.update(
                (str(owner), *triple) for owner, triple in zip(owners, triples, strict=True)
            )
    for (index, _), triples in contexts.items():
        tokens.update((index, *triple) for triple in triples)
    return tokens
