//! Calls to destinations outside the mesh: refused, and opened by `ExternalService` objects. The servers are pods without a sidecar.
#![allow(missing_docs)]

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use heddle_e2e::{Echo, Load, Namespace, Report, Settings, eventually};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);
/// The zone of the names outside.
const ZONE: &str = "outside.test";

fn outbound(namespace: &Namespace, outbound: &str) -> Value {
    json!({"namespace": namespace.name, "outbound": outbound})
}

fn load<'a>(ns: &'a Namespace, flags: &[&str]) -> Load<'a> {
    let load = Load::from(&ns.kubectl, "client");
    load.flags(&["-n=20", "-timeout=5s"]).flags(flags)
}

#[test]
fn an_address_outside_is_reached_only_where_an_object_names_it() -> Result<()> {
    let outside = Namespace::plain("database")?;
    Echo::new("database").deploy(&outside)?;
    let (_, address) = outside.pod("database")?;

    let ns = Namespace::meshed("addresses")?;
    let denied = json!({"outboundNamespaces": [outbound(&ns, "Deny")]});
    let _settings = Settings::apply(denied)?;
    Echo::new("client").deploy(&ns)?;
    let target = format!("{address}:3306");
    let load = load(&ns, &["-proto=tcp"]);
    let refused = |expected: &str| {
        eventually(expected, PATIENCE, || {
            Ok((load.run(&target)?.errors == 20).then_some(()))
        })
    };
    refused("outbound: Deny")?;
    let ports = json!([{"port": 3306, "protocol": "TCP"}]);
    let spec = json!({"addresses": [format!("{address}/32")], "ports": ports});
    ns.put("ExternalService", "database", &spec.to_string())?;
    let report = load.run(&target)?;
    assert_eq!((report.version("v1"), report.errors), (20, 0), "{report:?}");
    ns.kubectl.run(&["delete", "externalservice/database"])?;
    refused("outbound: Deny again")
}

/// A server outside and the DNS server of its names, in a namespace without sidecars.
struct Outside {
    _namespace: Namespace,
    /// The address of the server.
    address: String,
    /// The address of the DNS server.
    resolver: String,
    /// The certificate of the authority that has issued that of the server for HTTPS.
    authority: String,
}

impl Outside {
    /// Starts both; the certificate is that of one host.
    fn start(host: &str) -> Result<Self> {
        let namespace = Namespace::plain("outside")?;
        let (authority, certificate, key) = certificate(host)?;
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": {"name": "https"},
            "stringData": {"tls.crt": certificate, "tls.key": key},
        });
        namespace.kubectl.apply(&secret.to_string())?;
        Echo::new("host").certificate("https").deploy(&namespace)?;
        let (_, address) = namespace.pod("host")?;
        namespace.kubectl.apply(&format!(
            "apiVersion: v1
kind: Service
metadata: {{name: dns}}
spec:
  selector: {{app: dns}}
  ports: [{{name: dns, port: 53, targetPort: 5353, protocol: UDP}}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: dns}}
spec:
  selector: {{matchLabels: {{app: dns}}}}
  template:
    metadata: {{labels: {{app: dns}}}}
    spec:
      containers:
      - name: app
        image: heddle.dev/echo:dev
        imagePullPolicy: IfNotPresent
        args: [dns, {ZONE}, {address}]
        ports: [{{containerPort: 5353, protocol: UDP}}]
"
        ))?;
        let rollout = ["rollout", "status", "deployment/dns", "--timeout=180s"];
        namespace.kubectl.run(&rollout)?;
        let field = "jsonpath={.spec.clusterIP}";
        let resolver = namespace
            .kubectl
            .run(&["get", "service", "dns", "-o", field])?;
        Ok(Self {
            _namespace: namespace,
            address,
            resolver,
            authority,
        })
    }
}

/// The certificate of a new authority, and the certificate and key of a host.
fn certificate(host: &str) -> Result<(String, String, String)> {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // Of another name than the host's certificate, which would count as self-signed.
    let names = &mut authority.distinguished_name;
    names.push(DnType::CommonName, "authority of the test");
    let key = KeyPair::generate()?;
    let own = authority.self_signed(&key)?.pem();
    let issuer = Issuer::new(authority, key);
    let key = KeyPair::generate()?;
    let leaf = CertificateParams::new(vec![host.to_owned()])?.signed_by(&key, &issuer)?;
    Ok((own, leaf.pem(), key.serialize_pem()))
}

/// A client in a namespace of the mesh that denies calls to the outside.
struct Client {
    ns: Namespace,
    _settings: Settings,
}

impl Client {
    fn start(test: &str, resolver: &str) -> Result<Self> {
        let ns = Namespace::meshed(test)?;
        let denied = json!({"outboundNamespaces": [outbound(&ns, "Deny")]});
        let _settings = Settings::apply(denied)?;
        Echo::new("client").resolver(resolver).deploy(&ns)?;
        Ok(Self { ns, _settings })
    }

    fn http(&self, host: &str) -> Result<Report> {
        load(&self.ns, &[]).run(&format!("http://{host}/"))
    }

    fn tls(&self, host: &str) -> Result<Report> {
        let name = format!("-sni={host}");
        load(&self.ns, &["-proto=tls", &name]).run(&format!("{host}:8443"))
    }

    /// Fails unless every call by HTTP at the port 8080 of a host and by TLS of the application at 8443 reaches the server.
    fn reaches(&self, host: &str) -> Result<()> {
        let (http, tls) = (self.http(&format!("{host}:8080"))?, self.tls(host)?);
        ensure!(
            (http.status("200"), http.version("v1")) == (20, 20),
            "{host}: {http:?}"
        );
        ensure!(
            (tls.version("v1"), tls.errors) == (20, 0),
            "{host}: {tls:?}"
        );
        Ok(())
    }

    /// Waits until no call reaches the server.
    fn is_refused(&self, host: &str) -> Result<()> {
        eventually(&format!("{host} refused"), PATIENCE, || {
            let (http, tls) = (self.http(&format!("{host}:8080"))?, self.tls(host)?);
            Ok((http.status("200") == 0 && tls.errors == 20).then_some(()))
        })
    }

    fn put(&self, name: &str, spec: Value) -> Result<()> {
        self.ns.put("ExternalService", name, &spec.to_string())
    }
}

#[test]
fn hosts_outside_are_reached_by_name_only_where_an_object_names_them() -> Result<()> {
    let secure = format!("secure.{ZONE}");
    let outside = Outside::start(&secure)?;
    let client = Client::start("hosts", &outside.resolver)?;
    let ports = || json!([{"port": 8080, "protocol": "HTTP"}, {"port": 8443, "protocol": "TLS"}]);
    let (api, other) = (format!("api.{ZONE}"), format!("other.{ZONE}"));
    client.is_refused(&api)?;
    client.put("api", json!({"hosts": [api], "ports": ports()}))?;
    client.reaches(&api)?;
    client.is_refused(&other)?;

    let storage = format!("storage.{ZONE}");
    // The names lead to a private address: closed to wildcards, but for this one.
    let wildcard = json!({
        "hosts": [format!("*.{storage}")], "ports": ports(),
        "privateAddresses": [format!("{}/32", outside.address)],
    });
    client.put("storage", wildcard)?;
    for name in ["a", "b.c"] {
        client.reaches(&format!("{name}.{storage}"))?;
    }
    client.is_refused(&storage)?;
    client.reaches(&api)?;

    let tls = json!({"port": 9443, "caCertificates": outside.authority});
    let stolen = format!("stolen.{ZONE}");
    client.put(
        "secure",
        json!({"hosts": [secure, stolen], "ports": [{"port": 8081, "protocol": "HTTP", "tls": tls}]}),
    )?;
    let last = load(&client.ns, &["-last"]).run(&format!("http://{secure}:8081/"))?;
    assert_eq!(last.status("200"), 20, "{last:?}");
    let report = client.http(&format!("{secure}:8081"))?;
    assert_eq!(report.status("200"), 20, "{report:?}");
    assert_eq!(report.version("v1"), 20, "{report:?}");
    // The server has the certificate of the other host.
    let report = client.http(&format!("{stolen}:8081"))?;
    assert_eq!(report.status("503"), 20, "{report:?}");

    let objects = ["delete", "externalservices", "--all"];
    client.ns.kubectl.run(&objects)?;
    client.is_refused(&api)
}

#[test]
fn calls_to_the_outside_are_denied_to_the_namespaces_that_the_mesh_names() -> Result<()> {
    let outside = Namespace::plain("anything")?;
    Echo::new("host").deploy(&outside)?;
    let (_, address) = outside.pod("host")?;
    let [denied, allowed] = ["outbound-deny", "outbound-allow"].map(Namespace::meshed);
    let (denied, allowed) = (denied?, allowed?);
    let entries = [outbound(&denied, "Deny"), outbound(&allowed, "Allow")];
    let settings = Settings::apply(json!({"outboundNamespaces": entries}))?;
    Echo::new("client").deploy(&denied)?;
    Echo::new("client").deploy(&allowed)?;
    let url = format!("http://{address}:8080/");
    let answered = |ns: &Namespace| anyhow::Ok(load(ns, &[]).run(&url)?.status("200"));
    eventually("outbound: Deny", PATIENCE, || {
        Ok((answered(&denied)? == 0).then_some(()))
    })?;
    assert_eq!(answered(&allowed)?, 20);
    // The entries go with the settings, and the default of the mesh holds.
    drop(settings);
    let mesh = heddle_e2e::Kubectl::cluster().get("mesh/default")?;
    let default = mesh.pointer("/spec/outbound").and_then(Value::as_str);
    let expected = if default.context("spec.outbound")? == "Allow" {
        20
    } else {
        0
    };
    eventually("the default of the mesh", PATIENCE, || {
        Ok((answered(&denied)? == expected).then_some(()))
    })
}
