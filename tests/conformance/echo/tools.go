//go:build tools

// Package echo pins the application that the suite's manifests run: the echo server and client of Istio.
package echo

import (
	_ "istio.io/istio/pkg/test/echo/cmd/client"
	_ "istio.io/istio/pkg/test/echo/cmd/server"
)
