// Package conformance runs the mesh profiles of Gateway API's own conformance suite.
package conformance

import (
	"testing"

	"sigs.k8s.io/gateway-api/conformance"
)

// TestMesh takes its options from the suite's own flags and file; run.sh passes them.
func TestMesh(t *testing.T) {
	conformance.RunConformance(t)
}
