#!/bin/bash
# get.sh HOST PATH: an HTTP GET with nothing but bash. Prints the body; fails unless the answer is 200.
set -eu
exec 3<>"/dev/tcp/$1/80"
printf 'GET %s HTTP/1.0\r\nHost: %s\r\n\r\n' "$2" "$1" >&3
read -r _ status _ <&3
while read -r line <&3; do
    [ "${line%$'\r'}" != "" ] || break
done
cat <&3
[ "$status" = 200 ]
