//! Real Envoys, a client's and a server's, with real mTLS on loopback: the answers of Envoy equal those of the evaluator.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod harness;

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpStream;

use anyhow::{Context, Result, ensure};
use harness::running::{Trust, connect, echo, http, mirror, serve, start_as_is, status};
use heddle_policy_compiler::authz::{HttpRequest, Request, evaluate, received};
use heddle_policy_compiler::world::{Port, SpiffeId};
use heddle_policy_compiler::{
    Call, Compiled, NamespacedName, Outcome, Severity, World, compile, ingest,
};
use heddle_xds_types::golden;

/// One policy per HTTP port, from 8001 up.
const POLICIES: [&str; 10] = [
    "[{from: {identities: [shop/client]}, to: {ports: [PORT], methods: [GET]}}]",
    "[{action: Deny, to: {ports: [PORT], paths: [/admin, /private/*]}}]",
    "[{to: {ports: [PORT], paths: [/api/*, /healthz]}}, {action: Deny, from: {identities: [shop/client]}, to: {ports: [PORT], methods: [DELETE]}}]",
    "[{from: {namespaces: [other]}, to: {ports: [PORT]}}]",
    "[{to: {ports: [PORT], headers: [{name: x-tier, exact: gold}]}}, {action: Deny, to: {ports: [PORT], headers: [{name: x-a-b, prefix: evil}]}}]",
    "[{from: {ipBlocks: [127.0.0.0/8]}, to: {ports: [PORT], methods: [GET, POST], paths: [/*]}}]",
    "[{action: Deny, to: {ports: [PORT], paths: [/api/v4/projects/with/a/rather/long/name/and-still-more-of-it/so-that-the-expression-becomes-large]}}]",
    "[{to: {ports: [PORT], headers: [{name: x-tier, regex: 'g.*d'}, {name: x-none, present: false}]}}]",
    "[{action: Deny, to: {ports: [PORT], headers: [{name: x-forwarded-client-cert, present: true}]}}]",
    "[{action: Deny, to: {ports: [PORT], headers: [{name: x-envoy-retry-on, present: true}]}}, {action: Deny, to: {ports: [PORT], headers: [{name: te, exact: trailers}]}}]",
];
const TCP: u16 = 8101;
const UNDECLARED: u16 = 8102;
/// Of a service with an endpoint that has a sidecar, and one that has none.
const MIXED: u16 = 8201;

fn manifest() -> String {
    let ports: Vec<u16> = (8001..).take(POLICIES.len()).collect();
    let (mut service_ports, mut slice_ports) = (String::new(), String::new());
    let mut upstreams = Vec::new();
    for port in ports.iter().copied().chain([TCP, UNDECLARED]) {
        let name = match port {
            TCP => "tcp".to_owned(),
            UNDECLARED => "x".to_owned(),
            http => format!("http-{http}"),
        };
        writeln!(
            service_ports,
            "  - {{name: {name}, port: {port}, protocol: TCP, targetPort: {port}}}"
        )
        .unwrap();
        writeln!(
            slice_ports,
            "- {{name: {name}, port: {port}, protocol: TCP}}"
        )
        .unwrap();
        upstreams.push(format!("shop/api:{port}=127.77.0.6:{port}"));
    }
    let mut text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: api, namespace: shop}}\nspec:\n  clusterIP: 10.96.0.1\n  selector: {{app: api}}\n  ports:\n{service_ports}"
    );
    write!(
        text,
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: api-1, namespace: shop, labels: {{kubernetes.io/service-name: api}}}}\naddressType: IPv4\nports:\n{slice_ports}endpoints: [{{addresses: [127.77.0.2], targetRef: {{kind: Pod, name: api, namespace: shop}}}}]\n"
    )
    .unwrap();
    write!(
        text,
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: mixed, namespace: shop}}\nspec: {{clusterIP: 10.96.0.2, selector: {{app: api}}, ports: [{{name: http, port: {MIXED}, protocol: TCP}}]}}\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: mixed-1, namespace: shop, labels: {{kubernetes.io/service-name: mixed}}}}\naddressType: IPv4\nports: [{{name: http, port: {MIXED}, protocol: TCP}}]\nendpoints: [{{addresses: [127.77.0.2], targetRef: {{kind: Pod, name: api, namespace: shop}}}}, {{addresses: [127.77.0.7]}}]\n"
    )
    .unwrap();
    upstreams.push(format!("shop/mixed:{MIXED}=127.77.0.6:{MIXED}"));
    for (pod, ip, app, upstreams) in [
        ("api", "127.77.0.2", "127.77.0.3", String::new()),
        ("client", "127.77.0.4", "127.77.0.5", upstreams.join(", ")),
    ] {
        write!(
            text,
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {pod}, namespace: shop, labels: {{app: {pod}}}, annotations: {{heddle.dev/standalone-app: {app}, heddle.dev/standalone-upstreams: \"{upstreams}\"}}}}\nspec: {{serviceAccountName: {pod}, containers: [{{name: app}}]}}\nstatus: {{podIPs: [{{ip: {ip}}}]}}\n"
        )
        .unwrap();
    }
    text += "---\napiVersion: v1\nkind: Pod\nmetadata: {name: outside, namespace: shop}\nspec: {containers: [{name: app}]}\nstatus: {podIPs: [{ip: 127.77.0.10}]}\n";
    for (port, rules) in ports.iter().zip(POLICIES) {
        let rules = rules.replace("PORT", &port.to_string());
        write!(text, "---\napiVersion: heddle.dev/v1alpha1\nkind: AuthPolicy\nmetadata: {{name: p{port}, namespace: shop}}\nspec: {{target: {{service: api}}, rules: {rules}}}\n").unwrap();
    }
    write!(text, "---\napiVersion: heddle.dev/v1alpha1\nkind: AuthPolicy\nmetadata: {{name: tcp, namespace: shop}}\nspec: {{target: {{service: api}}, rules: [{{from: {{identities: [shop/client]}}, to: {{ports: [{TCP}, {UNDECLARED}]}}}}]}}\n").unwrap();
    text
}

fn compiled() -> Result<Compiled> {
    let read = ingest::parse_yaml("traffic", &manifest());
    ensure!(read.findings.is_empty(), "{:#?}", read.findings);
    let mut builder = World::builder();
    let findings: Vec<_> = read
        .objects
        .into_iter()
        .flat_map(|manifest| builder.apply(manifest.object))
        .collect();
    let compiled = compile(&builder.world());
    ensure!(
        findings.is_empty()
            && compiled
                .findings
                .iter()
                .all(|finding| finding.severity != Severity::Error),
        "{findings:#?} {:#?}",
        compiled.findings
    );
    Ok(compiled)
}

/// Speaks first.
fn greeter(stream: &mut TcpStream) {
    let _ = stream.write_all(b"hello\n");
    echo(stream);
}

#[test]
fn envoy_answers_as_the_evaluator_says() -> Result<()> {
    let compiled = compiled()?;
    let folder = tempfile::tempdir()?;
    let trust = Trust::new()?;
    for port in (8001..).take(POLICIES.len()).chain([UNDECLARED]) {
        serve(format!("127.77.0.3:{port}"), mirror)?;
    }
    serve(format!("127.77.0.3:{TCP}"), greeter)?;
    for host in [3, 7] {
        serve(format!("127.77.0.{host}:{MIXED}"), mirror)?;
    }
    let _server = start_as_is(&compiled, "api", &trust, folder.path(), "127.77.0.8:9901")?;
    let _client = start_as_is(
        &compiled,
        "client",
        &trust,
        folder.path(),
        "127.77.0.9:9901",
    )?;

    transparent()?;
    bytes()?;
    mixed()?;
    policies(&compiled)?;
    metrics()
}

fn policies(compiled: &Compiled) -> Result<()> {
    let paths = [
        "/",
        "/admin",
        "//admin",
        "/%61dmin",
        "/admin;x",
        "/admin/",
        "/x/../admin",
        "/admins",
        "/private/x",
        "/private%2fx",
        "/api/x",
        "/api/a%2Fb",
        "/api/..%2fadmin",
        "/api/../admin",
        "/healthz?probe=1",
        "/healthz/",
        "/api/v4/projects/with/a/rather/long/name/and-still-more-of-it/so-that-the-expression-becomes-large",
    ];
    let headers = [
        "",
        "X-Tier: gold\r\n",
        "x-tier: tin\r\n",
        "x-a-b: evil2\r\n",
        "x_a_b: evil\r\nx-tier: gold\r\n",
        "x-none: 1\r\nx-tier: gold\r\n",
        "x-forwarded-client-cert: forged\r\n",
        "x-envoy-retry-on: 5xx\r\n",
        "te: gzip, trailers\r\n",
    ];
    let requests = paths
        .iter()
        .flat_map(|path| ["GET", "DELETE"].map(|method| (method, *path, "")))
        .chain(headers.iter().map(|h| ("GET", "/", *h)));
    let requests: Vec<(&str, &str, &str)> = requests.collect();
    let peers = [
        (
            "127.77.0.6",
            Some(SpiffeId::new("cluster.local", "shop", "client")),
        ),
        ("127.77.0.2", None),
    ];
    let server = SpiffeId::new("cluster.local", "shop", "api");
    let mut wrong = Vec::new();
    let (mut passed, mut refused) = (0, 0);
    for port in (8001..).take(POLICIES.len()) {
        let authz = compiled
            .authz(
                &NamespacedName::new("shop", "api"),
                Port::try_from(port).unwrap(),
            )
            .context("no authz")?;
        for (method, path, headers) in &requests {
            for (ip, peer) in &peers {
                let names: Vec<(String, String)> = headers
                    .lines()
                    .filter_map(|l| l.split_once(": "))
                    .map(|(n, v)| (n.to_lowercase(), v.to_owned()))
                    .collect();
                let from = if peer.is_some() { "client" } else { "outside" };
                let explained = explained(compiled, from, port, (method, path), &names)?;
                let parts = HttpRequest {
                    method: (*method).to_owned(),
                    path: (*path).to_owned(),
                    headers: received(&names, peer.as_ref(), &server),
                };
                let request = Request {
                    peer: peer.clone(),
                    source: "127.0.0.1".parse()?,
                    port: None,
                    http: Some(parts),
                };
                let decision = evaluate(authz, &request, false);
                let code = status(&http(&format!("{ip}:{port}"), method, path, headers)?);
                ensure!(
                    explained == code,
                    "{from} {port} {method} {path} {headers:?}: explained as {explained}, but {code}"
                );
                if decision.allowed() {
                    passed += 1
                } else {
                    refused += 1
                }
                if code != if decision.allowed() { 200 } else { 403 } {
                    wrong.push(format!(
                        "{port} {method} {path} {headers:?} from {peer:?}: {decision:?}, but {code}"
                    ));
                }
            }
        }
    }
    ensure!(
        passed > 50 && refused > 50,
        "{passed} passed, {refused} refused"
    );
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// The status that the explanation of a call leads to.
fn explained(
    compiled: &Compiled,
    from: &str,
    port: i32,
    (method, path): (&str, &str),
    headers: &[(String, String)],
) -> Result<u16> {
    let host = ("host".to_owned(), "api".to_owned());
    let explanation = compiled.explain(&Call {
        from: NamespacedName::new("shop", from),
        host: "api".to_owned(),
        port: u16::try_from(port)?,
        tls: false,
        method: method.to_owned(),
        path: path.to_owned(),
        headers: std::iter::once(host).chain(headers.to_vec()).collect(),
    })?;
    match explanation.outcome() {
        Outcome::Passes => Ok(200),
        Outcome::Denied => Ok(403),
        other => anyhow::bail!("{other:?}: {explanation:#?}"),
    }
}

/// The application receives the request unchanged.
fn transparent() -> Result<()> {
    let answer = http(
        "127.77.0.6:8007",
        "GET",
        "/api/v4/projects/a%2Fb//./c;d?e=%2f",
        "X-CamelCase: Yes\r\nUpgrade: TLS/1.2\r\nx-forwarded-client-cert: forged\r\nX_Forwarded-Client_Cert: forged\r\n",
    )?;
    ensure!(status(&answer) == 200, "{answer}");
    ensure!(
        answer.contains("GET /api/v4/projects/a%2Fb//./c;d?e=%2f HTTP/1.1\r\n"),
        "{answer}"
    );
    ensure!(answer.contains("X-CamelCase: Yes\r\n"), "{answer}");
    ensure!(
        answer.contains("URI=spiffe://cluster.local/ns/shop/sa/client")
            && !answer.contains("forged"),
        "{answer}"
    );
    Ok(())
}

/// TCP, server first, allowed and not; and a port without a declared protocol.
fn bytes() -> Result<()> {
    let mut stream = connect(&format!("127.77.0.6:{TCP}"))?;
    let mut buffer = [0; 6];
    stream.read_exact(&mut buffer)?;
    stream.write_all(b"ping")?;
    let mut echo = [0; 4];
    stream.read_exact(&mut echo)?;
    ensure!(&buffer == b"hello\n" && &echo == b"ping");
    let mut stream = connect(&format!("127.77.0.2:{TCP}"))?;
    let _ = stream.write_all(b"ping");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    ensure!(
        answer.is_empty(),
        "a caller without identity got {:?}",
        String::from_utf8_lossy(&answer)
    );
    ensure!(status(&http(&format!("127.77.0.6:{UNDECLARED}"), "GET", "/", "")?) == 200);
    // No filter reads HTTP there, so Envoy sends no answer.
    let refused = http(&format!("127.77.0.2:{UNDECLARED}"), "GET", "/", "")?;
    ensure!(refused.is_empty(), "{refused}");
    Ok(())
}

/// By mTLS where there is a sidecar, which names the caller; in plain text where there is none.
fn mixed() -> Result<()> {
    let (mut known, mut plain) = (0, 0);
    for _ in 0..20 {
        let answer = http(&format!("127.77.0.6:{MIXED}"), "GET", "/", "")?;
        ensure!(status(&answer) == 200, "{answer}");
        if answer.contains("URI=spiffe://cluster.local/ns/shop/sa/client") {
            known += 1;
        } else {
            plain += 1;
        }
    }
    ensure!(known > 0 && plain > 0, "{known} by mTLS, {plain} without");
    Ok(())
}

/// Envoy's metrics have the fields of the edges, and the service by its clusters.
fn metrics() -> Result<()> {
    let client = "spiffe://cluster.local/ns/shop/sa/client";
    let denied = "rbac_access_denied_matched_policy[no-allow:shop/p8001]";
    let server = [
        format!("{DURATIONS}destination;;in|api;200;;{client}"),
        format!("{DURATIONS}destination;;in|api;403;;"),
        format!("{FAILURES}destination;;in|api;403;;;-;all;{denied}"),
        format!("{CONNECTIONS}destination;;api;;;{client};-;;in|{TCP}"),
        // Its bytes are refused, and led to no cluster.
        format!("{CONNECTIONS}destination;;api;;;;NC;;denied:no-allow:shop/tcp"),
    ];
    expect("127.77.0.8:9901", &server)?;
    let source = [
        format!("{DURATIONS}source;shop;api;200;;out|shop/api|8001"),
        format!("{CONNECTIONS}source;shop;api;;;out|shop/api|{TCP};-;;;by "),
    ];
    expect("127.77.0.9:9901", &source)
}

const METRICS: &str = "/stats/prometheus?filter=heddle";
const DURATIONS: &str = "envoy_heddle_request_duration_ms_count{edge=\"";
const FAILURES: &str = "envoy_heddle_request_failures_total{edge=\"";
const CONNECTIONS: &str = "envoy_heddle_tcp_connections{edge=\"";

/// The series with these tags are there, and every tag can be read.
fn expect(admin: &str, series: &[String]) -> Result<()> {
    let text = http(admin, "GET", METRICS, "")?;
    for wanted in series {
        ensure!(text.contains(&format!("{wanted}\"}}")), "{wanted}: {text}");
    }
    let tags = text.lines().filter_map(|line| {
        let (_, rest) = line.split_once("{edge=\"")?;
        Some(rest.split_once('"')?.0)
    });
    for tag in tags {
        ensure!(golden::Edge::parse(tag).is_some(), "{tag}");
    }
    Ok(())
}
