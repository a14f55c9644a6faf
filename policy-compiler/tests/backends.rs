//! Traces and log records of real Envoys in a real Jaeger, by way of a real OpenTelemetry Collector. `tests/telemetry/run.sh` builds both and
//! names their programs in the environment.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

#[path = "harness/collector.rs"]
mod collector;
mod harness;

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use collector::Collector;
use harness::chain::{Chain, HTTP, SPANS, WORKLOADS};
use harness::running::http;
use serde_json::Value;

const NET: u8 = 96;
const TRACE: &str = "0af7651916cd43dd8448eb211c80319d";
const PARENT: &str = "b7ad6b7169203332";

/// A program of the OpenTelemetry Collector's kind, which ends with the test.
struct Backend(Child);

impl Backend {
    /// Starts it, and waits until it takes connections at the first of these addresses.
    fn start(program: &str, config: &str, addresses: &[(&str, &str)]) -> Result<Self> {
        let program = std::env::var(program)
            .with_context(|| format!("{program} is not set; run tests/telemetry/run.sh"))?;
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/telemetry");
        let config: PathBuf = folder.join(config);
        let child = Command::new(&program)
            .arg("--config")
            .arg(&config)
            .envs(addresses.iter().copied())
            .spawn()
            .with_context(|| format!("{program} does not start"))?;
        let mut backend = Self(child);
        let (_, first) = addresses[0];
        let deadline = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(first).is_err() {
            ensure!(backend.0.try_wait()?.is_none(), "{program} has ended");
            ensure!(Instant::now() < deadline, "{program} does not listen");
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(backend)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The body of an answer in chunks.
fn unchunked(body: &str) -> Option<String> {
    let (mut rest, mut whole) = (body, String::new());
    loop {
        let (size, after) = rest.split_once("\r\n")?;
        let size = usize::from_str_radix(size, 16).ok()?;
        if size == 0 {
            return Some(whole);
        }
        whole += after.get(..size)?;
        rest = after.get(size + 2..)?;
    }
}

/// The answer of Jaeger's query service.
fn ask(query: &str, path: &str) -> Result<Value> {
    let answer = http(query, "GET", path, "")?;
    let (head, body) = answer.split_once("\r\n\r\n").context(answer.clone())?;
    let body = if head.to_lowercase().contains("transfer-encoding: chunked") {
        unchunked(body).context(answer.clone())?
    } else {
        body.to_owned()
    };
    serde_json::from_str(&body).context(answer.clone())
}

/// The spans of a trace in Jaeger, once all are there, with the processes that sent them.
fn trace(query: &str) -> Result<(Vec<Value>, Value)> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let answer = ask(query, &format!("/api/traces/{TRACE}"))?;
        let spans = answer["data"][0]["spans"].as_array();
        let spans = spans.cloned().unwrap_or_default();
        if spans.len() >= SPANS {
            return Ok((spans, answer["data"][0]["processes"].clone()));
        }
        ensure!(Instant::now() < deadline, "{answer:#}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// The text of a tag of a span.
fn tag<'a>(span: &'a Value, name: &str) -> Option<&'a str> {
    let mut tags = span["tags"].as_array()?.iter();
    tags.find(|tag| tag["key"] == name)?["value"].as_str()
}

/// Checks that each span is the child of the one before, from the first caller to the last server.
fn check_spans(spans: &[Value], processes: &Value) -> Result<()> {
    let by_parent: BTreeMap<&str, &Value> = spans
        .iter()
        .map(|span| {
            let parent = &span["references"][0];
            assert_eq!(parent["refType"], "CHILD_OF", "{span:#}");
            (parent["spanID"].as_str().unwrap(), span)
        })
        .collect();
    let (mut parent, mut found) = (PARENT, Vec::new());
    while let Some(span) = by_parent.get(parent) {
        let process = &processes[span["processID"].as_str().unwrap()];
        found.push((
            process["serviceName"].as_str().unwrap().to_owned(),
            span["operationName"].as_str().unwrap().to_owned(),
            tag(span, "span.kind").unwrap_or_default().to_owned(),
        ));
        ensure!(tag(span, "http.status_code") == Some("200"), "{span:#}");
        parent = span["spanID"].as_str().unwrap();
    }
    let hops = WORKLOADS.windows(2).flat_map(|hop| {
        let name = format!("{}.shop:{HTTP}", hop[1]);
        let end = |workload: &str, kind: &str| (workload.to_owned(), name.clone(), kind.to_owned());
        [end(hop[0], "client"), end(hop[1], "server")]
    });
    ensure!(found == hops.collect::<Vec<_>>(), "{found:#?}");
    Ok(())
}

#[test]
fn a_call_over_four_hops_is_one_trace_in_jaeger_and_its_log_records_reach_the_collector()
-> Result<()> {
    let at = |host: &str| format!("127.{NET}.100.{host}");
    let (traces, query, query_grpc) = (at("1:4317"), at("1:16686"), at("1:16685"));
    let logs = Collector::start(&at("2:4317"))?;
    let _jaeger = Backend::start(
        "HEDDLE_JAEGER",
        "jaeger.yaml",
        &[
            ("QUERY", &query),
            ("QUERY_GRPC", &query_grpc),
            ("OTLP", &traces),
        ],
    )?;
    let _collector = Backend::start(
        "HEDDLE_OTELCOL",
        "collector.yaml",
        &[
            ("OTLP", &Chain::collector(NET)),
            ("TRACES", &traces),
            ("LOGS", &at("2:4317")),
        ],
    )?;
    let telemetry = "tracing: {percent: 0}, accessLogs: {}, accessLogSink: Collector";
    let chain = Chain::start(NET, telemetry)?;

    // A request without a parent begins no trace; one with a sampled parent goes on in it.
    chain.call("")?;
    chain.call(&format!("traceparent: 00-{TRACE}-{PARENT}-01\r\n"))?;
    let (spans, processes) = trace(&query)?;
    ensure!(spans.len() == SPANS, "{spans:#?}");
    check_spans(&spans, &processes)?;
    let all = ask(&query, "/api/traces?service=client")?;
    ensure!(all["data"].as_array().map(Vec::len) == Some(1), "{all:#}");
    let services = ask(&query, "/api/services")?;
    let services: BTreeSet<&str> = services["data"]
        .as_array()
        .context("no services")?
        .iter()
        .filter_map(Value::as_str)
        .collect();
    ensure!(services == WORKLOADS.into_iter().collect(), "{services:?}");

    // A record of each end of each hop, with the trace in it.
    let of_it = |line: &&collector::Line| {
        let parent = line.attribute("traceparent");
        parent.is_some_and(|parent| parent.contains(TRACE))
    };
    let lines = logs.take_lines_once(|lines| lines.iter().filter(of_it).count() >= SPANS)?;
    let ends: BTreeSet<_> = lines
        .iter()
        .filter(of_it)
        .map(|line| {
            (
                line.service.clone(),
                line.attribute("reporter").map(str::to_owned),
            )
        })
        .collect();
    ensure!(ends.len() == SPANS, "{ends:#?}");
    Ok(())
}
