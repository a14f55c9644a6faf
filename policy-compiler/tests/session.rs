//! Sessions of routes with a real Envoy: endpoints and weights change, and a session stays at its endpoint.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod harness;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use harness::running::{Envoy, Trust, http, mirror_as, serve, start, status};
use harness::shop;
use heddle_policy_compiler::traffic::{Backend, Request, evaluate};
use heddle_policy_compiler::{Compiled, NamespacedName};

const AT: &str = "127.101.0.5:8001";
const SESSIONS: usize = 60;
/// A server that no service names.
const STRANGER: &str = "127.101.9.9:8001";

fn address(version: usize, number: usize) -> String {
    format!("127.101.{version}.{}", 11 + number)
}

/// A route with two weights, and the endpoints of each version.
fn compiled(weights: [u32; 2], endpoints: [&[usize]; 2]) -> Result<Compiled> {
    let [v1, v2] = weights;
    let mut text = format!(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: api, namespace: shop}}
spec:
  parentRefs: [{{group: '', kind: Service, name: api}}]
  rules:
  - matches: [{{path: {{value: /header}}}}]
    backendRefs: [{{name: api-v1, port: 8001}}]
    sessionPersistence: {{type: Header, sessionName: X-Session}}
  - matches: [{{path: {{value: /other}}}}]
    backendRefs: [{{name: api-v1, port: 8001}}, {{name: api-v2, port: 8001}}]
    sessionPersistence: {{sessionName: cart}}
  - backendRefs: [{{name: api-v1, port: 8001, weight: {v1}}}, {{name: api-v2, port: 8001, weight: {v2}}}]
    sessionPersistence: {{sessionName: cart, absoluteTimeout: 24h, cookieConfig: {{lifetimeType: Permanent}}}}
"
    );
    text += &shop::service("api", 0, ("http", 8001), &["127.101.0.11"]);
    for (index, numbers) in endpoints.into_iter().enumerate() {
        let version = index + 1;
        let all: Vec<String> = numbers.iter().map(|of| address(version, *of)).collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        let name = format!("api-v{version}");
        let service = shop::service(&name, version, ("http", 8001), &all);
        // A list without endpoints has no addresses.
        text += &service.replace("[{addresses: []}]", "[]");
    }
    text += &shop::traffic_policy(
        "api",
        "faults: [{match: {headers: [{name: x-fault, present: true}]}, abort: {status: 418, percent: 100}}]",
    );
    text += &shop::client("127.101.0", &[format!("shop/api:8001={AT}")]);
    let compiled = harness::compiled(&text);
    ensure!(compiled.findings.is_empty(), "{:#?}", compiled.findings);
    Ok(compiled)
}

/// The client's sidecar.
fn envoy(compiled: &Compiled, trust: &Trust, folder: &Path) -> Result<Envoy> {
    let none = BTreeSet::new();
    let client = ("client", &none);
    start(compiled, client, trust, folder, "127.101.0.9:9901", |_| {})
}

/// One test at a time has the addresses of the servers and of the sidecar.
fn servers() -> Result<MutexGuard<'static, ()>> {
    static STARTED: Mutex<bool> = Mutex::new(false);
    static ONE: Mutex<()> = Mutex::new(());
    let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
    if !std::mem::replace(&mut *started, true) {
        serve_all()?;
    }
    Ok(ONE.lock().unwrap_or_else(PoisonError::into_inner))
}

fn serve_all() -> Result<()> {
    let all = (1..=2).flat_map(|version| (0..5).map(move |number| address(version, number)));
    let all = all.map(|ip| format!("{ip}:8001"));
    for at in all.chain([STRANGER.to_owned()]) {
        let answer = format!("x-server: {at}\r\n");
        serve(at, move |stream| mirror_as(stream, "200 OK", &answer))?;
    }
    Ok(())
}

/// The server that answers, and the value of a header of the answer.
fn call(path: &str, headers: &str, token: &str) -> Result<(String, Option<String>)> {
    let answer = http(AT, "GET", path, headers)?;
    ensure!(status(&answer) == 200, "{answer}");
    let head = answer.split("\r\n\r\n").next().unwrap_or_default();
    let value = |name: &str| {
        let mut lines = head.lines().filter_map(|line| line.split_once(": "));
        lines.find_map(|(own, value)| (own == name).then(|| value.to_owned()))
    };
    let server = value("x-server").context("no server")?;
    Ok((server, value(token)))
}

/// A client with a jar of cookies by name.
#[derive(Default)]
struct Client {
    jar: BTreeMap<String, String>,
    server: String,
}

impl Client {
    /// Calls, and returns the attributes of a new cookie.
    fn call(&mut self, path: &str) -> Result<Option<String>> {
        let jar = self
            .jar
            .iter()
            .map(|(name, value)| format!("{name}={value}"));
        let cookies: Vec<String> = ["other=1".to_owned()].into_iter().chain(jar).collect();
        let header = format!("cookie: {}\r\n", cookies.join("; "));
        let (server, set) = call(path, &header, "set-cookie")?;
        self.server = server;
        let Some(set) = set else { return Ok(None) };
        let (pair, attributes) = set.split_once("; ").context("no attributes")?;
        let (name, value) = pair.split_once('=').context("no value")?;
        self.jar.insert(name.to_owned(), value.to_owned());
        Ok(Some(attributes.to_owned()))
    }

    fn version(&self) -> usize {
        usize::from(self.server.starts_with("127.101.2.")) + 1
    }

    /// The backends that the evaluator expects.
    fn expected(&self, compiled: &Compiled) -> String {
        let service = NamespacedName::new("shop", "api");
        let (_, table) = compiled.route_tables(&service).next().unwrap();
        let jar = self
            .jar
            .iter()
            .map(|(name, value)| format!("{name}={value}"));
        let request = Request {
            host: "api".to_owned(),
            method: "GET".to_owned(),
            path: "/".to_owned(),
            headers: vec![("cookie".to_owned(), jar.collect::<Vec<_>>().join("; "))],
        };
        let decision = evaluate(table, &request).unwrap();
        match decision.session_share(&request).map(|share| share.backend) {
            Some(Backend::Service(name, _)) => name.name.to_string(),
            _ => String::new(),
        }
    }
}

#[test]
fn a_session_keeps_its_endpoint_while_endpoints_come_and_weights_change() -> Result<()> {
    let (trust, folder) = (Trust::new()?, tempfile::tempdir()?);
    let _turn = servers()?;
    let first = compiled([70, 30], [&[0, 1, 2], &[0, 1, 2]])?;
    let mut clients: Vec<Client> = (0..SESSIONS).map(|_| Client::default()).collect();
    {
        let _envoy = envoy(&first, &trust, folder.path())?;
        for client in &mut clients {
            let attributes = client.call("/")?.context("no cookie")?;
            ensure!(
                attributes == "Max-Age=86400; Path=/; SameSite=Lax; HttpOnly",
                "{attributes}"
            );
        }
    }
    let of_v2 = clients.iter().filter(|of| of.version() == 2).count();
    // Five standard deviations.
    ensure!((1..=36).contains(&of_v2), "{of_v2} of {SESSIONS}");
    let all: &[usize] = &[0, 1, 2, 3, 4];
    for (weights, endpoints) in [
        ([70, 30], [&[0, 1, 2, 3][..], &[0, 1, 2, 3]]),
        ([0, 100], [all, all]),
        ([100, 0], [all, all]),
        ([0, 0], [all, all]),
    ] {
        let compiled = compiled(weights, endpoints)?;
        let _envoy = envoy(&compiled, &trust, folder.path())?;
        for client in &mut clients {
            let before = client.server.clone();
            let set = client.call("/")?;
            ensure!(
                set.is_none() && client.server == before,
                "{weights:?}: {before} {set:?}"
            );
            let expected = format!("api-v{}", client.version());
            ensure!(client.expected(&compiled) == expected, "{weights:?}");
        }
    }
    // An endpoint leaves: its sessions go to another one of the backend, with a new token.
    let left = compiled([0, 100], [&[1, 2], &[0, 1, 2]])?;
    {
        let _envoy = envoy(&left, &trust, folder.path())?;
        for client in &mut clients {
            let (before, version) = (client.server.clone(), client.version());
            let gone = before == format!("{}:8001", address(1, 0));
            let set = client.call("/")?;
            ensure!(
                set.is_some() == gone && (client.server != before) == gone,
                "{before} {set:?}"
            );
            ensure!(
                client.version() == version && client.jar.len() == 1,
                "{before}"
            );
        }
    }
    // All of them leave: the sessions begin again at the other backend.
    let empty = compiled([0, 100], [&[], &[0, 1, 2]])?;
    let _envoy = envoy(&empty, &trust, folder.path())?;
    for client in &mut clients {
        let (before, version) = (client.server.clone(), client.version());
        let set = client.call("/")?;
        ensure!(
            set.is_some() == (version == 1) && client.version() == 2,
            "{before} {set:?}"
        );
        let server = client.server.clone();
        ensure!(
            client.call("/")?.is_none() && client.server == server,
            "{server}"
        );
    }
    Ok(())
}

#[test]
fn a_forged_token_leads_to_no_address_outside_of_the_backend_and_rules_share_no_session()
-> Result<()> {
    let (trust, folder) = (Trust::new()?, tempfile::tempdir()?);
    let _turn = servers()?;
    let compiled = compiled([50, 50], [&[0, 1], &[0, 1]])?;
    let _envoy = envoy(&compiled, &trust, folder.path())?;
    let mut client = Client::default();
    client.call("/")?;
    let (name, version) = (client.jar.keys().next().unwrap().clone(), client.version());
    let foreign = format!("{}:8001", address(3 - version, 0));
    let addresses = [STRANGER, &foreign, AT, "127.0.0.1:0"];
    let plain = addresses.map(|at| BASE64.encode(at));
    // As Envoy writes it: a message with the address in field 1, and the end of the session in field 2.
    let message = addresses.map(|at| {
        let text = at.as_bytes();
        let head = [0x0a, u8::try_from(text.len()).unwrap()];
        let end = [0x10, 0xff, 0xff, 0xff, 0xff, 0x0f];
        BASE64.encode([&head, text, &end].concat())
    });
    let junk = ["", "junk", "====", "MTI3LjEwMS4xLjEx"].map(str::to_owned);
    for value in plain.into_iter().chain(message).chain(junk) {
        for _ in 0..4 {
            client.jar.insert(name.clone(), value.clone());
            let set = client.call("/")?;
            ensure!(client.version() == version, "{value}: {}", client.server);
            ensure!(
                client.server != STRANGER && set.is_some(),
                "{value}: {set:?}"
            );
        }
    }
    // Filters of policies stay beside that of sessions.
    for path in ["/", "/header"] {
        let answer = http(AT, "GET", path, "x-fault: 1\r\n")?;
        ensure!(status(&answer) == 418, "{path}: {answer}");
    }
    // The other rule has cookies of its own, which end with the client.
    let attributes = client.call("/other")?.context("no cookie")?;
    ensure!(
        attributes == "Path=/; SameSite=Lax; HttpOnly",
        "{attributes}"
    );
    ensure!(client.jar.len() == 2, "{:?}", client.jar);
    let server = client.server.clone();
    for _ in 0..8 {
        ensure!(
            client.call("/other")?.is_none() && client.server == server,
            "{server}"
        );
    }

    // By a header, which clients send back.
    let (server, token) = call("/header", "", "x-session")?;
    let header = format!("x-session: {}\r\n", token.context("no header")?);
    for _ in 0..8 {
        let (again, token) = call("/header", &header, "x-session")?;
        ensure!(again == server && token.is_none(), "{again} {token:?}");
    }
    let header = format!("x-session: {}\r\n", BASE64.encode(STRANGER));
    let (server, token) = call("/header", &header, "x-session")?;
    ensure!(
        server.starts_with("127.101.1.") && token.is_some(),
        "{server}"
    );
    Ok(())
}
