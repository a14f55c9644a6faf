package gitops

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/argoproj/argo-cd/gitops-engine/pkg/diff"
	"github.com/argoproj/argo-cd/gitops-engine/pkg/utils/kube"
	"github.com/argoproj/argo-cd/gitops-engine/pkg/utils/tracing"
	"github.com/argoproj/argo-cd/v3/common"
	"github.com/argoproj/argo-cd/v3/pkg/apis/application/v1alpha1"
	"github.com/argoproj/argo-cd/v3/util/argo"
	argodiff "github.com/argoproj/argo-cd/v3/util/argo/diff"
	"github.com/argoproj/argo-cd/v3/util/argo/normalizers"
	"github.com/argoproj/argo-cd/v3/util/settings"
	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

const caBundle = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCk1Bbz0KLS0tLS1FTkQgQ0VSVElGSUNBVEUtLS0tLQo="

// TestNoDrift syncs the installation and a user's objects to a real API server with Argo CD's own code, changes them as the
// running control plane does, and lets Argo CD compare: an Application that only we touch stays Synced, in all ways that
// Argo CD has to apply and to compare, and a second sync takes nothing of ours away.
func TestNoDrift(t *testing.T) {
	for name, serverSide := range map[string]bool{"client-side apply": false, "server-side apply": true} {
		t.Run(name, func(t *testing.T) {
			app := newApplication(t, serverSide)
			app.sync(t)
			app.runControlPlane(t)
			before := app.live(t)

			for name, diffConfig := range app.diffConfigs(t) {
				t.Run(name, func(t *testing.T) {
					for i, target := range app.targets {
						t.Run(target.GetKind()+" "+target.GetName(), func(t *testing.T) {
							result, err := argodiff.StateDiff(before[i], target, diffConfig)
							if err != nil {
								t.Fatal(err)
							}
							if result.Modified {
								t.Errorf("OutOfSync; live - and what a sync would make of it +:\n%s",
									cmp.Diff(decode(t, result.NormalizedLive), decode(t, result.PredictedLive)))
							}
						})
					}
					t.Run("a real change shows", func(t *testing.T) {
						i := slices.IndexFunc(app.targets, func(o *unstructured.Unstructured) bool { return o.GetKind() == "TrafficSplit" })
						changed := app.targets[i].DeepCopy()
						_ = unstructured.SetNestedField(changed.Object, "other", "spec", "service")
						result, err := argodiff.StateDiff(before[i], changed, diffConfig)
						if err != nil || !result.Modified {
							t.Errorf("modified %v, error %v", result.Modified, err)
						}
					})
				})
			}

			app.sync(t)
			for i, after := range app.live(t) {
				// A generation moves with every change of the spec, and the caBundle is part of one.
				if before[i].GetGeneration() != after.GetGeneration() {
					t.Errorf("a second sync changed %s %s:\n%s", after.GetKind(), after.GetName(), cmp.Diff(before[i].Object, after.Object))
				}
				if after.GetKind() == "MutatingWebhookConfiguration" {
					webhooks, _, _ := unstructured.NestedSlice(after.Object, "webhooks")
					for _, webhook := range webhooks {
						if got, _, _ := unstructured.NestedString(webhook.(map[string]any), "clientConfig", "caBundle"); got != caBundle {
							t.Errorf("a second sync left caBundle %q", got)
						}
					}
				}
			}
		})
	}
}

// application is what an Argo CD Application with our manifests is to its controller.
type application struct {
	rest       *rest.Config
	client     client.Client
	kubectl    kube.KubectlCmd
	serverSide bool // syncOptions: [ServerSideApply=true]
	targets    []*unstructured.Unstructured
}

func newApplication(t *testing.T, serverSide bool) *application {
	if os.Getenv("KUBEBUILDER_ASSETS") == "" {
		t.Fatal("no API server to run: tests/gitops/run.sh brings one")
	}
	// The cache of kubectl's discovery goes by address, so a former run's must not be found.
	t.Setenv("KUBECACHEDIR", t.TempDir())
	ctrllog.SetLogger(logr.Discard())
	environment := envtest.Environment{ControlPlaneStartTimeout: 2 * time.Minute, ControlPlaneStopTimeout: time.Minute}
	t.Cleanup(func() { _ = environment.Stop() })
	rest, err := environment.Start()
	if err != nil {
		t.Fatal(err)
	}
	client, err := client.New(rest, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	app := &application{rest: rest, client: client, serverSide: serverSide}
	app.kubectl = kube.KubectlCmd{Log: logr.Discard(), Tracer: tracing.NopTracer{}}

	for _, dir := range []string{"default", "samples"} {
		resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), filepath.Join(config, dir))
		if err != nil {
			t.Fatal(err)
		}
		manifests, err := resources.AsYaml()
		if err != nil {
			t.Fatal(err)
		}
		app.targets = append(app.targets, objects(t, manifests)...)
	}
	app.targets = append(app.targets, objects(t, read(t, config, "samples", "mesh.yaml"))...)
	app.targets = append(app.targets, objects(t, read(t, "testdata", "least.yaml"))...)
	for _, target := range app.targets {
		// The repo server's mark, by Argo CD's default tracking method.
		err := argo.NewResourceTracking().SetAppInstance(target, common.LabelKeyAppInstance, "heddle", "argocd", v1alpha1.TrackingMethodAnnotation, "")
		if err != nil {
			t.Fatal(err)
		}
	}
	// Argo CD's order of a sync: what others need comes first.
	rank := func(o *unstructured.Unstructured) int {
		return -1 - slices.Index([]string{"CustomResourceDefinition", "Namespace"}, o.GetKind())
	}
	slices.SortStableFunc(app.targets, func(a, b *unstructured.Unstructured) int { return rank(a) - rank(b) })
	return app
}

// sync applies as a sync of Argo CD does.
func (app *application) sync(t *testing.T) {
	t.Helper()
	for _, target := range app.targets {
		// A kind is known some time after its CRD; Argo CD waits for that too.
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(500 * time.Millisecond) {
			// Anew each time, for it remembers which kinds there were.
			operations, cleanup, err := app.kubectl.ManageResources(app.rest)
			if err != nil {
				t.Fatal(err)
			}
			_, err = operations.ApplyResource(t.Context(), target, cmdutil.DryRunNone, false, true, app.serverSide, common.ArgoCDSSAManager)
			cleanup()
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("apply %s %s: %v", target.GetKind(), target.GetName(), err)
			}
		}
	}
}

// runControlPlane writes all that the operator writes into objects of an Application: the caBundle of its webhooks and the
// status of our kinds, by server-side apply under its own field
// managers (operator/src/kubernetes/ca_bundle.rs and statuses.rs).
func (app *application) runControlPlane(t *testing.T) {
	for _, target := range app.targets {
		patch := &unstructured.Unstructured{}
		patch.SetGroupVersionKind(target.GroupVersionKind())
		patch.SetName(target.GetName())
		patch.SetNamespace(target.GetNamespace())
		var err error
		switch {
		case target.GetKind() == "MutatingWebhookConfiguration":
			webhooks, _, _ := unstructured.NestedSlice(target.Object, "webhooks")
			for i, webhook := range webhooks {
				webhooks[i] = map[string]any{
					"name":         webhook.(map[string]any)["name"],
					"clientConfig": map[string]any{"caBundle": caBundle},
				}
			}
			patch.Object["webhooks"] = webhooks
			err = app.client.Apply(t.Context(), client.ApplyConfigurationFromUnstructured(patch),
				client.FieldOwner("heddle-operator-cabundle"), client.ForceOwnership)
		case target.GroupVersionKind().Group == "heddle.dev":
			// The status of a sound object, by the same samples that its health is tested with.
			good := objects(t, read(t, customizations, "heddle.dev", target.GetKind(), "testdata", "good.yaml"))[0]
			patch.Object["status"] = good.Object["status"]
			err = app.client.Status().Apply(t.Context(), client.ApplyConfigurationFromUnstructured(patch),
				client.FieldOwner("heddle-operator"), client.ForceOwnership)
		}
		if err != nil {
			t.Fatalf("operator: %s %s: %v", target.GetKind(), target.GetName(), err)
		}
	}
}

func (app *application) live(t *testing.T) (live []*unstructured.Unstructured) {
	for _, target := range app.targets {
		object, err := app.kubectl.GetResource(t.Context(), app.rest, target.GroupVersionKind(), target.GetName(), target.GetNamespace())
		if err != nil {
			t.Fatal(err)
		}
		live = append(live, object)
	}
	return live
}

// diffConfigs are the ways to compare, set up as Argo CD's controller does (controller/state.go), with its default settings.
func (app *application) diffConfigs(t *testing.T) map[string]argodiff.DiffConfig {
	defaults := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{
		Name: common.ArgoCDConfigMapName, Namespace: "argocd", Labels: map[string]string{"app.kubernetes.io/part-of": "argocd"},
	}}
	overrides, err := settings.NewSettingsManager(context.Background(), fake.NewClientset(defaults), "argocd").GetResourceOverrides()
	if err != nil {
		t.Fatal(err)
	}
	_, schemas, err := app.kubectl.LoadOpenAPISchema(app.rest)
	if err != nil {
		t.Fatal(err)
	}
	applier, cleanup, err := app.kubectl.ManageServerSideDiffDryRuns(app.rest)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cleanup)

	configs := map[string]argodiff.DiffConfig{}
	for name, serverSideDiff := range map[string]bool{"default diff": false, "ServerSideDiff=true": true} {
		configs[name], err = argodiff.NewDiffConfigBuilder().
			WithDiffSettings(nil, overrides, false, normalizers.IgnoreNormalizerOpts{}).
			WithTracking(common.LabelKeyAppInstance, string(v1alpha1.TrackingMethodAnnotation)).
			WithNoCache().
			WithGVKParser(schemas).
			WithManager(common.ArgoCDSSAManager).
			WithStructuredMergeDiff(app.serverSide).
			WithServerSideDiff(serverSideDiff).
			WithServerSideDryRunner(diff.NewK8sServerSideDryRunner(applier)).
			Build()
		if err != nil {
			t.Fatal(err)
		}
	}
	return configs
}

func decode(t *testing.T, document []byte) (object map[string]any) {
	if err := json.Unmarshal(document, &object); err != nil {
		t.Fatal(err)
	}
	// Long, and never what differs.
	unstructured.RemoveNestedField(object, "metadata", "managedFields")
	return object
}
