//! The load on a service that fails, behind a chain of callers: real Envoys on both sides of each hop. With `HEDDLE_RETRY_TABLE=1` the test
//! prints the table of docs/performance.md, and takes some minutes.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod harness;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use harness::chain::{HTTP, WORKLOADS, workload};
use harness::running::{Envoy, Trust, connect, request, serve, start_as_is, status};
use harness::shop;

/// The networks of two chains at the same time.
const NETS: [&str; 2] = ["127.115", "127.117"];
const HOPS: usize = WORKLOADS.len() - 1;

/// Where the sidecar of a workload takes calls to the next one.
fn upstream(net: &str, index: usize) -> String {
    format!("{net}.{index}.3:{HTTP}")
}

/// The sidecars of the chain, with these retries of each hop.
struct Chain {
    _folder: tempfile::TempDir,
    _envoys: Vec<Envoy>,
}

impl Chain {
    fn start(net: &str, retries: &str) -> Result<Self> {
        let mut world = String::new();
        for (index, name) in WORKLOADS.into_iter().enumerate() {
            let next = WORKLOADS.get(index + 1);
            let to = next.map(|next| format!("shop/{next}:{HTTP}={}", upstream(net, index)));
            world += &workload(net, index, name, HTTP, &to.unwrap_or_default());
            if !retries.is_empty() {
                world += &shop::traffic_policy(name, &format!("retries: {retries}"));
            }
        }
        let (compiled, trust) = (harness::compiled(&world), Trust::new()?);
        ensure!(compiled.findings.is_empty(), "{:#?}", compiled.findings);
        let folder = tempfile::tempdir()?;
        let start = |(index, name): (usize, &str)| {
            let admin = format!("{net}.{index}.9:9901");
            start_as_is(&compiled, name, &trust, folder.path(), &admin)
        };
        let envoys: Result<Vec<Envoy>> = WORKLOADS.into_iter().enumerate().map(start).collect();
        Ok(Self {
            _envoys: envoys?,
            _folder: folder,
        })
    }
}

/// The status of the answer to a request. It comes after the waits of all hops.
fn call(at: &str) -> Result<u16> {
    let mut stream = connect(at)?;
    stream.set_read_timeout(Some(Duration::from_secs(120)))?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(status(&answer))
}

/// Answers as the next application does. The last one fails, and counts.
fn application(stream: &mut TcpStream, next: Option<&str>, failed: &AtomicUsize) {
    if request(stream).is_none() {
        return;
    }
    let code = next.map_or_else(
        || {
            failed.fetch_add(1, Relaxed);
            thread::sleep(Duration::from_millis(5));
            503
        },
        |next| call(next).unwrap_or(0),
    );
    let _ = write!(
        stream,
        "HTTP/1.1 {code} No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    );
}

/// Offers so many requests a second to the last hops of the chain. Returns the load on the last application in relation to it. Every request
/// counts to its end, so that a machine that is slow changes nothing by it.
fn load(net: &str, failed: &AtomicUsize, hops: usize, rate: u32, seconds: u32) -> Result<f64> {
    let before = failed.load(Relaxed);
    let (begin, at) = (Instant::now(), upstream(net, HOPS - hops));
    let count = rate * seconds;
    let mut calls = Vec::new();
    for number in 0..count {
        let due = begin + Duration::from_secs(1) / rate * number;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let at = at.clone();
        calls.push(thread::spawn(move || call(&at)));
    }
    for call in calls {
        let code = call.join().unwrap()?;
        ensure!(code == 503, "{code}");
    }
    Ok((failed.load(Relaxed) - before) as f64 / f64::from(count))
}

/// Retries of each hop, and their name in the table.
const DEFAULT: (&str, &str) = ("default", "");
const OPTED_IN: (&str, &str) = ("`conditions: [ServerError]`", "{conditions: [ServerError]}");
const SHORT: (&str, &str) = (
    "the same, `backoff: {base: 25ms}`",
    "{conditions: [ServerError], backoff: {base: 25ms}}",
);

fn serve_chain(net: &str) -> Result<Arc<AtomicUsize>> {
    let failed = Arc::<AtomicUsize>::default();
    for index in 1..WORKLOADS.len() {
        let next = (index < HOPS).then(|| upstream(net, index));
        let failed = Arc::clone(&failed);
        let answer = move |stream: &mut TcpStream| application(stream, next.as_deref(), &failed);
        serve(format!("{net}.{index}.2:{HTTP}"), answer)?;
    }
    Ok(failed)
}

fn table(net: &str, failed: &AtomicUsize) -> Result<()> {
    println!(
        "| retries of every hop | rate | {} |",
        ["1 hop", "2", "3", "4"].join(" | ")
    );
    println!("|---|---|---|---|---|---|");
    for (name, retries) in [DEFAULT, OPTED_IN, SHORT] {
        let _chain = Chain::start(net, retries)?;
        for rate in [20, 200] {
            let hops = 1..=HOPS;
            let cell = |hops| load(net, failed, hops, rate, 15);
            let cells: Result<Vec<f64>> = hops.map(cell).collect();
            let cells: Vec<String> = cells?.iter().map(|load| format!("{load:.2}")).collect();
            println!("| {name} | {rate}/s | {} |", cells.join(" | "));
        }
    }
    Ok(())
}

/// With these retries of every hop, the load stays below `most` for each request.
fn stays_below(net: &str, (name, retries): (&str, &str), most: f64) -> Result<()> {
    let failed = serve_chain(net)?;
    let _chain = Chain::start(net, retries)?;
    for (rate, seconds) in [(20, 15), (200, 3)] {
        let load = load(net, &failed, HOPS, rate, seconds)?;
        println!("{name}, {rate}/s: {load:.2}");
        ensure!(load < most, "{name}, {rate}/s: {load:.2}");
        ensure!(load >= 1.0, "{name}, {rate}/s: {load:.2} arrived");
    }
    Ok(())
}

#[test]
fn a_chain_of_callers_does_not_multiply_the_load_on_a_service_that_fails() -> Result<()> {
    if std::env::var_os("HEDDLE_RETRY_TABLE").is_some() {
        return table(NETS[0], &*serve_chain(NETS[0])?);
    }
    thread::scope(|scope| {
        let default = scope.spawn(|| stays_below(NETS[0], DEFAULT, 1.2));
        let opted_in = stays_below(NETS[1], OPTED_IN, 2.0);
        default.join().unwrap()?;
        opted_in
    })
}
