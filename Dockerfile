# The server. Build: docker build -t saekit .   With another build of torch: --build-arg TORCH=...
FROM python:3.11-slim AS build
ARG TORCH=torch==2.13.0
WORKDIR /src
COPY . .
RUN scripts/install-server /opt/saekit "$TORCH"

FROM python:3.11-slim
COPY --from=build /opt/saekit /opt/saekit
COPY scripts/healthcheck /opt/saekit/bin/healthcheck
RUN useradd --create-home --uid 10001 saekit
USER saekit
ENV PATH=/opt/saekit/bin:$PATH PYTHONUNBUFFERED=1
EXPOSE 50051 9090
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s CMD ["healthcheck", "localhost:50051"]
ENTRYPOINT ["saekit", "serve", "--listen", "0.0.0.0:50051", "--http", "0.0.0.0:9090"]
