# The image of every command: docker run esmm_tf:0.1.0 esmm_tf.train --flagfile=...
FROM python:3.11-slim-bookworm

# Logs come line by line. A user without a home still has a place for the caches of libraries.
ENV PYTHONUNBUFFERED=1 \
    HOME=/tmp

# The requirements, with an empty package: a change of the source does not fetch TensorFlow again.
WORKDIR /requirements
COPY setup.py pyproject.toml ./
COPY esmm_tf/__init__.py esmm_tf/
# hadolint ignore=DL3013 # the package is this one, and setup.py has the ranges of the others
RUN touch README.md \
    && mkdir pipelines tfrecords_schema \
    && pip install --no-cache-dir '.[pipelines,report,serving]'

# The source, which replaces the empty package of the same version.
WORKDIR /app
COPY setup.py pyproject.toml LICENSE README.md ./
COPY tfrecords_schema tfrecords_schema
COPY pipelines pipelines
COPY esmm_tf esmm_tf
RUN pip install --no-cache-dir --no-deps --force-reinstall .

# The number, not the name: Kubernetes' runAsNonRoot reads numbers only.
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin esmm \
    && install --directory --owner=10001 --group=10001 /data
USER 10001:10001

# Relative paths of flags and flagfiles start here, as they do from the repository's root.
WORKDIR /data
VOLUME /data

ENTRYPOINT ["python", "-m"]
