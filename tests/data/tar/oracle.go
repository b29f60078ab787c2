// What Go's archive/tar reads from each archive that is named, as a JSON document a line.
//
// With a directory as its only argument it writes archives there first, one for each format and
// kind of oddity that its writer can be asked for.
package main

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

type entry struct {
	Path   string `json:"path"`
	Type   string `json:"type"`
	Link   string `json:"link"`
	Size   int64  `json:"size"`
	Mode   int64  `json:"mode"`
	Uid    int    `json:"uid"`
	Gid    int    `json:"gid"`
	Mtime  int64  `json:"mtime"`
	Nanos  int    `json:"nanos"`
	Digest string `json:"digest"`
}

type answer struct {
	Archive string  `json:"archive"`
	Error   string  `json:"error"`
	Entries []entry `json:"entries"`
}

func read(path string) answer {
	result := answer{Archive: filepath.Base(path), Entries: []entry{}}
	file, err := os.Open(path)
	if err != nil {
		panic(err)
	}
	defer file.Close()
	reader := tar.NewReader(file)
	for {
		header, err := reader.Next()
		if err == io.EOF {
			return result
		}
		if err != nil {
			result.Error = err.Error()
			return result
		}
		if header.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		hash := sha256.New()
		n, err := io.Copy(hash, reader)
		if err != nil {
			result.Error = err.Error()
			return result
		}
		result.Entries = append(result.Entries, entry{
			Path: header.Name, Type: string(header.Typeflag), Link: header.Linkname, Size: n,
			Mode: header.Mode & 07777, Uid: header.Uid, Gid: header.Gid,
			Mtime: header.ModTime.Unix(), Nanos: header.ModTime.Nanosecond(),
			Digest: hex.EncodeToString(hash.Sum(nil)),
		})
	}
}

func write(directory string) {
	long := strings.Repeat("directory/", 15) + "file"
	cases := map[string][]tar.Header{
		"plain": {
			{Name: "d/", Typeflag: tar.TypeDir, Mode: 0750},
			{Name: "d/f", Typeflag: tar.TypeReg, Mode: 0644, Size: 5, Uid: 1000, Gid: 1001},
			{Name: "d/empty", Typeflag: tar.TypeReg, Mode: 0},
			{Name: "d/set", Typeflag: tar.TypeReg, Mode: 06755, Size: 1},
			{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "../d/f", Mode: 0777},
			{Name: "h", Typeflag: tar.TypeLink, Linkname: "d/f", Mode: 0644},
			{Name: "p", Typeflag: tar.TypeFifo, Mode: 0600},
			{Name: "c", Typeflag: tar.TypeChar, Mode: 0600, Devmajor: 1, Devminor: 3},
			{Name: "b", Typeflag: tar.TypeBlock, Mode: 0600, Devmajor: 8, Devminor: 1},
		},
		"long": {
			{Name: long, Typeflag: tar.TypeReg, Mode: 0644, Size: 3},
			{Name: "to", Typeflag: tar.TypeSymlink, Linkname: long, Mode: 0777},
			{Name: "too", Typeflag: tar.TypeLink, Linkname: long, Mode: 0644},
			{Name: strings.Repeat("n", 100), Typeflag: tar.TypeReg, Mode: 0644, Size: 512},
			{Name: strings.Repeat("m", 101), Typeflag: tar.TypeReg, Mode: 0644, Size: 513},
		},
		"numbers": {
			{Name: "uid", Typeflag: tar.TypeReg, Mode: 0644, Uid: 2097152, Gid: 4000000},
			{Name: "old", Typeflag: tar.TypeReg, Mode: 0644, ModTime: time.Unix(-5, 0)},
			{Name: "late", Typeflag: tar.TypeReg, Mode: 0644, ModTime: time.Unix(1<<33, 0)},
		},
		"letters": {
			{Name: "ümläut/ß", Typeflag: tar.TypeReg, Mode: 0644, Size: 2},
			{Name: "a b\tc", Typeflag: tar.TypeReg, Mode: 0644},
			{Name: "日本", Typeflag: tar.TypeSymlink, Linkname: "ümläut/ß", Mode: 0777},
		},
		"nanoseconds": {
			{Name: "n", Typeflag: tar.TypeReg, Mode: 0644, ModTime: time.Unix(1700000000, 123456789)},
			{Name: "m", Typeflag: tar.TypeReg, Mode: 0644, ModTime: time.Unix(-2, 500000000)},
		},
		"attributes": {
			{Name: "x", Typeflag: tar.TypeReg, Mode: 0644, Size: 4, PAXRecords: map[string]string{
				"SCHILY.xattr.user.key": "value\nof two lines", "comment": "12 x=y\n"}},
			{Name: "y", Typeflag: tar.TypeReg, Mode: 0644, Size: 1},
		},
	}
	for format, kind := range map[string]tar.Format{
		"ustar": tar.FormatUSTAR, "pax": tar.FormatPAX, "gnu": tar.FormatGNU,
	} {
		for name, headers := range cases {
			path := filepath.Join(directory, fmt.Sprintf("go-%s-%s.tar", format, name))
			file, err := os.Create(path)
			if err != nil {
				panic(err)
			}
			writer := tar.NewWriter(file)
			n := 0
			for _, header := range headers {
				header.Format = kind
				// What a format cannot say is left out.
				if writer.WriteHeader(&header) != nil {
					writer = remaining(file, writer)
					continue
				}
				n++
				io.WriteString(writer, strings.Repeat("x", int(header.Size)))
			}
			writer.Close()
			file.Close()
			if n == 0 {
				os.Remove(path)
			}
		}
	}
}

// A writer remembers its first failure; another goes on behind what it has written.
func remaining(file *os.File, writer *tar.Writer) *tar.Writer {
	writer.Flush()
	return tar.NewWriter(file)
}

func main() {
	paths := os.Args[1:]
	if info, err := os.Stat(paths[0]); err == nil && info.IsDir() {
		write(paths[0])
		paths, _ = filepath.Glob(filepath.Join(paths[0], "*.tar"))
	}
	for _, path := range paths {
		line, err := json.Marshal(read(path))
		if err != nil {
			panic(err)
		}
		fmt.Println(string(line))
	}
}
