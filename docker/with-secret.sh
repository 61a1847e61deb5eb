#!/bin/sh
# with-secret.sh VARIABLE SECRET COMMAND…: runs a program that takes its password from the environment, with the
# content of a mounted secret. So the password is in no compose file and not in what `docker inspect` shows.
set -eu
variable=$1 secret=$2
shift 2
value=$(cat "/run/secrets/$secret")
export "$variable=$value"
exec "$@"
