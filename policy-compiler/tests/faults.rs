//! Faults with a real Envoy: a client's sidecar in front of an application that answers well.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod harness;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::running::{Trust, connect, failure, http, serve, start, status};
use harness::shop;
use heddle_policy_compiler::traffic::{FaultAnswer, Request, evaluate};
use heddle_policy_compiler::{Compiled, NamespacedName};

const APPLICATION: &str = "127.93.0.11:8001";

/// Services with their policies. The client's sidecar has 127.93.0.21 and up for them.
const SERVICES: [(&str, &str); 2] = [
    (
        "half",
        "retries: {attempts: 5, conditions: [ServerError], statusCodes: [503], resend: All}, faults: [{abort: {status: 503, percent: 50}}]",
    ),
    (
        "matched",
        "timeouts: {request: 1s}, faults: [
          {match: {method: POST, path: {prefix: /orders/}}, abort: {status: 418, percent: 100}},
          {match: {path: {exact: /a.b}}, abort: {status: 500, percent: 100}},
          {match: {headers: [{name: X-Fault, regex: 'ye?s'}, {name: x-safe, present: false}]}, abort: {status: 502, percent: 100}},
          {match: {path: {prefix: /slow}}, delay: {duration: 1s500ms, percent: 100}},
          {match: {path: {prefix: /grpc}}, abort: {grpcStatus: 14, percent: 100}},
          {match: {path: {prefix: /never}}, abort: {status: 500, percent: 0}}]",
    ),
];

/// That of requests to `matched`.
const TIMEOUT: Duration = Duration::from_secs(1);

fn at(index: usize) -> String {
    format!("127.93.0.{}:8001", 21 + index)
}

fn compiled(policies: bool) -> Result<Compiled> {
    let mut text = String::new();
    let mut upstreams = Vec::new();
    for (index, (name, policy)) in SERVICES.into_iter().enumerate() {
        if policies {
            text += &shop::traffic_policy(name, policy);
        }
        text += &shop::service(name, index, ("http", 8001), &["127.93.0.11"]);
        upstreams.push(format!("shop/{name}:8001={}", at(index)));
    }
    text += &shop::client("127.93.0", &upstreams);
    let compiled = harness::compiled(&text);
    ensure!(compiled.findings.is_empty(), "{:#?}", compiled.findings);
    Ok(compiled)
}

/// Answers every request of a connection with 200, and counts them.
fn application(received: &Arc<AtomicUsize>) -> impl Fn(&mut TcpStream) + Send + Clone + 'static {
    let received = Arc::clone(received);
    move |stream| {
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        while let Some(Ok(line)) = lines.next() {
            // Requests have no body here, so the empty line ends one.
            if line.is_empty() {
                received.fetch_add(1, Ordering::Relaxed);
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
            }
        }
    }
}

/// Sends requests over one connection, and returns how many were answered with 200 and with 503.
fn load(at: &str, count: usize) -> Result<(usize, usize)> {
    let mut stream = connect(at)?;
    stream.set_nodelay(true)?;
    let mut answers = BufReader::new(stream.try_clone()?);
    let (mut good, mut aborted) = (0, 0);
    for _ in 0..count {
        stream.write_all(b"GET / HTTP/1.1\r\nhost: half\r\n\r\n")?;
        let (code, length) = head(&mut answers)?;
        answers.read_exact(&mut vec![0; length])?;
        match code {
            200 => good += 1,
            503 => aborted += 1,
            other => anyhow::bail!("status {other} after {good} and {aborted}"),
        }
    }
    Ok((good, aborted))
}

/// The status of the next answer, and the length of its body.
fn head(answers: &mut impl BufRead) -> Result<(u16, usize)> {
    let (mut first, mut length) = (String::new(), 0);
    answers.read_line(&mut first)?;
    loop {
        let mut line = String::new();
        answers.read_line(&mut line)?;
        if let Some(value) = line.to_lowercase().strip_prefix("content-length: ") {
            length = value.trim().parse()?;
        }
        if line.trim().is_empty() {
            return Ok((status(&first), length));
        }
    }
}

/// Method, path, headers, and the status that the client gets.
const MATCHED: &[(&str, &str, &str, u16)] = &[
    ("GET", "/", "", 200),
    ("POST", "/orders", "", 418),
    ("POST", "/orders/1?a=/b", "", 418),
    ("POST", "/ordersx", "", 200),
    ("POST", "/x?/orders/", "", 200),
    ("GET", "/orders/1", "", 200),
    ("GET", "/a.b?c", "", 500),
    ("GET", "/axb", "", 200),
    ("GET", "/a.b/", "", 200),
    ("GET", "/", "x-fault: yes\r\n", 502),
    ("GET", "/", "x-fault: yes\r\nx-safe: 1\r\n", 200),
    ("GET", "/", "x-fault: no\r\n", 200),
    ("GET", "/grpc/x", "", 200),
    ("GET", "/never", "", 200),
];

#[test]
fn callers_meet_the_faults_that_match_and_retries_hide_none() -> Result<()> {
    let compiled = compiled(true)?;
    let (trust, folder) = (Trust::new()?, tempfile::tempdir()?);
    let received = Arc::<AtomicUsize>::default();
    serve(APPLICATION.to_owned(), application(&received))?;
    let none = BTreeSet::new();
    let _envoy = start(
        &compiled,
        ("client", &none),
        &trust,
        folder.path(),
        "127.93.0.9:9901",
        |_| {},
    )?;
    let matched = at(1);
    let service = NamespacedName::new("shop", "matched");
    let (_, table) = compiled.route_tables(&service).next().context("no table")?;
    for (method, path, headers, code) in MATCHED {
        let lines = headers.lines().filter_map(|line| line.split_once(": "));
        let request = Request {
            host: "api".to_owned(),
            method: (*method).to_owned(),
            path: (*path).to_owned(),
            headers: lines.map(|(n, v)| (n.to_owned(), v.to_owned())).collect(),
        };
        let decision = evaluate(table, &request).context("no rule")?;
        let mut aborts = decision.faults(&request).filter_map(|fault| fault.abort);
        let expected = match aborts.find(|abort| abort.percent == 100) {
            Some(abort) => match abort.answer {
                FaultAnswer::Status(status) => status,
                FaultAnswer::Grpc(_) => 200,
            },
            None => 200,
        };
        ensure!(expected == *code, "{method} {path} {headers}: {expected}");
        let answer = http(&matched, method, path, headers)?;
        ensure!(
            status(&answer) == *code,
            "{method} {path} {headers}: {answer}"
        );
    }
    // A call of gRPC gets the code. The delay is longer than the timeout, which does not count it.
    let grpc = http(
        &matched,
        "POST",
        "/grpc.X/Y",
        "content-type: application/grpc\r\n",
    )?;
    ensure!(status(&grpc) == 200, "{grpc}");
    let grpc = http(
        &matched,
        "POST",
        "/grpc/Y",
        "content-type: application/grpc\r\n",
    )?;
    ensure!(grpc.contains("grpc-status: 14"), "{grpc}");
    // At least the timeout, not the whole delay: Envoy's timers run from the begin of a turn of its loop, so they end early.
    let begin = Instant::now();
    let slow = http(&matched, "GET", "/slow/x?y", "")?;
    ensure!(status(&slow) == 200 && begin.elapsed() > TIMEOUT, "{slow}");

    // 50 % and 1 %: four standard deviations of 40,000 requests.
    let before = received.load(Ordering::Relaxed);
    let loads: Vec<_> = (0..4)
        .map(|_| std::thread::spawn(|| load(&at(0), 10_000)))
        .collect();
    let (mut good, mut aborted) = (0, 0);
    for load in loads {
        let (of_200, of_503) = load.join().unwrap()?;
        (good, aborted) = (good + of_200, aborted + of_503);
    }
    println!("{good} requests passed, {aborted} were aborted");
    ensure!(good + aborted == 40_000 && (19_500..=20_500).contains(&aborted));
    ensure!(received.load(Ordering::Relaxed) - before == good);
    for (status, service) in [(418, "matched"), (503, "half")] {
        let named = format!(";{status};;[^;]*;FI;whole service, TrafficPolicy shop/{service}");
        failure("127.93.0.9:9901", &named)?;
    }
    Ok(())
}

#[test]
fn faults_change_no_listener() -> Result<()> {
    let client = NamespacedName::new("shop", "client");
    let listeners = |compiled: &Compiled| harness::listeners(compiled, &client);
    let (with, without) = (listeners(&compiled(true)?), listeners(&compiled(false)?));
    ensure!(with.len() > SERVICES.len() && with == without);
    Ok(())
}
