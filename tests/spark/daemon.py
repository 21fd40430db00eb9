"""The parent of Spark's Python workers, which imports for all of them what each would import."""

import esmm_tf.startup  # noqa: F401 - before everything that imports TensorFlow

# isort: split
import pandas  # noqa: F401 - what PySpark's mapInArrow asks for
import pyspark.worker  # noqa: F401 - what each worker runs
from pyspark.daemon import manager

if __name__ == "__main__":
    manager()
