package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const timeout = 10 * time.Second

// report is what a run counted.
type report struct {
	Count        uint64            `json:"count"`
	Versions     map[string]uint64 `json:"versions"`
	Statuses     map[string]uint64 `json:"statuses"`
	Errors       uint64            `json:"errors"`
	ErrorSamples []string          `json:"error_samples"`
	P50          float64           `json:"p50_ms"`
	P99          float64           `json:"p99_ms"`
	mutex        sync.Mutex
	times        []time.Duration
}

// send makes one request: the status, and the version that answered.
type send func() (status, version string, err error)

func client(args []string) int {
	flags := flag.NewFlagSet("client", flag.ExitOnError)
	count := flags.Uint64("n", 1, "requests")
	workers := flags.Int("c", 1, "concurrent workers")
	rate := flags.Float64("qps", 0, "requests a second over all workers; 0: as fast as answered")
	protocol := flags.String("proto", "http", "http, grpc or tcp")
	method := flags.String("method", "GET", "HTTP method")
	header := flags.String("H", "", "one HTTP header, name: value")
	keepalive := flags.Bool("keepalive", true, "keep HTTP connections")
	_ = flags.Parse(args)
	target := flags.Arg(0)

	var make func() (send, error)
	switch *protocol {
	case "http":
		make = func() (send, error) { return overHTTP(target, *method, *header, *keepalive) }
	case "grpc":
		make = func() (send, error) { return overGRPC(target) }
	case "tcp":
		make = func() (send, error) { return func() (string, string, error) { return overTCP(target) }, nil }
	default:
		fmt.Fprintln(os.Stderr, "echo client: -proto is http, grpc or tcp")
		return 2
	}

	result := &report{Versions: map[string]uint64{}, Statuses: map[string]uint64{}}
	var next atomic.Uint64
	var group sync.WaitGroup
	start := time.Now()
	for range *workers {
		one, err := make()
		if err != nil {
			fmt.Fprintln(os.Stderr, "echo client:", err)
			return 2
		}
		group.Add(1)
		go func() {
			defer group.Done()
			for {
				i := next.Add(1) - 1
				if i >= *count {
					return
				}
				if *rate > 0 {
					time.Sleep(time.Until(start.Add(time.Duration(float64(i) / *rate * float64(time.Second)))))
				}
				result.time(one)
			}
		}()
	}
	group.Wait()
	result.print()
	return 0
}

func (r *report) time(one send) {
	begin := time.Now()
	status, version, err := one()
	took := time.Since(begin)
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.Count++
	r.times = append(r.times, took)
	if err != nil {
		r.Errors++
		if len(r.ErrorSamples) < 5 {
			r.ErrorSamples = append(r.ErrorSamples, err.Error())
		}
		return
	}
	r.Statuses[status]++
	if version != "" {
		r.Versions[version]++
	}
}

func (r *report) print() {
	sort.Slice(r.times, func(i, j int) bool { return r.times[i] < r.times[j] })
	if n := len(r.times); n > 0 {
		r.P50 = float64(r.times[n/2].Microseconds()) / 1000
		r.P99 = float64(r.times[n*99/100].Microseconds()) / 1000
	}
	_ = json.NewEncoder(os.Stdout).Encode(r)
}

func overHTTP(url, method, header string, keepalive bool) (send, error) {
	transport := &http.Transport{DisableKeepAlives: !keepalive}
	web := &http.Client{Transport: transport, Timeout: timeout}
	return func() (string, string, error) {
		request, err := http.NewRequest(method, url, nil)
		if err != nil {
			return "", "", err
		}
		if name, value, found := strings.Cut(header, ":"); found {
			request.Header.Set(name, strings.TrimSpace(value))
		}
		response, err := web.Do(request)
		if err != nil {
			return "", "", err
		}
		defer response.Body.Close()
		_, err = io.Copy(io.Discard, response.Body)
		return fmt.Sprint(response.StatusCode), response.Header.Get("x-version"), err
	}, nil
}

func overGRPC(target string) (send, error) {
	connection, err := grpc.NewClient("passthrough:///"+target, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	stub := healthpb.NewHealthClient(connection)
	return func() (string, string, error) {
		within, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		var headers metadata.MD
		_, err := stub.Check(within, &healthpb.HealthCheckRequest{}, grpc.Header(&headers))
		if err != nil {
			return "", "", err
		}
		return status.Code(err).String(), strings.Join(headers.Get("x-version"), ""), nil
	}, nil
}

// overTCP waits for the server's greeting, then has a line sent back.
func overTCP(target string) (string, string, error) {
	connection, err := net.DialTimeout("tcp", target, timeout)
	if err != nil {
		return "", "", err
	}
	defer connection.Close()
	_ = connection.SetDeadline(time.Now().Add(timeout))
	lines := bufio.NewReader(connection)
	greeting, err := lines.ReadString('\n')
	if err != nil {
		return "", "", err
	}
	fmt.Fprintln(connection, "ping")
	back, err := lines.ReadString('\n')
	if err != nil {
		return "", "", err
	}
	if back != "ping\n" {
		return "", "", fmt.Errorf("sent ping, got %q", back)
	}
	return "ok", strings.TrimSpace(strings.TrimPrefix(greeting, "hello ")), nil
}
