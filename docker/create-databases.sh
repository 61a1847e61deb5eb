#!/bin/sh
# Run once by the postgres image, when its volume is empty: a role and two databases for Temporal, and one of each for
# the catalog. The image may read this file instead of running it, so it leaves the shell's options alone.
psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username postgres \
  --set temporal="$(cat /run/secrets/temporal_db_password)" \
  --set holdfast="$(cat /run/secrets/holdfast_db_password)" <<'SQL'
CREATE ROLE temporal LOGIN PASSWORD :'temporal';
CREATE DATABASE temporal OWNER temporal;
CREATE DATABASE temporal_visibility OWNER temporal;
CREATE ROLE holdfast LOGIN PASSWORD :'holdfast';
CREATE DATABASE holdfast OWNER holdfast;
SQL
