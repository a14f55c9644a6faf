//! A real sidecar with the hosts of a compile, and the calls of its application.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use heddle_policy_compiler::{Call, Compiled, NamespacedName, ResourceKind, print};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use serde_json::{Value, json};

use crate::harness::running::{Envoy, connect, http, spawn};
use crate::harness::{self, HOUR, Seen, tls, view};
use crate::{OPENED, OTHER, PORT, PRIVATE};

/// The view of the client that has called all hosts, and the other address.
pub fn seen(compiled: &Compiled) -> Seen {
    let called = [OTHER, OPENED].map(|ip| format!("{ip}:{PORT}").parse().unwrap());
    let called = called.into_iter().chain(compiled.destinations());
    let called = called.map(|at| Compiled::on_demand_name(at, HOUR));
    let wanted: BTreeSet<Arc<str>> = compiled
        .external_clusters()
        .cloned()
        .chain(called)
        .collect();
    let client = NamespacedName::new("shop", "client");
    view(compiled, &client, &wanted).unwrap().into()
}

/// The resources of a kind, with the test's hour in on-demand names.
pub fn resources(seen: &Seen, kind: ResourceKind) -> Vec<Value> {
    let of_kind = seen.resources.values().filter(|r| r.key.kind == kind);
    let texts = of_kind.map(|resource| print::to_json(resource).to_string());
    let texts = texts.map(|text| text.replace("%START_TIME(%Y%m%d%H)%", HOUR));
    texts
        .map(|text| serde_json::from_str(&text).unwrap())
        .collect()
}

/// A sidecar with listeners and routes from files, as they come from the control plane. In the place of capture, a header of the PROXY
/// protocol contains the destination of a connection.
pub struct Sidecar {
    _envoy: Envoy,
    _folder: tempfile::TempDir,
    pub folder: std::path::PathBuf,
    at: String,
    pub admin: String,
    pub dns: SocketAddr,
    compiled: Compiled,
}

impl Sidecar {
    pub fn start(compiled: &Compiled, ip: &str, dns: SocketAddr) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let admin = format!("{ip}:9901");
        let seen = seen(compiled);
        let mut config = harness::envoy::bootstrap(&Seen::default());
        let mut clusters = resources(&seen, ResourceKind::Cluster);
        clusters.retain(|cluster| cluster["name"].as_str().unwrap().starts_with("dst|"));
        config["static_resources"]["clusters"]
            .as_array_mut()
            .unwrap()
            .extend(clusters);
        let listeners = folder.path().join("lds.json");
        config["dynamic_resources"]["lds_config"] =
            json!({"path_config_source": {"path": listeners}});
        let at = json!({"socket_address": {"address": ip, "port_value": 9901}});
        config["admin"] = json!({ "address": at });
        let server = json!({"socket_address": {"address": dns.ip(), "port_value": dns.port()}});
        config["typed_dns_resolver_config"] = json!({"name": "cares", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
            "resolvers": [server]}});
        put(folder.path(), &seen, ip, dns)?;
        localize(&mut config, dns);
        let environment = [("NS", "shop"), ("WL", "client"), ("ID", "client")];
        let envoy = spawn("envoy", &config, &environment, folder.path(), &admin)?;
        Ok(Self {
            _envoy: envoy,
            folder: folder.path().to_owned(),
            _folder: folder,
            at: format!("{ip}:15001"),
            admin,
            dns,
            compiled: compiled.clone(),
        })
    }

    /// A connection of the application to an address.
    pub fn connect(&self, ip: &str) -> Result<TcpStream> {
        let mut stream = connect(&self.at)?;
        write!(stream, "PROXY TCP4 10.0.0.9 {ip} 40000 {PORT}\r\n")?;
        Ok(stream)
    }

    /// The answer to a request with this `Host`, sent to an address.
    pub fn get(&self, ip: &str, host: &str) -> Result<String> {
        let mut stream = self.connect(ip)?;
        let answer = ask(&mut stream, host, "connection: close\r\n")?;
        let stopped = self.stopped(ip, ("host", host), false)?;
        let reached = server_of(&answer).is_some();
        ensure!(
            !(reached && stopped),
            "{host} at {ip} is explained as refused"
        );
        let refused = answer.contains("heddle: no address for");
        ensure!(
            !refused || stopped,
            "{host} at {ip} is not explained as refused"
        );
        Ok(answer)
    }

    /// The greeting of the server that a TLS client with this SNI reaches at an address.
    pub fn greeting(&self, ip: &str, name: &str) -> Result<String> {
        let reached = greeting(&mut self.tls(ip, name)?);
        let stopped = self.stopped(name, ("x", "x"), true)?;
        ensure!(
            !(reached.is_ok() && stopped),
            "{name} is explained as refused"
        );
        reached
    }

    /// Whether a call does not leave the sidecar, as `heddle why` has it.
    fn stopped(&self, to: &str, header: (&str, &str), tls: bool) -> Result<bool> {
        let explanation = self.compiled.explain(&Call {
            from: NamespacedName::new("shop", "client"),
            host: to.to_owned(),
            port: PORT,
            tls,
            method: "GET".to_owned(),
            path: "/x".to_owned(),
            headers: vec![(header.0.to_owned(), header.1.to_owned())],
        })?;
        Ok(explanation.stopped.is_some())
    }

    pub fn tls(&self, ip: &str, name: &str) -> Result<StreamOwned<ClientConnection, TcpStream>> {
        let config = Arc::new(tls::anonymous(&[]));
        let name = ServerName::try_from(name.to_owned())?;
        let client = ClientConnection::new(config, name)?;
        Ok(StreamOwned::new(client, self.connect(ip)?))
    }

    pub fn stat(&self, name: &str) -> Result<u64> {
        let answer = http(&self.admin, "GET", &format!("/stats?filter={name}"), "")?;
        let value = answer
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{name}: ")));
        value.context(answer.clone())?.parse().context("a number")
    }
}

/// Replaces the listeners and routes.
pub fn put(folder: &Path, seen: &Seen, ip: &str, dns: SocketAddr) -> Result<()> {
    let mut listeners = resources(seen, ResourceKind::Listener);
    listeners.retain(|listener| {
        let name = listener["name"].as_str().unwrap();
        name == "outbound" || name.starts_with("external|")
    });
    for listener in &mut listeners {
        if listener["name"] == "outbound" {
            listener["address"]["socket_address"]["address"] = json!(ip);
            listener
                .as_object_mut()
                .unwrap()
                .remove("additional_addresses");
            listener["listener_filters"] = json!([{"name": "proxy", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol"}}]);
        }
        by_file(listener, folder);
    }
    let routes = resources(seen, ResourceKind::Route);
    let external = |route: &&Value| route["name"].as_str().unwrap().starts_with("external|");
    let routes = routes.iter().filter(external).cloned().collect();
    let files = [
        ("rds.json", "route.v3.RouteConfiguration", routes),
        ("lds.json", "listener.v3.Listener", listeners),
    ];
    for (file, kind, mut all) in files {
        let kind = format!("type.googleapis.com/envoy.config.{kind}");
        all.iter_mut()
            .for_each(|resource: &mut Value| resource["@type"] = json!(kind));
        all.iter_mut().for_each(|resource| localize(resource, dns));
        let new = folder.join("new");
        std::fs::write(&new, json!({ "resources": all }).to_string())?;
        std::fs::rename(new, folder.join(file))?;
    }
    Ok(())
}

/// The caches of wildcards ask the DNS server of the test. Its hosts are on loopback, but for [`PRIVATE`] as one that is not dialed.
fn localize(value: &mut Value, dns: SocketAddr) {
    match value {
        Value::Object(map) => {
            if map.contains_key("dns_resolver_options") {
                let server =
                    json!({"socket_address": {"address": dns.ip(), "port_value": dns.port()}});
                map.insert("resolvers".to_owned(), json!([server]));
            }
            if map.get("address_prefix") == Some(&json!("127.0.0.0")) {
                let range = json!({"address_prefix": PRIVATE, "prefix_len": 32});
                *map = range.as_object().unwrap().clone();
            }
            map.values_mut().for_each(|value| localize(value, dns));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| localize(item, dns)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Routes come from a file.
pub fn by_file(value: &mut Value, folder: &Path) {
    match value {
        Value::Object(map) => {
            if let Some(rds) = map.get_mut("rds") {
                rds["config_source"] =
                    json!({"path_config_source": {"path": folder.join("rds.json")}});
            }
            map.values_mut().for_each(|value| by_file(value, folder));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| by_file(item, folder)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Sends a request with a forged header of the sidecar, and reads the answer.
pub fn ask(stream: &mut TcpStream, host: &str, headers: &str) -> Result<String> {
    write!(
        stream,
        "GET /x HTTP/1.1\r\nhost: {host}\r\nx-heddle-destination: dst|{OTHER}:{PORT}|{HOUR}\r\n{headers}\r\n"
    )?;
    let (mut answer, mut buffer) = (String::new(), [0; 1 << 16]);
    while !is_whole(&answer) {
        let n = stream.read(&mut buffer)?;
        ensure!(n > 0, "the answer ends after {answer:?}");
        answer.push_str(&String::from_utf8_lossy(&buffer[..n]));
    }
    Ok(answer)
}

/// Whether an answer has its whole body.
pub fn is_whole(answer: &str) -> bool {
    let parts = answer.split_once("\r\n\r\n");
    parts.is_some_and(|(head, body)| {
        let mut lines = head.lines();
        let length = lines.find_map(|line| line.strip_prefix("content-length: "));
        length.is_none_or(|length| length.parse() == Ok(body.len()))
    })
}

pub fn greeting(stream: &mut StreamOwned<ClientConnection, TcpStream>) -> Result<String> {
    stream.write_all(b"x")?;
    let mut buffer = [0; 64];
    let n = stream.read(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..n]).into_owned())
}

pub fn server_of(answer: &str) -> Option<&str> {
    answer
        .lines()
        .find_map(|line| line.strip_prefix("x-server: "))
}
