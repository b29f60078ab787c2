#!/bin/bash
# Makes the table that the application needs, unless it is there.
set -eu
PGPASSWORD=$(cat /run/secrets/db_password)
export PGPASSWORD
psql -q -v ON_ERROR_STOP=1 <<'SQL'
SET client_min_messages = warning;
CREATE TABLE IF NOT EXISTS visits (at timestamptz NOT NULL DEFAULT now());
SQL
echo "the schema is up to date"
