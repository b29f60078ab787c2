#!/bin/bash
# Becomes the Redis server, as the user redis, with its data in the volume.
set -eu
chown redis:redis /data
cd /data
exec setpriv --reuid=redis --regid=redis --init-groups -- \
    redis-server --dir /data --appendonly yes --bind 0.0.0.0 --protected-mode no
