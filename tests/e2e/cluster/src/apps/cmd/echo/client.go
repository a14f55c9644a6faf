package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/tls"
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
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// report is what a run counted.
type report struct {
	Count        uint64            `json:"count"`
	Versions     map[string]uint64 `json:"versions"`
	Pods         map[string]uint64 `json:"pods"`
	Statuses     map[string]uint64 `json:"statuses"`
	Errors       uint64            `json:"errors"`
	ErrorSamples []string          `json:"error_samples"`
	Seconds      float64           `json:"seconds"`
	P50          float64           `json:"p50_ms"`
	P99          float64           `json:"p99_ms"`
	Max          float64           `json:"max_ms"`
	mutex        sync.Mutex
	times        []time.Duration
	// Last is the last answer of HTTP, with -last.
	Last *answerOf `json:"last,omitempty"`
}

// answerOf is an answer of HTTP: its headers, and its body up to 64 kB.
type answerOf struct {
	Headers http.Header `json:"headers"`
	Body    string      `json:"body"`
}

// reply says how a request was answered, and by whom.
type reply struct {
	status, version, pod string
	// whole is the whole answer, with -last.
	whole *answerOf
}

// send makes one request; an error means that no answer came.
type send func() (reply, error)

// options are what the flags say about a single request.
type options struct {
	target, method string
	// sni is the name of the server in TLS.
	sni       string
	headers   headers
	keepalive bool
	timeout   time.Duration
	// ids gives each request an id of its own, which servers with a ledger write down.
	ids bool
	// last keeps the whole of the last answer.
	last bool
}

// idHeader carries the id of a request; over TCP the line that is sent is `id ` and the id.
const idHeader = "x-e2e-id"

// id returns a new id; empty without -ids.
func (o options) id() string {
	if !o.ids {
		return ""
	}
	return rand.Text()
}

// headers collects a flag that may be given several times.
type headers []string

func (h *headers) String() string { return strings.Join(*h, ", ") }

func (h *headers) Set(header string) error {
	if !strings.Contains(header, ":") {
		return fmt.Errorf("%q is not of the form name: value", header)
	}
	*h = append(*h, header)
	return nil
}

func client(args []string) int {
	var o options
	flags := flag.NewFlagSet("client", flag.ExitOnError)
	count := flags.Uint64("n", 1, "requests")
	workers := flags.Int("c", 1, "concurrent workers, each with connections of its own")
	rate := flags.Float64("qps", 0, "requests a second over all workers; 0: as fast as answered")
	protocol := flags.String("proto", "http", "http, h2c, grpc, grpc-stream, tcp or tls (the last two always a connection for each request)")
	flags.StringVar(&o.sni, "sni", "", "the name of the server in TLS")
	flags.StringVar(&o.method, "method", "GET", "HTTP method")
	flags.Var(&o.headers, "H", "HTTP header, name: value; may be repeated")
	flags.BoolVar(&o.keepalive, "keepalive", true, "keep HTTP and gRPC connections")
	flags.DurationVar(&o.timeout, "timeout", 10*time.Second, "for one request")
	flags.BoolVar(&o.ids, "ids", false, "give each request an id of its own")
	flags.BoolVar(&o.last, "last", false, "report the headers and the body of the last answer of HTTP")
	_ = flags.Parse(args)
	if o.target = flags.Arg(0); o.target == "" {
		fmt.Fprintln(os.Stderr, "echo client: where to?")
		return 2
	}

	result := &report{Versions: map[string]uint64{}, Pods: map[string]uint64{}, Statuses: map[string]uint64{}, ErrorSamples: []string{}}
	var next atomic.Uint64
	var group sync.WaitGroup
	start := time.Now()
	for range *workers {
		one, err := over(*protocol, o)
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
	result.Seconds = time.Since(start).Seconds()
	result.print()
	return 0
}

// over makes the sender of one worker.
func over(protocol string, o options) (send, error) {
	switch protocol {
	case "http", "h2c":
		return overHTTP(o, protocol == "h2c"), nil
	case "grpc":
		return overGRPC(o, check)
	case "grpc-stream":
		return overGRPC(o, stream)
	case "tcp", "tls":
		return func() (reply, error) { return overTCP(o, protocol == "tls") }, nil
	}
	return nil, fmt.Errorf("-proto is http, h2c, grpc, grpc-stream, tcp or tls, not %s", protocol)
}

func (r *report) time(one send) {
	begin := time.Now()
	answered, err := one()
	took := time.Since(begin)
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.Count++
	r.times = append(r.times, took)
	if err != nil {
		r.Errors++
		if len(r.ErrorSamples) < 5 {
			sample := fmt.Sprintf("%s, %v after its begin at %s", err, took.Round(time.Millisecond), begin.UTC().Format("15:04:05.000"))
			r.ErrorSamples = append(r.ErrorSamples, sample)
		}
		return
	}
	r.Statuses[answered.status]++
	if answered.version != "" {
		r.Versions[answered.version]++
	}
	if answered.pod != "" {
		r.Pods[answered.pod]++
	}
	if answered.whole != nil {
		r.Last = answered.whole
	}
}

func (r *report) print() {
	sort.Slice(r.times, func(i, j int) bool { return r.times[i] < r.times[j] })
	milliseconds := func(i int) float64 { return float64(r.times[i].Microseconds()) / 1000 }
	if n := len(r.times); n > 0 {
		r.P50, r.P99, r.Max = milliseconds(n/2), milliseconds(n*99/100), milliseconds(n-1)
	}
	_ = json.NewEncoder(os.Stdout).Encode(r)
}

func overHTTP(o options, h2c bool) send {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!h2c)
	protocols.SetUnencryptedHTTP2(h2c)
	transport := &http.Transport{DisableKeepAlives: !o.keepalive, Protocols: protocols}
	web := &http.Client{Transport: transport, Timeout: o.timeout}
	// A redirect is an answer.
	web.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return func() (reply, error) {
		request, err := http.NewRequest(o.method, o.target, nil)
		if err != nil {
			return reply{}, err
		}
		for _, header := range o.headers {
			name, value, _ := strings.Cut(header, ":")
			// Go takes the host from a field of its own, never from the headers.
			if strings.EqualFold(name, "host") {
				request.Host = strings.TrimSpace(value)
			} else {
				request.Header.Add(name, strings.TrimSpace(value))
			}
		}
		if id := o.id(); id != "" {
			request.Header.Set(idHeader, id)
		}
		response, err := web.Do(request)
		if err != nil {
			return reply{}, err
		}
		defer response.Body.Close()
		answered := reply{status: fmt.Sprint(response.StatusCode), version: response.Header.Get("x-version"), pod: response.Header.Get("x-pod")}
		if o.last {
			body, err := io.ReadAll(io.LimitReader(response.Body, 64<<10))
			if err != nil {
				return reply{}, err
			}
			answered.whole = &answerOf{response.Header, string(body)}
		}
		_, err = io.Copy(io.Discard, response.Body)
		return answered, err
	}
}

func overGRPC(o options, call func(*grpc.ClientConn, options) (reply, error)) (send, error) {
	dial := func() (*grpc.ClientConn, error) {
		return grpc.NewClient("passthrough:///"+o.target, grpc.WithTransportCredentials(insecure.NewCredentials()))
	}
	kept, err := dial()
	if err != nil {
		return nil, err
	}
	return func() (reply, error) {
		connection := kept
		if !o.keepalive {
			fresh, err := dial()
			if err != nil {
				return reply{}, err
			}
			defer fresh.Close()
			connection = fresh
		}
		return call(connection, o)
	}, nil
}

// check asks the health service once.
func check(connection *grpc.ClientConn, o options) (reply, error) {
	within, cancel := o.context()
	defer cancel()
	var headers metadata.MD
	_, err := healthpb.NewHealthClient(connection).Check(within, &healthpb.HealthCheckRequest{}, grpc.Header(&headers))
	return answered(headers, err)
}

// context is that of one call: its time and its headers.
func (o options) context() (context.Context, context.CancelFunc) {
	within, cancel := context.WithTimeout(context.Background(), o.timeout)
	for _, header := range o.headers {
		name, value, _ := strings.Cut(header, ":")
		within = metadata.AppendToOutgoingContext(within, name, strings.TrimSpace(value))
	}
	if id := o.id(); id != "" {
		within = metadata.AppendToOutgoingContext(within, idHeader, id)
	}
	return within, cancel
}

// stream reads a stream to its end, and counts its messages.
func stream(connection *grpc.ClientConn, o options) (reply, error) {
	within, cancel := o.context()
	defer cancel()
	var headers metadata.MD
	messages, err := connection.NewStream(within, &counting.Streams[0], "/"+counting.ServiceName+"/"+counting.Streams[0].StreamName, grpc.Header(&headers))
	if err != nil {
		return answered(headers, err)
	}
	if err = messages.SendMsg(&healthpb.HealthCheckRequest{}); err == nil {
		err = messages.CloseSend()
	}
	count := 0
	for err == nil {
		if err = messages.RecvMsg(&healthpb.HealthCheckResponse{}); err == nil {
			count++
		}
	}
	if err != io.EOF {
		return answered(headers, err)
	}
	if count != messagesOfStream {
		return reply{}, fmt.Errorf("%d messages of %d", count, messagesOfStream)
	}
	return answered(headers, nil)
}

// answered tells an answer from none.
func answered(headers metadata.MD, err error) (reply, error) {
	code := status.Code(err)
	switch code {
	// What the client library itself says when nobody answers. A proxy's refusal (PermissionDenied, for one) is an answer.
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.Internal, codes.Unknown:
		return reply{}, err
	}
	return reply{status: code.String(), version: strings.Join(headers.Get("x-version"), ""), pod: strings.Join(headers.Get("x-pod"), "")}, nil
}

// overTCP waits for the server's greeting, then has a line sent back; within TLS if sealed.
func overTCP(o options, sealed bool) (reply, error) {
	connection, err := net.DialTimeout("tcp", o.target, o.timeout)
	if err != nil {
		return reply{}, err
	}
	defer connection.Close()
	_ = connection.SetDeadline(time.Now().Add(o.timeout))
	if sealed {
		// The test is about the name, which leads to the server; its certificate is its own.
		connection = tls.Client(connection, &tls.Config{ServerName: o.sni, InsecureSkipVerify: true})
	}
	lines := bufio.NewReader(connection)
	greeting, err := lines.ReadString('\n')
	if err != nil {
		return reply{}, fmt.Errorf("reading the greeting: %w", err)
	}
	line := "ping"
	if id := o.id(); id != "" {
		line = "id " + id
	}
	fmt.Fprintln(connection, line)
	back, err := lines.ReadString('\n')
	if err != nil {
		return reply{}, fmt.Errorf("reading the line back: %w", err)
	}
	if back != line+"\n" {
		return reply{}, fmt.Errorf("sent %q, got %q", line, back)
	}
	return reply{status: "ok", version: strings.TrimSpace(strings.TrimPrefix(greeting, "hello "))}, nil
}
