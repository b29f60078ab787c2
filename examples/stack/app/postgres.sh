#!/bin/bash
# Makes a cluster in the volume when it is empty, then becomes the server, as the user postgres.
set -eu
data=/var/lib/postgresql/data
bin=$(printf '%s\n' /usr/lib/postgresql/*/bin | sort -V | tail -n 1)
as_postgres=(setpriv --reuid=postgres --regid=postgres --init-groups --)
chown postgres:postgres "$data"
chmod 700 "$data"
if [ ! -s "$data/PG_VERSION" ]; then
    password=/tmp/password
    install -o postgres -m 600 /run/secrets/db_password "$password"
    "${as_postgres[@]}" "$bin/initdb" -D "$data" -U postgres -A scram-sha-256 --pwfile="$password" -E UTF8 --locale=C >/dev/null
    rm "$password"
    echo "host all all all scram-sha-256" >>"$data/pg_hba.conf"
    echo "made a new cluster"
fi
exec "${as_postgres[@]}" "$bin/postgres" -D "$data" -k /tmp -c listen_addresses='*'
