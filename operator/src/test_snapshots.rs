//! Snapshots for tests.

use heddle_policy_compiler::{World, compile, ingest};

use crate::snapshot::Snapshot;

/// A service with a split, and a pod that calls the service only by a destination that its workload has learned.
pub(crate) const WORLD: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1], selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web-1, namespace: shop, labels: {app: web}}
spec: {serviceAccountName: web, containers: [{name: app, image: app}, {name: heddle-proxy, image: x}]}
status: {phase: Running, podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}], conditions: [{type: Ready, status: 'True'}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client-1, namespace: shop, labels: {app: client}}
spec: {serviceAccountName: client, containers: [{name: app, image: app}, {name: heddle-proxy, image: x}]}
status: {phase: Running, podIP: 10.0.0.2, podIPs: [{ip: 10.0.0.2}], conditions: [{type: Ready, status: 'True'}]}
---
apiVersion: heddle.dev/v1alpha1
kind: TrafficSplit
metadata: {name: web, namespace: shop, generation: 2}
spec: {service: web, backends: [{service: web, weight: 1}]}
";

impl Snapshot {
    /// The compile of a world.
    pub(crate) fn of(world: World) -> Self {
        Self {
            compiled: compile(&world),
            world,
            ..Self::default()
        }
    }

    /// The compile of YAML documents.
    pub(crate) fn of_yaml(text: &str) -> Self {
        let mut builder = World::builder();
        for object in ingest::parse_yaml("world.yaml", text).into_objects().0 {
            builder.apply(object);
        }
        Self::of(builder.world())
    }
}
