# One model on its runtime image: a single layer with contract, model files and golden samples.
ARG RUNTIME
FROM ${RUNTIME}
LABEL io.slipway.component=image
COPY root /
USER 65532:65532
