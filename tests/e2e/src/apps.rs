//! The manifests of the test applications.

use std::fmt::Write;

use anyhow::{Context, Result};
use serde::Deserialize;

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
    /// The folders of the container, with their volumes. A variable in capitals has the path of each.
    folders: Vec<(&'static str, String)>,
    /// Further fields of the pod, each on a line.
    pod: Vec<String>,
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
            folders: Vec::new(),
            pod: Vec::new(),
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

    /// The server writes down the ids of requests, which [`Ledger::of`] counts.
    pub fn ledger(mut self) -> Self {
        self.folders.push(("ledger", "emptyDir: {}".to_owned()));
        self
    }

    /// The server answers HTTPS at port 9443, with the certificate of a Secret.
    pub fn certificate(mut self, secret: &str) -> Self {
        let volume = format!("secret: {{secretName: {secret}}}");
        self.folders.push(("certificate", volume));
        self
    }

    /// The pods ask this DNS server, and no other one.
    pub fn resolver(mut self, server: &str) -> Self {
        self.pod.push("dnsPolicy: None".to_owned());
        self.pod.push(format!("dnsConfig: {{nameservers: [{server}], searches: [svc.cluster.local, cluster.local], options: [{{name: ndots, value: '5'}}]}}"));
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
            folders,
            pod,
        } = self;
        let list = |entry: &dyn Fn(&str, &str) -> String| {
            let entries = folders.iter().map(|(name, volume)| entry(name, volume));
            entries.collect::<Vec<_>>().join(", ")
        };
        let variable = |name: &str| format!(", {{name: {}, value: /{name}}}", name.to_uppercase());
        let env: String = folders.iter().map(|(name, _)| variable(name)).collect();
        let mounts = list(&|name, _| format!("{{name: {name}, mountPath: /{name}}}"));
        let volumes = list(&|name, volume| format!("{{name: {name}, {volume}}}"));
        let pod: String = pod.iter().map(|line| format!("      {line}\n")).collect();
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
        env: [{{name: VERSION, value: {version}}}{env}]
        volumeMounts: [{mounts}]
        ports: [{{containerPort: 8080, name: http}}, {{containerPort: 9090, name: grpc}}, {{containerPort: 3306, name: mysql}}, {{containerPort: 8443, name: tls}}]
        readinessProbe: {{{probe}, periodSeconds: 1}}
      volumes: [{volumes}]
{pod}"
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
    deploy_reviews(&ns, |version| version)?;
    Ok(ns)
}

/// As [`reviews`], and each version has a ledger.
///
/// # Errors
/// As [`reviews`].
pub fn reviews_with_ledgers(test: &str) -> Result<Namespace> {
    let ns = Namespace::meshed(test)?;
    deploy_reviews(&ns, Echo::ledger)?;
    Ok(ns)
}

fn deploy_reviews(ns: &Namespace, with: impl Fn(Echo) -> Echo) -> Result<()> {
    let versions = ["v1", "v2"].map(|version| with(Echo::version("reviews", version)));
    let yaml: String = versions.iter().map(Echo::yaml).collect();
    ns.kubectl.apply(&(yaml + &Echo::service("reviews")))?;
    Echo::new("client").deploy(ns)?;
    versions
        .iter()
        .try_for_each(|version| version.rolled_out(ns))
}

/// The requests with an id that a server has had.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Ledger {
    /// The ids.
    pub ids: u64,
    /// The ids of several requests.
    pub duplicates: u64,
    /// All requests with an id.
    pub requests: u64,
}

impl Ledger {
    /// Reads that of a pod, for example of `deployment/web`: of an [`Echo::ledger`], or of a folder that it shares.
    ///
    /// # Errors
    /// The pod has no ledger.
    pub fn of(namespace: &Namespace, pod: &str) -> Result<Self> {
        let print = ["/echo", "ledger", "/ledger"];
        let text = namespace.kubectl.exec(pod, "app", &print)?;
        serde_json::from_str(text.trim()).with_context(|| format!("the ledger of {pod}: {text}"))
    }
}
