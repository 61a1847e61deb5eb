#!/bin/sh
# Makes the namespace and the search attributes by which operations are found; may be repeated.
set -eu

# Tries for a minute: the server takes some seconds to come up, and again to know a namespace it has just made.
patiently() {
  tries=0
  until "$@"; do
    tries=$((tries + 1))
    [ "$tries" -lt 30 ] || return 1
    sleep 2
  done
}

patiently temporal operator cluster health

temporal operator namespace describe --namespace "$TEMPORAL_NAMESPACE" >/dev/null 2>&1 ||
  temporal operator namespace create --namespace "$TEMPORAL_NAMESPACE" --retention 90d

# As in schemas/search-attributes.ts
for name in HoldfastOperation HoldfastState HoldfastVm HoldfastVmUuid HoldfastHost HoldfastRepository HoldfastTenant; do
  patiently temporal operator search-attribute create --namespace "$TEMPORAL_NAMESPACE" --name "$name" --type Keyword
done
