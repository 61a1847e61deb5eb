#!/bin/sh
# Makes the namespace; may be repeated. The control worker makes the search attributes in it.
set -eu

# Tries for a minute: the server takes some seconds to come up, and again to know a namespace it has just made.
patiently() {
  tries=0
  until "$@" >/dev/null; do
    tries=$((tries + 1))
    [ "$tries" -lt 30 ] || return 1
    sleep 2
  done
}

patiently temporal operator cluster health
temporal operator namespace describe --namespace "$TEMPORAL_NAMESPACE" >/dev/null 2>&1 ||
  temporal operator namespace create --namespace "$TEMPORAL_NAMESPACE" --retention 90d
patiently temporal operator search-attribute list --namespace "$TEMPORAL_NAMESPACE"
