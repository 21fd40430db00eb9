"""Names shared by records, models, metrics, TensorBoard and serving signatures."""

CLICK = "click"
CONVERSION = "conversion"
EXAMPLE_WEIGHT = "example_weight"

# The true probabilities of simulated logs. Only evaluation reads them, never a model.
ORACLE_PCTR = "oracle_pctr"
ORACLE_PCVR = "oracle_pcvr"

PCTR = "pctr"
PCVR = "pcvr"
PCTCVR = "pctcvr"
PROBABILITIES = (PCTR, PCVR, PCTCVR)

CTR_LOGITS = "ctr_logits"
CVR_LOGITS = "cvr_logits"
CTCVR_LOGITS = "ctcvr_logits"

# Natural logarithm of a pCVR that is a ratio and may exceed 1.
CVR_LOG_RATIO = "cvr_log_ratio"

# The part of a model whose pCTR several methods share.
CTR_NETWORK = "ctr_network"

# Tasks of evaluation: what is predicted, and over which impressions.
CTR = "ctr"
CVR_CLICKED = "cvr_clicked"
CTCVR = "ctcvr"
CVR_ENTIRE = "cvr_entire"
TASKS = (CTR, CVR_CLICKED, CTCVR)  # the tasks whose labels a log holds

RESERVED_RECORD_KEYS = frozenset({CLICK, CONVERSION, EXAMPLE_WEIGHT, ORACLE_PCTR, ORACLE_PCVR})

# Files of a data set and of a model directory.
MANIFEST_FILE = "manifest.json"
SCHEMA_FILE = "schema.toml"
CONFIG_FILE = "config.json"
CALIBRATION_FILE = "calibration.json"
EVALUATION_FILE = "evaluation.json"
EVALUATION_FORMAT_VERSION = 2
HISTORY_FILE = "history.json"
TRAINING_DATA_FILE = "data.json"

# Methods of calibration after training.
PLATT = "platt"
TEMPERATURE = "temperature"
ISOTONIC = "isotonic"
CALIBRATIONS = (PLATT, TEMPERATURE, ISOTONIC)
NO_CALIBRATION = "none"

TRAIN = "train"
VALIDATION = "validation"
TEST = "test"

# Input of the model beside the features: int64 `[impressions]`, the group of each impression.
GROUP_INDEX = "group_index"
