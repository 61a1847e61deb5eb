# The control worker and the API. Host workers run on the KVM hosts themselves, beside libvirt.
FROM node:24-slim AS modules
WORKDIR /opt/holdfast
COPY package.json package-lock.json ./
# No module needs its install script: what is native comes in the packages. Temporal's brings every platform's library.
RUN npm ci --omit=dev --ignore-scripts --no-audit --no-fund \
  && arch="$(uname -m)" \
  && find node_modules/@temporalio/core-bridge/releases -mindepth 1 -maxdepth 1 ! -name "$arch-unknown-linux-gnu" \
    -exec rm -r {} +

FROM node:24-slim
# Temporal's client takes the certificates it trusts from the system.
RUN apt-get update \
  && apt-get install -y --no-install-recommends ca-certificates \
  && rm -rf /var/lib/apt/lists/* \
  && install -d -o node -g node /var/lib/holdfast
WORKDIR /opt/holdfast
COPY --from=modules /opt/holdfast/node_modules node_modules
COPY . .
ENV NODE_ENV=production HOLDFAST_DATA=/var/lib/holdfast
USER node
VOLUME /var/lib/holdfast
ENTRYPOINT ["/opt/holdfast/bin/holdfast"]
