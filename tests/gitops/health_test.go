// Package gitops holds what we ship to users of Argo CD against Argo CD's own libraries.
package gitops

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/argoproj/argo-cd/gitops-engine/pkg/health"
	"github.com/argoproj/argo-cd/gitops-engine/pkg/utils/kube"
	"github.com/argoproj/argo-cd/v3/pkg/apis/application/v1alpha1"
	"github.com/argoproj/argo-cd/v3/util/lua"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

const (
	config         = "../../config"
	customizations = config + "/argocd/resource_customizations"
)

// TestHealth runs every case of every health_test.yaml through Argo CD's health assessment. The scripts are installed as
// overrides, which is how a user has them (in argocd-cm) and stricter than built in: Argo CD gives those no Lua libraries.
func TestHealth(t *testing.T) {
	for _, kind := range kinds(t) {
		dir := filepath.Join(customizations, kind)
		overrides := lua.ResourceHealthOverrides{kind: v1alpha1.ResourceOverride{HealthLua: string(read(t, dir, "health.lua"))}}
		var suite struct {
			Tests []struct {
				InputPath    string              `json:"inputPath"`
				HealthStatus health.HealthStatus `json:"healthStatus"`
			} `json:"tests"`
		}
		if err := yaml.UnmarshalStrict(read(t, dir, "health_test.yaml"), &suite); err != nil {
			t.Fatal(err)
		}

		// What no case names is a case that was forgotten, or lost.
		unused := map[string]bool{}
		inputs, _ := filepath.Glob(filepath.Join(dir, "testdata", "*.yaml"))
		for _, input := range inputs {
			unused[input] = true
		}
		for _, test := range suite.Tests {
			t.Run(filepath.Join(kind, test.InputPath), func(t *testing.T) {
				delete(unused, filepath.Join(dir, test.InputPath))
				got, err := health.GetResourceHealth(objects(t, read(t, dir, test.InputPath))[0], overrides)
				// Without a script of its own the kind has no health: nil, which Argo CD takes for well.
				if err != nil || got == nil || *got != test.HealthStatus {
					t.Errorf("got %+v, error %v; want %+v", got, err, test.HealthStatus)
				}
			})
		}
		for input := range unused {
			t.Errorf("no case of health_test.yaml uses %s", input)
		}
	}
}

// kinds are ours, as Argo CD writes them: every CRD, so that a new kind without health fails.
func kinds(t *testing.T) (kinds []string) {
	files, _ := filepath.Glob(config + "/crd/heddle.dev_*.yaml")
	for _, file := range files {
		crd := objects(t, read(t, file))[0]
		group, _, _ := unstructured.NestedString(crd.Object, "spec", "group")
		kind, _, _ := unstructured.NestedString(crd.Object, "spec", "names", "kind")
		kinds = append(kinds, filepath.Join(group, kind))
	}
	if len(kinds) == 0 {
		t.Fatal("no CRD in config/crd")
	}
	return kinds
}

func read(t *testing.T, path ...string) []byte {
	t.Helper()
	bytes, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return bytes
}

func objects(t *testing.T, manifests []byte) []*unstructured.Unstructured {
	t.Helper()
	objects, err := kube.SplitYAML(manifests)
	if err != nil || len(objects) == 0 {
		t.Fatalf("%d objects, error %v", len(objects), err)
	}
	return objects
}
