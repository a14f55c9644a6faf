// Package chart renders config/helm with Helm's own code.
package chart

import (
	"reflect"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/releaseutil"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

const (
	folder   = "../../config/helm"
	manifest = "../../config/default"
	// The annotation and its value of helm.sh/helm/v3/pkg/kube, which needs all of client-go.
	resourcePolicy = "helm.sh/resource-policy"
	keep           = "keep"
)

type object = map[string]any

func load(t *testing.T) *chart.Chart {
	t.Helper()
	loaded, err := loader.Load(folder)
	if err != nil {
		t.Fatal(err)
	}
	if err := loaded.Validate(); err != nil {
		t.Fatal(err)
	}
	return loaded
}

func field(of object, path ...string) any {
	var value any = of
	for _, name := range path {
		fields, ok := value.(object)
		if !ok {
			return nil
		}
		value = fields[name]
	}
	return value
}

// Adds the objects of a text by kind and name.
func add(t *testing.T, all map[string]object, text string) {
	t.Helper()
	for _, document := range releaseutil.SplitManifests(text) {
		var one object
		if err := yaml.Unmarshal([]byte(document), &one); err != nil {
			t.Fatalf("%v in\n%s", err, document)
		}
		if len(one) == 0 {
			continue
		}
		name, _ := field(one, "metadata", "name").(string)
		kind, _ := one["kind"].(string)
		key := kind + " " + name
		if _, twice := all[key]; twice || kind == "" || name == "" {
			t.Fatalf("%q is there twice, or has no name:\n%s", key, document)
		}
		all[key] = one
	}
}

func render(loaded *chart.Chart, values object) (map[string]string, error) {
	release := chartutil.ReleaseOptions{Name: "heddle", Namespace: "default", IsInstall: true}
	all, err := chartutil.ToRenderValues(loaded, values, release, chartutil.DefaultCapabilities)
	if err != nil {
		return nil, err
	}
	return engine.Render(loaded, all)
}

func objects(t *testing.T, values object) map[string]object {
	t.Helper()
	loaded := load(t)
	texts, err := render(loaded, values)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]object{}
	for _, text := range texts {
		add(t, all, text)
	}
	for _, crd := range loaded.CRDObjects() {
		add(t, all, string(crd.File.Data))
	}
	return all
}

func TestTheDefaultsAreTheManifests(t *testing.T) {
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), manifest)
	if err != nil {
		t.Fatal(err)
	}
	text, err := built.AsYaml()
	if err != nil {
		t.Fatal(err)
	}
	wanted, found := map[string]object{}, objects(t, object{})
	add(t, wanted, string(text))
	// The one difference: Helm must not delete the namespace, and the root of the mesh with it.
	metadata, _ := wanted["Namespace heddle-system"]["metadata"].(object)
	metadata["annotations"] = object{resourcePolicy: keep}
	for name, one := range wanted {
		if !reflect.DeepEqual(one, found[name]) {
			t.Errorf("%s differs:\n%v\nfrom\n%v", name, found[name], one)
		}
		delete(found, name)
	}
	for name := range found {
		t.Errorf("%s is in the chart only", name)
	}
}

func TestValuesReachTheDeployment(t *testing.T) {
	all := objects(t, object{
		"createNamespace": false,
		"replicas":        3,
		"images":          object{"operator": "registry/heddle:1", "sidecar": "registry/sidecar:1"},
		"resources":       object{"limits": object{"memory": "2Gi"}},
		"nodeSelector":    object{"disk": "ssd"},
		"tolerations":     []any{object{"key": "a", "operator": "Exists"}},
	})
	if _, there := all["Namespace heddle-system"]; there {
		t.Error("the namespace is there")
	}
	deployment := all["Deployment heddle-operator"]
	pod, _ := field(deployment, "spec", "template", "spec").(object)
	containers, _ := pod["containers"].([]any)
	container, _ := containers[0].(object)
	variables, _ := container["env"].([]any)
	sidecar := object{"name": "HEDDLE_SIDECAR_IMAGE", "value": "registry/sidecar:1"}
	for what, pair := range map[string][2]any{
		"replicas":     {field(deployment, "spec", "replicas"), float64(3)},
		"image":        {container["image"], "registry/heddle:1"},
		"pull policy":  {container["imagePullPolicy"], "IfNotPresent"},
		"sidecar":      {variables[len(variables)-1], sidecar},
		"limit":        {field(container, "resources", "limits", "memory"), "2Gi"},
		"request":      {field(container, "resources", "requests", "cpu"), "100m"},
		"nodeSelector": {pod["nodeSelector"], object{"disk": "ssd"}},
		"tolerations":  {pod["tolerations"], []any{object{"key": "a", "operator": "Exists"}}},
	} {
		if !reflect.DeepEqual(pair[0], pair[1]) {
			t.Errorf("%s is %v, not %v", what, pair[0], pair[1])
		}
	}
}

// Helm deletes objects that an upgrade no longer renders, unless they have the annotation.
func TestNoValueTakesAwayAnObject(t *testing.T) {
	all, switches := objects(t, object{}), 0
	for name, value := range load(t).Values {
		on, isSwitch := value.(bool)
		if !isSwitch {
			continue
		}
		switches++
		left := objects(t, object{name: !on})
		for key, one := range all {
			_, there := left[key]
			policy := field(one, "metadata", "annotations", resourcePolicy)
			if !there && policy != keep {
				t.Errorf("%s: %v deletes %s", name, !on, key)
			}
		}
	}
	if switches == 0 {
		t.Error("no value is a switch")
	}
}

// A null removes the default, so that the template prints nothing in its place.
func TestTheSchemaRefusesNull(t *testing.T) {
	refused := func(values object) {
		if _, err := render(load(t), values); err == nil || !strings.Contains(err.Error(), "missing property") {
			t.Errorf("%v: %v", values, err)
		}
	}
	for name, value := range load(t).Values {
		refused(object{name: nil})
		// Below resources every default may be removed.
		if fields, isMap := value.(object); isMap && name != "resources" {
			for below := range fields {
				refused(object{name: object{below: nil}})
			}
		}
	}
	all := objects(t, object{"resources": object{"limits": nil, "requests": object{"cpu": nil}}})
	containers, _ := field(all["Deployment heddle-operator"], "spec", "template", "spec", "containers").([]any)
	container, _ := containers[0].(object)
	left := object{"requests": object{"memory": "128Mi"}}
	if !reflect.DeepEqual(container["resources"], left) {
		t.Errorf("the resources are %v, not %v", container["resources"], left)
	}
}

func TestTheSchemaRefusesMistakes(t *testing.T) {
	for _, values := range []object{
		{"replica": 3},
		{"replicas": "3"},
		{"replicas": 0},
		{"images": object{"operators": "a"}},
		{"images": object{"pullPolicy": "Sometimes"}},
		{"resources": object{"claims": object{}}},
		{"nodeSelector": "disk=ssd"},
		{"tolerations": object{}},
		{"createNamespace": "false"},
		{"priorityClassName": 1},
		{"images": object{"operator": ""}},
		{"images": "a"},
	} {
		if _, err := render(load(t), values); err == nil || !strings.Contains(err.Error(), "values don't meet the specifications") {
			t.Errorf("%v: %v", values, err)
		}
	}
}
