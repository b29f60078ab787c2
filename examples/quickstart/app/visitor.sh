#!/bin/bash
# Visits the web service by name again and again.
set -u
# Process 1 has no default action for signals: without this line, a stop would have to kill us.
trap 'echo "good-bye"; exit 0' TERM INT
while true; do
    bash "${0%/*}/get.sh" "${VISIT_HOST:-web}" /visit || exit 1
    # `wait` is interrupted by a signal, a `sleep` in the foreground is not.
    sleep "${VISIT_EVERY:-2}" &
    wait $!
done
