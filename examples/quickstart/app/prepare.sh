#!/bin/bash
# Fills the volume, once: what is there stays.
set -eu
if [ ! -e /data/greeting ]; then
    echo "Hello from a container" >/data/greeting
    echo "prepared an empty volume"
else
    echo "the volume has $(cat /data/visits 2>/dev/null || echo 0) visits from before"
fi
