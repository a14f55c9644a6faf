//! The cost of telemetry and of default features in real Envoys, the sidecars of a client and of a server with mTLS between them: instructions of a request by
//! callgrind. Run by hand, with valgrind: `cargo bench -p heddle-policy-compiler --bench request_cost`. `-- traces` counts that pair alone; the
//! others are `default`, `collector` and `features`.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a measurement"
)]

mod callgrind;
#[path = "../tests/harness/collector.rs"]
mod collector;
#[path = "../tests/harness/mod.rs"]
mod harness;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use collector::Collector;
use envoy_types::pb::envoy::service::accesslog::v3::access_log_service_server::{
    AccessLogService, AccessLogServiceServer,
};
use envoy_types::pb::envoy::service::accesslog::v3::{
    StreamAccessLogsMessage, StreamAccessLogsResponse,
};
use harness::running::{Envoy, Trust, http, serve, start};
use heddle_policy_compiler::Compiled;
use serde_json::{Value, json};
use tonic::{Request, Response, Status, Streaming, transport};

const NET: &str = "127.105.0";
const FIRST: u16 = 8601;
const SINK: &str = "127.105.0.6:8600";
const COLLECTOR: &str = "127.105.0.7:4317";
const REQUESTS: usize = 300;
const ROUNDS: usize = 3;

/// Takes the requests that Envoys send for taps, as the agent does, and drops them.
struct Sink;

#[tonic::async_trait]
impl AccessLogService for Sink {
    async fn stream_access_logs(
        &self,
        request: Request<Streaming<StreamAccessLogsMessage>>,
    ) -> Result<Response<StreamAccessLogsResponse>, Status> {
        let mut messages = request.into_inner();
        while messages.message().await?.is_some() {}
        Ok(Response::new(StreamAccessLogsResponse::default()))
    }
}

/// Serves until the process ends.
fn sink(at: &str) -> Result<()> {
    let at = at.parse()?;
    std::thread::spawn(move || -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let service = AccessLogServiceServer::new(Sink);
        let mut server = transport::Server::builder();
        Ok(runtime.block_on(server.add_service(service).serve(at))?)
    });
    Ok(())
}

/// A client and a server with so many ports, each called by a name of its own.
fn compiled(ports: u16, telemetry: &Value) -> Compiled {
    let ports = || FIRST..FIRST + ports;
    let (mut of_service, mut upstreams) = (Vec::new(), Vec::new());
    for port in ports() {
        of_service.push(json!({"name": format!("http-{port}"), "port": port}));
        upstreams.push(format!("shop/api:{port}={NET}.4:{port}"));
    }
    let pod = |name: &str, ip: &str, annotations: Value| {
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "shop", "labels": {"app": name}, "annotations": annotations},
            "spec": {"serviceAccountName": name, "containers": [{"name": "app"}]}, "status": {"podIPs": [{"ip": ip}]}})
    };
    let (client, server) = (format!("{NET}.1"), format!("{NET}.2"));
    let documents = [
        json!({"apiVersion": "heddle.dev/v1alpha1", "kind": "Mesh", "metadata": {"name": "default"}, "spec": {"telemetry": telemetry}}),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "api", "namespace": "shop"},
            "spec": {"clusterIP": "10.96.0.1", "selector": {"app": "api"}, "ports": of_service}}),
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "api-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "api"}},
            "addressType": "IPv4", "ports": of_service,
            "endpoints": [{"addresses": [server], "conditions": {"ready": true}, "targetRef": {"kind": "Pod", "name": "api", "namespace": "shop"}}]}),
        pod(
            "client",
            &client,
            json!({"heddle.dev/standalone-app": format!("{NET}.5"), "heddle.dev/standalone-upstreams": upstreams.join(", ")}),
        ),
        pod(
            "api",
            &server,
            json!({"heddle.dev/standalone-app": format!("{NET}.3")}),
        ),
    ];
    let documents = documents.map(|document| format!("---\n{document}\n"));
    harness::compiled(&documents.concat())
}

/// Leaves the connection managers with this route configuration the parts of a row.
fn keep(value: &mut Value, routes: &str, row: &Row, stripped: &RefCell<BTreeSet<&str>>) {
    match value {
        Value::Object(map) => {
            if map
                .get("route_config")
                .is_some_and(|of| of["name"] == routes)
            {
                if let Some(names) = row.loggers {
                    let loggers = map["access_log"].as_array_mut().unwrap();
                    loggers.retain(|logger| names.contains(&logger["name"].as_str().unwrap()));
                }
                for name in row.without {
                    let own = map.remove(*name).is_some();
                    let inside: usize = map.values_mut().map(|value| strip(value, name)).sum();
                    if own || inside > 0 {
                        stripped.borrow_mut().insert(*name);
                    }
                }
            }
            map.values_mut()
                .for_each(|value| keep(value, routes, row, stripped));
        }
        Value::Array(items) => items
            .iter_mut()
            .for_each(|value| keep(value, routes, row, stripped)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Takes the fields and the elements of lists with a name away, at any depth, and returns their number.
fn strip(value: &mut Value, name: &str) -> usize {
    match value {
        Value::Object(map) => {
            let fields = usize::from(map.remove(name).is_some());
            let inside = map.values_mut().map(|value| strip(value, name));
            fields + inside.sum::<usize>()
        }
        Value::Array(items) => {
            let all = items.len();
            items.retain(|item| item["name"] != name);
            let elements = all - items.len();
            let inside = items.iter_mut().map(|value| strip(value, name));
            elements + inside.sum::<usize>()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

fn answer(stream: &mut TcpStream) {
    let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        seen.extend_from_slice(&buffer[..n]);
        while let Some(end) = seen.windows(4).position(|window| window == b"\r\n\r\n") {
            let head: Vec<u8> = seen.drain(..end + 4).collect();
            let status = if head.starts_with(b"GET /fails") {
                "404 Not Found"
            } else {
                "200 OK"
            };
            let _ = write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\nok");
        }
    }
}

fn ask(stream: &mut TcpStream, row: &Row) -> Result<()> {
    let (path, header) = (row.path, row.header);
    let headers = "host: api\r\nuser-agent: bench\r\naccept: */*\r\n";
    write!(stream, "GET {path} HTTP/1.1\r\n{headers}{header}\r\n")?;
    let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
    while !answer.ends_with(b"\r\n\r\nok") {
        let read = stream.read(&mut buffer)?;
        answer.extend_from_slice(&buffer[..read]);
        let text = String::from_utf8_lossy(&answer);
        ensure!(read > 0 && !text.starts_with("HTTP/1.1 503"), "{text}");
    }
    Ok(())
}

/// A row of the table.
struct Row {
    name: &'static str,
    /// The names of its loggers. None: all.
    loggers: Option<&'static [&'static str]>,
    path: &'static str,
    /// The runtime values that wake loggers.
    awake: &'static str,
    /// A header beside the usual ones, with the end of its line.
    header: &'static str,
    /// Names of fields and of elements of lists that are taken from its connection managers.
    without: &'static [&'static str],
}

const fn row(name: &'static str, loggers: Option<&'static [&'static str]>) -> Row {
    Row {
        name,
        loggers,
        path: "/items",
        awake: "",
        header: "",
        without: &[],
    }
}

const LOGS: &str = "heddle.log=10000&heddle.log.others=10000";
const TAPPED: &str = "heddle.tap=10000";

/// As sidecars are by default.
const ROWS: [Row; 8] = [
    row("no logger", Some(&[])),
    row("access log, asleep", Some(&["log"])),
    row("tap, asleep", Some(&["tap"])),
    row("golden metrics", Some(&["stats", "failures"])),
    row("all, as compiled", None),
    Row {
        path: "/fails",
        ..row("the same, and the request fails", None)
    },
    Row {
        awake: LOGS,
        ..row("access log in JSON, every request", Some(&["log"]))
    },
    Row {
        awake: TAPPED,
        ..row("tap, every request", Some(&["tap"]))
    },
];

/// With access logs to a collector.
const OF_COLLECTOR: [Row; 2] = [
    row("no logger", Some(&[])),
    Row {
        awake: LOGS,
        ..row("access log by OTLP, every request", Some(&["log"]))
    },
];

/// With a tracer at 0 %: no request without a parent begins a trace.
const OF_TRACES: [Row; 4] = [
    Row {
        without: &["tracing", "early_header_mutation_extensions", "id"],
        ..row("no tracer", Some(&[]))
    },
    row("a tracer, no parent", Some(&[])),
    Row {
        header: "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00\r\n",
        ..row("a tracer, parent not sampled", Some(&[]))
    },
    Row {
        header: "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n",
        ..row("a tracer, sampled parent: a span", Some(&[]))
    },
];

/// Each default feature: a row leaves one out, and the difference to the first row is its cost.
const OF_FEATURES: [Row; 7] = [
    row("all features, no logger", Some(&[])),
    Row {
        without: &["request_headers_to_remove"],
        ..row("spellings of x-forwarded-client-cert stay", Some(&[]))
    },
    Row {
        without: &["local_reply_config", "response_headers_to_remove"],
        ..row("no mark of unreached requests", Some(&[]))
    },
    Row {
        without: &["header_key_format"],
        ..row(
            "letters of headers in lower case, requests to the sidecar",
            Some(&[]),
        )
    },
    Row {
        without: &["retry_policy"],
        ..row("no retries", Some(&[]))
    },
    Row {
        without: &["policy"],
        ..row("no place for filters of policies", Some(&[]))
    },
    Row {
        without: &["upgrade_configs", "ignore_http_11_upgrade"],
        ..row("no WebSockets", Some(&[]))
    },
];

/// Leaves the connection managers with these route configurations the loggers of their rows, and leads taps to the sink.
fn edit(
    config: &mut Value,
    rows: &[Row],
    routes: impl Fn(u16) -> String,
    stripped: &RefCell<BTreeSet<&str>>,
) {
    for (port, row) in (FIRST..).zip(rows) {
        keep(config, &routes(port), row, stripped);
    }
    let clusters = config["static_resources"]["clusters"].as_array_mut();
    let mut clusters = clusters.unwrap().iter_mut();
    let agent = clusters.find(|cluster| cluster["name"] == "heddle-agent");
    let (ip, port) = SINK.split_once(':').unwrap();
    let port = port.parse::<u16>().unwrap();
    let at = json!({"socket_address": {"address": ip, "port_value": port}});
    agent.unwrap()["load_assignment"] = json!({"cluster_name": "heddle-agent",
        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": at}}]}]});
}

/// Sets runtime values as RTDS does, or takes them back.
fn wake(values: &str, on: bool) -> Result<()> {
    let values = match on {
        true => values.to_owned(),
        // An empty value removes that of the admin layer.
        false => values.replace("10000", ""),
    };
    for index in [8, 9] {
        let path = format!("/runtime_modify?{values}");
        let answer = http(&format!("{NET}.{index}:9901"), "POST", &path, "")?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    Ok(())
}

fn count(folder: &Path) -> Result<()> {
    for (port, _) in (FIRST..).zip(&ROWS) {
        serve(format!("{NET}.3:{port}"), answer)?;
    }
    sink(SINK)?;
    let _collector = Collector::start(COLLECTOR)?;
    let (ip, port) = COLLECTOR.split_once(':').context("no port")?;
    let port = port.parse::<u16>()?;
    let to_collector = json!({"accessLogs": {}, "accessLogSink": "Collector", "collector": {"address": {"host": ip, "port": port}}});
    let traces = json!({"tracing": {"percent": 0}, "collector": to_collector["collector"]});
    let pairs: [(_, &[Row], _); 4] = [
        ("default", &ROWS, json!({})),
        ("collector", &OF_COLLECTOR, to_collector),
        ("traces", &OF_TRACES, traces),
        ("features", &OF_FEATURES, json!({})),
    ];
    let wanted = std::env::args().skip(1);
    let wanted: BTreeSet<String> = wanted.filter(|of| !of.starts_with('-')).collect();
    for name in &wanted {
        ensure!(
            pairs.iter().any(|(of, ..)| of == name),
            "{name:?} is not a pair"
        );
    }
    let pairs = pairs.into_iter();
    let pairs = pairs.filter(|(name, ..)| wanted.is_empty() || wanted.contains(*name));
    for (name, rows, telemetry) in pairs {
        println!("{name}");
        pair(folder, name, rows, &telemetry)?;
    }
    Ok(())
}

/// Counts the rows of a pair of sidecars.
fn pair(folder: &Path, name: &str, rows: &[Row], telemetry: &Value) -> Result<()> {
    let (none, trust) = (BTreeSet::new(), Trust::new()?);
    let compiled = compiled(u16::try_from(rows.len())?, telemetry);
    let at = |index: u8| format!("{NET}.{index}:9901");
    let envoys = folder.join(name);
    fs::create_dir(&envoys)?;
    let stripped = RefCell::default();
    let start = |pod, index, routes: fn(u16) -> String| -> Result<Envoy> {
        let edit = |config: &mut Value| edit(config, rows, routes, &stripped);
        start(&compiled, (pod, &none), &trust, &envoys, &at(index), edit)
    };
    let server = start("api", 8, |port| format!("in|{port}"))?;
    let client = start("client", 9, |port| format!("out|shop/api|{port}"))?;
    for name in rows.iter().flat_map(|row| row.without) {
        ensure!(stripped.borrow().contains(name), "no sidecar has {name:?}");
    }
    for round in 1..=ROUNDS {
        let mut bare = [0.0; 2];
        for (port, row) in (FIRST..).zip(rows) {
            let name = row.name;
            if !row.awake.is_empty() {
                wake(row.awake, true)?;
            }
            let mut stream =
                callgrind::warm(&format!("{NET}.4:{port}"), |stream| ask(stream, row))?;
            for envoy in [&client, &server] {
                callgrind::begin(envoy)?;
            }
            (0..REQUESTS).try_for_each(|_| ask(&mut stream, row))?;
            for (index, envoy) in [&client, &server].into_iter().enumerate() {
                let each = callgrind::end(envoy, folder)? as f64 / 1000.0 / REQUESTS as f64;
                if port == FIRST {
                    bare[index] = each;
                }
                let more = 100.0 * (each / bare[index] - 1.0);
                let side = ["client", "server"][index];
                println!("{round} {side}, {name}: {each:.1} thousand instructions ({more:+.1} %)");
            }
            if !row.awake.is_empty() {
                wake(row.awake, false)?;
            }
        }
    }
    Ok(())
}

fn main() -> Result<()> {
    callgrind::counts().map_or_else(callgrind::run, |folder| count(&folder))
}
