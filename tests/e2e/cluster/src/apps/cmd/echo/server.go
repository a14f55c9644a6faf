package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
)

// grace bounds how long requests under way may take to end after SIGTERM.
const grace = 10 * time.Second

// serve answers until SIGTERM, goes on for the drain time, then finishes what is under way.
func serve(args []string) error {
	flags := flag.NewFlagSet("echo", flag.ExitOnError)
	httpAddress := flags.String("http", ":8080", "HTTP/1.1 and h2c")
	grpcAddress := flags.String("grpc", ":9090", "gRPC health service")
	tcpAddress := flags.String("tcp", ":3306", "server-first TCP")
	tlsAddress := flags.String("tls", ":8443", "the same within TLS")
	httpsAddress := flags.String("https", ":9443", "HTTPS, with the certificate in the folder CERTIFICATE")
	drain := flags.Duration("drain", seconds("DRAIN_SECONDS"), "how long to serve on after SIGTERM (default: DRAIN_SECONDS)")
	_ = flags.Parse(args)

	version, pod := os.Getenv("VERSION"), hostname()
	ids, err := openLedger(os.Getenv("LEDGER"), pod)
	if err != nil {
		return err
	}
	failed := make(chan error, 5)

	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	// All ports are open before one of them answers a probe.
	door, err := net.Listen("tcp", *httpAddress)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", *grpcAddress)
	if err != nil {
		return err
	}
	banner, err := net.Listen("tcp", *tcpAddress)
	if err != nil {
		return err
	}
	certificate, err := selfSigned()
	if err != nil {
		return err
	}
	sealed, err := tls.Listen("tcp", *tlsAddress, &tls.Config{Certificates: []tls.Certificate{certificate}})
	if err != nil {
		return err
	}

	web := &http.Server{Handler: ids.http(answer(version, pod)), Protocols: protocols}
	go func() { failed <- web.Serve(door) }()
	if folder := os.Getenv("CERTIFICATE"); folder != "" {
		secure := &http.Server{Addr: *httpsAddress, Handler: web.Handler}
		go func() {
			failed <- secure.ListenAndServeTLS(filepath.Join(folder, "tls.crt"), filepath.Join(folder, "tls.key"))
		}()
	}

	rpc := grpc.NewServer(grpc.ChainUnaryInterceptor(ids.unary, sayVersion(version, pod)), grpc.ChainStreamInterceptor(ids.stream))
	healthpb.RegisterHealthServer(rpc, health.NewServer())
	rpc.RegisterService(&counting, nil)
	go func() { failed <- rpc.Serve(listener) }()

	go func() { failed <- greet(banner, version, ids) }()
	go func() { failed <- greet(sealed, version, ids) }()

	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	select {
	case err := <-failed:
		return err
	case <-stop:
	}
	// Callers learn of the end only after the signal: until then they still come.
	time.Sleep(*drain)

	within, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	ended := make(chan struct{})
	go func() {
		rpc.GracefulStop()
		close(ended)
	}()
	err = web.Shutdown(within)
	select {
	case <-ended:
	case <-within.Done():
		rpc.Stop()
	}
	return err
}

// selfSigned makes a certificate that no client verifies.
func selfSigned() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

func hostname() string {
	name, _ := os.Hostname()
	return name
}

// seconds reads a number of seconds from the environment; absent or unusable is none.
func seconds(variable string) time.Duration {
	n, _ := strconv.ParseFloat(os.Getenv(variable), 64)
	return time.Duration(n * float64(time.Second))
}

// answer tells who answered, and what it was sent. The query `delay=200ms` makes it wait, `status=503` says with what to answer.
func answer(version, pod string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if delay, err := time.ParseDuration(r.URL.Query().Get("delay")); err == nil {
			time.Sleep(delay)
		}
		w.Header().Set("x-version", version)
		w.Header().Set("x-pod", pod)
		w.Header().Set("content-type", "application/json")
		if status, err := strconv.Atoi(r.URL.Query().Get("status")); err == nil && status >= 200 && status <= 599 {
			w.WriteHeader(status)
		}
		_ = json.NewEncoder(w).Encode(map[string]any{
			"version": version, "pod": pod, "protocol": r.Proto, "method": r.Method, "host": r.Host,
			"path": r.URL.RequestURI(), "from": r.RemoteAddr, "headers": r.Header,
		})
	})
}

// messagesOfStream come one after another, in two seconds.
const messagesOfStream = 20

// counting has one stream of messages, and then its end.
var counting = grpc.ServiceDesc{
	ServiceName: "heddle.e2e.Counting",
	HandlerType: (*any)(nil),
	Streams: []grpc.StreamDesc{{
		StreamName:    "Count",
		ServerStreams: true,
		Handler: func(_ any, stream grpc.ServerStream) error {
			if err := stream.RecvMsg(&healthpb.HealthCheckRequest{}); err != nil {
				return err
			}
			for range messagesOfStream {
				if err := stream.SendMsg(&healthpb.HealthCheckResponse{}); err != nil {
					return err
				}
				time.Sleep(100 * time.Millisecond)
			}
			return nil
		},
	}},
}

func sayVersion(version, pod string) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
		_ = grpc.SetHeader(ctx, metadata.Pairs("x-version", version, "x-pod", pod))
		return handle(ctx, request)
	}
}

// greet speaks first, as MySQL does, then sends back what it gets.
func greet(listener net.Listener, version string, ids *ledger) error {
	for {
		connection, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer connection.Close()
			fmt.Fprintf(connection, "%s\n", strings.TrimSpace("hello "+version))
			_, _ = io.Copy(connection, ids.tcp(connection))
		}()
	}
}
