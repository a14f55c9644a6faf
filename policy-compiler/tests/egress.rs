//! Hosts outside the mesh, called by name through a real sidecar with a DNS server of the test: each name leads to its host alone, and other
//! names go the way that they go without an ExternalService.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod cluster;
mod harness;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cluster::{apply, external_service, mesh, pod};
use harness::running::{Envoy, connect, http, request, serve, spawn, status};
use harness::{HOUR, Seen, tls, view};
use heddle_policy_compiler::{Compiled, NamespacedName, ResourceKind, World, compile, print};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

/// The port of all hosts.
const PORT: u16 = 9443;
/// An address outside at which nothing listens.
const NOTHING: &str = "127.96.0.99";
/// An address outside with a server that no object names.
const OTHER: &str = "127.96.0.20";
/// An address outside that an object opens to connections without a name.
const OPENED: &str = "127.96.0.21";
/// The names that DNS knows.
const NAMES: [(&str, Ipv4Addr); 3] = [
    ("a.example.com", Ipv4Addr::new(127, 96, 0, 11)),
    ("b.example.com", Ipv4Addr::new(127, 96, 0, 12)),
    ("t.example.com", Ipv4Addr::new(127, 96, 0, 13)),
];

/// A client of namespace shop, and these objects.
fn compiled(outbound: &str, objects: &[Value]) -> Compiled {
    let mut builder = World::builder();
    let client = pod("client", "client", "10.0.0.9", true, true);
    let all = [mesh(json!({"outbound": outbound})), client];
    let findings = apply(&mut builder, all.into_iter().chain(objects.iter().cloned()));
    assert!(findings.is_empty(), "{findings:#?}");
    let compiled = compile(&builder.world());
    assert!(compiled.findings.is_empty(), "{:#?}", compiled.findings);
    compiled
}

fn external(name: &str, host: &str, protocol: &str) -> Value {
    let ports = json!([{"port": PORT, "protocol": protocol}]);
    external_service(name, json!({"hosts": [host], "ports": ports}))
}

/// The hosts of the tests but `b.example.com`, which only another namespace may call.
fn hosts() -> [Value; 4] {
    let ports = json!([{"port": PORT, "protocol": "TCP"}]);
    let addresses = json!([format!("{OPENED}/32")]);
    let opened = json!({"addresses": addresses, "ports": ports});
    let mut elsewhere = external("b", "b.example.com", "HTTP");
    elsewhere["metadata"]["namespace"] = json!("till");
    [
        external("a", "a.example.com", "HTTP"),
        external("t", "t.example.com", "TLS"),
        elsewhere,
        external_service("opened", opened),
    ]
}

/// The view of the client that has called all hosts, and the other address.
fn seen(compiled: &Compiled) -> Seen {
    let called = [OTHER, OPENED].map(|ip| {
        let at = format!("{ip}:{PORT}").parse().unwrap();
        Compiled::on_demand_name(at, HOUR)
    });
    let wanted: BTreeSet<Arc<str>> = compiled
        .external_clusters()
        .cloned()
        .chain(called)
        .collect();
    let client = NamespacedName::new("shop", "client");
    view(compiled, &client, &wanted).unwrap().into()
}

/// The resources of a kind, with the test's hour in on-demand names.
fn resources(seen: &Seen, kind: ResourceKind) -> Vec<Value> {
    let of_kind = seen.resources.values().filter(|r| r.key.kind == kind);
    let texts = of_kind.map(|resource| print::to_json(resource).to_string());
    let texts = texts.map(|text| text.replace("%START_TIME(%Y%m%d%H)%", HOUR));
    texts
        .map(|text| serde_json::from_str(&text).unwrap())
        .collect()
}

/// A sidecar with listeners and routes from files, as they come from the control plane. In the place of capture, a header of the PROXY
/// protocol says where a connection was going.
struct Sidecar {
    _envoy: Envoy,
    _folder: tempfile::TempDir,
    folder: std::path::PathBuf,
    at: String,
    admin: String,
}

impl Sidecar {
    fn start(compiled: &Compiled, ip: &str, dns: SocketAddr) -> Result<Self> {
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
        put(folder.path(), &seen, ip)?;
        let environment = [("NS", "shop"), ("WL", "client"), ("ID", "client")];
        let envoy = spawn("envoy", &config, &environment, folder.path(), &admin)?;
        Ok(Self {
            _envoy: envoy,
            folder: folder.path().to_owned(),
            _folder: folder,
            at: format!("{ip}:15001"),
            admin,
        })
    }

    /// A connection of the application to an address.
    fn connect(&self, ip: &str) -> Result<TcpStream> {
        let mut stream = connect(&self.at)?;
        write!(stream, "PROXY TCP4 10.0.0.9 {ip} 40000 {PORT}\r\n")?;
        Ok(stream)
    }

    /// The answer to a request with this `Host`, sent to an address.
    fn get(&self, ip: &str, host: &str) -> Result<String> {
        let mut stream = self.connect(ip)?;
        ask(&mut stream, host, "connection: close\r\n")
    }

    /// The greeting of the server that a TLS client with this SNI reaches at an address.
    fn greeting(&self, ip: &str, name: &str) -> Result<String> {
        greeting(&mut self.tls(ip, name)?)
    }

    fn tls(&self, ip: &str, name: &str) -> Result<StreamOwned<ClientConnection, TcpStream>> {
        let config = Arc::new(tls::anonymous(&[]));
        let name = ServerName::try_from(name.to_owned())?;
        let client = ClientConnection::new(config, name)?;
        Ok(StreamOwned::new(client, self.connect(ip)?))
    }

    fn stat(&self, name: &str) -> Result<u64> {
        let answer = http(&self.admin, "GET", &format!("/stats?filter={name}"), "")?;
        let value = answer
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{name}: ")));
        value.context(answer.clone())?.parse().context("a number")
    }
}

/// Replaces the listeners and routes.
fn put(folder: &Path, seen: &Seen, ip: &str) -> Result<()> {
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
        let new = folder.join("new");
        std::fs::write(&new, json!({ "resources": all }).to_string())?;
        std::fs::rename(new, folder.join(file))?;
    }
    Ok(())
}

/// Routes come from a file.
fn by_file(value: &mut Value, folder: &Path) {
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
fn ask(stream: &mut TcpStream, host: &str, headers: &str) -> Result<String> {
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
fn is_whole(answer: &str) -> bool {
    let parts = answer.split_once("\r\n\r\n");
    parts.is_some_and(|(head, body)| {
        let mut lines = head.lines();
        let length = lines.find_map(|line| line.strip_prefix("content-length: "));
        length.is_none_or(|length| length.parse() == Ok(body.len()))
    })
}

fn greeting(stream: &mut StreamOwned<ClientConnection, TcpStream>) -> Result<String> {
    stream.write_all(b"x")?;
    let mut buffer = [0; 64];
    let n = stream.read(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..n]).into_owned())
}

/// A server with a name: it answers requests with the request, and TLS with its name for every byte.
fn server(ip: &str, name: &'static str) -> Result<()> {
    let own = rcgen::generate_simple_self_signed(vec![name.to_owned()])?;
    let (chain, key) = tls::pair(&own.cert.pem(), &own.signing_key.serialize_pem());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    let config = Arc::new(config);
    serve(format!("{ip}:{PORT}"), move |stream| {
        let mut first = [0];
        match stream.peek(&mut first) {
            Ok(1) if first == *b"G" => {
                while let Some(seen) = request(stream) {
                    let length = seen.len();
                    let head = format!(
                        "HTTP/1.1 200 OK\r\nx-server: {name}\r\ncontent-length: {length}\r\n\r\n"
                    );
                    let _ = stream.write_all(&[head.as_bytes(), &seen].concat());
                }
            }
            Ok(1) => {
                let server = ServerConnection::new(Arc::clone(&config)).unwrap();
                let mut stream = StreamOwned::new(server, stream);
                let mut buffer = [0; 64];
                while let Ok(1..) = stream.read(&mut buffer) {
                    let _ = stream.write_all(name.as_bytes());
                }
            }
            _ => {}
        }
    })
}

/// A DNS server that knows [`NAMES`], and the names that it was asked for.
fn dns() -> Result<(SocketAddr, Arc<Mutex<BTreeSet<String>>>)> {
    let socket = UdpSocket::bind("127.96.0.53:0")?;
    let (at, asked) = (socket.local_addr()?, Arc::<Mutex<BTreeSet<_>>>::default());
    let seen = Arc::clone(&asked);
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((n, from)) = socket.recv_from(&mut buffer) {
            let Some((name, end)) = question(&buffer[..n]) else {
                continue;
            };
            // Type A, class IN.
            let is_a = buffer[end..].starts_with(&[0, 1, 0, 1]);
            let address = NAMES.iter().find(|(known, _)| *known == name);
            let address = address.filter(|_| is_a).map(|(_, address)| address);
            let known = NAMES.iter().any(|(known, _)| *known == name);
            seen.lock().unwrap().insert(name);
            let mut answer = buffer[..end + 4].to_vec();
            answer[2] = 0x85;
            answer[3] = if known { 0x80 } else { 0x83 };
            answer[4..12].copy_from_slice(&[0, 1, 0, u8::from(address.is_some()), 0, 0, 0, 0]);
            if let Some(address) = address {
                answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
                answer.extend_from_slice(&address.octets());
            }
            let _ = socket.send_to(&answer, from);
        }
    });
    Ok((at, asked))
}

/// The name of the first question of a query, and the place behind the name.
fn question(query: &[u8]) -> Option<(String, usize)> {
    let (mut labels, mut at) = (Vec::new(), 12);
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            return Some((labels.join(".").to_lowercase(), at));
        }
        labels.push(String::from_utf8_lossy(query.get(at..at + length)?).into_owned());
        at += length;
    }
}

fn server_of(answer: &str) -> Option<&str> {
    answer
        .lines()
        .find_map(|line| line.strip_prefix("x-server: "))
}

#[test]
fn a_name_leads_to_its_host_alone() -> Result<()> {
    let (at, asked) = dns()?;
    for (name, ip) in NAMES {
        server(&ip.to_string(), name)?;
    }
    server(OTHER, "other")?;
    server(OPENED, "opened")?;
    let denying = Sidecar::start(&compiled("Deny", &hosts()), "127.96.0.2", at)?;
    named(&denying)?;
    refused(&denying)?;
    let mut objects = hosts().to_vec();
    let allowing = Sidecar::start(&compiled("Allow", &objects), "127.96.0.3", at)?;
    named(&allowing)?;
    passed(&allowing)?;
    objects.push(external("second", "second.example.com", "HTTP"));
    objects.push(external("third", "third.example.com", "TLS"));
    unchanged_by_others(&allowing, &compiled("Allow", &objects))?;
    // DNS was asked for whole names, and not in the domains of the cluster.
    let asked = asked.lock().unwrap().clone();
    let known = asked
        .iter()
        .all(|name| NAMES.iter().any(|(known, _)| known == name));
    ensure!(known && !asked.is_empty(), "{asked:?}");
    Ok(())
}

/// The address that is called does not count, even if another server is there.
fn named(sidecar: &Sidecar) -> Result<()> {
    for ip in [NOTHING, OTHER] {
        for host in ["a.example.com", "a.example.com:9443", "A.Example.COM"] {
            let answer = sidecar.get(ip, host)?;
            ensure!(
                server_of(&answer) == Some("a.example.com"),
                "{host}: {answer}"
            );
            let header = answer.contains("x-heddle");
            ensure!(!header, "a header of the sidecar got out: {answer}");
        }
        ensure!(sidecar.greeting(ip, "t.example.com")? == "t.example.com");
    }
    Ok(())
}

/// Names that no object of the namespace has, or has for another protocol or port.
fn refused(sidecar: &Sidecar) -> Result<()> {
    let names = [
        "other",
        "b.example.com",
        "a.example.com:80",
        "a.example.com.",
        "t.example.com",
        OTHER,
    ];
    for host in names {
        let answer = sidecar.get(OTHER, host)?;
        ensure!(
            status(&answer) == 503 && server_of(&answer).is_none(),
            "{host}: {answer}"
        );
        let reason = format!("heddle: no address for {host} at {OTHER}:{PORT}");
        ensure!(answer.contains(&reason), "{host}: {answer}");
    }
    ensure!(sidecar.greeting(OPENED, "other.example.com")? == "opened");
    ensure!(sidecar.greeting(OPENED, "t.example.com")? == "t.example.com");
    for name in ["other.example.com", "a.example.com", "x.t.example.com"] {
        let reached = sidecar.greeting(OTHER, name);
        ensure!(reached.is_err(), "{name}: {reached:?}");
    }
    Ok(())
}

/// As without an object: to the address that was called.
fn passed(sidecar: &Sidecar) -> Result<()> {
    for host in ["other", "b.example.com", "a.example.com:80"] {
        let answer = sidecar.get(OTHER, host)?;
        ensure!(server_of(&answer) == Some("other"), "{host}: {answer}");
        ensure!(
            !answer.contains("x-heddle"),
            "a header of the sidecar got out: {answer}"
        );
    }
    for name in ["other.example.com", "a.example.com"] {
        ensure!(sidecar.greeting(OTHER, name)? == "other", "{name}");
    }
    Ok(())
}

/// Open connections go on when objects come, and nothing drains.
fn unchanged_by_others(sidecar: &Sidecar, more: &Compiled) -> Result<()> {
    let (mut by_name, mut by_address) = (sidecar.connect(NOTHING)?, sidecar.connect(OTHER)?);
    let mut open = [
        sidecar.tls(NOTHING, "t.example.com")?,
        sidecar.tls(OTHER, "other.com")?,
    ];
    let mut all_answer = || -> Result<()> {
        let answer = ask(&mut by_name, "a.example.com", "")?;
        ensure!(server_of(&answer) == Some("a.example.com"), "{answer}");
        let answer = ask(&mut by_address, "other", "")?;
        ensure!(server_of(&answer) == Some("other"), "{answer}");
        ensure!(greeting(&mut open[0])? == "t.example.com");
        ensure!(greeting(&mut open[1])? == "other");
        Ok(())
    };
    all_answer()?;
    put(&sidecar.folder, &seen(more), "127.96.0.3")?;
    let deadline = Instant::now() + Duration::from_secs(30);
    while sidecar.stat("listener_manager.listener_in_place_updated")? == 0 {
        ensure!(
            Instant::now() < deadline,
            "the listener was not updated in place"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    for draining in ["total_filter_chains_draining", "total_listeners_draining"] {
        let count = sidecar.stat(&format!("listener_manager.{draining}"))?;
        ensure!(count == 0, "{draining}: {count}");
    }
    all_answer()
}
