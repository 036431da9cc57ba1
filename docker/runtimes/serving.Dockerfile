# The server on a runtime's libraries: a layer of its own, so that a change of it installs nothing again.
ARG LIBRARIES
FROM ${LIBRARIES}
LABEL io.slipway.component=image
COPY root /
ENTRYPOINT ["python3.11", "-m", "serving"]
CMD ["serve"]
EXPOSE 8000 8001
