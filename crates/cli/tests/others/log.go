// Checks a transparency log with nothing but the libraries of Go's checksum database: the newest note, that it extends an earlier one,
// which is on standard input, and that every entry is in it.
//
//	KEY=… go run log.go https://gateway.example/log "$(verifier key)" <earlier.checkpoint
package main

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

func must[T any](it T, err error) T {
	if err != nil {
		fmt.Println("refused:", err)
		os.Exit(1)
	}
	return it
}

func ok(err error) { must(0, err) }

// The files of one log.
type files struct{ url string }

func (from files) get(path string) ([]byte, error) {
	request := must(http.NewRequest("GET", from.url+"/"+path, nil))
	request.Header.Set("authorization", "Bearer "+os.Getenv("KEY"))
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != 200 {
		return nil, fmt.Errorf("%s: %s", path, answer.Status)
	}
	return io.ReadAll(answer.Body)
}

func (files) Height() int { return 8 }

func (from files) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var all [][]byte
	for _, tile := range tiles {
		// C2SP's names have no height, since theirs is always 8.
		data, err := from.get("tile/" + strings.TrimPrefix(tile.Path(), "tile/8/"))
		if err != nil {
			return nil, err
		}
		all = append(all, data)
	}
	return all, nil
}

func (files) SaveTiles([]tlog.Tile, [][]byte) {}

// The entries of one tile, each after its length.
func entries(bytes []byte) (all [][]byte) {
	for len(bytes) > 0 {
		length := int(binary.BigEndian.Uint16(bytes))
		all, bytes = append(all, bytes[2:2+length]), bytes[2+length:]
	}
	return all
}

// What a note says, if it is the log's.
func opened(text []byte, verifiers note.Verifiers) tlog.Tree {
	lines := strings.Split(must(note.Open(text, verifiers)).Text, "\n")
	size := must(strconv.ParseInt(lines[1], 10, 64))
	root := tlog.Hash(*(*[sha256.Size]byte)(must(base64.StdEncoding.DecodeString(lines[2]))))
	return tlog.Tree{N: size, Hash: root}
}

func main() {
	from := files{os.Args[1]}
	verifiers := note.VerifierList(must(note.NewVerifier(os.Args[2])))
	earlier := opened(must(io.ReadAll(os.Stdin)), verifiers)
	tree := opened(must(from.get("checkpoint")), verifiers)
	hashes := tlog.TileHashReader(tree, from)
	ok(tlog.CheckTree(must(tlog.ProveTree(tree.N, earlier.N, hashes)), tree.N, tree.Hash, earlier.N, earlier.Hash))
	for n := int64(0); n < tree.N; n += 256 {
		tile := tlog.Tile{H: 8, L: 0, N: n / 256, W: int(tree.N - n)}
		if tile.W > 256 {
			tile.W = 256
		}
		path := "tile/entries/" + strings.TrimPrefix(tile.Path(), "tile/8/0/")
		all := entries(must(from.get(path)))
		for i, entry := range all {
			at := n + int64(i)
			ok(tlog.CheckRecord(must(tlog.ProveRecord(tree.N, at, hashes)), tree.N, tree.Hash, at, tlog.RecordHash(entry)))
		}
		if len(all) != tile.W {
			ok(fmt.Errorf("%s has %d entries", path, len(all)))
		}
	}
	fmt.Printf("%d entries, %d of them earlier\n", tree.N, earlier.N)
}
