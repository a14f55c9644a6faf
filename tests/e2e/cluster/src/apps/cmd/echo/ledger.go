package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// ledger writes down the id of each request that reached this server, so that one that came twice, to any server, is found.
type ledger struct {
	mutex sync.Mutex
	file  *os.File
}

// openLedger opens the ledger of a pod in a folder that its servers share; without a folder there is none.
func openLedger(folder, pod string) (*ledger, error) {
	if folder == "" {
		return &ledger{}, nil
	}
	file, err := os.OpenFile(filepath.Join(folder, pod), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	return &ledger{file: file}, err
}

func (l *ledger) note(id string) {
	if l.file == nil || id == "" {
		return
	}
	l.mutex.Lock()
	defer l.mutex.Unlock()
	fmt.Fprintln(l.file, id)
}

func (l *ledger) http(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		l.note(r.Header.Get(idHeader))
		next.ServeHTTP(w, r)
	})
}

func (l *ledger) unary(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	l.note(strings.Join(md.Get(idHeader), ""))
	return handle(ctx, request)
}

func (l *ledger) stream(server any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	md, _ := metadata.FromIncomingContext(stream.Context())
	l.note(strings.Join(md.Get(idHeader), ""))
	return handle(server, stream)
}

// tcp notes the ids in the first line of what is read.
func (l *ledger) tcp(from io.Reader) io.Reader {
	if l.file == nil {
		return from
	}
	lines := bufio.NewReader(from)
	first, _ := lines.ReadString('\n')
	if id, found := strings.CutPrefix(strings.TrimSpace(first), "id "); found {
		l.note(id)
	}
	return io.MultiReader(strings.NewReader(first), lines)
}

// countLedgers prints how many ids all ledgers in a folder have, how many of them more than once, and how many requests had one.
func countLedgers(args []string) int {
	seen, counts := map[string]int{}, struct {
		IDs        int `json:"ids"`
		Duplicates int `json:"duplicates"`
		Requests   int `json:"requests"`
	}{}
	files, err := filepath.Glob(filepath.Join(strings.Join(args, ""), "*"))
	for _, file := range files {
		var text []byte
		if text, err = os.ReadFile(file); err != nil {
			break
		}
		for _, id := range strings.Fields(string(text)) {
			counts.Requests++
			if seen[id]++; seen[id] == 2 {
				counts.Duplicates++
			}
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "echo ledger:", err)
		return 1
	}
	counts.IDs = len(seen)
	_ = json.NewEncoder(os.Stdout).Encode(counts)
	return 0
}
