#!/bin/bash
# Archives by other people's writers, and what Go's archive/tar reads from them: go.jsonl.
# Needs Go, GNU tar, bsdtar and Python, and root for devices and owners; BSDTAR and GO name programs
# elsewhere, which see TMPDIR. The results are kept in git, so that the test needs none of them.
set -euo pipefail
cd "$(dirname "$0")"
out=$PWD
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
rm -f ./*.tar

tree=$scratch/tree
long=$(printf 'directory/%.0s' $(seq 15))
mkdir -p "$tree/d" "$tree/$long"
printf hello >"$tree/d/f"
: >"$tree/d/empty"
printf x >"$tree/${long}file"
ln "$tree/d/f" "$tree/d/hard"
ln -s ../d/f "$tree/link"
ln -s "${long}file" "$tree/far"
mkfifo "$tree/fifo"
mknod "$tree/null" c 1 3
printf 'ä' >"$tree/ümläut"
chmod 4755 "$tree/d/f"
chmod 1777 "$tree/d"
chown 3000000:3000001 "$tree/d/empty"
python3 -c 'import os, sys; os.setxattr(sys.argv[1], "user.key", b"value")' "$tree/d/f"
truncate -s 1000000 "$tree/sparse"
printf end | dd of="$tree/sparse" bs=1 seek=700000 conv=notrunc status=none
printf mid | dd of="$tree/sparse" bs=1 seek=100000 conv=notrunc status=none
find "$tree" -exec touch -h -d '2023-11-14 22:13:20.123456789 UTC' {} +

for format in v7 ustar gnu oldgnu pax; do
    tar -C "$tree" --sort=name --exclude=sparse --format=$format -cf "gnu-$format.tar" . 2>/dev/null || true
done
tar -C "$tree" -S --format=gnu -cf gnu-sparse-old.tar sparse
for version in 0.0 0.1 1.0; do
    tar -C "$tree" --format=pax -S --sparse-version=$version -cf "gnu-sparse-$version.tar" sparse
done
tar -C "$tree" --format=pax --xattrs --xattrs-include='user.*' -cf gnu-xattrs.tar d
tar -C "$tree" --format=gnu -cf gnu-two.tar d/f
tar -C "$tree" --format=gnu -rf gnu-two.tar d/f
for format in ustar pax gnutar v7; do
    ${BSDTAR:-bsdtar} -C "$tree" --format $format -cf - d link fifo null ümläut far \
        >"bsd-$format.tar" 2>/dev/null || true
done
python3 - "$tree" <<'P'
import sys, tarfile
for name in ("USTAR", "GNU", "PAX"):
    with tarfile.open(f"python-{name.lower()}.tar", "w", format=getattr(tarfile, name + "_FORMAT")) as t:
        try:
            t.add(sys.argv[1], arcname=".", filter=lambda i: None if i.name.endswith("sparse") else i)
        except ValueError:
            pass
P
python3 - <<'P'
import tarfile
# Writers that leave fields empty which they have nothing to say about: Rust's, among others.
info = tarfile.TarInfo("blank")
info.size = 2
block = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
for field in (slice(108, 116), slice(116, 124), slice(136, 148), slice(329, 337)):
    block[field] = bytes(len(block[field]))
block[148:156] = b" " * 8
block[148:156] = b"%06o\0 " % sum(block)
open("blank-fields.tar", "wb").write(bytes(block) + b"hi" + bytes(510 + 1024))
P
cp oracle.go "$scratch"
(cd "$scratch" && ${GO:-go} build -o "$scratch/oracle" "$scratch/oracle.go")
"$scratch/oracle" "$out" >go.jsonl
