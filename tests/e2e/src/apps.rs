//! The manifests of the test applications.

use std::fmt::Write;

use anyhow::Result;

use crate::Namespace;

/// A kubelet probe of an [`Echo`].
#[derive(Clone, Copy, Debug)]
pub enum Probe {
    /// `httpGet` of `/healthz` on the HTTP port.
    Http,
    /// The gRPC health service.
    Grpc,
    /// `tcpSocket` on the server-first port.
    Tcp,
}

/// A Deployment of the echo server (HTTP 8080, gRPC 9090, server-first TCP 3306, the same within TLS 8443) with a Service and an
/// account of its own.
#[derive(Clone, Debug)]
pub struct Echo {
    name: String,
    app: String,
    version: String,
    replicas: u32,
    probe: Probe,
}

impl Echo {
    /// One replica of version `v1`, named as its app.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            app: name.to_owned(),
            version: "v1".to_owned(),
            replicas: 1,
            probe: Probe::Http,
        }
    }

    /// Another version of an app: a Deployment and Service `<app>-<version>`.
    pub fn version(app: &str, version: &str) -> Self {
        Self {
            name: format!("{app}-{version}"),
            app: app.to_owned(),
            version: version.to_owned(),
            ..Self::new(app)
        }
    }

    /// How many pods.
    pub fn replicas(mut self, replicas: u32) -> Self {
        self.replicas = replicas;
        self
    }

    /// How the kubelet probes it for readiness.
    pub fn probe(mut self, probe: Probe) -> Self {
        self.probe = probe;
        self
    }

    /// A Service over all versions of an app.
    pub fn service(app: &str) -> String {
        service(app, &format!("{{app: {app}}}"))
    }

    /// The manifests.
    pub fn yaml(&self) -> String {
        let Self {
            name,
            app,
            version,
            replicas,
            probe,
        } = self;
        let probe = match probe {
            Probe::Http => "httpGet: {path: /healthz, port: http}",
            Probe::Grpc => "grpc: {port: 9090}",
            Probe::Tcp => "tcpSocket: {port: 3306}",
        };
        let mut yaml = format!(
            "---
apiVersion: v1
kind: ServiceAccount
metadata: {{name: {name}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {app}, version: {version}}}}}
  template:
    metadata: {{labels: {{app: {app}, version: {version}}}}}
    spec:
      serviceAccountName: {name}
      containers:
      - name: app
        image: heddle.dev/echo:dev
        imagePullPolicy: IfNotPresent
        env: [{{name: VERSION, value: {version}}}]
        ports: [{{containerPort: 8080, name: http}}, {{containerPort: 9090, name: grpc}}, {{containerPort: 3306, name: mysql}}, {{containerPort: 8443, name: tls}}]
        readinessProbe: {{{probe}, periodSeconds: 1}}
"
        );
        let _ = write!(
            yaml,
            "{}",
            service(name, &format!("{{app: {app}, version: {version}}}"))
        );
        yaml
    }

    /// Applies it and waits for the rollout.
    pub fn deploy(&self, namespace: &Namespace) -> Result<()> {
        namespace.kubectl.apply(&self.yaml())?;
        self.rolled_out(namespace)
    }

    /// Waits until every replica is ready.
    pub fn rolled_out(&self, namespace: &Namespace) -> Result<()> {
        namespace
            .kubectl
            .run(&[
                "rollout",
                "status",
                &format!("deployment/{}", self.name),
                "--timeout=180s",
            ])
            .map(drop)
    }
}

fn service(name: &str, selector: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  selector: {selector}
  ports:
  - {{name: http, port: 80, targetPort: 8080}}
  - {{name: grpc, port: 9090}}
  - {{name: mysql, port: 3306}}
  - {{name: tls, port: 8443}}
"
    )
}

/// A namespace of the mesh with `reviews` in two versions behind one service, and a client.
///
/// # Errors
/// The cluster does not take the objects, or a pod does not get ready.
pub fn reviews(test: &str) -> Result<Namespace> {
    let ns = Namespace::meshed(test)?;
    let yaml = [
        Echo::version("reviews", "v1").yaml(),
        Echo::version("reviews", "v2").yaml(),
        Echo::service("reviews"),
    ]
    .concat();
    ns.kubectl.apply(&yaml)?;
    Echo::new("client").deploy(&ns)?;
    Echo::version("reviews", "v1").rolled_out(&ns)?;
    Echo::version("reviews", "v2").rolled_out(&ns)?;
    Ok(ns)
}
